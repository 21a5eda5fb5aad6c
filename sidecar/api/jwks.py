"""Published public keys (RFC 7517), with Cache-Control and ETag."""

from collections.abc import Callable

from aiohttp import web

from sidecar.api.published import published
from sidecar.errors import MethodNotAllowed

_CACHEABLE = b"Cache-Control: public, max-age=300\r\n"


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
        return published(request.headers, document, tag, _CACHEABLE, b"application/jwk-set+json")
