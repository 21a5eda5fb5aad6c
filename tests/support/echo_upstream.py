"""An upstream that answers with what it was sent: what reached it is what the tests are about."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.loopback_server import LoopbackServer


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the upstream saw it; ``headers`` as received, order and duplicates kept."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body_sha256: str

    @classmethod
    def of(cls, document: Any) -> "Received":
        """Read from the upstream's JSON answer."""
        headers = tuple((str(name), str(value)) for name, value in document["headers"])
        return cls(document["method"], document["target"], headers, document["bodySha256"])

    def all(self, name: str) -> list[str]:
        """Every value of a header, in every spelling that CGI makes one variable of."""
        return [value for key, value in self.headers if folded(key) == folded(name)]


def folded(name: str) -> str:
    """A header name as CGI reads it: without case, every mark the same."""
    return re.sub("[^0-9a-z]", "-", name.lower())


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await _echo_messages(request)
    return await _echo(request)


async def _echo_messages(request: web.BaseRequest) -> web.WebSocketResponse:
    """First the user as a message, then every message back."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(",".join(request.headers.getall("X-Auth-Request-User", [])))
    async for message in socket:
        await socket.send_str(str(message.data))
    return socket


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    digest = hashlib.sha256()
    async for chunk in request.content.iter_any():
        digest.update(chunk)
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
    document = {
        "method": request.method,
        "target": request.raw_path,
        "headers": headers,
        "bodySha256": digest.hexdigest(),
    }
    return web.Response(text=json.dumps(document), content_type="application/json", headers={"X-Upstream": "echo"})


def echo_upstream() -> LoopbackServer:
    """A server that answers every request with its method, raw target, headers and body digest as JSON.

    A WebSocket gets the user's name as its first message, then its own messages back.
    """
    return LoopbackServer(_answer)
