"""Credentials that were found good or bad a moment ago, and those being judged: one judgement for many who wait."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from os import urandom

from sidecar.authn.base import Accepted, Outcome
from sidecar.clock import Clock, latest_of
from sidecar.concurrency import retrieve
from sidecar.errors import Cause, Unavailable

_MAX_RUNNING = 1000
_MAX_BYTES = 64 * 1024 * 1024
_MAX_REFUSED = 2000  # more than a minute of questions about unknown credentials


@dataclass(frozen=True, slots=True)
class _Remembered:
    accepted: Accepted
    until: float
    weight: int


class CredentialCache:
    """Keyed digest of a credential to whom it made known; at most ``size``, in about ``max_bytes`` of memory.

    The least recently used leave first.

    The key is this process's own, so that the digests tell nothing about short passwords. Who is refused is remembered
    only where a member says so, and never takes the place of anybody who is not. ``generation`` counts how often all
    were forgotten: whoever judges by what may change reads it first. That a credential was accepted once is known for
    longer than what it made known (:meth:`was_accepted`).
    """

    def __init__(self, clock: Clock, size: int = 10_000, max_bytes: int = _MAX_BYTES) -> None:
        self.generation = 0
        self._clock = clock
        self._latest = latest_of(clock)
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._key = urandom(32)
        self._known: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, Outcome]] = OrderedDict()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
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
            self._drop(digest)
            return None
        self._known.move_to_end(digest)
        return found.accepted

    def _has_ended(self, accepted: Accepted) -> bool:
        ends, again = accepted.expires_at, accepted.revalidate_at
        return (ends is not None and self._latest() >= ends) or (again is not None and self._latest() >= again)

    def put(self, digest: bytes, accepted: Accepted, seconds: float, generation: int | None = None) -> None:
        """Remember for ``seconds``, and never past its own end; not if all were forgotten since ``generation``."""
        if seconds <= 0 or generation not in (None, self.generation):
            return
        if digest in self._known:
            self._drop(digest)
        remembered = _Remembered(accepted, self._clock.monotonic() + seconds, accepted.memory())
        self._known[digest] = remembered
        self._bytes += remembered.weight
        while len(self._known) > self._size or self._bytes > self._max_bytes:
            self._drop(next(iter(self._known)))

    def _drop(self, digest: bytes) -> None:
        self._bytes -= self._known.pop(digest).weight

    def refused(self, digest: bytes) -> Outcome | None:
        """How it was refused, while that is remembered."""
        until, outcome = self._refused.get(digest, (0.0, None))
        return outcome if self._clock.monotonic() < until else None

    def refuse(self, digest: bytes, seconds: float, outcome: Outcome) -> None:
        """Remember for ``seconds`` how it was refused; at most 2,000 are, the oldest leave first."""
        self._accepted.pop(digest, None)
        self._refused[digest] = (self._clock.monotonic() + seconds, outcome)
        self._refused.move_to_end(digest)
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)

    def accept(self, digest: bytes) -> None:
        """Remember that it was accepted, until it is refused or ``size`` others were accepted after it."""
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > self._size:
            self._accepted.popitem(last=False)

    def was_accepted(self, digest: bytes) -> bool:
        """Whether it was accepted when it was judged last."""
        return digest in self._accepted

    def clear(self) -> None:
        """Forget everybody, also who is being judged now."""
        self.generation += 1
        self._known.clear()
        self._bytes = 0
        self._refused.clear()
        self._accepted.clear()

    async def single_flight(self, digest: bytes, judge: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome of ``judge``, which runs once for all who ask at the same time, also when some stop waiting."""
        task = self._running.get(digest)
        if task is None:
            if len(self._running) >= _MAX_RUNNING:
                raise Unavailable(Cause.OVERLOAD)
            task = asyncio.create_task(_retrieve(judge))
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
        retrieve(task)


class Questions:
    """How many questions about unknown credentials may be asked elsewhere: ``most`` in a second.

    Those about credentials that turn out to be good are given back, so that only made-up ones, and those that wait for
    their answer, use it up.
    """

    WINDOW = 1.0

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._asked: deque[float] = deque(maxlen=most)

    def take(self) -> None:
        """Count a question. Raises Unavailable(THROTTLED) when there were too many."""
        now = self._clock.monotonic()
        if len(self._asked) == self._asked.maxlen and now - self._asked[0] < self.WINDOW:
            raise Unavailable(Cause.THROTTLED, "too many unknown credentials", retry_after=1)
        self._asked.append(now)

    def give_back(self) -> None:
        """One question that was counted was about a good credential."""
        if self._asked:
            self._asked.pop()


async def _retrieve(judge: Callable[[], Awaitable[Outcome]]) -> Outcome:
    return await judge()
