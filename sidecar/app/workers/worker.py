"""One worker: a sidecar without an operations listener of its own, led by the supervisor that has started it.

Both ends of their private socket are ours. The supervisor asks, in :mod:`sidecar.app.workers.rpc`'s form; the
answers are JSON, so that whoever should come to rule a worker rules no more than that. When the socket ends, so does
the worker.
"""

import asyncio
import ctypes
import gc
import json
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any

import uvloop
from aiohttp import web

from sidecar import logs
from sidecar.app.generation import ConfigGeneration
from sidecar.app.process_context import ProcessContext
from sidecar.app.running import Sidecar, build_sidecar
from sidecar.app.workers.framing import frame, read_frame
from sidecar.app.workers.rpc import loads
from sidecar.app.workers.totals import families
from sidecar.clock import CheckedClock, SystemClock
from sidecar.config.load import Loaded
from sidecar.errors import Misconfigured, Unavailable
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
from sidecar.tokens.upstream.assertion import AssertionKey
from sidecar.web.listeners import close_after

_log = logging.getLogger("sidecar.worker")
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


class Worker:
    """Does what it is asked; each public coroutine is a call that the supervisor may make."""

    def __init__(self, number: int, listeners: Sequence[Sequence[socket.socket]]) -> None:
        self._number = number
        self._listeners = listeners
        self._sites: dict[int, list[web.BaseSite]] = {}
        self._stack = AsyncExitStack()
        self._sidecar: Sidecar | None = None
        self._preparing: asyncio.Task[ConfigGeneration] | None = None

    async def start(self, loaded: Loaded, assertion_key: AssertionKey, is_patient: bool) -> None:
        """Build everything; if ``is_patient``, try everything once too. Raises Misconfigured and Unavailable."""
        self._configure_logs(loaded)
        ground = ProcessContext(Metrics(), CheckedClock(SystemClock()), assertion_key=assertion_key)
        self._sidecar = await self._stack.enter_async_context(build_sidecar(loaded, ground))
        if is_patient:
            await self._sidecar.wait_settled()

    async def accept(self, share: int) -> None:
        """Answer the callers who are dealt out to the worker ``share``: itself, or one that is not there."""
        listeners = [listener.dup() for listener in self._listeners[share]]
        self._sites[share] = await self._running.accept(listeners)

    async def stop_accepting(self, share: int) -> None:
        """Leave them to others. Who has been accepted stays."""
        for site in self._sites.pop(share):
            await site.stop()

    async def readiness(self) -> dict[str, object]:
        """The health report."""
        return (await self._running.readiness())[1]

    async def metrics(self) -> list[Any]:
        """Every metric of this process."""
        return families(self._running.metrics.registry)

    async def prepare(self, loaded: Loaded) -> None:
        """Build what may take the place of the present configuration. Raises Misconfigured and Unavailable."""
        await self.discard()
        self._preparing = asyncio.create_task(self._running.prepare(loaded))
        await self._preparing

    async def activate(self) -> None:
        """Put in force what was prepared."""
        prepared, self._preparing = self._preparing, None
        assert prepared is not None  # noqa: S101 - asked after prepare only
        parts = prepared.result()
        self._running.activate(parts)
        self._configure_logs(parts.loaded)

    async def discard(self) -> None:
        """Close what was prepared, or is being prepared: nothing of it may be taken for what is prepared next."""
        preparing, self._preparing = self._preparing, None
        if preparing is None:
            return
        preparing.cancel()
        (outcome,) = await asyncio.gather(preparing, return_exceptions=True)
        if isinstance(outcome, ConfigGeneration):
            await outcome.stack.aclose()

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """See :meth:`sidecar.app.running.Sidecar.drain`."""
        await asyncio.gather(close_after(delay, self._listeners), self._running.drain(delay, timeout))

    async def aclose(self) -> None:
        """Cut what is left, and close everything."""
        if self._sidecar is not None:
            self._sidecar.abort_connections()
        await self.discard()
        await self._stack.aclose()

    @property
    def _running(self) -> Sidecar:
        assert self._sidecar is not None  # noqa: S101 - asked after start only
        return self._sidecar

    def _configure_logs(self, loaded: Loaded) -> None:
        logs.configure(loaded.settings.logging.level, worker=self._number)


async def _call(worker: Worker, name: str, arguments: Sequence[Any]) -> dict[str, Any]:
    """How the call ``name`` ended, as JSON can carry it."""
    try:
        return {"value": await getattr(worker, name)(*arguments)}
    except Misconfigured as error:
        return {"problems": [[p.path, p.message, p.file, p.line, p.fatal] for p in error.problems]}
    except Unavailable as error:
        return {"unavailable": [error.cause.value, error.detail]}
    except Exception as error:  # noqa: BLE001 - the supervisor decides what becomes of a worker that has a fault
        _log.error(
            "unhandled error in a worker call",
            extra={
                "event": "worker_call_failed",
                "error": type(error).__name__,
                "places": traceback_locations(error),
            },
        )
        return {"fault": type(error).__name__}


async def _serve_calls(worker: Worker, control: socket.socket) -> None:
    gc.freeze()  # as :func:`sidecar.app.serve.serve` does
    reader, writer = await asyncio.open_unix_connection(sock=control)

    async def do(number: int, name: str, arguments: Sequence[Any]) -> None:
        answer = await _call(worker, name, arguments)
        writer.write(frame(json.dumps([number, answer]).encode()))

    tasks: set[asyncio.Task[None]] = set()
    while (message := await read_frame(reader)) is not None:
        task = asyncio.create_task(do(*loads(message)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await worker.aclose()
    writer.close()


def _exit_with_parent() -> None:
    """Have the kernel end this process when its supervisor is gone, where it can.

    One that stands still would not see its socket end, and keep the address from whoever starts next.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Run worker number ``arguments[0]``, led by the socket ``arguments[1]``.

    The rest are the public listener's sockets, those of each worker separated by commas.
    """
    # a terminal and a service manager tell every process; what it means, the supervisor tells
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _exit_with_parent()
    own, control, *shares = arguments
    numbers = [share.split(",") for share in shares]
    # one object for each: the shares of a unix address are the same, and two would close it twice
    listeners = {number: socket.socket(fileno=int(number)) for number in {*chain.from_iterable(numbers)}}
    worker = Worker(int(own), [[listeners[number] for number in share] for share in numbers])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_calls(worker, socket.socket(fileno=int(control))))


if __name__ == "__main__":
    main(sys.argv[1:])
