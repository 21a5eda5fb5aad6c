"""Time that only a test moves."""

import asyncio


class HandClock:
    """A Clock, and the ``wait`` of background work: both stand still until :meth:`advance`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since some start."""
        return self._monotonic

    async def wait(self, seconds: float) -> None:
        """Return when the clock has been moved by ``seconds``."""
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        """Move both clocks and wake the tasks whose waiting time is over."""
        self._now += seconds
        self._monotonic += seconds
        due = [future for deadline, future in self._sleepers if deadline <= self._monotonic]
        self._sleepers = [entry for entry in self._sleepers if entry[1] not in due and not entry[1].done()]
        for future in due:
            if not future.done():
                future.set_result(None)
