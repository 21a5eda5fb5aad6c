"""What configurations that follow each other share."""

from contextlib import AsyncExitStack

import pytest

from sidecar.app.shared_resources import SharedResources


class Door:
    """Knows whether it is open."""

    def __init__(self) -> None:
        self._is_open = True

    def is_open(self) -> bool:
        return self._is_open

    def shut(self) -> None:
        self._is_open = False


async def door(stack: AsyncExitStack) -> Door:
    made = Door()
    stack.callback(made.shut)
    return made


async def test_the_same_is_opened_once_and_closed_after_the_last() -> None:
    shares = SharedResources()
    old, new = AsyncExitStack(), AsyncExitStack()
    first = await shares.acquire(("door", 1), door, old)
    assert await shares.acquire(("door", 1), door, new) is first
    await old.aclose()
    assert first.is_open()
    await new.aclose()
    assert not first.is_open()
    assert (await shares.acquire(("door", 1), door, AsyncExitStack())).is_open()


async def test_what_is_made_from_something_else_is_something_else() -> None:
    shares, stack = SharedResources(), AsyncExitStack()
    first = await shares.acquire(("door", 1), door, stack)
    second = await shares.acquire(("door", 2), door, stack)
    assert first is not second
    await stack.aclose()
    assert [first.is_open(), second.is_open()] == [False, False]


async def test_what_cannot_be_made_leaves_nothing_behind() -> None:
    shares, stack, made = SharedResources(), AsyncExitStack(), list[Door]()

    async def broken(own: AsyncExitStack) -> Door:
        made.append(await door(own))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await shares.acquire("door", broken, stack)
    assert not made[0].is_open()
    assert (await shares.acquire("door", door, stack)).is_open()
