"""Published public keys (RFC 7517), with Cache-Control and ETag."""

from collections.abc import Callable

from aiohttp import web

from sidecar.api.published import published
from sidecar.errors import MethodNotAllowed

_CACHEABLE = b"Cache-Control: public, max-age=300\r\n"


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
        self._type = content_type.encode("ascii")
        self._lines = _CACHEABLE + (b"Access-Control-Allow-Origin: *\r\n" if is_for_pages else b"")

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """200 with the set, or 304 if the client has it. No authentication required."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        document, tag = self._key_set()
        return published(request.headers, document, tag, self._lines, self._type)
