"""Moments as text and as seconds since the epoch (RFC 3339, UTC)."""

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


def format_rfc3339(seconds: float | None) -> str | None:
    """``2026-11-21T12:00:00.000Z``; None for None and for a moment that no calendar has."""
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch. Raises ValueError for what is no RFC 3339 time with its offset."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("must be a time such as 2026-11-21T12:00:00Z")
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a time such as 2026-11-21T12:00:00Z") from error
