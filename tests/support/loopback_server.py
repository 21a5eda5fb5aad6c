"""A small HTTP server with a thread and a loop of its own, so that tests of any kind can talk to it."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
START_TIMEOUT = 10.0


class LoopbackServer:
    """Serves ``handler`` on 127.0.0.1 until it is closed. A context manager; ``url`` is known after entering."""

    def __init__(self, handler: Handler, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._port = port
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopback-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(START_TIMEOUT), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_TIMEOUT)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``; ``https`` with TLS."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        runner = web.ServerRunner(
            web.Server(self._handler, access_log=None, max_line_size=65536, max_field_size=65536), shutdown_timeout=1.0
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = site.port
        self._started.set()
        await self._stopping.wait()
        await runner.cleanup()
