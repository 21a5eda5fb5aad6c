"""Limits how many requests of one kind a process handles concurrently."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from sidecar.errors import Cause, Unavailable


class Budget:
    """``places`` slots, of which ``taken`` are in use. Not thread-safe: use it on the event loop only."""

    __slots__ = ("places", "taken")

    def __init__(self, places: float = inf) -> None:
        self.places = places
        self.taken = 0

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return self.taken >= self.places

    def take(self) -> None:
        """Take a slot; release it with :meth:`give_back`. Raises Unavailable (503, overload) if none is free."""
        if self.is_full:
            raise Unavailable(Cause.OVERLOAD, retry_after=1)
        self.taken += 1

    def give_back(self) -> None:
        """Release one slot."""
        self.taken -= 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a slot while the context is active. Raises as :meth:`take`."""
        self.take()
        try:
            yield
        finally:
            self.give_back()
