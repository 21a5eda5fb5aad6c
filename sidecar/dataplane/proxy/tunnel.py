"""An upgraded connection: bytes pass both ways, with back-pressure, until either side ends."""

import asyncio
from typing import Protocol

from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

_HIGH_WATER = 256 * 1024


class _Source(Protocol):
    """The side that bytes come from."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Its transport; None once it is gone."""


class _Pipe:
    """One direction. aiohttp hands it the bytes that follow the upgrade, in place of its own WebSocket parser."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._paused = False
        self._news = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes from the source; hold it back when the other side is slower."""
        self._chunks.append(bytes(data))
        self._size += len(data)
        if self._size > _HIGH_WATER and not self._paused and self._source.transport is not None:
            self._paused = True
            self._source.transport.pause_reading()
        self._news.set()
        return False, b""

    def feed_eof(self) -> None:
        """The source has ended."""
        self._ended = True
        self._news.set()

    async def run(self, writer: StreamWriter) -> None:
        """Pass everything on until the source ends. Raises ConnectionError when the other side is gone."""
        while True:
            await self._news.wait()
            self._news.clear()
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
            if data:
                await writer.write(data)
                await writer.drain()
            if self._paused and self._source.transport is not None:
                self._paused = False
                self._source.transport.resume_reading()
            if self._ended and not self._chunks:
                return


async def tunnel(client: web.RequestHandler, upstream: ResponseHandler) -> None:
    """Join both connections until either side ends, then close both."""
    loop = asyncio.get_running_loop()
    down, up = _Pipe(upstream), _Pipe(client)
    client.set_parser(up)  # type: ignore[arg-type] # asks for aiohttp's WebSocket parser, calls feed_data and feed_eof
    upstream.set_parser(down, None)
    tasks = (
        asyncio.create_task(up.run(StreamWriter(upstream, loop))),
        asyncio.create_task(down.run(StreamWriter(client, loop))),
    )
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        upstream.close()
