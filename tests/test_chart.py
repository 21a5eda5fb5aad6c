"""What the chart repeats of other files is in step with them, and what is written about it is true."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm import generate
from sidecar.config.reading.decode import fields_by_name, models_in
from sidecar.config.settings import Settings
from sidecar.secrets.value import Secret

CHART, ROOT = generate.CHART, generate.ROOT
PAGES = [
    CHART / "README.md",
    ROOT / "docs" / "guides" / "kubernetes.md",
    *sorted((ROOT / "helm").glob("*/*.yaml")),
]


def _text(name: str) -> str:
    return (CHART / name).read_text(encoding="utf-8")


def test_the_schema_has_the_sidecars_own() -> None:
    """Run ``make chart`` after a change of the settings."""
    present = json.loads(_text("values.schema.json"))
    assert generate.schema(present) == present


def test_the_table_of_values_is_made_of_their_comments() -> None:
    """Run ``make chart`` after a change of the values."""
    assert generate.readme(_text("README.md"), _text("values.yaml")) == _text("README.md")


@pytest.mark.parametrize("copy", generate.COPIES, ids=lambda copy: copy.name)
def test_the_copies_are_like_their_originals(copy: Path) -> None:
    """Run ``make chart`` after a change of ``deploy/``; a chart cannot read what lies outside of it."""
    assert copy.read_bytes() == generate.COPIES[copy].read_bytes()


def test_every_value_is_described_and_in_the_schema() -> None:
    values = _text("values.yaml")
    described = [path for path, text in generate.described(values) if text]
    leaves = list(_leaves(yaml.safe_load(values)))
    assert [leaf for leaf in leaves if not any(leaf[: len(path)] == path for path in described)] == []
    schema = json.loads(_text("values.schema.json"))
    assert [path for path in described if not _has(schema, schema, path)] == []
    assert len(described) > 70


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _leaves(below, (*path, name))
    else:
        yield path


def _has(schema: dict[str, Any], node: dict[str, Any], path: tuple[str, ...]) -> bool:
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return not path or (path[0] in node["properties"] and _has(schema, node["properties"][path[0]], path[1:]))


def test_the_chart_knows_every_secret_by_its_name() -> None:
    """It refuses what is written out under such a name, so a new secret has to have one; addresses are looked into."""
    found = re.search(r'regexMatch "(\([^"]+\)\$)" \$path', _text("templates/_refusals.tpl"))
    assert found
    secrets = set(_secrets(Settings))
    assert {"password", "signingKey"} <= secrets
    pattern = found[1].replace("\\\\", "\\")  # as the template reads it
    assert "secrets[0]" in secrets
    assert {name for name in secrets if not re.search(pattern, name)} == {"proxy", "url"}


def _secrets(model: type[Any]) -> Iterator[str]:
    for name, field in fields_by_name(model).items():
        if field.annotation in (Secret, Secret | None):
            yield name
        elif field.annotation == tuple[Secret, ...]:
            yield f"{name}[0]"
        for below in models_in(field.annotation):
            yield from _secrets(below)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """In commands, comments and links."""
    text = page.read_text(encoding="utf-8")
    named = [ROOT / name for name in re.findall(r"\b((?:helm|docs|deploy)/[\w/.-]*\w)", text)]
    named += [page.parent / link for link in re.findall(r"\]\(([^):#]+)\)", text)]
    assert [str(path) for path in named if not path.exists()] == []
