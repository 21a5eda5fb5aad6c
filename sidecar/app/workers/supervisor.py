"""Several worker processes as one service: one address, one set of metrics, one configuration.

The supervisor holds the listening sockets, a share for each worker, and the operations listener. It answers no caller:
a connection that a worker dies with is lost, one that nobody has accepted yet is not.
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
from sidecar.app.running import operations_listener
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
"""A worker that ends younger than this would end again at once: the next one has to wait."""
_BACK_OFF = (0.5, 30.0)
_MEMORY_METRIC = "process_resident_memory_bytes"


@dataclass(slots=True)
class _Slot:
    """The place of one worker. ``process`` is there while it answers callers."""

    number: int
    process: WorkerProcess | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps ``server.workers`` processes at work. Made by :func:`supervised`."""

    def __init__(self, loaded: Loaded, listeners: Sequence[Sequence[socket.socket]]) -> None:
        """``listeners`` are the sockets of each worker on the public address."""
        self.loaded = loaded
        self.metrics = Metrics()
        self._listeners = listeners
        self._assertion_key: AssertionKey = new_assertion_key()
        self._slots = [_Slot(number) for number in range(loaded.settings.server.workers)]
        self._totals = Totals(self.metrics.across)
        self._acceptors: dict[int, WorkerProcess] = {}
        self._dealing = asyncio.Lock()
        # held while workers change their configuration, and while one begins to answer
        self._changing = asyncio.Lock()
        self._draining = False
        self._keepers: list[asyncio.Task[None]] = []
        self._processes: set[WorkerProcess] = set()
        self.metrics.watch(self.metrics.workers, lambda: len(self._running_slots()))

    async def start(self) -> None:
        """Return once every worker answers callers. Raises SidecarError when one of them does not start."""
        self._keepers = [
            asyncio.create_task(self._supervise(slot), name=f"worker {slot.number}") for slot in self._slots
        ]
        all_begun = asyncio.create_task(self._all_started())
        await asyncio.wait({all_begun, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        all_begun.cancel()
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()

    async def reload(self, loaded: Loaded) -> None:
        """Let every worker work by ``loaded``, or none.

        Raises Misconfigured and Unavailable as the first that cannot, and nothing has changed then.
        """
        async with self._changing:
            workers = self._running_slots()
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
        """See :meth:`sidecar.app.running.Sidecar.drain`; every worker does so."""
        self._draining = True
        await self._stop_supervising()
        within = delay + timeout + _END_TIMEOUT
        calls = (worker.call("drain", delay, timeout, within=within) for worker in self._running_slots())
        await asyncio.gather(close_after(delay, self._listeners), *calls, return_exceptions=True)

    def abort_connections(self) -> None:
        """End every worker, and with it its connections."""
        for process in self._processes:
            process.release()

    async def aclose(self) -> None:
        """End every worker and wait for it; one that does not end is killed."""
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

        Ready means: every worker has begun, some answer callers, and all who do are ready. One that has ended is not
        missed: its callers go to the others.
        """
        reports = await asyncio.gather(*(_report(slot.process) for slot in self._slots))
        all_begun = all(slot.started.is_set() for slot in self._slots)
        return combined(reports, is_complete=all_begun, is_draining=self._draining)

    async def scrape(self) -> CollectorRegistry:
        """See :class:`sidecar.admin.routes.Operations`. Of a worker that does not answer, what it last said counts."""
        looks = asyncio.gather(*map(_scrape, self._running_slots()))
        self.metrics.ready.set((await self.readiness())[0])
        await looks
        # from here on without waiting: no worker may end between being counted as alive and as ended
        self.metrics.worker_memory.clear()
        for slot in self._slots:
            if slot.process is not None:
                memory = value_of(slot.process.last, _MEMORY_METRIC)
                self.metrics.worker_memory.labels(str(slot.number)).set(memory)
        return self._totals.registry(families(self.metrics.registry), [worker.last for worker in self._running_slots()])

    def configuration(self) -> Any:
        """See :class:`sidecar.admin.routes.Operations`."""
        return as_json(self.loaded)

    async def _all_started(self) -> None:
        for slot in self._slots:
            await slot.started.wait()

    def _running_slots(self) -> list[WorkerProcess]:
        return [slot.process for slot in self._slots if slot.process is not None]

    async def _supervise(self, slot: _Slot) -> None:
        """Have a worker at ``slot``, and another whenever it has ended.

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
        """One worker from its start to its end; its exit code. Raises SidecarError when it does not start."""
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
        self._totals.end(process.last)
        await self._assign_listeners()
        if failure is not None:
            raise failure
        return code

    async def _start_worker(self, slot: _Slot, process: WorkerProcess) -> None:
        """Let ``process`` answer callers by the configuration in force. Raises SidecarError."""
        loaded, is_patient = self.loaded, slot.started.is_set()
        await process.call("start", loaded, self._assertion_key, is_patient, within=_START_TIMEOUT)
        async with self._changing:
            if self.loaded is not loaded:
                await process.call("prepare", self.loaded, within=_PREPARE_TIMEOUT)
                await process.call("activate", within=_CALL_TIMEOUT)
            slot.process = process
        await self._assign_listeners()
        slot.started.set()

    async def _assign_listeners(self) -> None:
        """Let each worker accept its own callers, and for one that is not there the next that is.

        Its sockets stay open here: who waits to be accepted loses nothing but moments.
        """
        async with self._dealing:
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
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)


async def _report(process: WorkerProcess | None) -> dict[str, object] | None:
    """The health report of ``process``, with its id; None when there is no such worker."""
    if process is None:
        return None
    try:
        report = await process.call("readiness", within=_STATE_TIMEOUT)
    except SidecarError:
        report = {"ready": False, "failing": ["does not answer"], "parts": {}}
    return {**report, "pid": process.pid}


async def _call_or_kill(process: WorkerProcess, name: str, *arguments: object) -> None:
    """Let ``process`` do what it cannot refuse; where it does not, another one shall take its place."""
    try:
        await process.call(name, *arguments, within=_CALL_TIMEOUT)
    except SidecarError:
        process.kill()


async def _scrape(process: WorkerProcess) -> None:
    """Ask ``process`` for its metrics."""
    with suppress(SidecarError):
        process.last = await process.call("metrics", within=_STATE_TIMEOUT)


def _best_error(failures: Sequence[BaseException]) -> BaseException:
    """The reason that says most."""
    for failure in failures:
        if isinstance(failure, Misconfigured | Unavailable):
            return failure
    detail = str(failures[0]) if failures else "no worker is at work"
    return Misconfigured([Problem("server.workers", detail)])


@asynccontextmanager
async def supervised(loaded: Loaded) -> AsyncIterator[Supervisor]:
    """All workers and the operations listener up while the context lasts.

    Raises Misconfigured when the configuration cannot be served, and other SidecarErrors when a worker does not start.
    """
    server = loaded.settings.server
    access = SocketAccess(server.socket_mode, server.socket_group)
    listeners = open_shared_sockets(server.listen, "server.listen", server.workers, access)
    supervisor = Supervisor(loaded, listeners)
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
