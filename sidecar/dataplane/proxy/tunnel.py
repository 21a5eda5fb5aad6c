"""An upgraded connection: bytes pass both ways, with back-pressure, until either side ends."""

import asyncio

from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

# A close frame with status 1001, "going away" (RFC 6455 sections 5.5.1 and 7.4.1).
_GOING_AWAY = b"\x88\x02\x03\xe9"

_Side = web.RequestHandler | ResponseHandler


class FrameBorders:
    """Finds where WebSocket frames end in a stream of them (RFC 6455 section 5.2); their content is not looked at."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    @property
    def at_border(self) -> bool:
        """Whether the stream so far ends with a whole frame."""
        return not self._left and not self._head

    def advance(self, data: bytes, *, stop: bool = False) -> int:
        """Take ``data``; how much of it was taken: all, or with ``stop`` only up to the first border."""
        position = 0
        while position < len(data):
            if stop and self.at_border and position:
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
        self._borders = FrameBorders()
        self._leaving = False
        self._left = False
        self._ended = False
        self._news = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass bytes on at once; hold the source back while the other side is slower."""
        octets = bytes(data)
        if self._left:
            return False, b""
        if self._leaving:
            octets = octets[: self._borders.advance(octets, stop=True)]
        else:
            self._borders.advance(octets)
        self._write(octets)
        if self._leaving and self._borders.at_border:
            self._say_goodbye()
        if self._sink.writing_paused:
            _reading(self._source, wanted=False)
            self._news.set()
        return False, b""

    def feed_eof(self) -> None:
        """The source has ended."""
        self._ended = True
        self._news.set()

    def leave(self) -> None:
        """Tell the sink that it is over, as soon as the frame under way is."""
        self._leaving = True
        if self._borders.at_border:
            self._say_goodbye()

    async def run(self) -> None:
        """Return when the source has ended. Raises ConnectionError when the other side is gone."""
        writer = StreamWriter(self._sink, asyncio.get_running_loop())
        while not self._ended:
            await self._news.wait()
            self._news.clear()
            await writer.drain()
            _reading(self._source, wanted=True)

    def _say_goodbye(self) -> None:
        self._left = True
        self._write(_GOING_AWAY)

    def _write(self, octets: bytes) -> None:
        transport = self._sink.transport
        if transport is not None and not transport.is_closing():
            transport.write(octets)


def _reading(side: _Side, *, wanted: bool) -> None:
    transport = side.transport
    if transport is not None and not transport.is_closing() and transport.is_reading() is not wanted:
        (transport.resume_reading if wanted else transport.pause_reading)()


async def tunnel(client: web.RequestHandler, upstream: ResponseHandler, leaving: asyncio.Event) -> None:
    """Join both connections until either side ends. When ``leaving`` is set, the client is told 1001 and may end it."""
    down, up = _Pipe(upstream, client), _Pipe(client, upstream)
    client.set_parser(up)  # type: ignore[arg-type] # asks for aiohttp's WebSocket parser, calls feed_data and feed_eof
    upstream.set_parser(down, None)
    ends = {asyncio.create_task(up.run()), asyncio.create_task(down.run())}
    leave = asyncio.create_task(leaving.wait())
    try:
        done, _ = await asyncio.wait({*ends, leave}, return_when=asyncio.FIRST_COMPLETED)
        if not done & ends:
            down.leave()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*ends, leave):
            task.cancel()
        await asyncio.gather(*ends, leave, return_exceptions=True)
        upstream.close()
