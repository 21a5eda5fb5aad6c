"""Published public keys (RFC 7517), with Cache-Control and ETag."""

from collections.abc import Callable

from aiohttp import web

from sidecar.errors import MethodNotAllowed
from sidecar.web.response import Response

_MAX_AGE_SECONDS = 300


class PublishedKeys:
    """Serves a key set. ``key_set`` returns the document and its entity tag, quotes included."""

    methods = ("GET", "HEAD")

    def __init__(self, key_set: Callable[[], tuple[bytes, str]]) -> None:
        self._key_set = key_set

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """200 with the set, or 304 if the client has it. No authentication required."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        document, tag = self._key_set()
        lines = f"ETag: {tag}\r\nCache-Control: public, max-age={_MAX_AGE_SECONDS}\r\n".encode("ascii")
        given = request.headers.get("If-None-Match", "")
        if given.strip() == "*" or tag in {part.strip().removeprefix("W/") for part in given.split(",")}:
            return Response(304, lines)
        return Response(200, b"Content-Type: application/jwk-set+json\r\n" + lines, document)
