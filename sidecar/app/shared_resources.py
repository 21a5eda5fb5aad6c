"""Resources that consecutive configurations share: opened by the first, closed after the last."""

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
    """Open resources by key. Configurations with an equal key share the resource."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    async def acquire(self, key: object, make: Callable[[AsyncExitStack], Awaitable[T]], stack: AsyncExitStack) -> T:
        """The resource with this ``key``; if there is none, ``make`` opens it on the stack that it receives.

        It stays open until every ``stack`` that acquired it is closed. Raises as ``make``. Not reentrant: callers must
        not run concurrently.
        """
        entry = next((known for known in self._entries if known.key == key), None)
        if entry is None:
            entry = await _open(key, make)
            self._entries.append(entry)
        entry.users += 1
        stack.push_async_callback(self._release, entry)
        resource: T = entry.resource
        return resource

    async def _release(self, entry: _Entry) -> None:
        entry.users -= 1
        if not entry.users:
            self._entries.remove(entry)
            await entry.stack.aclose()


async def _open(key: object, make: Callable[[AsyncExitStack], Awaitable[Any]]) -> _Entry:
    async with AsyncExitStack() as stack:
        resource = await make(stack)
        return _Entry(key, resource, stack.pop_all())
