"""Runs a service until a signal stops it, and handles signals."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from sidecar import logs
from sidecar.app.reload import Reload, warn
from sidecar.app.running import run_sidecar
from sidecar.app.secrets import refresh_secrets, secrets_status
from sidecar.app.workers.supervisor import supervised
from sidecar.clock import SystemClock
from sidecar.concurrency import cancel
from sidecar.config.load import Loaded
from sidecar.files import POLL_INTERVAL, FileWatcher
from sidecar.metrics import Metrics
from sidecar.vaults.reader import SecretsReader

_log = logging.getLogger("sidecar")


class Service(Protocol):
    """A sidecar in this process, or a supervisor of worker processes."""

    @property
    def loaded(self) -> Loaded:
        """The current configuration."""

    @property
    def metrics(self) -> Metrics:
        """The metrics that count reloads."""

    async def reload(self, loaded: Loaded) -> None:
        """Replace the configuration with ``loaded``. Raises Misconfigured and Unavailable; then nothing has changed."""

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """Report not ready; accept for ``delay`` more seconds, then give in-flight requests ``timeout`` seconds."""

    def abort_connections(self) -> None:
        """Close every client connection immediately."""


async def serve(
    loaded: Loaded, reread: Callable[[], Loaded], files: Sequence[str], secrets: SecretsReader | None = None
) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends the drain.

    SIGHUP reloads the configuration through ``reread``; so does a change of ``files`` or of the files that secrets are
    read from, with ``server.reloadOnChange``; and a change of a secret that ``secrets`` has read.
    """
    gc.freeze()  # imported objects stay forever: exempt them from garbage collection
    stop, forced, changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_stop() -> None:
        (forced if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, changed.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    warn(loaded)
    loaded = replace(loaded, since=SystemClock().now())
    others = partial(secrets_status, secrets)
    running: AbstractAsyncContextManager[Service]
    has_workers = loaded.settings.server.workers > 1
    running = supervised(loaded, others) if has_workers else run_sidecar(loaded, others=others)
    async with AsyncExitStack() as stack:
        starting: asyncio.Task[Service] = asyncio.create_task(stack.enter_async_context(running))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            service = await starting
            reloading = asyncio.create_task(_reload_on(changed, service, reread))
            watching = asyncio.create_task(_watch(files, service, changed))
            refreshing = asyncio.create_task(refresh_secrets(secrets, service.metrics, changed.set))
            await stopping
            await cancel(reloading, watching, refreshing)
            await _drain(service, forced)
        else:
            await cancel(starting)
    _log.info("stopped", extra={"event": "stopped"})


async def _drain(service: Service, forced: asyncio.Event) -> None:
    """Drain; abort the rest as soon as ``forced`` is set."""
    server = service.loaded.settings.server
    _log.info("draining", extra={"event": "draining", "seconds": server.drain_delay})
    draining = asyncio.create_task(service.drain(server.drain_delay, server.drain_timeout))
    forcing = asyncio.create_task(forced.wait())
    await asyncio.wait({draining, forcing}, return_when=asyncio.FIRST_COMPLETED)
    await cancel(draining, forcing)
    service.abort_connections()


async def _reload_on(changed: asyncio.Event, service: Service, reread: Callable[[], Loaded]) -> None:
    reload = Reload(service.loaded, reread, service.reload, service.metrics)
    while True:
        await changed.wait()
        changed.clear()
        await reload()
        logs.configure(service.loaded.settings.logging.level, form=service.loaded.settings.logging.format)


async def _watch(files: Sequence[str], service: Service, changed: asyncio.Event) -> None:
    # a reload that names other files of secrets changes the list: what changed in them meanwhile is then loaded too
    watcher = FileWatcher(lambda: map(Path, (*files, *service.loaded.secret_files)))
    while True:
        await asyncio.sleep(POLL_INTERVAL)
        if await asyncio.to_thread(watcher.changed):
            await asyncio.to_thread(watcher.mark)  # before the reload reads the files
            if service.loaded.settings.server.reload_on_change:
                changed.set()
