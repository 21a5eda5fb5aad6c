"""Callers who never stop asking."""

import asyncio
from typing import Self

from tests.support.wire import Answer, Lines, Wire

TIMEOUT = 20.0


class Load:
    """Ask for ``target`` on kept connections, again and again, until the block ends. Every request gets its answer.

    A caller whose answer closes the connection asks no more.
    """

    def __init__(self, address: str, target: str, headers: Lines = (), callers: int = 8) -> None:
        self.answers: list[Answer] = []
        self._address = address
        self._target = target
        self._headers = headers
        self._callers = callers
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def some(self, more: int = 40) -> list[Answer]:
        """The next ``more`` answers, or a few more."""
        start = len(self.answers)
        async with asyncio.timeout(TIMEOUT):
            while len(self.answers) < start + more:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.005)
        return self.answers[start:]

    async def closed(self) -> None:
        """Return once every caller has been told that its connection ends."""
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        async with await Wire.to(self._address) as wire:
            while not self._over:
                self.answers.append(await wire.ask(self._target, self._headers))
                if self.answers[-1].all("Connection") == ["close"]:
                    return
