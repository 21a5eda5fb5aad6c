"""An answer made of bytes: status line, header block and body, written in one piece.

aiohttp's own response builds and serialises a header mapping for every answer, which costs more than the rest of a
check together. Here the header block is bytes that whoever made it could keep.
"""

import asyncio
import socket
import struct
import time
from http import HTTPStatus
from typing import Any, Final

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
    """``Date`` and ``Server`` as bytes, made anew each second."""

    __slots__ = ("_date", "_line", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._date = b""
        self._line = b""

    def date(self) -> bytes:
        """``Date`` alone, for an answer that another server has made."""
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
    """The header line that tells a request's id."""
    return b"X-Request-Id: %b\r\n" % identifier.encode("ascii")


def connection_line(version: HttpVersion, keep_alive: bool) -> bytes:
    """The ``Connection`` line that this client needs to hear (RFC 9112 section 9.3)."""
    if keep_alive:
        return b"Connection: keep-alive\r\n" if version == HttpVersion10 else b""
    return b"Connection: close\r\n"


def is_whole(request: web.BaseRequest) -> bool:
    """Whether everything that ``request`` announced has arrived, so that what comes next is another request.

    A caller that waits for ``100 Continue`` may send its body after the final answer or not (RFC 9110 section 10.1.1).
    """
    return request.content.is_eof() and (EXPECT not in request.headers or request.body_exists)


def _end_sending(request: web.BaseRequest) -> None:
    connection: Any = request.protocol  # sidecar.web.server's, which imports this module
    connection.end_sending()


def reset(request: web.BaseRequest) -> None:
    """Break off an answer that has begun, so that nobody takes what came so far for the whole (RFC 9112 section 8).

    A plain end would be a proper end to a client that was promised neither a length nor chunks.
    """
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def close_soon(transport: asyncio.Transport | None) -> None:
    """Close, after what has been written has gone out; without it, when the peer takes too long to read it."""
    if transport is not None:
        transport.close()
        asyncio.get_running_loop().call_later(_FLUSH_TIMEOUT, transport.abort)


class Response(web.StreamResponse):
    """One complete answer. ``headers_block`` is encoded header lines, each with its line end, no framing headers."""

    def __init__(self, status: int, headers_block: bytes = b"", body: bytes = b"", *, close: bool = False) -> None:
        # The base initialiser makes a header mapping and a state mapping that nothing here reads.
        self._status = status
        self._reason = ""
        self._headers_block = headers_block
        self._whole_body = body
        self._keep_alive = False if close else None

    def add_request_id(self, identifier: str) -> None:
        """Tell the caller the request's id, by which the log speaks of it."""
        self._headers_block += request_id_line(identifier)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write everything. A HEAD request gets the head only (RFC 9110 section 9.3.2).

        Every answer of ours is written here: one that comes before the end of its request ends the connection.
        """
        whole = is_whole(request)
        keep_alive = whole and self._keep_alive is None and request.keep_alive
        self._keep_alive = keep_alive
        body = self._whole_body
        length = b"" if self._status in _BODILESS else b"Content-Length: %d\r\n" % len(body)
        head = b"".join(
            (
                status_line(self._status),
                self._headers_block,
                length,
                date_line(),
                connection_line(request.version, keep_alive),
                b"\r\n",
                b"" if request.method == "HEAD" else body,
            )
        )
        self._eof_sent = True
        connection = request.protocol
        if connection.transport is None or connection.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        connection.transport.write(head)
        if not whole:
            _end_sending(request)
        if connection.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class AlreadySent(web.StreamResponse):
    """Stands for an answer that was already written; tells aiohttp only whether the connection may go on."""

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
