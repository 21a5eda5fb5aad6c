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
        found: list[str] = []
        for line in headers.getall("Cookie", _NONE):
            # for each place with the name, the pair around it: most requests have one
            at = line.find(wanted)
            while at >= 0:
                end = line.find(";", at)
                pair = line[line.rfind(";", 0, at) + 1 : end if end >= 0 else None]
                given, equals, value = pair.partition("=")
                if equals and given.strip(_BLANKS) == wanted:
                    found.append(value.strip(_BLANKS))
                at = line.find(wanted, end) if end >= 0 else -1
        return found

    def rest(self, line: str) -> str:
        """A ``Cookie`` value without our cookies; may be empty."""
        for name in self._names:
            if name in line:
                break
        else:
            return line
        kept = [pair for pair in line.split(";") if pair.partition("=")[0].strip(_BLANKS) not in self._names]
        return ";".join(kept).strip(_BLANKS)

    def names_ours(self, set_cookie: str) -> bool:
        """Whether a ``Set-Cookie`` value sets one of our cookies."""
        return set_cookie.partition(";")[0].partition("=")[0].strip(_BLANKS) in self._names
