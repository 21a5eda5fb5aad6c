"""Slots of a budget: who holds one, and when it is free again."""

import asyncio
import inspect

import pytest

from sidecar.budget import Budget
from sidecar.errors import Unavailable


async def waits(event: asyncio.Event) -> str:
    await event.wait()
    await event.wait()
    return "done"


async def test_only_a_call_that_waits_holds_a_slot() -> None:
    budget, event = Budget(1), asyncio.Event()
    first = asyncio.create_task(_taken(budget, event))
    await asyncio.sleep(0)
    assert budget.taken == 1
    closed = waits(asyncio.Event())
    with pytest.raises(Unavailable):
        await budget.admit(closed)
    assert inspect.getcoroutinestate(closed) == inspect.CORO_CLOSED
    set_ = asyncio.Event()
    set_.set()
    assert await budget.admit(waits(set_)) == "done"
    event.set()
    assert await first == "done"
    assert budget.taken == 0


async def test_a_cancelled_or_failed_call_gives_its_slot_back() -> None:
    budget = Budget(1)
    task = asyncio.create_task(_taken(budget, asyncio.Event()))
    await asyncio.sleep(0)
    assert budget.is_full
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.taken == 0

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            await budget.admit(fails())
    assert budget.taken == 0


async def test_a_slot_of_a_part_is_a_slot_of_the_whole() -> None:
    whole = Budget(2)
    part = Budget(whole.places / 2, whole)
    with part.place():
        assert (part.taken, whole.taken) == (1, 1)
        assert part.is_full
        assert not whole.is_full
        with pytest.raises(Unavailable):
            part.take()
        assert whole.taken == 1
    whole.take()
    whole.take()
    assert part.is_full
    assert part.taken == 0


async def _taken(budget: Budget, event: asyncio.Event) -> str:
    return await budget.admit(waits(event))
