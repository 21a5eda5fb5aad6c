"""Records when issued tokens were last used: collected in memory, written periodically. Best effort."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sidecar.clock import Clock
from sidecar.concurrency import cancel
from sidecar.errors import Unavailable
from sidecar.store.base import Store

_WRITE_INTERVAL = 5.0
_WRITE_PERIOD = 60.0
_MAX_PENDING = 100_000


class UsageRecorder:
    """Collects uses and writes them in the background, at most once per minute and token."""

    def __init__(self, store: Store, clock: Clock, wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._store = store
        self._now = clock.now
        self._wait = wait
        self._next: dict[str, float] = {}
        self._pending: dict[str, float] = {}
        self._writer: asyncio.Task[None] | None = None

    def note(self, token_id: str) -> None:
        """The token of that record was used now."""
        now = self._now()
        if now < self._next.get(token_id, 0.0):
            return
        if len(self._next) >= _MAX_PENDING:
            self._next = {known: due for known, due in self._next.items() if now < due}
            if len(self._next) >= _MAX_PENDING:
                return
        self._next[token_id] = now + _WRITE_PERIOD
        self._pending[token_id] = now

    async def start(self) -> None:
        """Start writing in the background."""
        self._writer = asyncio.create_task(self._run(), name="token usage")

    async def aclose(self) -> None:
        """Write what is pending, and stop."""
        await cancel(self._writer)
        await self._write()

    async def _run(self) -> None:
        while True:
            await self._wait(_WRITE_INTERVAL)
            await self._write()

    async def _write(self) -> None:
        pending, self._pending = self._pending, {}
        if pending:
            with suppress(Unavailable):  # a lost time of use is replaced by the next one
                await self._store.touch(tuple(pending.items()))
