"""What configurations that follow each other have in common: opened by the first, closed after the last."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    key: object
    resource: Any
    stack: AsyncExitStack
    users: int = 0


class SharedResources:
    """Open things by what they were made from. A configuration that needs the same takes the same."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    async def acquire(self, key: object, make: Callable[[AsyncExitStack], Awaitable[T]], stack: AsyncExitStack) -> T:
        """The thing that is made from ``key``; if there is none yet, ``make`` opens it on the stack it is given.

        It stays open until every ``stack`` that it was taken with is closed. Raises what ``make`` raises. Not for two
        callers at once.
        """
        held = next((known for known in self._entries if known.key == key), None)
        if held is None:
            held = await _open(key, make)
            self._entries.append(held)
        held.users += 1
        stack.push_async_callback(self._release, held)
        thing: T = held.resource
        return thing

    async def _release(self, held: _Entry) -> None:
        held.users -= 1
        if not held.users:
            self._entries.remove(held)
            await held.stack.aclose()


async def _open(key: object, make: Callable[[AsyncExitStack], Awaitable[Any]]) -> _Entry:
    async with AsyncExitStack() as stack:
        thing = await make(stack)
        return _Entry(key, thing, stack.pop_all())
