"""Times as RFC 3339 strings in UTC, and as seconds since the epoch."""

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def format_rfc3339(seconds: float | None, timespec: str = "milliseconds") -> str | None:
    """``2026-11-21T12:00:00.000Z``; None for None and for a time outside the calendar's range."""
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch. Raises ValueError unless ``text`` is an RFC 3339 time with an offset."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("must be a time such as 2026-11-21T12:00:00Z")
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a time such as 2026-11-21T12:00:00Z") from error
