"""Published public keys (RFC 7517), with Cache-Control and ETag."""

from collections.abc import Callable

from aiohttp import web

from sidecar.errors import MethodNotAllowed
from sidecar.web.response import Response

_MAX_AGE_SECONDS = 300


class PublishedKeys:
    """Serves a key set, or another public document. ``key_set`` returns it and its entity tag, quotes included.

    ``content_type`` is its media type. ``is_for_pages``: scripts of every origin may read it.
    """

    methods = ("GET", "HEAD")

    def __init__(
        self,
        key_set: Callable[[], tuple[bytes, str]],
        content_type: str = "application/jwk-set+json",
        *,
        is_for_pages: bool = False,
    ) -> None:
        self._key_set = key_set
        self._type = f"Content-Type: {content_type}\r\n".encode("ascii")
        self._cors = "Access-Control-Allow-Origin: *\r\n" if is_for_pages else ""

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """200 with the set, or 304 if the client has it. No authentication required."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        document, tag = self._key_set()
        lines = f"ETag: {tag}\r\nCache-Control: public, max-age={_MAX_AGE_SECONDS}\r\n{self._cors}".encode("ascii")
        given = request.headers.get("If-None-Match", "")
        if given.strip() == "*" or tag in {part.strip().removeprefix("W/") for part in given.split(",")}:
            return Response(304, lines)
        return Response(200, self._type + lines, document)
