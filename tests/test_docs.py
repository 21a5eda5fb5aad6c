"""The documents say what the program does: names, commands, links and examples are compared with the code."""

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import __version__
from sidecar.authn.registry import validate
from sidecar.cli.main import build_parser
from sidecar.config.load import load
from sidecar.config.output.reference import PAGES as PAGES_BY_NAME
from sidecar.config.output.schema import json_schema
from sidecar.errors import Reason
from tests.support.declared_metrics import Declared, declared_metrics

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_METRIC = re.compile(r"^\| `(sidecar_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def _commands(page: Path) -> Iterator[str]:
    """The lines of shell blocks that call the program, without pipes, redirections, comments and &."""
    for block in _blocks(page, "sh"):
        for line in block.splitlines():
            if line.startswith("sidecar "):
                yield re.split(r"\s[|<>#&]", line)[0]


def _words(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    """Every command as its words: ("token", "create")."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield (word,)
                yield from ((word, *rest) for rest in _words(below))


def test_operations_lists_every_metric_with_its_labels_and_type() -> None:
    """No metric goes undocumented, and none is documented that does not exist."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = {
        name: Declared(tuple(labels.split(",")) if labels else (), kind) for name, labels, kind in _METRIC.findall(text)
    }
    assert documented == declared_metrics()


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=_name)
def test_command_examples_are_understood(page: Path) -> None:
    """The parser takes each ``sidecar ...`` line of a shell block as it is printed."""
    parser = build_parser()
    refused = []
    for line in _commands(page):
        try:
            parser.parse_args(shlex.split(line)[1:])
        except SystemExit:
            refused.append(line)
    assert not refused


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_named_in_prose_exist(page: Path) -> None:
    """``sidecar token create`` in running text names a command that there is."""
    known = set(_words(build_parser()))
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    named = {tuple(words.split()) for words in re.findall(r"`(?:sidecar )((?:[a-z]+ ?)+)[^`]*`", prose)}
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_relative_link_is_dead(page: Path) -> None:
    """Files exist; a fragment names a heading of its page."""
    dead = []
    for link in _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in _anchors(target)):
            dead.append(link)
    assert not dead


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=_name)
def test_configuration_examples_are_accepted(page: Path, tmp_path: Path) -> None:
    """A block that begins with ``# sidecar.yaml`` is a whole configuration, and a right one."""
    for number, block in enumerate(text for text in _blocks(page, "yaml") if text.startswith("# sidecar.yaml\n")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        load([str(path)], {}, validate)


def test_the_configuration_examples_are_found() -> None:
    """The test above would pass on an empty list."""
    assert sum(block.startswith("# sidecar.yaml\n") for page in PAGES for block in _blocks(page, "yaml")) >= 4


def test_security_names_reasons_that_exist_and_leaves_out_none_that_a_token_meets() -> None:
    table = re.findall(r"^\| \d+\. [^|]*\|([^|]*)\|", (ROOT / "docs" / "security.md").read_text("utf-8"), re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    others = {"not_found", "conflict", "rate_limited", "upstream_unreachable", "upstream_timeout", "login_failed"}
    assert named == {reason.value for reason in Reason} - others


@pytest.mark.parametrize("name", sorted(PAGES_BY_NAME))
def test_generated_references_are_up_to_date(name: str) -> None:
    """``python -m sidecar.config.output.reference NAME`` prints the page that is kept."""
    assert (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8") == PAGES_BY_NAME[name]()


def test_the_tests_that_pages_name_exist() -> None:
    named = {found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8"))}
    assert len(named) > 40
    assert not [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text("utf-8")]


def test_the_changelog_has_this_version() -> None:
    assert re.search(
        rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:25]
    for command in ("make demo", "make test"):
        assert any(line.startswith(f"    {command}") for line in first_screen)


def test_every_page_can_be_reached_from_the_index() -> None:
    """Every page is linked from the index, decisions from their own."""
    listed = {
        str((index.parent / target).resolve())
        for index in DOCS
        if index.name == "index.md"
        for target in re.findall(r"\]\(([^)#]+)", index.read_text(encoding="utf-8"))
    }
    assert not [
        _name(page)
        for page in DOCS
        if page.parent / page.name != ROOT / "docs" / "index.md" and str(page) not in listed
    ]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the menu, and no link of the site is dead."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Quick start" in (tmp_path / "index.html").read_text(encoding="utf-8")
    schema = json.loads((tmp_path / "sidecar.schema.json").read_text(encoding="utf-8"))
    assert schema == json_schema(), "editors read the schema of this version"


def test_the_functions_on_the_path_of_a_request_exist() -> None:
    """Each row of the table names its functions, and the file that defines them."""
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    section = text.partition("## The path of a request")[2].partition("\n## ")[0]
    rows = [row.split("|")[2:4] for row in section.splitlines() if row.startswith("| ") and ".py`" in row]
    assert len(rows) >= 15
    for functions, file in rows:
        tree = ast.parse((ROOT / file.strip(" `")).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            methods = (node for node in owner.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
            defined |= {f"{owner.name}.{method.name}" for method in methods}
        for function in functions.split(","):
            assert function.strip(" `") in defined, (function, file)


def test_every_test_that_a_page_names_exists() -> None:
    """Each row of the table names a test that exists."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)
    assert len(named) >= 20
    gone = [name for path, name in named if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")]
    assert not gone


def test_the_index_names_each_page_once() -> None:
    """A merge can keep the old and the new line."""
    links = _LINK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    assert [link for link in set(links) if links.count(link) > 1] == []


def test_the_security_page_repeats_no_row() -> None:
    """The steps of a request and the threats are listed once, in one wording."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [row for row in set(rows) if rows.count(row) > 1] == []
