"""Tokens that were verified not long ago, so that verifying is paid for once.

Remembers facts, never verdicts: on every hit the key must still be live and the times must still hold; revocation is
asked by the caller. Only tokens with a good signature get in, so nobody outside can push entries out at will.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Generic, Protocol, TypeVar

from sidecar.metrics import Metrics


class Revocable(Protocol):
    """What a verdict rests on: a key, or the configuration that holds a secret."""

    @property
    def live(self) -> bool:
        """False, for good, once nothing may rest on it any more."""


class CacheEntry(Protocol):
    """What the cache re-checks. Times are seconds since the epoch, tolerance included; None sets no bound.

    ``weight`` is the cache's: the bytes of memory that it counts for the entry.
    """

    weight: int

    def memory(self) -> int:
        """About how many bytes it takes, with what will be derived from it."""

    @property
    def key(self) -> Revocable:
        """The key that verified the token."""

    @property
    def not_before(self) -> float | None:
        """First instant at which the token is good."""

    @property
    def expires_at(self) -> float | None:
        """First instant at which it no longer is."""

    @property
    def revalidate_at(self) -> float | None:
        """First instant at which it has to be verified once more."""


E = TypeVar("E", bound=CacheEntry)


class VerifiedCache(Generic[E]):
    """Digest of the token to what was learned from it; at most ``size`` entries in about ``max_bytes`` of memory.

    The least recently used leave first. What would fill half of it alone is not remembered.

    ``generation`` counts the policies that entries were made under. Whoever starts to verify reads it first and gives
    it to :meth:`put`, so that nothing judged under an old policy is remembered under a new one.
    """

    def __init__(self, size: int, metrics: Metrics, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.generation = 0
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        # not a dict: taking the oldest out of one slows down with every entry that has left before
        self._entries: OrderedDict[bytes, E] = OrderedDict()
        self._hits = metrics.cache_hits
        self._misses = metrics.cache_misses
        self._metrics = metrics
        self.bind_metrics()

    def bind_metrics(self) -> None:
        """Be the one whose entries the metrics tell; so is every new one, until another is."""
        self._metrics.watch(self._metrics.token_cache_entries, self.__len__)
        self._metrics.watch(self._metrics.token_cache_bytes, lambda: self._bytes)

    def get(self, token: str, now: float) -> E | None:
        """What is known of ``token`` and still holds at ``now``, or None."""
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        entry = self._entries.get(digest)
        if entry is not None and self._is_valid(digest, entry, now):
            self._entries.move_to_end(digest)
            self._hits.value += 1
            return entry
        return None

    def count_miss(self) -> None:
        """A token had to be verified. Told by whoever verifies: the same token may be looked up twice before."""
        self._misses.inc()

    def put(self, token: str, entry: E, generation: int) -> None:
        """Remember ``entry``, unless the policy has changed since ``generation`` was read."""
        if generation != self.generation:
            return
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        before = self._entries.pop(digest, None)
        if before is not None:
            self._bytes -= before.weight
        entry.weight = weight = entry.memory()
        if weight > self._max_bytes / 2:
            return
        self._entries[digest] = entry
        self._bytes += weight
        while len(self._entries) > self._size or self._bytes > self._max_bytes:
            self._bytes -= self._entries.popitem(last=False)[1].weight

    def any_entry(self, predicate: Callable[[E], bool]) -> bool:
        """Whether ``wanted`` is true of something that is remembered. Looks through everything."""
        return any(map(predicate, self._entries.values()))

    def advance_generation(self) -> None:
        """A new policy is in force: forget everything."""
        self.generation += 1
        self._entries.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _is_valid(self, digest: bytes, entry: E, now: float) -> bool:
        if entry.not_before is not None and now < entry.not_before:
            return False
        until, again = entry.expires_at, entry.revalidate_at
        if entry.key.live and (until is None or now < until) and (again is None or now < again):
            return True
        del self._entries[digest]
        self._bytes -= entry.weight
        return False
