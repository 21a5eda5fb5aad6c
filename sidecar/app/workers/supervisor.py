"""Runs several worker processes as one service with one address, one set of metrics and one configuration.

The supervisor owns the listening sockets, one share per worker, and the operations listener. It does not serve public
requests. The connections of a worker that dies are lost; connections that are not accepted yet are not.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry

from sidecar import __version__
from sidecar.admin.health import combined
from sidecar.app.running import ReadParts, operations_listener
from sidecar.app.workers.process import WorkerProcess
from sidecar.app.workers.totals import Totals, families, value_of
from sidecar.config.load import Loaded
from sidecar.config.output.show import as_json
from sidecar.errors import Misconfigured, Problem, SidecarError, Unavailable
from sidecar.metrics import Metrics
from sidecar.tokens.upstream.assertion import AssertionKey, new_assertion_key
from sidecar.web.listeners import SocketAccess, close_after, open_shared_sockets

_log = logging.getLogger("sidecar.supervisor")
_START_TIMEOUT = 60.0
_PREPARE_TIMEOUT = 60.0
_STATE_TIMEOUT = 2.0
_CALL_TIMEOUT = 5.0
_END_TIMEOUT = 15.0
_MIN_UPTIME = 10.0
"""After a shorter uptime the restart is delayed: the worker would probably exit again immediately."""
_BACK_OFF = (0.5, 30.0)
_MEMORY_METRIC = "process_resident_memory_bytes"


@dataclass(slots=True)
class _Slot:
    """One worker position. ``process`` is set while the worker serves requests."""

    number: int
    process: WorkerProcess | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps ``server.workers`` processes running. Created by :func:`supervised`."""

    def __init__(self, loaded: Loaded, listeners: Sequence[Sequence[socket.socket]], others: ReadParts = tuple) -> None:
        """``listeners`` are the sockets of each worker on the public address; ``others`` the parts of this process."""
        self._others = others
        self.loaded = loaded
        self.metrics = Metrics()
        self._listeners = listeners
        self._assertion_key: AssertionKey = new_assertion_key()
        self._slots = [_Slot(number) for number in range(loaded.settings.server.workers)]
        self._totals = Totals(self.metrics.across)
        self._acceptors: dict[int, WorkerProcess] = {}
        self._assigning = asyncio.Lock()
        # held during a reload, and while a worker starts to serve
        self._reloading = asyncio.Lock()
        self._draining = False
        self._supervisors: list[asyncio.Task[None]] = []
        self._processes: set[WorkerProcess] = set()
        self.metrics.watch(self.metrics.workers, lambda: len(self._running_workers()))

    async def start(self) -> None:
        """Wait until every worker serves requests. Raises SidecarError if one of them does not start."""
        self._supervisors = [
            asyncio.create_task(self._supervise(slot), name=f"worker {slot.number}") for slot in self._slots
        ]
        all_started = asyncio.create_task(self._all_started())
        await asyncio.wait({all_started, *self._supervisors}, return_when=asyncio.FIRST_COMPLETED)
        all_started.cancel()
        for keeper in self._supervisors:
            if keeper.done():
                keeper.result()

    async def reload(self, loaded: Loaded) -> None:
        """Reload all workers, or none.

        Raises Misconfigured and Unavailable as the first worker that fails; then nothing has changed.
        """
        async with self._reloading:
            workers = self._running_workers()
            calls = (worker.call("prepare", loaded, within=_PREPARE_TIMEOUT) for worker in workers)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failures or not workers:
                calls = (worker.call("discard", within=_STATE_TIMEOUT) for worker in workers)
                await asyncio.gather(*calls, return_exceptions=True)
                raise _best_error(failures)
            self.loaded = loaded
            await asyncio.gather(*(_call_or_kill(worker, "activate") for worker in workers))

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """See :meth:`sidecar.app.running.Sidecar.drain`; applies to every worker."""
        self._draining = True
        await self._stop_supervising()
        within = delay + timeout + _END_TIMEOUT
        calls = (worker.call("drain", delay, timeout, within=within) for worker in self._running_workers())
        await asyncio.gather(close_after(delay, self._listeners), *calls, return_exceptions=True)

    def abort_connections(self) -> None:
        """Stop every worker immediately, with its connections."""
        for process in self._processes:
            process.release()

    async def aclose(self) -> None:
        """Stop every worker and wait for its exit; kill it after a timeout."""
        await self._stop_supervising()
        self.abort_connections()
        ends = [asyncio.create_task(process.ended()) for process in self._processes]
        if ends:
            await asyncio.wait(ends, timeout=_END_TIMEOUT)
            for process in self._processes:
                process.kill()
            await asyncio.wait(ends)
        await close_after(0, self._listeners)

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """See :class:`sidecar.admin.routes.Operations`.

        Ready means: every worker has started once, at least one is running, and all running ones are ready. A worker
        that has exited does not count: the others accept its connections.
        """
        reports = await asyncio.gather(*(_report(slot.process) for slot in self._slots))
        all_started = all(slot.started.is_set() for slot in self._slots)
        return combined(reports, self._others(), is_complete=all_started, is_draining=self._draining)

    async def scrape(self) -> CollectorRegistry:
        """See :class:`sidecar.admin.routes.Operations`. For a worker that does not respond, its last metrics count."""
        scrapes = asyncio.gather(*map(_scrape, self._running_workers()))
        self.metrics.ready.set((await self.readiness())[0])
        await scrapes
        # no await from here on: no worker may exit between being counted as running and as ended
        self.metrics.worker_memory.clear()
        for slot in self._slots:
            if slot.process is not None:
                memory = value_of(slot.process.last_metrics, _MEMORY_METRIC)
                self.metrics.worker_memory.labels(str(slot.number)).set(memory)
        return self._totals.registry(
            families(self.metrics.registry), [worker.last_metrics for worker in self._running_workers()]
        )

    def configuration(self) -> Any:
        """See :class:`sidecar.admin.routes.Operations`."""
        return as_json(self.loaded)

    async def _all_started(self) -> None:
        for slot in self._slots:
            await slot.started.wait()

    def _running_workers(self) -> list[WorkerProcess]:
        return [slot.process for slot in self._slots if slot.process is not None]

    async def _supervise(self, slot: _Slot) -> None:
        """Run a worker in ``slot``, and restart it whenever it exits.

        Raises SidecarError when the very first does not start.
        """
        deaths = 0
        while True:
            begun = monotonic()
            try:
                detail = f"exit code {await self._run_worker(slot)}"
            except SidecarError as error:
                if not slot.started.is_set():
                    raise
                detail = str(error)
            self.metrics.worker_deaths.inc()
            deaths = deaths + 1 if monotonic() - begun < _MIN_UPTIME else 0
            pause = min(_BACK_OFF[0] * 2.0 ** min(deaths - 1, 10), _BACK_OFF[1]) if deaths else 0.0
            _log.error(
                "worker exited; starting another",
                extra={"event": "worker_exited", "of": slot.number, "detail": detail, "pause": pause},
            )
            await asyncio.sleep(pause)

    async def _run_worker(self, slot: _Slot) -> int:
        """Run one worker until it exits. Returns its exit code; raises SidecarError if it does not start."""
        process = await WorkerProcess.spawn(slot.number, self._listeners)
        self._processes.add(process)
        failure: SidecarError | None = None
        try:
            await self._start_worker(slot, process)
        except SidecarError as error:
            failure = error
            process.kill()
        code = await process.ended()
        slot.process = None
        self._processes.discard(process)
        self._totals.end(process.last_metrics)
        await self._assign_listeners()
        if failure is not None:
            raise failure
        return code

    async def _start_worker(self, slot: _Slot, process: WorkerProcess) -> None:
        """Have ``process`` serve requests with the current configuration. Raises SidecarError."""
        loaded, wait_settled = self.loaded, slot.started.is_set()
        await process.call("start", loaded, self._assertion_key, wait_settled, within=_START_TIMEOUT)
        async with self._reloading:
            if self.loaded is not loaded:
                await process.call("prepare", self.loaded, within=_PREPARE_TIMEOUT)
                await process.call("activate", within=_CALL_TIMEOUT)
            slot.process = process
        await self._assign_listeners()
        slot.started.set()

    async def _assign_listeners(self) -> None:
        """Have each worker accept on its own sockets; the next running worker accepts for one that is not running.

        The sockets stay open here, so that connections that wait to be accepted are not lost.
        """
        async with self._assigning:
            count = len(self._slots)
            for share in range(count):
                by_turns = (self._slots[(share + further) % count].process for further in range(count))
                wanted = next((process for process in by_turns if process is not None), None)
                present = self._acceptors.pop(share, None)
                if wanted is None:
                    continue
                self._acceptors[share] = wanted
                if wanted is present:
                    continue
                await _call_or_kill(wanted, "accept", share)
                if present is not None:
                    await _call_or_kill(present, "stop_accepting", share)

    async def _stop_supervising(self) -> None:
        for keeper in self._supervisors:
            keeper.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)


