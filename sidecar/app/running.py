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
from sidecar.admin.health import Condition, Health, PartStatus
from sidecar.admin.routes import Operations, operations_server
from sidecar.app.generation import ConfigGeneration, build
from sidecar.app.process_context import ProcessContext
from sidecar.clock import Clock, SystemClock, checked
from sidecar.config.load import Loaded
from sidecar.config.output.show import as_json
from sidecar.config.settings import Limits, Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
from sidecar.web.dispatcher import Dispatcher
from sidecar.web.listeners import MAX_ADMIN_CONNECTIONS, SocketAccess, accept, cap_to_file_limit, open_sockets
from sidecar.web.server import HttpServer
from sidecar.web.server_tls import CertificateFiles

_log = logging.getLogger("sidecar")
_SETTLE_TIMEOUT = 5.0
_POLL_INTERVAL = 0.02
_RETIRE_TIMEOUT = 10.0
_CAPACITY = "capacity"


class Sidecar:
    """The running parts that outsiders may see. Made by :func:`build_sidecar` and :func:`run_sidecar`."""

    def __init__(self, parts: ConfigGeneration, ground: ProcessContext) -> None:
        self._generation = parts
        self._context = ground
        self._dispatcher = Dispatcher(parts.active_config, ground.metrics)
        self._server = HttpServer(
            self._dispatcher,
            limits=_limits(parts.loaded.settings),
            parse_failure=self._dispatcher.refuse_unparsed,
            answer_at_once=self._dispatcher.answer_at_once,
        )
        self._public = web.ServerRunner(self._server, shutdown_timeout=1.0)
        tls = parts.loaded.settings.server.tls
        self._certificates = None if tls is None else CertificateFiles(tls)
        self._retiring: dict[asyncio.Task[None], ConfigGeneration] = {}
        ground.metrics.watch(ground.metrics.ready, lambda: self.health.report(self._capacity())[0])

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""
        return self._generation.loaded

    @property
    def metrics(self) -> Metrics:
        """What this process counts."""
        return self._context.metrics

    @property
    def health(self) -> Health:
        """What readiness is made of."""
        return self._generation.health

    @property
    def public_addresses(self) -> list[Any]:
        """Bound addresses of the public listener, as sockets name them."""
        return list(self._public.addresses)

    async def accept(self, sockets: Sequence[socket.socket]) -> list[web.BaseSite]:
        """Answer whoever connects to ``sockets``, until the sites that this returns are stopped."""
        context = None if self._certificates is None else self._certificates.context
        return await accept(self._public, sockets, tls=context)

    async def setup(self) -> None:
        """Get ready to accept."""
        await self._public.setup()
        if self._certificates is not None:
            await self._certificates.start()

    async def wait_settled(self) -> None:
        """Return once every part has had its first try, or after some seconds."""
        await _wait_settled(self.health)

    async def prepare(self, loaded: Loaded) -> ConfigGeneration:
        """The parts of ``loaded``, ready to take the place of the present ones: :meth:`activate`, or close its stack.

        Raises Misconfigured when it cannot be served, or is not ready within seconds though the present one is;
        Unavailable when a store that it names cannot be opened.
        """
        try:
            parts = await build(loaded, self._context)
            try:
                await _wait_settled(parts.health)
                ready, report = parts.health.report()
                if not ready and self.health.report()[0]:
                    raise Misconfigured([Problem("", f"not ready with it: {report['failing']}")])
            except BaseException:
                await parts.stack.aclose()
                raise
        finally:
            self._generation.observe(self._context.metrics)
        return parts

    def activate(self, parts: ConfigGeneration) -> None:
        """Answer by ``parts`` from the next request on. What is under way ends as it began; then its parts close."""
        old, self._generation = self._generation, parts
        # who is removed in an emergency is known for a while: revocations may still name it
        self._context.issuers.note(old.issuers.issuers)
        self._server.change_limits(_limits(parts.loaded.settings))
        self._dispatcher.activate(parts.active_config)
        parts.observe(self._context.metrics)
        old.cache.advance_epoch()
        task = asyncio.create_task(self._retire(old), name="last requests of an old configuration")
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)
        for earlier in self._retiring.values():
            earlier.watch.also_check(parts.watch.gate, parts.issuers.mirror.changed)

    async def reload(self, loaded: Loaded) -> None:
        """Work by ``loaded`` from now on. Raises as :meth:`prepare`, and nothing has changed then."""
        self.activate(await self.prepare(loaded))

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """Not ready from now on; keep accepting for ``delay`` seconds, then stop.

        Work in flight may take ``timeout`` seconds more to end.
        """
        self.health.draining = True
        self._server.drain()
        await asyncio.sleep(delay)
        for site in self._public.sites:
            await site.stop()
        self._server.shutting_down.set()
        # aiohttp's own waiting would not read on: an upload under way could not end.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._dispatcher.wait_idle(), timeout)
        await self._public.cleanup()

    def abort_connections(self) -> None:
        """End every client connection at once."""
        self._server.abort_connections()

    async def aclose(self) -> None:
        """Cut what is left, and close every part."""
        if self._certificates is not None:
            await self._certificates.aclose()
        await self._public.cleanup()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=_RETIRE_TIMEOUT)
        await self._generation.stack.aclose()

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self.health.report(self._capacity())

    async def scrape(self) -> CollectorRegistry:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self._context.metrics.registry

    def configuration(self) -> Any:
        """See :class:`sidecar.admin.routes.Operations`."""
        return as_json(self.loaded)

    def _capacity(self) -> PartStatus:
        """Whether callers with a good credential are answered: no load takes their places but their own."""
        serving, server = self._generation.active_config, self._server
        if self._dispatcher.in_flight >= serving.max_in_flight:
            text = f"{self._dispatcher.in_flight} requests in flight, as many as maxInFlight allows: others get 503"
            return PartStatus(_CAPACITY, Condition.UNUSABLE, text)
        if server.is_full:
            text = f"{len(server.connections)} connections in use, as many as maxConnections allows: others are closed"
            return PartStatus(_CAPACITY, Condition.UNUSABLE, text)
        if serving.undecided.is_full:
            text = f"{serving.undecided.taken} requests wait for a verdict, a quarter of maxInFlight: others get 503"
            return PartStatus(_CAPACITY, Condition.DEGRADED, text)
        if serving.anonymous.is_full:
            text = f"{serving.anonymous.taken} requests have no credential, half of maxInFlight: others get 503"
            return PartStatus(_CAPACITY, Condition.DEGRADED, text)
        return PartStatus(_CAPACITY, Condition.USABLE)

    async def _retire(self, parts: ConfigGeneration) -> None:
        await self._dispatcher.wait_drained(parts.active_config)
        try:
            await parts.stack.aclose()
        except Exception as error:  # noqa: BLE001 - the task has no caller
            _log.error(
                "unhandled error while closing the previous configuration",
                extra={
                    "event": "configuration_close_failed",
                    "error": type(error).__name__,
                    "places": traceback_locations(error),
                },
            )


