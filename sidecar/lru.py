"""A bounded mapping that evicts what was used least recently."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, ValuesView
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedLru(Generic[K, V]):
    """At most ``size`` entries that weigh at most ``max_weight`` together.

    ``weigh`` returns the weight of a value, which must not change while the value is stored. ``get`` returns a value or
    None and does not count as a use; ``touch`` marks a stored key as used.
    """

    __slots__ = ("_entries", "_max_weight", "_size", "_weigh", "get", "touch", "weight")

    def __init__(self, size: int, max_weight: float = inf, weigh: Callable[[V], int] | None = None) -> None:
        # not a dict: removing its first item becomes slower with every item removed before
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._size = size
        self._max_weight = max_weight
        self._weigh = weigh
        self.weight = 0
        """The weight of all entries."""
        # methods of the mapping itself: a call in between would cost time on each request
        self.get: Callable[[K], V | None] = self._entries.get
        self.touch: Callable[[K], None] = self._entries.move_to_end

    def put(self, key: K, value: V) -> None:
        """Store ``value`` as the most recently used entry, and evict others if there are too many."""
        self.discard(key)
        self._entries[key] = value
        if self._weigh is not None:
            self.weight += self._weigh(value)
        while len(self._entries) > self._size or self.weight > self._max_weight:
            self._release(self._entries.popitem(last=False)[1])

    def discard(self, key: K) -> None:
        """Remove the entry for ``key``, if there is one."""
        if key in self._entries:
            self._release(self._entries.pop(key))

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.weight = 0

    def values(self) -> ValuesView[V]:
        """The values, the least recently used first."""
        return self._entries.values()

    def _release(self, value: V) -> None:
        if self._weigh is not None:
            self.weight -= self._weigh(value)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
