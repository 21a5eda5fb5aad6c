"""The metadata of a protected resource (RFC 9728): where clients get tokens for it."""

from hashlib import sha256

import orjson

from sidecar.api.published import published
from sidecar.errors import MethodNotAllowed
from sidecar.web.request import RequestHead
from sidecar.web.response import Response
from sidecar.web.server import Connection

# Clients in browsers read it from other origins, with headers of their own, such as MCP-Protocol-Version.
_LINES = b"Cache-Control: public, max-age=300\r\nAccess-Control-Allow-Origin: *\r\n"
_PREFLIGHT = _LINES + b"Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\nAccess-Control-Allow-Headers: *\r\n"


class ResourceMetadata:
    """Serves one document, which does not depend on the request. No authentication required."""

    methods = ("GET", "HEAD", "OPTIONS")

    def __init__(
        self,
        identifier: str,
        authorization_servers: tuple[str, ...],
        scopes_supported: tuple[str, ...],
        name: str,
        *,
        binds_certificates: bool,
    ) -> None:
        """``binds_certificates``: tokens bound to a client certificate (RFC 8705) are accepted."""
        document: dict[str, object] = {
            "resource": identifier,
            "authorization_servers": authorization_servers,
            "bearer_methods_supported": ["header"],
        }
        if scopes_supported:
            document["scopes_supported"] = scopes_supported
        if name:
            document["resource_name"] = name
        if binds_certificates:
            document["tls_client_certificate_bound_access_tokens"] = True
        self._document = orjson.dumps(document)
        self._tag = f'"{sha256(self._document).hexdigest()[:32]}"'

    def __call__(self, asked: RequestHead, rest: str, connection: Connection) -> Response:
        """200 with the document, 304 if the client has it, or 204 for a preflight. Raises MethodNotAllowed."""
        if asked.method not in self.methods:
            raise MethodNotAllowed(*self.methods, ends_connection=True)
        if asked.method == "OPTIONS":
            return Response(204, _PREFLIGHT)
        return published(asked.headers, self._document, self._tag, _LINES, b"application/json")
