"""A sidecar at work: its listeners, its present configuration, and how another takes that one's place."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecar import __version__
from sidecar.admin.health import Health
from sidecar.admin.routes import Operations, operations_app, operations_runner
from sidecar.app.assembly import Parts, assemble
from sidecar.app.ground import Ground
from sidecar.clock import Clock, SystemClock, checked
from sidecar.config.load import Loaded
from sidecar.config.settings import Limits, Settings
from sidecar.config.show import as_json
from sidecar.errors import Misconfigured, Problem
from sidecar.metrics import Metrics
from sidecar.web.boundary import Boundary
from sidecar.web.listeners import MOST_OPERATORS, accept, affordable, open_sockets
from sidecar.web.server import PublicServer

_log = logging.getLogger("sidecar")
_PATIENCE_SECONDS = 5.0
_LOOK_SECONDS = 0.02
_LAST_STEPS_SECONDS = 10.0


class Sidecar:
    """The running parts that outsiders may see. Made by :func:`assembled` and :func:`running`."""

    def __init__(self, parts: Parts, ground: Ground) -> None:
        self._parts = parts
        self._ground = ground
        self._boundary = Boundary(parts.serving, ground.metrics)
        self._server = PublicServer(
            self._boundary,
            limits=_limits(parts.loaded.settings),
            parse_failure=self._boundary.refuse_unparsed,
            answer_at_once=self._boundary.answer_at_once,
        )
        self._public = web.ServerRunner(self._server, shutdown_timeout=1.0)
        self._retiring: dict[asyncio.Task[None], Parts] = {}
        ground.metrics.watch(ground.metrics.ready, lambda: self.health.report()[0])

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""
        return self._parts.loaded

    @property
    def metrics(self) -> Metrics:
        """What this process counts."""
        return self._ground.metrics

    @property
    def health(self) -> Health:
        """What readiness is made of."""
        return self._parts.health

    @property
    def public_addresses(self) -> list[object]:
        """Bound addresses of the public listener, as sockets name them."""
        return list(self._public.addresses)

    async def accept(self, sockets: Sequence[socket.socket]) -> list[web.BaseSite]:
        """Answer whoever connects to ``sockets``, until the sites that this returns are stopped."""
        return await accept(self._public, sockets)

    async def setup(self) -> None:
        """Get ready to accept."""
        await self._public.setup()

    async def settled(self) -> None:
        """Return once every part has had its first try, or after some seconds."""
        await _settled(self.health)

    async def prepare(self, loaded: Loaded) -> Parts:
        """The parts of ``loaded``, ready to take the place of the present ones: :meth:`take_up`, or close its stack.

        Raises Misconfigured when it cannot be served, or is not ready within seconds though the present one is;
        Unavailable when a store that it names cannot be opened.
        """
        try:
            parts = await assemble(loaded, self._ground)
            try:
                await _settled(parts.health)
                ready, report = parts.health.report()
                if not ready and self.health.report()[0]:
                    raise Misconfigured([Problem("", f"not ready with it: {report['failing']}")])
            except BaseException:
                await parts.stack.aclose()
                raise
        finally:
            self._parts.observe(self._ground.metrics)
        return parts

    def take_up(self, parts: Parts) -> None:
        """Answer by ``parts`` from the next request on. What is under way ends as it began; then its parts close."""
        old, self._parts = self._parts, parts
        self._server.change_limits(_limits(parts.loaded.settings))
        self._boundary.take_up(parts.serving)
        parts.observe(self._ground.metrics)
        old.cache.advance()
        task = asyncio.create_task(self._retire(old), name="last requests of an old configuration")
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)
        for earlier in self._retiring.values():
            earlier.watch.heed(parts.watch.gate, parts.trust.mirror.changed)

    async def reload(self, loaded: Loaded) -> None:
        """Work by ``loaded`` from now on. Raises as :meth:`prepare`, and nothing has changed then."""
        self.take_up(await self.prepare(loaded))

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

    async def aclose(self) -> None:
        """Cut what is left, and close every part."""
        await self._public.cleanup()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=_LAST_STEPS_SECONDS)
        await self._parts.stack.aclose()

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self.health.report()

    async def scrape(self) -> CollectorRegistry:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self._ground.metrics.registry

    def configuration(self) -> Any:
        """See :class:`sidecar.admin.routes.Operations`."""
        return as_json(self.loaded)

    async def _retire(self, parts: Parts) -> None:
        await self._boundary.left(parts.serving)
        await parts.stack.aclose()


def _limits(settings: Settings) -> Limits:
    return affordable(settings.server.limits, forwards=bool(settings.upstream and settings.upstream.url))


async def _settled(health: Health) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not health.is_settled:  # noqa: ASYNC110 - a handful of parts, none of which tells anybody
                await asyncio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def assembled(loaded: Loaded, ground: Ground) -> AsyncIterator[Sidecar]:
    """A sidecar that accepts nobody yet; everything is closed in reverse order after the context.

    Raises Misconfigured when the configuration cannot be served. Needs no identity provider to be there.
    """
    sidecar = Sidecar(await assemble(loaded, ground), ground)
    try:
        await sidecar.setup()
        yield sidecar
    finally:
        await sidecar.aclose()


@asynccontextmanager
async def listening_for_operators(operations: Operations, address: str, metrics: Metrics) -> AsyncIterator[None]:
    """The operations listener, up while the context lasts. Raises Misconfigured when ``address`` cannot be had."""
    runner = operations_runner(operations_app(operations, metrics))
    await runner.setup()
    try:
        await accept(runner, open_sockets(address, "server.adminListen"), most=MOST_OPERATORS)
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(loaded: Loaded, clock: Clock | None = None) -> AsyncIterator[Sidecar]:
    """Both listeners up while the context lasts. Raises as :func:`assembled`, and when an address cannot be had."""
    server = loaded.settings.server
    ground = Ground(Metrics(), checked(clock or SystemClock()))
    ground.metrics.workers.set(1)
    async with (
        assembled(loaded, ground) as sidecar,
        listening_for_operators(sidecar, server.admin_listen, ground.metrics),
    ):
        await sidecar.accept(open_sockets(server.listen, "server.listen"))
        _log.info("listening", extra={"version": __version__, "public": server.listen, "admin": server.admin_listen})
        yield sidecar
