"""A worker process: a sidecar without an operations listener, controlled by the supervisor that started it.

Supervisor and worker share a private socket. Calls use :mod:`sidecar.app.workers.rpc` (pickle); responses are JSON, so
that a compromised worker cannot run code in the supervisor. The worker exits when the socket is closed.
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
from sidecar.core_dumps import disable_core_dumps
from sidecar.errors import Misconfigured, Unavailable
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
from sidecar.tokens.upstream.assertion import AssertionKey
from sidecar.web.listeners import close_after

_log = logging.getLogger("sidecar.worker")
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


class Worker:
    """Each public coroutine is a call that the supervisor may make, by name."""

    def __init__(self, number: int, listeners: Sequence[Sequence[socket.socket]]) -> None:
        self._number = number
        self._listeners = listeners
        self._sites: dict[int, list[web.BaseSite]] = {}
        self._stack = AsyncExitStack()
        self._sidecar: Sidecar | None = None
        self._preparing: asyncio.Task[ConfigGeneration] | None = None

    async def start(self, loaded: Loaded, assertion_key: AssertionKey, wait_settled: bool) -> None:
        """Build the sidecar; with ``wait_settled``, wait for first attempts. Raises Misconfigured and Unavailable."""
        self._configure_logs(loaded)
        context = ProcessContext(Metrics(), CheckedClock(SystemClock()), assertion_key=assertion_key)
        self._sidecar = await self._stack.enter_async_context(build_sidecar(loaded, context))
        if wait_settled:
            await self._sidecar.wait_settled()

    async def accept(self, share: int) -> None:
        """Accept connections of the worker ``share``: this one, or one that is not running."""
        listeners = [listener.dup() for listener in self._listeners[share]]
        self._sites[share] = await self._running.accept(listeners)

    async def stop_accepting(self, share: int) -> None:
        """Stop accepting connections of the worker ``share``. Accepted connections stay open."""
        for site in self._sites.pop(share):
            await site.stop()

    async def readiness(self) -> dict[str, object]:
        """The health report."""
        return (await self._running.readiness())[1]

    async def metrics(self) -> list[Any]:
        """All metrics of this process."""
        return families(self._running.metrics.registry)

    async def prepare(self, loaded: Loaded) -> None:
        """Build the next configuration. Raises Misconfigured and Unavailable."""
        await self.discard()
        self._preparing = asyncio.create_task(self._running.prepare(loaded))
        await self._preparing

    async def activate(self) -> None:
        """Activate the prepared configuration."""
        prepared, self._preparing = self._preparing, None
        assert prepared is not None  # noqa: S101 - called after prepare only
        generation = prepared.result()
        self._running.activate(generation)
        self._configure_logs(generation.loaded)

    async def discard(self) -> None:
        """Close the prepared configuration, or cancel its preparation."""
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
        """Close all connections and everything else."""
        if self._sidecar is not None:
            self._sidecar.abort_connections()
        await self.discard()
        await self._stack.aclose()

    @property
    def _running(self) -> Sidecar:
        assert self._sidecar is not None  # noqa: S101 - called after start only
        return self._sidecar

    def _configure_logs(self, loaded: Loaded) -> None:
        logs.configure(loaded.settings.logging.level, form=loaded.settings.logging.format, worker=self._number)


async def _call(worker: Worker, name: str, arguments: Sequence[Any]) -> dict[str, Any]:
    """Run the call ``name`` and return its outcome as JSON values."""
    try:
        return {"value": await getattr(worker, name)(*arguments)}
    except Misconfigured as error:
        return {"problems": [[p.path, p.message, p.file, p.line, p.fatal] for p in error.problems]}
    except Unavailable as error:
        return {"unavailable": [error.cause.value, error.detail]}
    except Exception as error:  # noqa: BLE001 - the supervisor decides what to do with a failing worker
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

    async def run_call(number: int, name: str, arguments: Sequence[Any]) -> None:
        answer = await _call(worker, name, arguments)
        writer.write(frame(json.dumps([number, answer]).encode()))

    tasks: set[asyncio.Task[None]] = set()
    while (message := await read_frame(reader)) is not None:
        task = asyncio.create_task(run_call(*loads(message)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await worker.aclose()
    writer.close()


def _exit_with_parent() -> None:
    """On Linux, have the kernel kill this process when its supervisor exits.

    A blocked worker would not notice the closed socket, and would keep the address in use.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Run worker number ``arguments[0]``, controlled through the socket ``arguments[1]``.

    The others are the sockets of the public listener: one argument per worker, separated by commas.
    """
    # terminals and service managers signal every process; the supervisor handles the signals
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _exit_with_parent()
    disable_core_dumps()
    own, control, *shares = arguments
    numbers = [share.split(",") for share in shares]
    # one object per descriptor: the shares of a Unix address are equal, and two objects would close it twice
    listeners = {number: socket.socket(fileno=int(number)) for number in {*chain.from_iterable(numbers)}}
    worker = Worker(int(own), [[listeners[number] for number in share] for share in numbers])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_calls(worker, socket.socket(fileno=int(control))))


if __name__ == "__main__":
    main(sys.argv[1:])
