"""The private names of aiohttp that the sidecar uses are those that docs/decisions/0013 lists, and aiohttp has them."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import sidecar

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "decisions" / "0013-internals-of-aiohttp.md"
_ROW = re.compile(r"^\| (?:`([\w.]+)`)? ?\| ([^|]+) \|", re.MULTILINE)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_of_self(cls: type) -> set[str]:
    """Private attributes of ``self`` in the source of ``cls``, and private methods that it defines."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return set(filter(is_private, found))


def subclasses() -> Iterator[tuple[type, list[type]]]:
    """The classes of the sidecar that have bases in aiohttp, with these."""
    for module in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        if module.name.endswith("__main__"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name:
                bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("aiohttp")]
                if bases:
                    yield cls, bases


def test_the_private_names_of_aiohttp_are_those_of_the_decision() -> None:
    """A name that aiohttp no longer has would be an attribute of ours that aiohttp does not look at."""
    listed: dict[str, set[str]] = {}
    name = ""
    for cls, names in _ROW.findall(PAGE.read_text(encoding="utf-8")):
        name = cls or name
        listed.setdefault(name, set()).update(re.findall(r"`(_\w+)`", names))
    used = {
        f"{cls.__module__}.{cls.__qualname__}": shared
        for cls, bases in subclasses()
        if (shared := names_of_self(cls) & set().union(*map(names_of_self, bases)))
    }
    assert {name: names for name, names in listed.items() if names} == used


def test_private_imports_from_aiohttp_are_those_of_the_decision() -> None:
    found = {
        alias.name
        for path in (ROOT / "sidecar").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aiohttp"
        for alias in node.names
        if is_private(alias.name)
    }
    line = next(
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("From private modules")
    )
    assert found == set(re.findall(r"`(_\w+)`", line))
