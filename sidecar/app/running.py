"""Running listeners: opened, drained on a signal, closed."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from aiohttp import web

from sidecar import __version__
from sidecar.admin.health import Health
from sidecar.admin.routes import operations_app, operations_runner
from sidecar.app.assembly import assemble
from sidecar.clock import Clock, SystemClock
from sidecar.config.load import Loaded
from sidecar.config.show import as_json
from sidecar.metrics import Metrics
from sidecar.web.boundary import Boundary
from sidecar.web.listeners import affordable, bind
from sidecar.web.server import Peers, PublicServer

_log = logging.getLogger("sidecar")


class Sidecar:
    """The running parts that outsiders may see. Made by :func:`running`."""

    def __init__(self, health: Health, boundary: Boundary, server: PublicServer, public: web.ServerRunner) -> None:
        self.health = health
        self._boundary = boundary
        self._server = server
        self._public = public

    @property
    def public_addresses(self) -> list[object]:
        """Bound addresses of the public listener, as sockets name them."""
        return list(self._public.addresses)

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """Not ready from now on; keep accepting for ``delay`` seconds, then stop.

        Work in flight may take ``timeout`` seconds more to end.
        """
        self.health.draining = True
        self._server.drain()
        await asyncio.sleep(delay)
        for site in self._public.sites:
            await site.stop()
        self._server.leaving.set()
        # aiohttp's own waiting would not read on: an upload under way could not end.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._boundary.idle(), timeout)
        await self._public.cleanup()

    def cut_all(self) -> None:
        """End every client connection at once."""
        self._server.cut_all()


@asynccontextmanager
async def running(loaded: Loaded, clock: Clock | None = None) -> AsyncIterator[Sidecar]:
    """Both listeners up while the context lasts; everything is closed in reverse order after it.

    Raises Misconfigured when the configuration cannot be served. Needs no identity provider to be there.
    """
    settings = loaded.settings
    metrics = Metrics()
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        parts = await assemble(loaded, metrics, clock, stack)
        server = settings.server
        boundary = Boundary(parts.routes, parts.refusals, metrics, server.limits, log_access=settings.logging.access)
        public_server = PublicServer(
            boundary,
            limits=affordable(server.limits, forwards=bool(settings.upstream and settings.upstream.url)),
            peers=Peers(server.trusted_proxies),
            parse_failure=boundary.refuse_unparsed,
            answer_at_once=boundary.answer_at_once,
        )
        operations = operations_runner(operations_app(metrics, parts.health, partial(as_json, loaded)))
        await operations.setup()
        stack.push_async_callback(operations.cleanup)
        await bind(operations, server.admin_listen, "server.adminListen")
        public = web.ServerRunner(public_server, shutdown_timeout=1.0)
        await public.setup()
        stack.push_async_callback(public.cleanup)
        await bind(public, server.listen, "server.listen")
        _log.info("listening", extra={"version": __version__, "public": server.listen, "admin": server.admin_listen})
        yield Sidecar(parts.health, boundary, public_server, public)


async def serve(loaded: Loaded) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once."""
    stop = asyncio.Event()
    at_once = asyncio.Event()

    def on_signal() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with running(loaded) as sidecar:
        gc.collect()
        gc.freeze()  # what is there now stays: no collection has to walk through it while callers wait
        await stop.wait()
        _log.info("draining", extra={"seconds": loaded.settings.server.drain_delay})
        server = loaded.settings.server
        draining = asyncio.create_task(sidecar.drain(server.drain_delay, server.drain_timeout))
        hurried = asyncio.create_task(at_once.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        hurried.cancel()
        await asyncio.gather(draining, hurried, return_exceptions=True)
        sidecar.cut_all()
    _log.info("stopped")