async def _report(process: WorkerProcess | None) -> dict[str, object] | None:
    """The health report of ``process`` with its process id; None if the worker is not running."""
    if process is None:
        return None
    try:
        report = await process.call("readiness", within=_STATE_TIMEOUT)
    except SidecarError:
        report = {"ready": False, "failing": ["does not answer"], "parts": {}}
    return {**report, "pid": process.pid}


async def _call_or_kill(process: WorkerProcess, name: str, *arguments: object) -> None:
    """Call ``name`` in ``process``; if the call fails, kill the process so that it is replaced."""
    try:
        await process.call(name, *arguments, within=_CALL_TIMEOUT)
    except SidecarError:
        process.kill()


async def _scrape(process: WorkerProcess) -> None:
    """Update the metrics of ``process``; keep the last ones if it does not respond."""
    with suppress(SidecarError):
        process.last_metrics = await process.call("metrics", within=_STATE_TIMEOUT)


def _best_error(failures: Sequence[BaseException]) -> BaseException:
    """The most specific error."""
    for failure in failures:
        if isinstance(failure, Misconfigured | Unavailable):
            return failure
    detail = str(failures[0]) if failures else "no worker is running"
    return Misconfigured([Problem("server.workers", detail)])


@asynccontextmanager
async def supervised(loaded: Loaded, others: ReadParts = tuple) -> AsyncIterator[Supervisor]:
    """Run all workers and the operations listener while the context is active. ``others`` as in
    :func:`sidecar.app.running.build_sidecar`.

    Raises Misconfigured if the configuration cannot be served, and other SidecarErrors if a worker does not start.
    """
    server = loaded.settings.server
    access = SocketAccess(server.socket_mode, server.socket_group)
    listeners = open_shared_sockets(server.listen, "server.listen", server.workers, access)
    supervisor = Supervisor(loaded, listeners, others)
    try:
        async with operations_listener(supervisor, server.admin_listen, supervisor.metrics):
            await supervisor.start()
            _log.info(
                "listening",
                extra={
                    "event": "listening",
                    "version": __version__,
                    "public": server.listen,
                    "admin": server.admin_listen,
                    "workers": server.workers,
                },
            )
            yield supervisor
    finally:
        await supervisor.aclose()
