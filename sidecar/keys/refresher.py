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
class Pace:
    """Time and chance for the background work; tests hand in their own."""

    clock: Clock
    wait: Wait = asyncio.sleep
    chance: Callable[[], float] = random.random


class Refresher:
    """Owns the fetching of one document.

    ``fetch`` returns how long its result is good for in seconds, or None when it failed; it raises nothing.
    ``idle`` is called after every nap.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[float | None]],
        settings: KeyFetchSettings,
        pace: Pace,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._fetch = fetch
        self._settings = settings
        self._pace = pace
        self._idle = idle
        self._failures = 0
        self._demanded = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None
        self.tried = False
        self.due = float("-inf")
        """Monotonic time of the next background fetch."""

    def start(self) -> None:
        """Begin with a first fetch at once, in the background."""
        self._loop = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """End the background work and a fetch that is under way."""
        tasks = [task for task in (self._loop, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def on_demand(self, is_enough: Callable[[], bool]) -> None:
        """Wait for the fetch that is under way, and for a new one unless the last such demand is too recent.

        There is no new one after a fetch that failed, or one after which ``is_enough``: a fetch that began before the
        demand may have been answered before it, too. All callers share a fetch, and none can cancel it for the others.
        """
        if self._flight is not None:
            await self._share()
            if self._failures or is_enough():
                return
        now = self._pace.clock.monotonic()
        if now - self._demanded < self._settings.unknown_kid_cooldown:
            return
        self._demanded = now
        await self._share()

    async def _share(self) -> None:
        if self._flight is None:
            self._flight = asyncio.create_task(self._fetch_shared())
        await asyncio.shield(self._flight)

    async def _fetch_shared(self) -> None:
        try:
            started = self._pace.clock.monotonic()
            lifetime = await self._fetch()
            self.tried = True
            if lifetime is None:
                self._failures += 1
                self.due = self._pace.clock.monotonic() + self._back_off()
            else:
                self._failures = 0
                self.due = started + self._ahead(lifetime)
        finally:
            self._flight = None

    def _ahead(self, lifetime: float) -> float:
        return max(_MIN_PAUSE, lifetime * (0.75 + 0.15 * self._pace.chance()))

    def _back_off(self) -> float:
        longest = min(self._settings.retry_max, self._settings.retry_min * 2.0 ** min(self._failures - 1, 32))
        return max(_MIN_PAUSE, longest * (0.5 + 0.5 * self._pace.chance()))

    async def _run(self) -> None:
        while True:
            remaining = self.due - self._pace.clock.monotonic()
            if remaining <= 0:
                await self._share()
            else:
                await self._pace.wait(min(remaining, _MAX_WAIT))
                self._idle()
