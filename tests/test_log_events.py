"""Every log line of the package has a stable name, which the operations page lists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_LOGGERS = frozenset({"_log", "_audit", "_access_log", "logger"})
_EVENT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|", re.MULTILINE)


class _Line(NamedTuple):
    """One logging call: where it stands, its event, and its text where that is a literal."""

    place: str
    event: str
    message: str


def _logging_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / "sidecar").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
                logger = node.func.value
                name = logger.id if isinstance(logger, ast.Name) else getattr(logger, "attr", "")
                if name in _LOGGERS:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def _event(call: ast.Call) -> str:
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if not isinstance(extra, ast.Dict):
        return ""
    for key, value in zip(extra.keys, extra.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant):
            return str(value.value)
    return ""


def _lines() -> list[_Line]:
    found = []
    for place, call in _logging_calls():
        texts = [word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        found.append(_Line(place, _event(call), texts[0] if texts else ""))
    return found


def _listed() -> list[str]:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("| event |")[2].partition("\n\n")[0]
    return re.findall(r"`(\w+)`", " ".join(_ROW.findall(table)))


def test_every_log_line_has_an_event() -> None:
    """``event`` is a literal in snake_case at the call itself, so that it can be found by a search."""
    lines = _lines()
    assert len(lines) > 40
    assert [line.place for line in lines if not _EVENT.fullmatch(line.event)] == []


def test_an_event_has_one_meaning() -> None:
    """One event has one text, and no two events share one."""
    texts: dict[str, set[str]] = {}
    events: dict[str, set[str]] = {}
    for line in _lines():
        if line.message:
            texts.setdefault(line.event, set()).add(line.message)
            events.setdefault(line.message, set()).add(line.event)
    assert {event: found for event, found in texts.items() if len(found) > 1} == {}
    assert {text: found for text, found in events.items() if len(found) > 1} == {}


def test_the_operations_page_lists_every_event() -> None:
    """Once each, and none that is never written."""
    listed = _listed()
    assert sorted(listed) == sorted({line.event for line in _lines()})
