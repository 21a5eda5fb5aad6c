"""A service until it is told to stop: what each signal means."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sidecar import logs
from sidecar.app.reload import Reload, warn
from sidecar.app.running import run_sidecar
from sidecar.app.workers.supervisor import supervised
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.metrics import Metrics

_log = logging.getLogger("sidecar")
_POLL_INTERVAL = 5.0


class Service(Protocol):
    """What runs: a sidecar in this process, or a supervisor of several."""

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""

    @property
    def metrics(self) -> Metrics:
        """Where reloads are counted."""

    async def reload(self, loaded: Loaded) -> None:
        """Work by ``loaded`` from now on. Raises Misconfigured and Unavailable, and nothing has changed then."""

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """Not ready from now on; accept for ``delay`` seconds more, then end what is under way in ``timeout``."""

    def abort_connections(self) -> None:
        """End every client connection at once."""


async def serve(loaded: Loaded, reread: Callable[[], Loaded], files: Sequence[str]) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once.

    SIGHUP reloads what ``reread`` reads, and so does a change of ``files`` where ``server.reloadOnChange`` says so.
    """
    gc.freeze()  # what was imported stays: no collection has to walk through it while callers wait
    stop, at_once, changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_stop() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, changed.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    warn(loaded)
    loaded = replace(loaded, since=SystemClock().now())
    start: Callable[[Loaded], AbstractAsyncContextManager[Service]]
    start = supervised if loaded.settings.server.workers > 1 else run_sidecar
    async with AsyncExitStack() as stack:
        starting: asyncio.Task[Service] = asyncio.create_task(stack.enter_async_context(start(loaded)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            service = await starting
            reloading = asyncio.create_task(_reload_on(changed, service, reread))
            watching = asyncio.create_task(_watch(files, service, changed))
            await stopping
            await _wait_for_signal(reloading, watching)
            await _drain(service, at_once)
        else:
            await _wait_for_signal(starting)
    _log.info("stopped", extra={"event": "stopped"})


async def _drain(service: Service, at_once: asyncio.Event) -> None:
    """End what is under way; ``at_once``, when that is said meanwhile."""
    server = service.loaded.settings.server
    _log.info("draining", extra={"event": "draining", "seconds": server.drain_delay})
    draining = asyncio.create_task(service.drain(server.drain_delay, server.drain_timeout))
    hurried = asyncio.create_task(at_once.wait())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    await _wait_for_signal(draining, hurried)
    service.abort_connections()


async def _reload_on(changed: asyncio.Event, service: Service, reread: Callable[[], Loaded]) -> None:
    reload = Reload(service.loaded, reread, service.reload, service.metrics)
    while True:
        await changed.wait()
        changed.clear()
        await reload()
        logs.configure(service.loaded.settings.logging.level)


async def _watch(files: Sequence[str], service: Service, changed: asyncio.Event) -> None:
    seen = _file_signatures(files)
    while True:
        await asyncio.sleep(_POLL_INTERVAL)
        before, seen = seen, await asyncio.to_thread(_file_signatures, files)
        if seen != before and service.loaded.settings.server.reload_on_change:
            changed.set()


def _file_signatures(files: Sequence[str]) -> list[tuple[int, int, int] | None]:
    """What tells changed files from unchanged ones, also behind a swapped symbolic link."""
    stamps: list[tuple[int, int, int] | None] = []
    for name in files:
        try:
            facts = Path(name).stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((facts.st_ino, facts.st_mtime_ns, facts.st_size))
    return stamps


async def _wait_for_signal(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
