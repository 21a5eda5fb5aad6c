"""When to fetch: ahead of expiry in the background, at most once per cool-down on demand, never twice at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.clock import Clock
from sidecar.config.settings import KeyFetchSettings

Wait = Callable[[float], Awaitable[None]]

_MIN_PAUSE = 0.5  # whatever is configured or answered, nobody is asked in a tight loop
_MAX_WAIT = 60.0  # a nap, not a sleep: what is due is looked at again at least this often


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance for the background work; tests hand in their own."""

    clock: Clock
    wait: Wait = asyncio.sleep
    random_fraction: Callable[[], float] = random.random


class Refresher:
    """Owns the fetching of one document.

    ``fetch`` returns how long its result is good for in seconds, or None when it failed; it raises nothing.
    ``idle`` is called after every nap.
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
        self._fetch_task: asyncio.Task[None] | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self.attempted = False
        self.due = float("-inf")
        """Monotonic time of the next background fetch."""

    def start(self) -> None:
        """Begin with a first fetch at once, in the background."""
        self._loop_task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """End the background work and a fetch that is under way."""
        tasks = [task for task in (self._loop_task, self._fetch_task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def on_demand(self) -> None:
        """Wait for one fetch: the one under way, or a new one unless the last such demand is too recent.

        All who wait share it, and none of them can cancel it for the others.
        """
        if self._fetch_task is None:
            now = self._timing.clock.monotonic()
            if now - self._last_demand < self._settings.unknown_kid_cooldown:
                return
            self._last_demand = now
        await self._fetch_or_join()

    async def _fetch_or_join(self) -> None:
        if self._fetch_task is None:
            self._fetch_task = asyncio.create_task(self._fetch_shared())
        await asyncio.shield(self._fetch_task)

    async def _fetch_shared(self) -> None:
        try:
            started = self._timing.clock.monotonic()
            lifetime = await self._fetch()
            self.attempted = True
            if lifetime is None:
                self._failures += 1
                self.due = self._timing.clock.monotonic() + self._retry_delay()
            else:
                self._failures = 0
                self.due = started + self._refresh_delay(lifetime)
        finally:
            self._fetch_task = None

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
