"""Lifetimes of new tokens, in the notations of both products and their clients."""

import re

_HOUR = 3600.0
_DAY = 24 * _HOUR
_MAX_LIFETIME = 36_500 * _DAY
_DAYS = re.compile(r"[0-9]{1,6}")
_ISO = re.compile(
    r"P(?:(?P<y>\d{1,9})Y)?(?:(?P<mo>\d{1,9})M)?(?:(?P<w>\d{1,9})W)?(?:(?P<d>\d{1,9})D)?"
    r"(?:T(?:(?P<h>\d{1,9})H)?(?:(?P<m>\d{1,9})M)?(?:(?P<s>\d{1,9}(?:\.\d{1,9})?)S)?)?",
    re.ASCII | re.IGNORECASE,
)
# A month is 30 days and a year 365, as DataHub counts them.
_SECONDS = {"y": 365 * _DAY, "mo": 30 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": _HOUR, "m": 60.0, "s": 1.0}
_NAMED = {
    "Unlimited": None,
    "NO_EXPIRY": None,
    "OneHour": _HOUR,
    "ONE_HOUR": _HOUR,
    "ONE_DAY": _DAY,
    "ONE_WEEK": 7 * _DAY,
    "ONE_MONTH": 30 * _DAY,
    "THREE_MONTHS": 90 * _DAY,
    "SIX_MONTHS": 180 * _DAY,
    "ONE_YEAR": 365 * _DAY,
}


def parse_lifetime(text: str) -> float | None:
    """The lifetime in seconds; None: the token never expires.

    Accepts a number of days (``7``), ISO 8601 (``P30D``), OpenMetadata's ``OneHour`` and ``Unlimited`` and DataHub's
    ``ONE_HOUR`` to ``ONE_YEAR`` and ``NO_EXPIRY``. Raises ValueError for anything else, and for less than a second or
    more than 36,500 days.
    """
    if text in _NAMED:
        return _NAMED[text]
    iso = _ISO.fullmatch(text)
    if _DAYS.fullmatch(text):
        seconds = int(text) * _DAY
    elif iso is not None and any(iso.groups()):
        seconds = sum(float(number) * _SECONDS[unit] for unit, number in iso.groupdict().items() if number)
    else:
        raise ValueError("must be OneHour, a number of days, an ISO 8601 duration such as P30D, or Unlimited")
    if not 1 <= seconds <= _MAX_LIFETIME:
        raise ValueError("must be at least one second and at most 36500 days")
    return seconds
