"""Responses made of bytes: status line, header block and body, written in one piece.

aiohttp's own response creates and serialises a mapping of headers each time, which costs more than the rest of a check.
Here the header block is bytes, which can be cached.
"""

import asyncio
import socket
import struct
import time
from http import HTTPStatus
from typing import Any, Final, final

from aiohttp import HttpVersion, HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.hdrs import EXPECT

_STATUS_LINES: Final = {
    int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BODILESS: Final = frozenset({204, 304})
_FLUSH_TIMEOUT = 0.2


class _DateLine:
    """``Date`` and ``Server`` as bytes, renewed each second."""

    __slots__ = ("_date", "_line", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._date = b""
        self._line = b""

    def date(self) -> bytes:
        """``Date`` alone, for the answer of another server."""
        self()
        return self._date

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            moment = time.gmtime(second)
            self._second = second
            self._date = (
                f"Date: {_DAYS[moment.tm_wday]}, {moment.tm_mday:02d} {_MONTHS[moment.tm_mon - 1]} {moment.tm_year} "
                f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} GMT\r\n"
            ).encode("ascii")
            self._line = self._date + b"Server: auth-sidecar\r\n"
        return self._line


date_line = _DateLine()


def status_line(status: int) -> bytes:
    """The HTTP/1.1 status line of ``status``, with its line end."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def request_id_line(identifier: str) -> bytes:
    """The header line with the request id."""
    return b"X-Request-Id: %b\r\n" % identifier.encode("ascii")


def connection_line(version: HttpVersion, keep_alive: bool) -> bytes:
    """The ``Connection`` line for a client of this ``version`` (RFC 9112 section 9.3)."""
    if keep_alive:
        return b"Connection: keep-alive\r\n" if version == HttpVersion10 else b""
    return b"Connection: close\r\n"


def is_whole(request: web.BaseRequest) -> bool:
    """Whether ``request`` has arrived completely, so that the next bytes are another request.

    A client that waits for ``100 Continue`` may send its body after the final answer or not (RFC 9110 section 10.1.1).
    """
    return request.content.is_eof() and (EXPECT not in request.headers or request.body_exists)


def _end_sending(request: web.BaseRequest) -> None:
    connection: Any = request.protocol  # sidecar.web.server's, which imports this module
    connection.end_sending()


def reset(request: web.BaseRequest) -> None:
    """Reset the connection in the middle of an answer: the client sees that it is incomplete (RFC 9112 section 8).

    A normal close would look like the end of an answer that has neither a length nor chunks.
    """
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def close_soon(transport: asyncio.Transport | None) -> None:
    """Close after the written data was sent, or soon if the peer does not read it."""
    if transport is not None:
        transport.close()
        asyncio.get_running_loop().call_later(_FLUSH_TIMEOUT, transport.abort)


@final
class Response(web.StreamResponse):
    """A complete answer. ``headers_block``: encoded header lines, each with its line end, without framing headers."""

    def __init__(self, status: int, headers_block: bytes = b"", body: bytes = b"", *, close: bool = False) -> None:
        # the base initialiser creates mappings of headers and state that nothing here uses
        self._status = status
        self._reason = ""
        self._headers_block = headers_block
        self._whole_body = body
        self._keep_alive = False if close else None

    @property
    def ends_connection(self) -> bool:
        """Whether the connection has to end after it, whatever the client asked for."""
        return self._keep_alive is False

    def add_request_id(self, identifier: str) -> None:
        """Add the header with the request id, which is in the log too."""
        self._headers_block += request_id_line(identifier)

    def encoded(self, method: str, connection_header: bytes = b"") -> bytes:
        """The whole answer. HEAD gets the head only (RFC 9110 section 9.3.2)."""
        body = self._whole_body
        return b"".join(
            (
                status_line(self._status),
                self._headers_block,
                b"" if self._status in _BODILESS else b"Content-Length: %d\r\n" % len(body),
                date_line(),
                connection_header,
                b"\r\n",
                b"" if method == "HEAD" else body,
            )
        )

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write everything. An answer before the end of its request ends the connection."""
        whole = is_whole(request)
        keep_alive = whole and self._keep_alive is None and request.keep_alive
        self._keep_alive = keep_alive
        data = self.encoded(request.method, connection_line(request.version, keep_alive))
        self._eof_sent = True
        connection = request.protocol
        if connection.transport is None or connection.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        connection.transport.write(data)
        if not whole:
            _end_sending(request)
        if connection.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class AlreadySent(web.StreamResponse):
    """An answer that was written already; tells aiohttp whether the connection goes on."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        self._status = status
        self._reason = ""
        self._keep_alive = keep_alive
        self._eof_sent = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is left to write."""
        if not self._keep_alive and not is_whole(request):
            _end_sending(request)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""
