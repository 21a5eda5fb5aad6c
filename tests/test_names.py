"""A public name is defined in one module, so that a search for it finds one thing."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sidecar"

# Names that several modules define, with the reason.
_SHARED: dict[str, str] = {
    "register": "each module of cli adds its own command",
    "run_list": "a command of several groups in cli",
    "run_show": "a command of several groups in cli",
    "main": "the entry point of a program",
    "run": "what a command without actions does",
    "VARIABLES": "the modules of config.products have one interface",
    "read_import": "the modules of config.products have one interface",
    "with_variables": "the modules of config.products have one interface",
}


def _public_names(path: Path) -> Iterator[str]:
    """Names that the module defines at its top level, without private ones, dunders and type variables."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names = [node.name]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.Assign() if not _is_type_variable(node.value):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            case _:
                continue
        yield from (name for name in names if not name.startswith("_"))


def _is_type_variable(value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("TypeVar", "ParamSpec")
    )


def test_no_public_name_is_defined_in_two_modules() -> None:
    modules: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _public_names(path):
            modules.setdefault(name, set()).add(str(path.relative_to(PACKAGE)))
    repeated = {name: found for name, found in modules.items() if len(found) > 1}
    assert repeated.keys() >= _SHARED.keys(), "remove names from _SHARED that one module defines"
    unexpected = {name: sorted(found) for name, found in repeated.items() if name not in _SHARED}
    assert not unexpected
