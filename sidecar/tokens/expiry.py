"""How long a new token lives, as people and OpenMetadata's clients write it."""

import re

from sidecar.config.units import parse_duration

_DAY = 86400.0
_LONGEST = 100 * 365 * _DAY
_DAYS = re.compile(r"[0-9]{1,6}")


def parse_expiry(text: str) -> float | None:
    """Seconds of life from ``OneHour``, a number of days (``7``) or ISO 8601 (``P30D``); None for ``Unlimited``.

    Raises ValueError for anything else, for nothing at all and for more than a century.
    """
    if text == "Unlimited":
        return None
    if text == "OneHour":
        return 3600.0
    if _DAYS.fullmatch(text):
        seconds = int(text) * _DAY
    elif text.startswith("P"):
        seconds = parse_duration(text)
    else:
        raise ValueError("must be OneHour, a number of days, an ISO 8601 duration such as P30D, or Unlimited")
    if not 0 < seconds <= _LONGEST:
        raise ValueError("must be more than nothing and at most 36500 days")
    return seconds
