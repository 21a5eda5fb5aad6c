"""Log lines on standard error: one JSON object per line, UTC times, no tokens; on a terminal, text.

Use the standard ``logging`` module with ``extra={"event": ..., ...}``: ``event`` is the stable name of the line, which
docs/operations.md lists. Values are escaped: a lone surrogate or a control character from outside cannot break a line
or forge another. Callers must not log tokens; as a second defence, strings that look like tokens are redacted.
"""

import asyncio
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from time import monotonic
from traceback import extract_tb
from typing import Any, TextIO

import orjson

AUDIT = "sidecar.audit"
current_request: ContextVar[str] = ContextVar("current_request", default="")
"""The id of the request being handled, for log lines of code without access to the request."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Parts of a compact JWS or JWE: its header is a JSON object, and "{" is "e" and one of these in base64url.
# No other base64url character precedes it, unless that belongs to a JSON escape.
_TOKEN = re.compile(
    r"(?:(?<![A-Za-z0-9_-])|(?<=\\[bfnrt]))e[w-z0-9_-][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*"
)
_REDACTED = "[token]"
_SUPPRESSED_REPORT_INTERVAL = 1.0


class JsonFormatter(logging.Formatter):
    """One record, one line of JSON. ``static_fields`` are in every line; a traceback is the field ``exception``."""

    def __init__(self, **static_fields: object) -> None:
        super().__init__()
        self._static_fields = static_fields

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if event := getattr(record, "event", ""):
            line["event"] = event
        line |= self._static_fields
        if identifier := current_request.get():
            line["requestId"] = identifier
        line.update((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _TOKEN.sub(_REDACTED, dump_line(line))


class TextFormatter(JsonFormatter):
    """The same record for a person: time, level and message, then the fields as ``name=value``, on one line."""

    _FIRST = ("time", "level", "logger", "message")

    def format(self, record: logging.LogRecord) -> str:
        """One line; values with blanks, quotes or control characters are JSON."""
        line = json.loads(super().format(record))
        time, level, _, message = (line.pop(name) for name in self._FIRST)
        exception = line.pop("exception", "")
        fields = [f"{name}={_word(value)}" for name, value in line.items() if value not in ("", None)]
        text = " ".join([str(time)[11:23], f"{level:<7}", _printable(str(message)), *fields])
        return f"{text}\n{_printable(exception, keep=chr(10))}" if exception else text


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if re.fullmatch(r"[!#-~]+", text) else json.dumps(text)


def _printable(text: str, keep: str = "") -> str:
    """``text`` without characters that a terminal would obey."""
    return "".join(character if character.isprintable() or character in keep else "?" for character in text)


def dump_line(line: dict[str, Any]) -> str:
    """JSON text of ``line``. Invalid Unicode is replaced; objects that are no JSON values are shown by their type."""
    try:
        return orjson.dumps(line, default=_by_type).decode()
    except (TypeError, ValueError):
        return orjson.dumps(_clean(line), default=_by_type).decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(_clean(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return value


def _by_type(value: object) -> str:
    return f"<{type(value).__name__}>"


class LineLimit:
    """Limits the lines that callers can cause (token bucket): ``per_second`` on average, with a burst of the same size.

    Call :meth:`allows` before each line to ``log``. One line a second reports how many were suppressed, and
    ``suppressed`` is called for each. Not thread-safe: use it on the event loop only.
    """

    def __init__(
        self,
        log: logging.Logger,
        per_second: float,
        suppressed: Callable[[], None] = lambda: None,
        *,
        level: int = logging.INFO,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._log = log
        self._rate = per_second
        self._burst = max(1.0, per_second)
        self._count_suppressed = suppressed
        self._level = level
        self._now = now
        self._tokens = self._burst
        self._at = now()
        self._suppressed = 0

    def allows(self) -> bool:
        """Whether the line may be written. Also False if ``level`` is disabled."""
        if not self._log.isEnabledFor(self._level):
            return False
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        self._count_suppressed()
        if not self._suppressed:
            asyncio.get_running_loop().call_later(_SUPPRESSED_REPORT_INTERVAL, self._report)
        self._suppressed += 1
        return False

    def _report(self) -> None:
        suppressed, self._suppressed = self._suppressed, 0
        token = current_request.set("")
        try:
            self._log.log(
                self._level,
                "log lines suppressed: limit per second exceeded",
                extra={"event": "log_lines_suppressed", "lines": suppressed},
            )
        finally:
            current_request.reset(token)


def traceback_locations(error: BaseException) -> list[str]:
    """Source locations of the traceback of ``error``, without its text, which may have content of a request."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]


@contextmanager
def audit_lines(stream: TextIO) -> Iterator[None]:
    """While the context is active, write audit lines, and no others, to ``stream`` as JSON. For commands."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    audit = logging.getLogger(AUDIT)
    level = audit.level
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    try:
        yield
    finally:
        audit.setLevel(level)
        audit.removeHandler(handler)


def configure(level: str = "info", stream: TextIO | None = None, form: str = "json", **static_fields: object) -> None:
    """Send every logger's lines of at least ``level`` (debug, info, warning, error) to ``stream``.

    ``form``: ``json``, ``text``, or ``auto``, which is text if ``stream`` is a terminal. Audit lines are written at
    every level. ``static_fields`` are in every line.
    """
    target = stream or sys.stderr
    is_text = form == "text" or (form == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter(**static_fields) if is_text else JsonFormatter(**static_fields))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, _LEVELS[level]))
