"""Caches accepted and rejected credentials, and joins concurrent requests with the same credential."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from os import urandom

from sidecar.authn.base import Accepted, Outcome
from sidecar.clock import Clock, latest_of
from sidecar.concurrency import SingleFlight
from sidecar.errors import Cause, Unavailable
from sidecar.lru import BoundedLru

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
        self._key = urandom(32)
        self._entries: BoundedLru[bytes, _Entry] = BoundedLru(size, max_bytes, attrgetter("weight"))
        self._rejections: BoundedLru[bytes, tuple[float, Outcome]] = BoundedLru(_MAX_REJECTIONS)
        self._accepted: BoundedLru[bytes, None] = BoundedLru(size)
        self._flights: SingleFlight[bytes, Outcome] = SingleFlight()

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
            self._entries.discard(digest)
            return None
        self._entries.touch(digest)
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
        self._entries.put(digest, _Entry(accepted, self._clock.monotonic() + seconds, accepted.memory()))

    def rejection(self, digest: bytes) -> Outcome | None:
        """The cached rejection, while it is valid."""
        found = self._rejections.get(digest)
        return found[1] if found is not None and self._clock.monotonic() < found[0] else None

    def put_rejection(self, digest: bytes, seconds: float, outcome: Outcome) -> None:
        """Cache a rejection for ``seconds``; at most 2,000 are kept, the oldest are evicted."""
        self._accepted.discard(digest)
        self._rejections.put(digest, (self._clock.monotonic() + seconds, outcome))

    def mark_accepted(self, digest: bytes) -> None:
        """Remember that the credential was accepted, until it is rejected or evicted by ``size`` later ones."""
        self._accepted.put(digest, None)

    def was_accepted(self, digest: bytes) -> bool:
        """Whether the last decision on the credential was to accept it."""
        return digest in self._accepted

    def clear(self) -> None:
        """Remove all entries, and prevent results in progress from being cached."""
        self.generation += 1
        self._entries.clear()
        self._rejections.clear()
        self._accepted.clear()

    async def single_flight(self, digest: bytes, authenticate: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome of ``authenticate``, called once for concurrent requests, even if some of them stop waiting."""
        if digest not in self._flights and len(self._flights) >= _MAX_IN_FLIGHT:
            raise Unavailable(Cause.OVERLOAD)
        return await self._flights.run(digest, partial(_as_coroutine, authenticate))

    async def aclose(self) -> None:
        """Cancel the calls in progress."""
        await self._flights.aclose()


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
