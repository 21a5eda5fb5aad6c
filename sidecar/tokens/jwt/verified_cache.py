"""Cache of verified tokens, so that a signature is verified once.

It stores facts, not verdicts: on every hit the key must still be live and the times must still be valid; the caller
checks revocation. Only tokens with a valid signature are stored, so unauthenticated callers cannot evict entries.
"""

from collections.abc import Callable
from hashlib import sha256
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from sidecar.lru import BoundedLru
from sidecar.metrics import Metrics


class Revocable(Protocol):
    """What an accepted credential depends on: a key, or the configuration that contains a secret."""

    @property
    def live(self) -> bool:
        """False, permanently, once nothing may depend on it any more."""


class CacheEntry(Protocol):
    """What the cache checks on a hit. Times are seconds since the epoch, tolerance included; None: no limit.

    ``weight`` is set by the cache: the size of the entry in bytes.
    """

    weight: int

    def memory(self) -> int:
        """Approximate size in bytes, with the values derived from it."""

    @property
    def key(self) -> Revocable:
        """The key that verified the token."""

    @property
    def not_before(self) -> float | None:
        """First instant at which the token is valid."""

    @property
    def expires_at(self) -> float | None:
        """First instant at which the token is no longer valid."""

    @property
    def revalidate_at(self) -> float | None:
        """First instant at which the token must be verified again."""


E = TypeVar("E", bound=CacheEntry)


class VerifiedCache(Generic[E]):
    """Maps token digests to entries: at most ``size`` in about ``max_bytes`` of memory, evicted by LRU.

    An entry that would fill half of the memory is not stored. ``generation`` counts policy changes: read it before
    verifying and pass it to :meth:`put`, so that a result under an old policy is not stored under a new one.
    """

    def __init__(self, size: int, metrics: Metrics, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.generation = 0
        self._max_bytes = max_bytes
        self._entries: BoundedLru[bytes, E] = BoundedLru(size, max_bytes, attrgetter("weight"))
        self._hits = metrics.cache_hits
        self._misses = metrics.cache_misses
        self._metrics = metrics
        self.bind_metrics()

    def bind_metrics(self) -> None:
        """Make this cache the source of the cache metrics. Each new cache does so on creation."""
        self._metrics.watch(self._metrics.token_cache_entries, self.__len__)
        self._metrics.watch(self._metrics.token_cache_bytes, lambda: self._entries.weight)

    def get(self, token: str, now: float) -> E | None:
        """The entry for ``token`` if it is valid at ``now``, or None."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        entry = self._entries.get(digest)
        if entry is not None and self._is_valid(digest, entry, now):
            self._entries.touch(digest)
            self._hits.value += 1
            return entry
        return None

    def count_miss(self) -> None:
        """Count a miss. Called by the verifier, because one request can look up the same token twice."""
        self._misses.inc()

    def put(self, token: str, entry: E, generation: int) -> None:
        """Store ``entry``, unless the policy changed since ``generation`` was read."""
        if generation != self.generation:
            return
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        self._entries.discard(digest)
        entry.weight = entry.memory()
        if entry.weight <= self._max_bytes / 2:
            self._entries.put(digest, entry)

    def any_entry(self, predicate: Callable[[E], bool]) -> bool:
        """Whether ``predicate`` is true for any entry. Scans all entries."""
        return any(map(predicate, self._entries.values()))

    def advance_generation(self) -> None:
        """Remove all entries: a new policy is in force."""
        self.generation += 1
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _is_valid(self, digest: bytes, entry: E, now: float) -> bool:
        if entry.not_before is not None and now < entry.not_before:
            return False
        until, again = entry.expires_at, entry.revalidate_at
        if entry.key.live and (until is None or now < until) and (again is None or now < again):
            return True
        self._entries.discard(digest)
        return False
