"""How a request target is read before any rule is: in every way that a service behind might read it.

A rule that sees another path than the service does is a bypass. So what no honest client sends is refused, and what
is legal but ambiguous gets two readings, of which the stricter verdict holds.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from sidecar.errors import Cause, Reason, Refused

# Nothing in such a path can be read in two ways.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*+)++/?|/")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\#]|[^\x00-\x7f]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SLASHES = re.compile(r"/{2,}")
_PARAMETERS = re.compile(r";[^/]*")
_ENCODED_SLASH = re.compile(r"%2f|%5c", re.IGNORECASE)


@dataclass(slots=True)  # not frozen: made for every request
class Readings:
    """The readings of one path. ``loose`` is None where both are the same; else the path is ambiguous."""

    strict: str
    loose: str | None = None


def read_target(target: str) -> Readings:
    """The path readings of a raw origin-form target; query ignored.

    Raises Refused(REQUEST_INVALID, PATH_AMBIGUOUS) with status 400 for what must not reach a rule: other forms than
    origin-form, dot segments plain or encoded, NUL, backslash, fragment, control or non-ASCII bytes, broken escapes.
    """
    path = target.partition("?")[0]
    if _PLAIN.fullmatch(path):
        return Readings(path)
    if not path.startswith("/") or _FORBIDDEN.search(path) or _BAD_ESCAPE.search(path):
        raise _refused()
    strict = _ESCAPE.sub(_decode_unreserved, path)
    loose = _SLASHES.sub("/", _PARAMETERS.sub("", _ENCODED_SLASH.sub("/", strict).replace("%3B", ";")))
    _check_octets(strict)
    _check_segments(strict)
    _check_segments(loose)
    # Empty segments and parameters hide dot segments until they are dropped: "/..;x/" and "/.%2f./".
    return Readings(strict, None if loose == strict else loose)


def _decode_unreserved(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else f"%{match[1].upper()}"


def _check_octets(path: str) -> None:
    octets = unquote_to_bytes(path)
    # 0xC0 and 0xC1 only occur in overlong UTF-8, in which a lenient decoder sees "/" and ".".
    if b"\0" in octets or b"\xc0" in octets or b"\xc1" in octets:
        raise _refused()


def _check_segments(path: str) -> None:
    for segment in path.split("/"):
        if segment in (".", "..") or segment.startswith((".;", "..;")):
            raise _refused()


def _refused() -> Refused:
    return Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message="The request path is not valid")
