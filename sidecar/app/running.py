"""A running sidecar: its listeners, its current configuration, and how a reload replaces that."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from sidecar import __version__
from sidecar.admin.health import Health, PartState, PartStatus
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
ReadParts = Callable[[], Iterable[PartStatus]]


class Sidecar:
    """A running sidecar. Created by :func:`build_sidecar` and :func:`run_sidecar`."""

    def __init__(self, generation: ConfigGeneration, context: ProcessContext, others: ReadParts) -> None:
        self._generation = generation
        self._others = others
        generation.observe(context.metrics)
        self._context = context
        self._remember_keys()
        self._dispatcher = Dispatcher(generation.active_config, context.metrics)
        self._server = HttpServer(
            self._dispatcher,
            limits=_limits(generation.loaded.settings),
            parse_failure=self._dispatcher.refuse_unparsed,
            handle_head=self._dispatcher.handle_head,
        )
        self._public = web.ServerRunner(self._server, shutdown_timeout=1.0)
        tls = generation.loaded.settings.server.tls
        self._certificates = None if tls is None else CertificateFiles(tls)
        self._retiring: dict[asyncio.Task[None], ConfigGeneration] = {}
        context.metrics.watch(context.metrics.ready, lambda: self._report()[0])

    @property
    def loaded(self) -> Loaded:
        """The current configuration."""
        return self._generation.loaded

    @property
    def metrics(self) -> Metrics:
        """The metrics of this process."""
        return self._context.metrics

    @property
    def health(self) -> Health:
        """The health of the current configuration."""
        return self._generation.health

    @property
    def public_addresses(self) -> list[Any]:
        """Bound addresses of the public listener."""
        return list(self._public.addresses)

    async def accept(self, sockets: Sequence[socket.socket]) -> list[web.BaseSite]:
        """Serve connections on ``sockets`` until the returned sites are stopped."""
        context = None if self._certificates is None else self._certificates.context
        return await accept(self._public, sockets, tls=context)

    async def setup(self) -> None:
        """Prepare the listener. Call before :meth:`accept`."""
        await self._public.setup()
        if self._certificates is not None:
            await self._certificates.start()

    async def wait_settled(self) -> None:
        """Wait until every part has completed its first attempt, or for a few seconds."""
        await _wait_settled(self.health)

    async def prepare(self, loaded: Loaded) -> ConfigGeneration:
        """Build a generation from ``loaded``. Then :meth:`activate` it, or close its stack.

        Raises Misconfigured if it cannot be served, or is not ready within seconds although the current one is ready;
        Unavailable if its store cannot be opened.
        """
        try:
            generation = await build(loaded, self._context)
            try:
                await _wait_settled(generation.health)
                ready, report = generation.health.report()
                if not ready and self.health.report()[0]:
                    raise Misconfigured([Problem("", f"not ready with this configuration: {report['failing']}")])
            except BaseException:
                await generation.stack.aclose()
                raise
        finally:
            self._generation.observe(self._context.metrics)
        return generation

    def activate(self, generation: ConfigGeneration) -> None:
        """Use ``generation`` from the next request on. The previous one closes after its in-flight requests."""
        previous, self._generation = self._generation, generation
        self._remember_keys()
        # revocations may still name an issuer that was removed in an emergency
        self._context.issuers.note(previous.issuers.issuers)
        self._server.change_limits(_limits(generation.loaded.settings))
        self._dispatcher.activate(generation.active_config)
        generation.observe(self._context.metrics)
        previous.cache.advance_generation()
        task = asyncio.create_task(self._retire(previous), name="retire configuration")
        self._retiring[task] = previous
        task.add_done_callback(self._retiring.pop)
        for earlier in self._retiring.values():
            earlier.watch.also_check(generation.watch.gate, generation.issuers.mirror.changed)

    async def reload(self, loaded: Loaded) -> None:
        """Replace the configuration with ``loaded``. Raises as :meth:`prepare`; then nothing has changed."""
        self.activate(await self.prepare(loaded))

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """Report not ready; accept connections for ``delay`` more seconds, then stop.

        In-flight requests have ``timeout`` seconds after that to complete.
        """
        self.health.draining = True
        self._server.drain()
        await asyncio.sleep(delay)
        for site in self._public.sites:
            await site.stop()
        self._server.shutting_down.set()
        # aiohttp's own shutdown stops reading, so that an upload in progress could not complete
        with suppress(TimeoutError):
            await asyncio.wait_for(self._dispatcher.wait_idle(), timeout)
        await self._public.cleanup()

    def abort_connections(self) -> None:
        """Close every client connection immediately."""
        self._server.abort_connections()

    async def aclose(self) -> None:
        """Close remaining connections and every part."""
        if self._certificates is not None:
            await self._certificates.aclose()
        await self._public.cleanup()
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=_RETIRE_TIMEOUT)
        await self._generation.stack.aclose()

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self._report()

    async def scrape(self) -> CollectorRegistry:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self._context.metrics.registry

    def configuration(self) -> Any:
        """See :class:`sidecar.admin.routes.Operations`."""
        return as_json(self.loaded)

    def _report(self) -> tuple[bool, dict[str, object]]:
        return self.health.report(self._capacity(), *self._others())

    def _capacity(self) -> PartStatus:
        """Whether authenticated callers are served: only their own load can use up their capacity."""
        serving, server = self._generation.active_config, self._server
        if self._dispatcher.in_flight >= serving.max_in_flight:
            text = f"{self._dispatcher.in_flight} requests in flight, the limit of maxInFlight: others get 503"
            return PartStatus(_CAPACITY, PartState.UNUSABLE, text)
        if server.is_full:
            text = f"{len(server.connections)} connections in use, the limit of maxConnections: others are closed"
            return PartStatus(_CAPACITY, PartState.UNUSABLE, text)
        if serving.undecided.is_full:
            text = f"{serving.undecided.taken} requests await a decision, a quarter of maxInFlight: others get 503"
            return PartStatus(_CAPACITY, PartState.DEGRADED, text)
        if serving.undecided_bodies.is_full:
            text = f"{serving.undecided_bodies.taken} bodies of unauthenticated callers are being read, an eighth of "
            return PartStatus(_CAPACITY, PartState.DEGRADED, f"{text}maxInFlight: others get 503")
        if serving.anonymous.is_full:
            text = f"{serving.anonymous.taken} requests have no credential, half of maxInFlight: others get 503"
            return PartStatus(_CAPACITY, PartState.DEGRADED, text)
        return PartStatus(_CAPACITY, PartState.USABLE)

    def _remember_keys(self) -> None:
        """Note the own keys of the active configuration, never those of one that was refused."""
        keys = self._generation.issuers.own_keys
        self._context.own_keys.clear()
        if keys is not None:
            self._context.own_keys.update(keys.published)

    async def _retire(self, generation: ConfigGeneration) -> None:
        await self._dispatcher.wait_drained(generation.active_config)
        try:
            await generation.stack.aclose()
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
            while not health.is_settled:  # noqa: ASYNC110 - few parts, and they have no event to wait for
                await asyncio.sleep(_POLL_INTERVAL)


@asynccontextmanager
async def build_sidecar(loaded: Loaded, context: ProcessContext, others: ReadParts = tuple) -> AsyncIterator[Sidecar]:
    """A sidecar that does not accept connections yet; everything is closed in reverse order after the context.

    ``others`` returns the state of parts that do not belong to a configuration, for the health report.
    Raises Misconfigured if the configuration cannot be served. Does not need the identity providers to be reachable.
    """
    sidecar = Sidecar(await build(loaded, context, at_start=True), context, others)
    try:
        await sidecar.setup()
        yield sidecar
    finally:
        await sidecar.aclose()


@asynccontextmanager
async def operations_listener(operations: Operations, address: str, metrics: Metrics) -> AsyncIterator[None]:
    """Run the operations listener while the context is active. Raises Misconfigured if ``address`` cannot be bound."""
    runner = web.ServerRunner(operations_server(operations, metrics), shutdown_timeout=1.0)
    await runner.setup()
    try:
        await accept(runner, open_sockets(address, "server.adminListen"), most=MAX_ADMIN_CONNECTIONS)
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def run_sidecar(loaded: Loaded, clock: Clock | None = None, others: ReadParts = tuple) -> AsyncIterator[Sidecar]:
    """Run both listeners while the context is active. Raises as :func:`build_sidecar`, and if binding fails."""
    server = loaded.settings.server
    context = ProcessContext(Metrics(), checked(clock or SystemClock()))
    context.metrics.workers.set(1)
    async with (
        build_sidecar(loaded, context, others) as sidecar,
        operations_listener(sidecar, server.admin_listen, context.metrics),
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
