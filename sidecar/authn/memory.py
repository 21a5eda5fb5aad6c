"""Credentials that were found good or bad a moment ago, and those being judged: one judgement for many who wait."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from os import urandom

from sidecar.authn.base import Accepted, Outcome
from sidecar.clock import Clock, latest_of
from sidecar.errors import Cause, Unavailable

_MOST_RUNNING = 1000
_MOST_REFUSED = 1000


@dataclass(frozen=True, slots=True)
class _Remembered:
    accepted: Accepted
    until: float


class Memory:
    """Keyed digest of a credential to whom it made known; at most ``size``, the least recently used leave first.

    The key is this process's own, so that the digests tell nothing about short passwords. Who is refused is remembered
    only where a member says so, and never takes the place of anybody who is not. ``generation`` counts how often all
    were forgotten: whoever judges by what may change reads it first.
    """

    def __init__(self, clock: Clock, size: int = 10_000) -> None:
        self.generation = 0
        self._clock = clock
        self._latest = latest_of(clock)
        self._size = size
        self._key = urandom(32)
        self._known: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Outcome]] = {}

    def digest(self, *parts: str) -> bytes:
        """What stands for ``parts`` here; other parts give another digest, wherever they are cut."""
        digest = blake2b(key=self._key, digest_size=32)
        for part in parts:
            octets = part.encode("utf-8", "surrogatepass")
            digest.update(len(octets).to_bytes(8, "big") + octets)
        return digest.digest()

    def get(self, digest: bytes) -> Accepted | None:
        """Who it is, while that is remembered and holds."""
        found = self._known.get(digest)
        if found is None:
            return None
        if not found.accepted.key.live or self._clock.monotonic() >= found.until or self._has_ended(found.accepted):
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return found.accepted

    def _has_ended(self, accepted: Accepted) -> bool:
        ends, again = accepted.expires_at, accepted.ask_again_at
        return (ends is not None and self._latest() >= ends) or (again is not None and self._latest() >= again)

    def put(self, digest: bytes, accepted: Accepted, seconds: float, generation: int | None = None) -> None:
        """Remember for ``seconds``, and never past its own end; not if all were forgotten since ``generation``."""
        if seconds <= 0 or generation not in (None, self.generation):
            return
        self._known[digest] = _Remembered(accepted, self._clock.monotonic() + seconds)
        self._known.move_to_end(digest)
        if len(self._known) > self._size:
            self._known.popitem(last=False)

    def is_refused(self, digest: bytes) -> bool:
        """Whether it was refused, while that is remembered."""
        return self._clock.monotonic() < self._refused.get(digest, 0.0)

    def refuse(self, digest: bytes, seconds: float) -> None:
        """Remember for ``seconds`` that it was refused; at most 1,000 are, the oldest leave first."""
        self._refused[digest] = self._clock.monotonic() + seconds
        self._refused.move_to_end(digest)
        if len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)

    def forget(self) -> None:
        """Forget everybody, also who is being judged now."""
        self.generation += 1
        self._known.clear()
        self._refused.clear()

    async def once(self, digest: bytes, judge: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome of ``judge``, which runs once for all who ask at the same time, also when some stop waiting."""
        task = self._running.get(digest)
        if task is None:
            if len(self._running) >= _MOST_RUNNING:
                raise Unavailable(Cause.OVERLOAD)
            task = asyncio.create_task(_run(judge))
            self._running[digest] = task
            task.add_done_callback(lambda done: self._ended(digest, done))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Stop what is still running."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, digest: bytes, task: "asyncio.Task[Outcome]") -> None:
        del self._running[digest]
        if not task.cancelled():
            task.exception()  # asked for, so that nobody complains when all have stopped waiting


async def _run(judge: Callable[[], Awaitable[Outcome]]) -> Outcome:
    return await judge()
