"""What configurations that follow each other have in common: opened by the first, closed after the last."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    made_from: object
    thing: Any
    stack: AsyncExitStack
    users: int = 0


class Shares:
    """Open things by what they were made from. A configuration that needs the same takes the same."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    async def take(self, made_from: object, make: Callable[[AsyncExitStack], Awaitable[T]], stack: AsyncExitStack) -> T:
        """The thing that is made from ``made_from``; if there is none yet, ``make`` opens it on the stack it is given.

        It stays open until every ``stack`` that it was taken with is closed. Raises what ``make`` raises. Not for two
        callers at once.
        """
        held = next((known for known in self._held if known.made_from == made_from), None)
        if held is None:
            held = await _open(made_from, make)
            self._held.append(held)
        held.users += 1
        stack.push_async_callback(self._give_back, held)
        thing: T = held.thing
        return thing

    async def _give_back(self, held: _Held) -> None:
        held.users -= 1
        if not held.users:
            self._held.remove(held)
            await held.stack.aclose()


async def _open(made_from: object, make: Callable[[AsyncExitStack], Awaitable[Any]]) -> _Held:
    async with AsyncExitStack() as stack:
        thing = await make(stack)
        return _Held(made_from, thing, stack.pop_all())
