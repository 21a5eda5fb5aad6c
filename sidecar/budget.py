"""How many requests of one kind a process works on at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from sidecar.errors import Cause, Unavailable


class Budget:
    """So many ``places``; ``taken`` of them are in use. Belongs to the event loop's thread."""

    __slots__ = ("places", "taken")

    def __init__(self, places: float = inf) -> None:
        self.places = places
        self.taken = 0

    @property
    def is_full(self) -> bool:
        """Whether no place is left."""
        return self.taken >= self.places

    def take(self) -> None:
        """Take a place, to be given back. Raises Unavailable (503, overload) when none is left."""
        if self.is_full:
            raise Unavailable(Cause.OVERLOAD, retry_after=1)
        self.taken += 1

    def give_back(self) -> None:
        """One place is free again."""
        self.taken -= 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while the context lasts. Raises as :meth:`take`."""
        self.take()
        try:
            yield
        finally:
            self.give_back()
