"""Bring what the chart repeats of other files up to date: ``python helm/generate.py`` (or ``make chart``).

- ``values.schema.json``: the part for ``config``, from the sidecar's own schema.
- ``README.md``: the table of values, from the comments in ``values.yaml``.
- ``files/``: the alert rules and the dashboard of ``deploy/``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sidecar.config.output.schema import json_schema

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "auth-sidecar"
COPIES = {
    CHART / "files" / "alerts.yaml": ROOT / "deploy" / "prometheus" / "alerts.yaml",
    CHART / "files" / "dashboard.json": ROOT / "deploy" / "grafana" / "auth-sidecar.json",
}

_PLACEHOLDER = {"type": "string", "pattern": r"\$\{"}
_TABLE = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- end of values -->)", re.DOTALL)


def schema(present: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with its part for ``config`` made anew."""
    definitions = json_schema()
    del definitions["$schema"]
    configuration = {"Configuration": definitions, **definitions.pop("$defs")}
    kept = {name: one for name, one in present["$defs"].items() if name[0].islower()}  # the chart's own
    properties = present["properties"] | {"config": {"$ref": "#/$defs/Configuration"}}
    return present | {
        "properties": properties,
        "$defs": kept | {name: _open(one) for name, one in configuration.items()},
    }


def _open(definition: dict[str, Any]) -> dict[str, Any]:
    """The schema of a block whose values may also be left blank, or be placeholders, which the sidecar fills in."""
    properties = definition.get("properties", {})
    return definition | {"properties": {name: _or_blank(one) for name, one in properties.items()}}


def _or_blank(value: dict[str, Any]) -> dict[str, Any]:
    if "enum" not in value and value.get("type") == "string":
        return value | {"type": ["string", "null"]}
    if "$ref" in value:
        return value
    about: dict[str, Any] = {key: value[key] for key in ("description", "default") if key in value}
    rule = {key: one for key, one in value.items() if key not in about}
    return {**about, "anyOf": [*rule.get("anyOf", [rule]), _PLACEHOLDER, {"type": "null"}]}


def readme(present: str, values: str) -> str:
    """The page with its table of values made anew."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{'.'.join(path)}` | {_shown(values, path)} | {text} |" for path, text in described(values)]
    return _TABLE.sub(lambda _: "\n".join(lines) + "\n", present)


def described(values: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path and description of each value below a ``# --`` comment, in file order."""
    above: list[str] = []
    comment: list[str] = []
    for line in values.splitlines():
        if found := re.match(r" *# (-- )?(.*)", line):
            comment = [found[2]] if found[1] else [*comment, found[2]]
            continue
        if found := re.match(r"( *)([\w-]+):", line):
            above = [*above[: len(found[1]) // 2], found[2]]
            if comment:
                yield tuple(above), " ".join(comment)
        comment = []


def _shown(values: str, path: tuple[str, ...]) -> str:
    value = yaml.safe_load(values)
    for name in path:
        value = value[name]
    return "" if value in (None, "") else f"`{json.dumps(value)}`"


def main() -> None:
    """Write what has changed."""
    page, rules = CHART / "README.md", CHART / "values.schema.json"
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    page.write_text(readme(page.read_text(encoding="utf-8"), values), encoding="utf-8")
    rules.write_text(
        json.dumps(schema(json.loads(rules.read_text(encoding="utf-8"))), indent=2) + "\n", encoding="utf-8"
    )
    for copy, original in COPIES.items():
        copy.write_bytes(original.read_bytes())


if __name__ == "__main__":
    main()
