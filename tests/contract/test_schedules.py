"""Schedules in which a store forgets or an answer comes late: what was acknowledged stays true on every process.

Each was found by searching, and is kept with the fewest steps that it needs.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from sidecar.store.base import Batch
from sidecar.store.record import TokenKind
from tests.support.schedules import redis_client
from tests.support.store_world import Backing, MemoryBacking, RedisBacking, StoreWorld

Begin = Callable[..., Awaitable[StoreWorld]]


@pytest.fixture(scope="module")
def server(require_tool: Callable[[str], Path]) -> Iterator[Any]:
    with redis_client(require_tool("redis-server")) as client:
        yield client


@pytest.fixture(params=["redis", "memory"])
def begin(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Begin:
    """Makes processes that have read everything."""
    caplog.set_level(logging.ERROR)

    async def make(processes: int = 2) -> StoreWorld:
        backing: Backing = (
            MemoryBacking() if request.param == "memory" else RedisBacking(request.getfixturevalue("server"))
        )
        world = StoreWorld(backing, processes)
        await world.begin()
        return world

    return make


async def deny(world: StoreWorld, index: int, ends: float | None = None, name: str = "s") -> None:
    await world.mirrors[index].write(Batch(add_entries=[world.entry(ends, name)]))


async def remove(world: StoreWorld, index: int) -> None:
    await world.mirrors[index].write(Batch(remove_entries=[world.entry().id]))


async def mint(world: StoreWorld, index: int, kind: TokenKind = TokenKind.BOT) -> str:
    record = world.token(kind, index=index)
    await world.mirrors[index].write(Batch(add=[record]))
    return record.id


async def end(world: StoreWorld, index: int, token_id: str) -> None:
    await world.mirrors[index].write(Batch(revoke=[(token_id, world.time)]))


async def all_stand(world: StoreWorld, token_ids: list[str]) -> None:
    """Exactly these stand, in the store and for every process."""
    assert not world.faults
    assert (await world.stored())[0] == token_ids
    assert [world.standing(index) for index in range(len(world.mirrors))] == [token_ids] * len(world.mirrors)


async def all_refuse(world: StoreWorld, until: float | None) -> None:
    """Every process refuses what is denied until then, and the store says so."""
    assert not world.faults
    assert world.ends() == [until] * len(world.mirrors)
    found = (await world.stored())[1].get(world.entry().id, ...)
    wanted = ... if until is None else None if until == inf else world.entry(until).expires_at
    assert found == wanted


async def lost_end_of_a_token_in_two_put_backs(world: StoreWorld, first: int) -> None:
    token_id = await mint(world, 0, TokenKind.PERSONAL)
    await world.all_replicas_follow()
    await end(world, 0, token_id)
    await world.follow(0)
    world.backing.lose()
    await world.all_replicas_follow(1)
    held = world.start(world.follow(first))
    for _ in range(8):
        await world.step(held)
    await world.follow(1 - first)
    await world.finish(held)
    await world.converge()
    await all_stand(world, [])


async def test_end_that_one_process_knew_survives_put_backs_of_two(begin: Begin) -> None:
    for first in (0, 1):
        await lost_end_of_a_token_in_two_put_backs(await begin(), first)


@pytest.mark.parametrize("lost", ["entry", "end", "token", "removal"])
async def test_write_that_was_lost_before_its_author_read_it_in_the_log_is_repeated(begin: Begin, lost: str) -> None:
    world = await begin()
    token_id = await mint(world, 0, TokenKind.PERSONAL)
    if lost == "removal":
        await deny(world, 0, 1000)
    await world.all_replicas_follow()
    world.backing.save()
    if lost == "entry":
        await deny(world, 0, 1000)
    elif lost == "end":
        await end(world, 0, token_id)
    elif lost == "token":
        token_id = await mint(world, 0, TokenKind.PERSONAL)
    else:
        await remove(world, 0)
    world.backing.lose()
    await world.converge()
    await all_refuse(world, 1000 if lost == "entry" else None)
    await all_stand(world, {"end": [], "token": ["t1", "t2"]}.get(lost, ["t1"]))
    world.mirrors[0]._position = ""
    await world.converge()
    await all_refuse(world, 1000 if lost == "entry" else None)


@pytest.mark.parametrize("ends", [(1000, None), (None, 1000)])
async def test_entry_that_was_replaced_stays_replaced_when_that_is_lost(begin: Begin, ends: Any) -> None:
    world = await begin()
    await deny(world, 0, ends[0])
    await world.all_replicas_follow()
    world.backing.save()
    await deny(world, 0, ends[1])
    await world.all_replicas_follow()
    world.backing.lose()
    await world.converge()
    await all_refuse(world, inf if ends[1] is None else ends[1])


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
async def test_emptied_store_gets_the_later_entry_in_either_order(begin: Begin, order: list[int]) -> None:
    world = await begin()
    await deny(world, 0, 1000)
    await world.all_replicas_follow()
    await deny(world, 0)
    await world.follow(0)
    world.backing.wipe()
    await world.converge(order)
    await all_refuse(world, inf)


@pytest.mark.parametrize("fault", ["wipe", "lose"])
async def test_removal_is_not_undone_by_a_process_that_comes_back(begin: Begin, fault: str) -> None:
    world = await begin()
    world.backing.save()
    await deny(world, 0, 1000)
    await world.all_replicas_follow()
    world.cut.add(1)
    getattr(world.backing, fault)()
    for _ in range(4):
        world.time += 1.5
        await world.follow(0)
    await remove(world, 0)
    await world.follow(0)
    world.time += 300
    await world.converge()
    await all_refuse(world, None)


async def test_late_answer_to_an_entry_leaves_a_removal_alone_that_one_piece_of_the_log_told(begin: Begin) -> None:
    world = await begin()
    held = world.start(world.mirrors[0].write(Batch(add_entries=[world.entry(1000)])))
    await world.until(held, "answer write")
    await world.follow(1)
    await remove(world, 1)
    await world.follow(0)
    await world.finish(held)
    await world.converge()
    await all_refuse(world, None)


async def test_late_answer_to_an_entry_leaves_a_longer_one_alone(begin: Begin) -> None:
    world = await begin()
    held = world.start(world.mirrors[0].write(Batch(add_entries=[world.entry(1000)])))
    await world.until(held, "answer write")
    await deny(world, 1)
    await world.follow(0)
    await world.finish(held)
    await world.converge()
    await all_refuse(world, inf)


@pytest.mark.parametrize("process", [0, 1])
async def test_late_answer_that_an_emptied_store_takes_leaves_a_later_entry_alone(begin: Begin, process: int) -> None:
    """Everything was read between a write and its answer, and then the store forgot the later entry.

    The later one came from the same process, or it was read from the store, whose author has stopped since.
    """
    world = await begin(3)
    held = world.start(world.mirrors[0].write(Batch(remove_entries=[world.entry().id])))
    await world.until(held, "answer write")
    if isinstance(world.backing, RedisBacking):  # it has read where the entry is, and writes now
        await world.step(held)
        await world.until(held, "answer write")
    await deny(world, process)
    world.mirrors[0]._position = ""
    await world.follow(0)
    if process:
        world.mirrors[process] = world.mirror(process)
    world.backing.wipe()
    await world.finish(held)
    await world.converge()
    await all_refuse(world, inf)


async def test_late_answer_to_a_lost_entry_leaves_a_later_one_of_the_same_process_alone(begin: Begin) -> None:
    """Found at random: both were lost, and a third one, older than the second, came back in place of them."""
    world = await begin()
    held = world.start(world.mirrors[0].write(Batch(add_entries=[world.entry(5000)])))
    await world.until(held, "answer write")
    world.backing.lose()
    await deny(world, 1)
    world.backing.lose()
    await deny(world, 0, 5000)
    world.backing.lose()
    await world.finish(held)
    await world.converge()
    await all_refuse(world, 5000)


async def test_late_answer_that_spans_a_reading_of_everything_does_not_undo_what_was_read(begin: Begin) -> None:
    world = await begin()
    held = world.start(world.mirrors[0].write(Batch(add_entries=[world.entry(1000)])))
    await world.until(held, "answer write")
    await deny(world, 1)
    world.mirrors[0]._position = ""
    await world.follow(0)
    await world.finish(held)
    assert world.refused_until(0, world.entry()) == inf
    await world.converge()
    await all_refuse(world, inf)


async def test_bot_has_one_token_after_the_tail_with_the_earlier_one_was_lost(begin: Begin) -> None:
    world = await begin()
    await deny(world, 0, name="other")
    await world.all_replicas_follow()
    world.backing.save()
    await mint(world, 0)
    await world.follow(0)
    world.backing.lose()
    world.time += 5
    last = await mint(world, 1)
    await world.converge()
    await all_stand(world, [last])


@pytest.mark.parametrize("ahead", [0.0, 30.0])
async def test_bot_has_one_token_in_an_emptied_store_whatever_the_clocks_say(begin: Begin, ahead: float) -> None:
    for emptied_first in (True, False):
        world = await begin()
        world.clocks[0].skew = ahead
        await mint(world, 0)
        await world.follow(0)
        world.time += 5
        if emptied_first:
            world.backing.wipe()
        last = await mint(world, 1)
        if not emptied_first:
            world.backing.wipe()
        await world.converge()
        await all_stand(world, [last])


async def test_bot_has_one_token_after_a_loss_in_either_order(begin: Begin) -> None:
    for order in ([0, 1], [1, 0]):
        world = await begin()
        await mint(world, 0)
        await world.all_replicas_follow()
        last = await mint(world, 0)
        await world.follow(0)
        world.backing.lose()
        await world.converge(order)
        await all_stand(world, [last])


async def test_tokens_of_one_bot_in_one_second_are_ordered_and_the_last_one_survives_a_loss(begin: Begin) -> None:
    world = await begin()
    for index in (0, 1, 0):
        last = await mint(world, index)
    await world.all_replicas_follow()
    world.backing.wipe()
    await world.converge([1, 0])
    await all_stand(world, [last])


async def test_loss_is_found_by_a_process_that_had_no_position(begin: Begin) -> None:
    world = await begin()
    await deny(world, 0, 1000)
    await world.follow(0)
    world.mirrors[0]._position = ""
    world.cut.add(0)
    await world.follow(0)
    world.backing.lose()
    await world.converge()
    await all_refuse(world, 1000)


async def test_copy_is_not_fresh_before_the_last_piece_of_the_log(begin: Begin) -> None:
    world = await begin()
    world.cut.add(1)
    for number in range(200):
        await deny(world, 0, name=f"x{number}")
    await deny(world, 0)
    world.time += 3600
    await world.follow(1)
    world.cut.clear()
    while world.refused_until(1, world.entry()) is None:
        assert world.mirrors[1].age >= 3600
        await world.follow(1)
    assert world.mirrors[1].age == 0


async def test_process_whose_clock_is_ahead_for_a_moment_forgets_nothing(begin: Begin) -> None:
    world = await begin()
    await deny(world, 0, 1000)
    await world.all_replicas_follow()
    world.clocks[1].skew = 7200
    world.time += 11
    await world.follow(1)
    await deny(world, 1, name="other")
    world.clocks[1].skew = 0
    world.mirrors[0]._position = ""
    await world.converge()
    await all_refuse(world, 1000)


async def test_write_before_the_first_reading_is_kept(begin: Begin) -> None:
    world = await begin()
    world.mirrors[0] = world.mirror(0)
    await deny(world, 0, 1000)
    world.backing.lose()
    await world.converge()
    await all_refuse(world, 1000)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
async def test_end_of_a_token_that_the_store_has_just_lost_is_kept(begin: Begin, order: list[int]) -> None:
    world = await begin()
    token_id = await mint(world, 0, TokenKind.PERSONAL)
    await world.follow(0)
    assert await world.stores[1].record(token_id)
    world.backing.lose()
    await end(world, 1, token_id)
    await world.converge(order)
    await all_stand(world, [])


async def test_removal_of_an_entry_that_the_store_has_just_lost_is_kept(begin: Begin) -> None:
    world = await begin()
    await deny(world, 0, 1000)
    await world.follow(0)
    assert await world.stores[1].entry(world.entry().id)
    world.backing.lose()
    await remove(world, 1)
    await world.converge()
    await all_refuse(world, None)


async def test_second_removal_counts_against_an_entry_that_only_another_process_knows(begin: Begin) -> None:
    world = await begin()
    await remove(world, 1)
    await world.all_replicas_follow()
    world.backing.save()
    await deny(world, 0, 1000)
    world.backing.lose()
    await remove(world, 1)
    await world.converge()
    await all_refuse(world, None)


async def test_removal_that_was_lost_with_the_tail_is_repeated(begin: Begin) -> None:
    world = await begin()
    await deny(world, 0, 1000)
    await world.all_replicas_follow()
    world.backing.save()
    await remove(world, 0)
    await world.all_replicas_follow()
    world.backing.lose()
    await world.converge()
    await all_refuse(world, None)


async def test_log_that_was_cut_to_nothing_undoes_no_removal(begin: Begin) -> None:
    world = await begin()
    await deny(world, 0, 1000)
    await world.all_replicas_follow()
    await remove(world, 0)
    await world.follow(0)
    world.backing.trim()
    await world.converge()
    await all_refuse(world, None)


@pytest.mark.parametrize("steps", range(1, 12))
async def test_store_that_is_emptied_while_everything_is_being_read_is_filled(begin: Begin, steps: int) -> None:
    """At any call of the reading, with one process only."""
    world = await begin(1)
    await deny(world, 0, 1000)
    await world.follow(0)
    world.mirrors[0]._position = ""
    held = world.start(world.follow(0))
    for _ in range(steps):
        await world.step(held)
    world.backing.wipe()
    await world.finish(held)
    await world.converge()
    await all_refuse(world, 1000)
