"""Schedules fetches: before expiry in the background, on demand at most once per cool-down, never concurrently."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.clock import Clock
from sidecar.concurrency import SingleFlight, cancel
from sidecar.config.settings import KeyFetchSettings

Wait = Callable[[float], Awaitable[None]]

_MIN_PAUSE = 0.5  # prevents a tight loop, whatever is configured or answered
_FETCH = "fetch"  # the only call that is shared
_MAX_WAIT = 60.0  # the schedule is checked at least this often


@dataclass(frozen=True, slots=True)
class Timing:
    """Clock, sleep and randomness of the background work; tests replace them."""

    clock: Clock
    wait: Wait = asyncio.sleep
    random_fraction: Callable[[], float] = random.random


class Refresher:
    """Fetches one document.

    ``fetch`` returns for how many seconds its result is valid, or None if it failed; it raises nothing. ``on_wake`` is
    called after every wait.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[float | None]],
        settings: KeyFetchSettings,
        timing: Timing,
        on_wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._fetch = fetch
        self._settings = settings
        self._timing = timing
        self._on_wake = on_wake
        self._failures = 0
        self._last_demand = float("-inf")
        self._fetches: SingleFlight[str, None] = SingleFlight()
        self._loop_task: asyncio.Task[None] | None = None
        self.attempted = False
        self.due = float("-inf")
        """Monotonic time of the next background fetch."""

    def start(self) -> None:
        """Start the background work with a first fetch."""
        self._loop_task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop the background work and cancel a fetch in progress."""
        await cancel(self._loop_task)
        await self._fetches.aclose()

    async def on_demand(self, is_enough: Callable[[], bool]) -> None:
        """Wait for the fetch in progress, and for a new one unless the last demand was within the cool-down.

        There is no new one after a fetch that failed, or one after which ``is_enough``: a fetch that began before the
        demand may have been answered before it, too. All callers share a fetch, and none can cancel it for the others.
        """
        if _FETCH in self._fetches:
            await self._fetch_or_join()
            if self._failures or is_enough():
                return
        now = self._timing.clock.monotonic()
        if now - self._last_demand < self._settings.unknown_kid_cooldown:
            return
        self._last_demand = now
        await self._fetch_or_join()

    async def _fetch_or_join(self) -> None:
        await self._fetches.run(_FETCH, self._fetch_shared)

    async def _fetch_shared(self) -> None:
        started = self._timing.clock.monotonic()
        lifetime = await self._fetch()
        self.attempted = True
        if lifetime is None:
            self._failures += 1
            self.due = self._timing.clock.monotonic() + self._retry_delay()
        else:
            self._failures = 0
            self.due = started + self._refresh_delay(lifetime)

    def _refresh_delay(self, lifetime: float) -> float:
        return max(_MIN_PAUSE, lifetime * (0.75 + 0.15 * self._timing.random_fraction()))

    def _retry_delay(self) -> float:
        longest = min(self._settings.retry_max, self._settings.retry_min * 2.0 ** min(self._failures - 1, 32))
        return max(_MIN_PAUSE, longest * (0.5 + 0.5 * self._timing.random_fraction()))

    async def _run(self) -> None:
        while True:
            remaining = self.due - self._timing.clock.monotonic()
            if remaining <= 0:
                await self._fetch_or_join()
            else:
                await self._timing.wait(min(remaining, _MAX_WAIT))
                self._on_wake()
