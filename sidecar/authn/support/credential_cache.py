"""Caches accepted and rejected credentials, and joins concurrent requests with the same credential."""

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

_MAX_IN_FLIGHT = 1000
_MAX_BYTES = 64 * 1024 * 1024
_MAX_REJECTIONS = 2000  # more than one minute of queries about unknown credentials


@dataclass(frozen=True, slots=True)
class _Entry:
    accepted: Accepted
    until: float
    weight: int


class CredentialCache:
    """Accepted credentials by keyed digest; at most ``size`` entries in about ``max_bytes`` of memory, evicted by LRU.

    The digest key is random per process, so digests reveal nothing about short passwords. Rejections are cached only on
    request and never evict accepted entries. ``generation`` counts the calls of :meth:`clear`: read it before
    verifying, so that an outcome under old settings is not cached under new ones. That a credential was accepted is
    remembered for longer than its entry (:meth:`was_accepted`).
    """

    def __init__(self, clock: Clock, size: int = 10_000, max_bytes: int = _MAX_BYTES) -> None:
        self.generation = 0
        self._clock = clock
        self._latest = latest_of(clock)
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._key = urandom(32)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._rejections: OrderedDict[bytes, tuple[float, Outcome]] = OrderedDict()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Task[Outcome]] = {}

    def digest(self, *parts: str) -> bytes:
        """The cache key for ``parts``; the lengths are included, so that no two lists of parts share a digest."""
        digest = blake2b(key=self._key, digest_size=32)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.digest()

    def get(self, digest: bytes) -> Accepted | None:
        """The cached result, while it is valid."""
        found = self._entries.get(digest)
        if found is None:
            return None
        if not found.accepted.key.live or self._clock.monotonic() >= found.until or self._is_expired(found.accepted):
            self._drop(digest)
            return None
        self._entries.move_to_end(digest)
        return found.accepted

    def _is_expired(self, accepted: Accepted) -> bool:
        ends, again = accepted.expires_at, accepted.revalidate_at
        return (ends is not None and self._latest() >= ends) or (again is not None and self._latest() >= again)

    def put(self, digest: bytes, accepted: Accepted, seconds: float, generation: int | None = None) -> None:
        """Cache for ``seconds``, at most until ``accepted`` expires; skipped if the cache was cleared since
        ``generation``.
        """
        if seconds <= 0 or generation not in (None, self.generation):
            return
        if digest in self._entries:
            self._drop(digest)
        remembered = _Entry(accepted, self._clock.monotonic() + seconds, accepted.memory())
        self._entries[digest] = remembered
        self._bytes += remembered.weight
        while len(self._entries) > self._size or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, digest: bytes) -> None:
        self._bytes -= self._entries.pop(digest).weight

    def rejection(self, digest: bytes) -> Outcome | None:
        """The cached rejection, while it is valid."""
        until, outcome = self._rejections.get(digest, (0.0, None))
        return outcome if self._clock.monotonic() < until else None

    def put_rejection(self, digest: bytes, seconds: float, outcome: Outcome) -> None:
        """Cache a rejection for ``seconds``; at most 2,000 are kept, the oldest are evicted."""
        self._accepted.pop(digest, None)
        self._rejections[digest] = (self._clock.monotonic() + seconds, outcome)
        self._rejections.move_to_end(digest)
        if len(self._rejections) > _MAX_REJECTIONS:
            self._rejections.popitem(last=False)

    def mark_accepted(self, digest: bytes) -> None:
        """Remember that the credential was accepted, until it is rejected or evicted by ``size`` later ones."""
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > self._size:
            self._accepted.popitem(last=False)

    def was_accepted(self, digest: bytes) -> bool:
        """Whether the last decision on the credential was to accept it."""
        return digest in self._accepted

    def clear(self) -> None:
        """Remove all entries, and prevent results in progress from being cached."""
        self.generation += 1
        self._entries.clear()
        self._bytes = 0
        self._rejections.clear()
        self._accepted.clear()

    async def single_flight(self, digest: bytes, authenticate: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome of ``authenticate``, called once for concurrent requests, even if some of them stop waiting."""
        task = self._in_flight.get(digest)
        if task is None:
            if len(self._in_flight) >= _MAX_IN_FLIGHT:
                raise Unavailable(Cause.OVERLOAD)
            task = asyncio.create_task(_as_coroutine(authenticate))
            self._in_flight[digest] = task
            task.add_done_callback(lambda done: self._finish(digest, done))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Cancel the calls in progress."""
        running = list(self._in_flight.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _finish(self, digest: bytes, task: "asyncio.Task[Outcome]") -> None:
        del self._in_flight[digest]
        retrieve(task)


class QueryRateLimiter:
    """Limits queries about unknown credentials to ``max_per_window`` per second.

    Queries about credentials that turn out to be valid are released, so that only invalid and pending ones count.
    """

    WINDOW = 1.0

    def __init__(self, clock: Clock, max_per_window: int) -> None:
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=max_per_window)

    def acquire(self) -> None:
        """Count a query. Raises Unavailable(THROTTLED) if the limit is reached."""
        now = self._clock.monotonic()
        if len(self._recent) == self._recent.maxlen and now - self._recent[0] < self.WINDOW:
            raise Unavailable(Cause.THROTTLED, "too many unknown credentials", retry_after=1)
        self._recent.append(now)

    def release(self) -> None:
        """Remove one counted query: its credential was valid."""
        if self._recent:
            self._recent.pop()


async def _as_coroutine(authenticate: Callable[[], Awaitable[Outcome]]) -> Outcome:
    return await authenticate()
