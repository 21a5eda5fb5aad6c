"""JSON lines on standard error: one object a line, UTC times, never a token.

Use the standard ``logging`` with ``extra={...}`` for fields. Values are made safe: a lone surrogate or a control
character from outside cannot break a line or forge another. Whoever logs keeps tokens out; what looks like one all the
same, in a path or a library's message, is blotted out as a second net.
"""

import asyncio
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
"""The id of the request that is being answered, for lines of those who know nothing of requests."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Parts of a compact JWS or JWE: its header is a JSON object, and "{" is "e" and one of these in base64url.
# In front stands no other character of such a part, unless it belongs to an escape of JSON's.
_TOKEN = re.compile(
    r"(?:(?<![A-Za-z0-9_-])|(?<=\\[bfnrt]))e[w-z0-9_-][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*"
)
_REDACTED = "[token]"
_SUPPRESSED_REPORT_INTERVAL = 1.0


class JsonFormatter(logging.Formatter):
    """One record, one line of JSON. A traceback becomes the field ``exception``. ``marks`` stand in every line."""

    def __init__(self, **marks: object) -> None:
        super().__init__()
        self._marks = marks

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if event := getattr(record, "event", ""):
            line["event"] = event
        line |= self._marks
        if identifier := current_request.get():
            line["requestId"] = identifier
        line.update((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _TOKEN.sub(_REDACTED, dump_line(line))


def dump_line(line: dict[str, Any]) -> str:
    """JSON text of ``line``; what UTF-8 cannot carry is replaced, what JSON cannot carry is shown by its type."""
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
    """Bounds the lines that callers can cause: ``per_second`` on average, and as many in one burst (a token bucket).

    Ask :meth:`allows` before each line to ``log``. Where lines were left out, one line a second says how many, and
    ``left_out`` is called for each. Belongs to the event loop's thread.
    """

    def __init__(
        self,
        log: logging.Logger,
        per_second: float,
        left_out: Callable[[], None] = lambda: None,
        *,
        level: int = logging.INFO,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._log = log
        self._rate = per_second
        self._most = max(1.0, per_second)
        self._left_out = left_out
        self._level = level
        self._now = now
        self._tokens = self._most
        self._at = now()
        self._missing = 0

    def allows(self) -> bool:
        """Whether the line may be written; False is also the answer where no such line is written at all."""
        if not self._log.isEnabledFor(self._level):
            return False
        now = self._now()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        self._left_out()
        if not self._missing:
            asyncio.get_running_loop().call_later(_SUPPRESSED_REPORT_INTERVAL, self._tell)
        self._missing += 1
        return False

    def _tell(self) -> None:
        missing, self._missing = self._missing, 0
        token = current_request.set("")
        try:
            self._log.log(
                self._level,
                "log lines suppressed: limit per second exceeded",
                extra={"event": "log_lines_suppressed", "lines": missing},
            )
        finally:
            current_request.reset(token)


def traceback_locations(error: BaseException) -> list[str]:
    """Where ``error`` came from, without its text: that may hold what a request carried."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]


@contextmanager
def audit_lines(stream: TextIO) -> Iterator[None]:
    """Send audit lines, and nothing else, to ``stream`` as JSON while the context lasts: for commands."""
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


def configure(level: str = "info", stream: TextIO | None = None, **marks: object) -> None:
    """Send every logger's lines of at least ``level`` (debug, info, warning, error) to ``stream`` as JSON.

    Audit lines are sent at every level. ``marks`` stand in every line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(**marks))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.getLogger(AUDIT).setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, _LEVELS[level]))