def _limits(settings: Settings) -> Limits:
    return cap_to_file_limit(settings.server.limits, forwards=bool(settings.upstream and settings.upstream.url))


async def _wait_settled(health: Health) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_TIMEOUT):
            while not health.is_settled:  # noqa: ASYNC110 - a handful of parts, none of which tells anybody
                await asyncio.sleep(_POLL_INTERVAL)


@asynccontextmanager
async def build_sidecar(loaded: Loaded, ground: ProcessContext) -> AsyncIterator[Sidecar]:
    """A sidecar that accepts nobody yet; everything is closed in reverse order after the context.

    Raises Misconfigured when the configuration cannot be served. Needs no identity provider to be there.
    """
    sidecar = Sidecar(await build(loaded, ground, at_start=True), ground)
    try:
        await sidecar.setup()
        yield sidecar
    finally:
        await sidecar.aclose()


@asynccontextmanager
async def operations_listener(operations: Operations, address: str, metrics: Metrics) -> AsyncIterator[None]:
    """The operations listener, up while the context lasts. Raises Misconfigured when ``address`` cannot be had."""
    runner = web.ServerRunner(operations_server(operations, metrics), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await accept(runner, open_sockets(address, "server.adminListen"), most=MAX_ADMIN_CONNECTIONS)
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def run_sidecar(loaded: Loaded, clock: Clock | None = None) -> AsyncIterator[Sidecar]:
    """Both listeners up while the context lasts. Raises as :func:`build_sidecar`, and when an address cannot be had."""
    server = loaded.settings.server
    ground = ProcessContext(Metrics(), checked(clock or SystemClock()))
    ground.metrics.workers.set(1)
    async with (
        build_sidecar(loaded, ground) as sidecar,
        operations_listener(sidecar, server.admin_listen, ground.metrics),
    ):
        access = SocketAccess(server.socket_mode, server.socket_group)
        await sidecar.accept(open_sockets(server.listen, "server.listen", access))
        _log.info(
            "listening",
            extra={
                "event": "listening",
                "version": __version__,
                "public": server.listen,
                "admin": server.admin_listen,
            },
        )
        yield sidecar
