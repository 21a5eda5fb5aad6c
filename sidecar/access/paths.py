"""Readings of a request target: every path that an upstream might read in it.

If a rule matches another path than the upstream serves, it is bypassed. So what no honest client sends is rejected, and
what is valid but ambiguous gets every reading that some upstream may use; the strictest verdict applies.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote_to_bytes

from sidecar.errors import Cause, Reason, Refused

# Nothing in such a path can be read in two ways.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*+)++/?|/")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\#]|[^\x00-\x7f]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# What may stand in a segment as it is (RFC 3986 3.3), where services make no difference between it and its escape. Left
# out: ";" begins parameters, and "*" would turn a rule's literal into a wildcard.
_DECODED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()+,=:@")
_SLASHES = re.compile(r"/{2,}")
_PARAMETERS = re.compile(r";[^/]*")
_DOT_SEGMENT = re.compile(r"/\.\.?(?:;[^/]*)?(?:/|\Z)")
# Characters in all readings of a path together. Longer paths of ambiguities would take time from other requests.
_MAX_CHARS = 64 * 1024
_REWRITES: tuple[Callable[[str], str], ...] = (
    partial(_PARAMETERS.sub, ""),
    lambda path: path.replace("%3B", ";"),
    lambda path: path.replace("%2F", "/"),
    lambda path: path.replace("%5C", "/"),
    partial(_SLASHES.sub, "/"),
)


@dataclass(slots=True)  # not frozen: made for every request
class Normalizations:
    """The readings of one path. ``others`` is empty where all are the same; else the path is ambiguous."""

    strict: str
    others: tuple[str, ...] = ()


def read_target(target: str) -> Normalizations:
    """The path readings of a raw origin-form target; query ignored.

    Raises Refused(REQUEST_INVALID, PATH_AMBIGUOUS) with status 400 for what must not reach a rule: other forms than
    origin-form, dot segments plain or encoded, NUL, backslash, fragment, control or non-ASCII bytes, broken escapes,
    more readings than a path of its length may have.
    """
    path = target.partition("?")[0]
    if _PLAIN.fullmatch(path):
        return Normalizations(path)
    if not path.startswith("/") or _FORBIDDEN.search(path) or _BAD_ESCAPE.search(path):
        raise _refused()
    strict = plain_escapes(path)
    _check_bytes(strict)
    readings = _normalizations(strict)
    # Empty segments and parameters hide dot segments until they are dropped: "/..;x/" and "/.%2f./".
    if any(_DOT_SEGMENT.search(reading) for reading in readings):
        raise _refused()
    return Normalizations(strict, tuple(readings[1:]))


def plain_escapes(path: str) -> str:
    """``path`` with one spelling of every escape: none where none is needed, else capital digits."""
    return _ESCAPE.sub(_decode, path)


def _normalizations(path: str) -> list[str]:
    """``path``, and all that services make of it which undo some of its ambiguity, in whatever order."""
    readings = [path]
    for reading in readings:  # grows while it is walked
        if len(readings) * len(path) > _MAX_CHARS:
            raise _refused()
        undone = dict.fromkeys(undo(reading) for undo in _REWRITES)
        readings.extend(other for other in undone if other not in readings)
    return readings


def _decode(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _DECODED else f"%{match[1].upper()}"


def _check_bytes(path: str) -> None:
    raw = unquote_to_bytes(path)
    # 0xC0 and 0xC1 only occur in overlong UTF-8, in which a lenient decoder sees "/" and ".".
    if b"\0" in raw or b"\xc0" in raw or b"\xc1" in raw:
        raise _refused()


def _refused() -> Refused:
    return Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message="The request path is not valid")
