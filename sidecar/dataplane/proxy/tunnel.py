"""An upgraded connection: bytes pass both ways, with back-pressure, until either side ends."""

import asyncio

from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from sidecar.web.response import close_soon

# Close frames with status 1001, "going away", and 1008, "policy violation" (RFC 6455 sections 5.5.1 and 7.4.1).
_GOING_AWAY = b"\x88\x02\x03\xe9"
_POLICY_VIOLATION = b"\x88\x02\x03\xf0"
_CLOSE_FRAME_TIMEOUT = 0.2

_Side = web.RequestHandler | ResponseHandler


class FrameBoundaryTracker:
    """Finds where WebSocket frames end in a stream of them (RFC 6455 section 5.2); it does not read their content."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the stream so far ends with a whole frame."""
        return not self._left and not self._head

    def advance(self, data: bytes, *, stop: bool = False) -> int:
        """Process ``data`` and return how much was processed: all, or with ``stop`` only up to the first boundary."""
        position = 0
        while position < len(data):
            if stop and self.at_boundary and position:
                break
            if self._left:
                taken = min(self._left, len(data) - position)
                self._left -= taken
            else:
                taken = self._read_head(data[position:])
            position += taken
        return position

    def _read_head(self, data: bytes) -> int:
        known = len(self._head)
        head = self._head + data[:14]
        length = head[1] & 0x7F if len(head) > 1 else 0
        extended = {126: 2, 127: 8}.get(length, 0)
        size = 2 + extended + (4 if len(head) > 1 and head[1] & 0x80 else 0)
        if len(head) < size:
            self._head = head
            return len(data[:14])
        self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else length
        self._head = b""
        return size - known


class _Pipe:
    """One direction. aiohttp hands it the bytes that follow the upgrade, in place of its own WebSocket parser."""

    def __init__(self, source: _Side, sink: _Side) -> None:
        self._source = source
        self._sink = sink
        self._boundaries = FrameBoundaryTracker()
        self._close_frame = b""
        self._left = False
        self.gone = asyncio.Event()
        self._ended = False
        self._news = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass bytes on at once; hold the source back while the other side is slower."""
        chunk = bytes(data)
        if self._left:
            return False, b""
        if self._close_frame:
            chunk = chunk[: self._boundaries.advance(chunk, stop=True)]
        else:
            self._boundaries.advance(chunk)
        self._write(chunk)
        if self._close_frame and self._boundaries.at_boundary:
            self._send_close()
        if self._sink.writing_paused:
            _reading(self._source, wanted=False)
            self._news.set()
        return False, b""

    def feed_eof(self) -> None:
        """The source has ended."""
        self._ended = True
        self._news.set()

    def shut_down(self, frame: bytes) -> None:
        """Send the close frame ``frame`` and nothing after it, as soon as the current frame ends."""
        self._close_frame = frame
        if self._boundaries.at_boundary and not self._left:
            self._send_close()

    def drop_input(self) -> None:
        """Drop all further bytes."""
        self._left = True

    async def run(self) -> None:
        """Return when the source has ended. Raises ConnectionError when the other side is gone."""
        writer = StreamWriter(self._sink, asyncio.get_running_loop())
        while not self._ended:
            await self._news.wait()
            self._news.clear()
            await writer.drain()
            _reading(self._source, wanted=True)

    def _send_close(self) -> None:
        self._left = True
        self._write(self._close_frame)
        self.gone.set()

    def _write(self, data: bytes) -> None:
        transport = self._sink.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)


def _reading(side: _Side, *, wanted: bool) -> None:
    transport = side.transport
    if transport is not None and not transport.is_closing() and transport.is_reading() is not wanted:
        (transport.resume_reading if wanted else transport.pause_reading)()


async def tunnel(
    client: web.RequestHandler, upstream: ResponseHandler, shutting_down: asyncio.Event, over: asyncio.Event
) -> None:
    """Join both connections until either side ends.

    When ``shutting_down`` is set, the client receives 1001 and may end the connection. When ``over`` is set, input of
    the client is dropped, it receives 1008 if the current frame ends in time, and the connection is closed.
    """
    down, up = _Pipe(upstream, client), _Pipe(client, upstream)
    client.set_parser(up)  # type: ignore[arg-type] # asks for aiohttp's WebSocket parser, calls feed_data and feed_eof
    upstream.set_parser(down, None)
    ends = {asyncio.create_task(up.run()), asyncio.create_task(down.run())}
    leave, stop, gone = (asyncio.create_task(event.wait()) for event in (shutting_down, over, down.gone))
    try:
        done, _ = await asyncio.wait({*ends, leave, stop}, return_when=asyncio.FIRST_COMPLETED)
        if done == {leave}:
            down.shut_down(_GOING_AWAY)
            done, _ = await asyncio.wait({*ends, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop in done:
            up.drop_input()
            down.shut_down(_POLICY_VIOLATION)
            await asyncio.wait({*ends, gone}, timeout=_CLOSE_FRAME_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            down.drop_input()
            close_soon(client.transport)
    finally:
        for task in (*ends, leave, stop, gone):
            task.cancel()
        await asyncio.gather(*ends, leave, stop, gone, return_exceptions=True)
        upstream.close()
