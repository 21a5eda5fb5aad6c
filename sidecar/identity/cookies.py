"""The sidecar's own cookies in a request: which values came, and what is left of ``Cookie`` without them.

The header is scanned, not parsed: only names count, and a pair that a lenient parser could take for one of ours is one.
"""

from collections.abc import Iterable

from sidecar.identity.request import HeaderView

_NONE: list[str] = []
_BLANKS = " \t"


class OwnCookies:
    """``session`` is the name of the session cookie, ``others`` are further names of ours."""

    def __init__(self, session: str, others: Iterable[str] = ()) -> None:
        self.session = session
        self._names = frozenset((session, *others))

    def values(self, headers: HeaderView, name: str = "") -> list[str]:
        """Every value of the cookie ``name`` (empty: the session cookie) in the request."""
        wanted = name or self.session
        return [
            value.strip(_BLANKS)
            for line in headers.getall("Cookie", _NONE)
            if wanted in line
            for given, equals, value in (pair.partition("=") for pair in line.split(";"))
            if equals and given.strip(_BLANKS) == wanted
        ]

    def rest(self, line: str) -> str:
        """A ``Cookie`` value without our cookies; may be empty."""
        if not any(name in line for name in self._names):
            return line
        kept = [pair for pair in line.split(";") if pair.partition("=")[0].strip(_BLANKS) not in self._names]
        return ";".join(kept).strip(_BLANKS)

    def names_ours(self, set_cookie: str) -> bool:
        """Whether a ``Set-Cookie`` value sets one of our cookies."""
        return set_cookie.partition(";")[0].partition("=")[0].strip(_BLANKS) in self._names
