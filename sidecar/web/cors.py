"""CORS headers of refusals: a page that may call the upstream must be able to read that its token has expired."""

from collections.abc import Collection

from multidict import CIMultiDictProxy

_EXPOSED = b"Access-Control-Expose-Headers: WWW-Authenticate, X-Request-Id, Retry-After\r\n"
_NONE: list[str] = []


class RefusalCors:
    """Header lines for pages of ``origins``; ``*`` is every page, then without ``credentials``."""

    def __init__(self, origins: Collection[str], *, credentials: bool) -> None:
        self._origins = frozenset(origins)
        self._any = "*" in self._origins
        self._credentials = b"Access-Control-Allow-Credentials: true\r\n" if credentials and not self._any else b""

    def lines(self, headers: CIMultiDictProxy[str]) -> bytes:
        """The lines for a request with ``headers``."""
        if self._any:
            return b"Access-Control-Allow-Origin: *\r\n" + _EXPOSED
        given = headers.getall("Origin", _NONE)
        if len(given) != 1 or given[0] not in self._origins:
            return b"Vary: Origin\r\n"  # a cache must not give this answer to a page that may read it
        origin = given[0].encode("ascii")
        return b"Access-Control-Allow-Origin: %b\r\n%b%bVary: Origin\r\n" % (origin, self._credentials, _EXPOSED)
