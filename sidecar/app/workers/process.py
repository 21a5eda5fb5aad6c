"""The supervisor's side of a worker: the process, and calls over its control socket."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

from sidecar.app.workers.framing import frame, read_frame
from sidecar.app.workers.rpc import dumps
from sidecar.app.workers.totals import Family
from sidecar.errors import Cause, Misconfigured, Problem, SidecarError, Unavailable


class WorkerFailedError(SidecarError):
    """A call to a worker failed: the worker exited, timed out, or raised an exception."""


class WorkerProcess:
    """Made by :meth:`spawn`. ``last_metrics`` is what its metrics were when it was last_metrics asked."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.last_metrics: list[Family] = []
        self._process = process
        self._writer = writer
        self._last_call = 0
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(reader), name="read worker responses")

    @classmethod
    async def spawn(cls, number: int, listeners: Sequence[Sequence[socket.socket]]) -> Self:
        """Start a process as worker ``number``; it waits for the call ``start``. Raises WorkerFailedError.

        ``listeners`` are the sockets of each worker on the public address.
        """
        with ExitStack() as opened:
            try:
                own_end, worker_end = map(opened.enter_context, socket.socketpair())
                process = await _execute(number, worker_end, listeners)
            except OSError as error:
                raise WorkerFailedError(f"the worker process cannot be created: {error.strerror}") from error
            own_end.setblocking(False)
            streams = await asyncio.open_unix_connection(sock=own_end)
            worker_end.close()
            opened.pop_all()
        return cls(process, *streams)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def call(self, name: str, *arguments: object, within: float) -> Any:
        """Call ``name`` in the worker and return its result.

        Raises Misconfigured and Unavailable as the call does, and WorkerFailedError if there is no response ``within``
        that many seconds.
        """
        if self._reading.done():
            raise WorkerFailedError("the worker has exited")
        self._last_call += 1
        number, answer = self._last_call, asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        self._writer.write(frame(dumps((number, name, arguments))))
        try:
            async with asyncio.timeout(within):
                outcome = await answer
        except TimeoutError:
            raise WorkerFailedError(f"the worker has not answered {name} within {within:g} seconds") from None
        finally:
            del self._pending[number]
        if "problems" in outcome:
            raise Misconfigured([Problem(*values) for values in outcome["problems"]])
        if "unavailable" in outcome:
            cause, detail = outcome["unavailable"]
            raise Unavailable(Cause(cause), detail)
        if "fault" in outcome:
            raise WorkerFailedError(f"unhandled error in the worker: {outcome['fault']}")
        return outcome["value"]

    async def ended(self) -> int:
        """Wait for the exit of the process. Returns the exit code; negative: the signal that ended it."""
        await asyncio.wait({self._reading})
        return await self._process.wait()

    def release(self) -> None:
        """Close the control socket: the worker closes its connections and exits."""
        self._writer.close()

    def kill(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Deliver responses until the stream ends. A worker that sends invalid ones is killed."""
        try:
            while (message := await read_frame(reader)) is not None:
                number, outcome = json.loads(message)
                answer = self._pending.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(outcome)
        except (ValueError, TypeError):
            self.kill()
        finally:
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(WorkerFailedError("the worker has exited"))


async def _execute(
    number: int, control: socket.socket, listeners: Sequence[Sequence[socket.socket]]
) -> asyncio.subprocess.Process:
    shares = [[listener.fileno() for listener in share] for share in listeners]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "sidecar.app.workers.worker",
        str(number),
        str(control.fileno()),
        *(",".join(map(str, share)) for share in shares),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds={control.fileno(), *(listener for share in shares for listener in share)},
        # the same modules as in this process, plugins included
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
