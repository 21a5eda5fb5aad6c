"""Index of keys by the minute of their expiry, to find expired ones without a scan."""

import heapq
from math import ceil, isfinite
from typing import Generic, TypeVar

K = TypeVar("K")
MINUTE = 60.0


class ExpiryIndex(Generic[K]):
    """Keys by the minute in which they end. A key may be added more than once: callers check it again."""

    def __init__(self) -> None:
        self._minutes: dict[int, list[K]] = {}
        self._order: list[int] = []

    def put(self, key: K, until: float) -> None:
        """Note that ``key`` ends at ``until`` (seconds since the epoch); what is not finite never does."""
        if not isfinite(until):
            return
        minute = ceil(until / MINUTE)
        keys = self._minutes.get(minute)
        if keys is None:
            self._minutes[minute] = [key]
            heapq.heappush(self._order, minute)
        else:
            keys.append(key)

    def pop_due(self, now: float, most: int) -> list[K]:
        """At most ``most`` keys whose minute is over at ``now``; they are not noted any more."""
        taken: list[K] = []
        while self._order and self._order[0] * MINUTE <= now and len(taken) < most:
            keys = self._minutes[self._order[0]]
            left = len(keys) - (most - len(taken))
            taken += keys[max(left, 0) :]
            del keys[max(left, 0) :]
            if not keys:
                del self._minutes[heapq.heappop(self._order)]
        return taken
