"""Limits how many requests of one kind a process handles concurrently."""

from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from math import inf
from types import coroutine
from typing import Any, TypeVar

from sidecar.errors import Cause, Unavailable

T = TypeVar("T")


class Budget:
    """``places`` slots, of which ``taken`` are in use. A slot of a part is also a slot of its ``whole``.

    Not thread-safe: use it on the event loop only.
    """

    __slots__ = ("places", "taken", "whole")

    def __init__(self, places: float = inf, whole: "Budget | None" = None) -> None:
        self.places = places
        self.taken = 0
        self.whole = whole

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return self.taken >= self.places or (self.whole is not None and self.whole.is_full)

    def take(self) -> None:
        """Take a slot; release it with :meth:`give_back`. Raises Unavailable (503, overload) if none is free."""
        if self.is_full:
            raise Unavailable(Cause.OVERLOAD, retry_after=1)
        self.taken += 1
        if self.whole is not None:
            self.whole.take()

    def give_back(self) -> None:
        """Release one slot."""
        self.taken -= 1
        if self.whole is not None:
            self.whole.give_back()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a slot while the context is active. Raises as :meth:`take`."""
        self.take()
        try:
            yield
        finally:
            self.give_back()

    @coroutine
    def admit(self, call: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await ``call``. It holds a slot from its first wait to its end; a call that never waits needs none.

        Raises as :meth:`take` when it has to wait and no slot is free; ``call`` is closed then.
        """
        try:
            waits_for = call.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        try:
            self.take()
        except Unavailable:
            call.close()
            raise
        try:
            while True:
                try:
                    result = yield waits_for
                except BaseException as error:  # noqa: BLE001 - a cancellation belongs to the call too
                    waits_for = call.throw(error)
                else:
                    waits_for = call.send(result)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            self.give_back()
