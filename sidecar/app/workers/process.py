"""A worker as its supervisor sees it: a process, and calls over the socket that leads it."""

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
    """A worker has not answered as it should: it is gone, too slow, or has a fault."""


class WorkerProcess:
    """Made by :meth:`spawn`. ``last`` is what its metrics were when it was last asked."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.last: list[Family] = []
        self._process = process
        self._writer = writer
        self._asked = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(reader), name="worker's answers")

    @classmethod
    async def spawn(cls, number: int, listeners: Sequence[Sequence[socket.socket]]) -> Self:
        """A new process that is worker ``number``; it waits to be told to start. Raises WorkerFailedError.

        ``listeners`` are the sockets of each worker on the public address.
        """
        with ExitStack() as opened:
            try:
                here, there = map(opened.enter_context, socket.socketpair())
                process = await _execute(number, there, listeners)
            except OSError as error:
                raise WorkerFailedError(f"a worker process cannot be made: {error.strerror}") from error
            here.setblocking(False)
            streams = await asyncio.open_unix_connection(sock=here)
            there.close()
            opened.pop_all()
        return cls(process, *streams)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def call(self, name: str, *arguments: object, within: float) -> Any:
        """What the worker answers to ``name``.

        Raises Misconfigured and Unavailable as the call does, and WorkerFailedError when there is no answer ``within``
        so many seconds.
        """
        if self._reading.done():
            raise WorkerFailedError("a worker is gone")
        self._asked += 1
        number, answer = self._asked, asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(frame(dumps((number, name, arguments))))
        try:
            async with asyncio.timeout(within):
                outcome = await answer
        except TimeoutError:
            raise WorkerFailedError(f"a worker has not answered within {within:g} seconds") from None
        finally:
            del self._answers[number]
        if "problems" in outcome:
            raise Misconfigured([Problem(*values) for values in outcome["problems"]])
        if "unavailable" in outcome:
            cause, detail = outcome["unavailable"]
            raise Unavailable(Cause(cause), detail)
        if "fault" in outcome:
            raise WorkerFailedError(f"a worker has a fault: {outcome['fault']}")
        return outcome["value"]

    async def ended(self) -> int:
        """The exit code, once it has ended by itself; negative: the signal that ended it."""
        await asyncio.wait({self._reading})
        return await self._process.wait()

    def release(self) -> None:
        """Let go of it: it cuts what it is at, and ends."""
        self._writer.close()

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand out answers until there will be no more. A worker that can no longer be led is not let go on."""
        try:
            while (message := await read_frame(reader)) is not None:
                number, outcome = json.loads(message)
                answer = self._answers.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(outcome)
        except (ValueError, TypeError):
            self.kill()
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(WorkerFailedError("a worker is gone"))


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
        # the same modules as here, plugins too, however this process came by them
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
