"""The copy follows every write, asks the store no more than it must, and outlives the loss of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.lru import BoundedLru
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, Changes, Receipt
from sidecar.store.merge import Entries
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.bot_names import make_registration
from sidecar.store.replica.mirror import Mirror
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.store.replica.snapshot import KEEP_EXPIRED
from sidecar.store.revocation_entry import Removal, RevocationEntry, Scope, make_entry
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually
from tests.support.memory_store import MemoryStore

ISSUER = "https://idp.example.com"


def record(token_id: str = "1", **changes: Any) -> TokenRecord:
    plain = TokenRecord(token_id, "ab", "ingest", TokenKind.PERSONAL, "sam", ActorType.USER, 1_800_000_000.0)
    return replace(plain, **changes)


def bot(token_id: str, **changes: Any) -> TokenRecord:
    return record(token_id, kind=TokenKind.BOT, actor_id="ingest", actor_type=ActorType.SERVICE, **changes)


def entry(name: str = "j1", **more: Any) -> RevocationEntry:
    return make_entry(Scope.TOKEN, ISSUER, name, 1_800_000_000.0, **more)


class World:
    """A store that can be held up at any call, a mirror of it, and a clock."""

    def __init__(self) -> None:
        self.store = HeldStore()
        self.clock = HandClock()
        self.metrics = Metrics()
        self.mirror = self.another()

    def another(self) -> Mirror:
        return Mirror(self.store, self.clock, self.metrics, self.clock.wait)

    def is_denied(self, name: str = "j1", mirror: Mirror | None = None) -> bool:
        actor = Actor(ActorType.USER, "sam", issuer=ISSUER, subject="s", token_id=name, issued_at=1_800_000_000.0)
        return (mirror or self.mirror).revocations.match(revocation_keys(actor), self.clock.now()) is not None

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    async def retried(self, holds: Callable[[], object]) -> None:
        """Let the mirror's pauses after failures pass until ``holds()``."""

        def moved() -> object:
            self.clock.advance(Mirror.RETRY[1])
            return holds()

        await eventually(moved)


class HeldStore(MemoryStore):
    """Calls named in ``held`` wait; every call is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.unreadable = 0
        self.next_piece: Changes | None = None

    def hold(self, name: str) -> asyncio.Event:
        self.held[name] = asyncio.Event()
        return self.held[name]

    async def _pass(self, name: str) -> None:
        self.calls.append(name)
        if name in self.held:
            await self.held[name].wait()

    async def write(self, batch: Batch, after: int = 0) -> Receipt:
        receipt = await super().write(batch, after)
        await self._pass("write")
        return receipt

    async def merge(self, entries: Entries) -> Receipt:
        receipt = await super().merge(entries)
        await self._pass("merge")
        return receipt

    async def record(self, token_id: str) -> TokenRecord | None:
        found = await super().record(token_id)
        await self._pass("record")
        return found

    async def follow(self, position: str, wait: float) -> Changes:
        await self._pass("follow")
        piece, self.next_piece = self.next_piece, None
        return piece or await super().follow(position, wait)

    async def snapshot(self) -> AsyncIterator[Changes]:
        async for piece in super().snapshot():
            await self._pass("snapshot")
            yield replace(piece, skipped=self.unreadable)


@pytest.fixture
def world() -> World:
    return World()


@asynccontextmanager
async def following(world: World, mirror: Mirror | None = None) -> AsyncIterator[Mirror]:
    mirror = mirror or world.mirror
    await mirror.start()
    try:
        await mirror.wait_first_load(2)
        yield mirror
    finally:
        await mirror.aclose()


async def test_start_needs_no_store_and_age_tells(world: World) -> None:
    world.store.away = True
    async with following(world) as mirror:
        assert not mirror.is_loaded
        assert mirror.age == float("inf")
        assert world.sample("sidecar_revocation_mirror_age_seconds") == float("inf")
        world.store.away = False
        await world.retried(lambda: mirror.is_loaded)
        assert mirror.age <= Mirror.RETRY[1]


async def test_knows_everything_from_its_start(world: World) -> None:
    await world.store.write(Batch(add=[record()], add_entries=[entry()]))
    async with following(world) as mirror:
        assert mirror.record("1") == record()
        assert mirror.record("2") is None
        assert world.is_denied()
        assert not world.is_denied("j2")
        assert world.sample("sidecar_revocation_entries") == 1
        assert world.sample("sidecar_revocation_endless_entries") == 1


async def test_follows_what_others_write_and_measures_how_long_it_took(world: World) -> None:
    async with following(world) as mirror:
        world.store.now = world.clock.now() - 0.02
        await world.store.write(Batch(add=[record()], add_entries=[entry(), entry("j2")]))
        await eventually(lambda: world.is_denied() and mirror.record("1"))
        assert world.sample("sidecar_revocation_propagation_seconds_count") == 1
        assert world.sample("sidecar_revocation_propagation_seconds_sum") == pytest.approx(0.02, abs=1e-4)
        await world.store.write(Batch(remove_entries=[entry().id], revoke=[("1", 5.0)]))
        await eventually(lambda: not world.is_denied())
        assert world.is_denied("j2")
        assert mirror.record("1") == record(revoked_at=5.0)


async def test_age_grows_while_the_store_is_away_and_the_copy_goes_on_judging(world: World) -> None:
    await world.store.write(Batch(add_entries=[entry()]))
    async with following(world) as mirror:
        world.store.away = True
        world.store.wake()
        world.clock.advance(700)
        assert mirror.age == 700
        assert world.is_denied()
        world.store.away = False
        await world.store.write(Batch(add_entries=[entry("j2")]))
        await world.retried(lambda: world.is_denied("j2"))
        await eventually(lambda: mirror.age < 700)


async def test_own_write_counts_at_once(world: World) -> None:
    """Before the log contains it."""
    async with following(world) as mirror:
        await mirror.write(Batch(add=[bot("1")]))
        world.store.hold("follow")
        await mirror.write(Batch(add_entries=[entry()], add=[bot("2", created_at=7.0)], revoke=[]))
        assert world.is_denied()
        assert mirror.record("2") == bot("2", created_at=7.0)
        assert mirror.record("1") == bot("1", revoked_at=7.0)
        await mirror.write(Batch(add=[bot("3")], keep_bot_tokens=True, remove_entries=[entry().id]))
        assert mirror.record("2") == bot("2", created_at=7.0)
        await mirror.write(Batch(revoke=[("1", 9.0), ("2", 9.0), ("unknown", 9.0)]))
        assert mirror.record("2") == bot("2", created_at=7.0, revoked_at=9.0)
        assert mirror.record("1") == bot("1", revoked_at=7.0)
        assert not world.is_denied()
        world.store.held["follow"].set()


async def test_write_that_failed_changes_nothing_here(world: World) -> None:
    async with following(world) as mirror:
        world.store.away = True
        with pytest.raises(Unavailable):
            await mirror.write(Batch(add_entries=[entry()], add=[record()]))
        assert not world.is_denied()
        assert mirror.record("1") is None


async def test_own_write_while_everything_is_being_read_is_not_lost(world: World) -> None:
    """The snapshot was taken before the write; the copy made of it must hold the write all the same."""
    async with following(world) as mirror:
        gate = world.store.hold("snapshot")
        world.store.trim()
        world.store.trimmed += 1
        world.store.wake()
        await eventually(lambda: world.store.calls.count("snapshot") == 2)
        await mirror.write(Batch(add_entries=[entry()], add=[record()]))
        saved, before = world.store.save(), mirror.revocations
        saved.all_entries.clear()
        saved.all_records.clear()
        saved.log.clear()
        world.store.lose(saved)
        gate.set()
        await eventually(lambda: mirror.revocations is not before)
        assert world.is_denied()
        assert mirror.record("1") == record()
        await eventually(lambda: world.store.all_entries and world.store.all_records)


async def test_entry_of_ones_own_is_not_ended_by_an_older_removal_in_the_log(world: World) -> None:
    """An entry is removed and added again at once, and the log shows the first change only after the second."""
    async with following(world) as mirror:
        held = world.store.hold("follow")
        world.store.wake()
        await eventually(lambda: world.store.calls.count("follow") > 1)
        removed = await MemoryStore.write(world.store, Batch(add_entries=[entry("j2")], remove_entries=[entry().id]))
        await mirror.write(Batch(add_entries=[entry()]))
        piece = Changes(mirror._position, removals=tuple(removed.entries.removals), revocations=(entry("j3"),))
        world.store.next_piece = piece
        held.set()
        await eventually(lambda: world.is_denied("j3"))
        assert world.is_denied()
        await eventually(lambda: not mirror._promises)
        assert world.is_denied()


@asynccontextmanager
async def late_answer(world: World, mirror: Mirror, batch: Batch) -> AsyncIterator[None]:
    """``batch`` has been written by ``mirror``, which receives it only when the block has ended."""
    answer = world.store.hold("write")
    writing = asyncio.create_task(mirror.write(batch))
    await eventually(lambda: "write" in world.store.calls)
    del world.store.held["write"]
    yield
    answer.set()
    await writing


async def test_late_answer_does_not_end_the_bots_token_that_came_after(world: World) -> None:
    """Of two tokens minted for one bot at once exactly one survives, the same everywhere."""
    async with following(world) as mirror:
        await world.store.write(Batch(add=[bot("1")]))
        await eventually(lambda: mirror.record("1"))
        world.store.calls.clear()
        async with late_answer(world, mirror, Batch(add=[bot("2", created_at=1_800_000_001.0)])):
            await world.store.write(Batch(add=[bot("3", created_at=1_800_000_002.0)]))
            await eventually(lambda: mirror.record("3"))
        ended = [found is not None and found.revoked_at is not None for found in map(mirror.record, "123")]
        assert ended == [True, True, False]


async def test_late_answer_to_a_removal_does_not_end_the_entry_that_came_after(world: World) -> None:
    await world.store.write(Batch(add_entries=[entry()]))
    async with following(world) as mirror:
        world.store.calls.clear()
        async with late_answer(world, mirror, Batch(remove_entries=[entry().id])):
            await eventually(lambda: not world.is_denied())
            await world.store.write(Batch(add_entries=[entry()]))
            await eventually(world.is_denied)
        assert world.is_denied()


async def test_late_answer_to_an_entry_does_not_undo_the_removal_that_came_after(world: World) -> None:
    async with following(world) as mirror:
        async with late_answer(world, mirror, Batch(add_entries=[entry()])):
            await eventually(world.is_denied)
            await world.store.write(Batch(remove_entries=[entry().id]))
            await eventually(lambda: not world.is_denied())
        assert not world.is_denied()


async def test_late_answer_to_an_entry_does_not_undo_what_one_piece_of_the_log_told(world: World) -> None:
    """A removal, or a longer entry: the piece has only the last word."""
    for later, outcome in (
        (Batch(remove_entries=[entry().id]), False),
        (Batch(add_entries=[entry(expires_at=world.clock.now() + 900)]), True),
    ):
        world.store.calls.clear()
        async with following(world, world.another()) as mirror:
            gate = world.store.hold("follow")
            world.store.wake()
            await eventually(lambda: "follow" in world.store.calls)
            short = entry(expires_at=world.clock.now() + 60)
            async with late_answer(world, mirror, Batch(add_entries=[short])):
                await world.store.write(later)
                gate.set()
                del world.store.held["follow"]
                await world.store.write(Batch(add_entries=[entry("heard")]))
                await eventually(lambda: world.is_denied("heard", mirror))
            world.clock.advance(120)
            assert world.is_denied("j1", mirror) is outcome
        world.store.empty()


async def test_denied_and_removed_in_one_piece_of_the_log_ends_as_the_store_says(world: World) -> None:
    async with following(world):
        gate = world.store.hold("follow")
        await world.store.write(Batch(add_entries=[entry("end")]))
        await eventually(lambda: world.is_denied("end"))
        await world.store.write(Batch(add_entries=[entry()]))
        await world.store.write(Batch(remove_entries=[entry().id]))
        await world.store.write(Batch(add_entries=[entry("last")]))
        gate.set()
        await eventually(lambda: world.is_denied("last") and not world.is_denied())


async def test_gap_leads_to_a_new_snapshot_and_what_was_removed_meanwhile_stays_so(world: World) -> None:
    await world.store.write(Batch(add_entries=[entry()]))
    async with following(world):
        gate = world.store.hold("follow")
        world.store.wake()
        await world.store.write(Batch(add_entries=[entry("j2")], remove_entries=[entry().id]))
        world.store.trim()
        world.store.trimmed += 5
        gate.set()
        await eventually(lambda: world.is_denied("j2"))
        assert not world.is_denied()
        assert world.store.calls.count("snapshot") == 2
        assert not world.store.all_entries.keys() & {entry().id}
        assert world.sample("sidecar_store_reseeds_total") == 0


async def test_old_picture_stands_until_the_new_one_is_complete(world: World) -> None:
    await world.store.write(Batch(add_entries=[entry()], add=[record()]))
    async with following(world) as mirror:
        gate = world.store.hold("snapshot")
        world.store.trim()
        world.store.trimmed += 1
        world.store.wake()
        await eventually(lambda: world.store.calls.count("snapshot") == 2)
        assert world.is_denied()
        assert mirror.record("1") == record()
        before = mirror.revocations
        gate.set()
        await eventually(lambda: mirror.revocations is not before)
        assert world.is_denied()


async def test_emptied_store_gets_back_what_was_known(world: World, caplog: pytest.LogCaptureFixture) -> None:
    now = world.clock.now()
    cut_off = make_entry(Scope.SUBJECT, ISSUER, "kim", now, issued_before=now, reason="left", created_by="USER:admin")
    passing = [entry("over", expires_at=now + 60), entry("long over", expires_at=now - 86_400)]
    await world.store.write(Batch(add=[record(revoked_at=5.0), bot("2")], add_entries=[entry(), cut_off, *passing]))
    await world.store.write(Batch(add_entries=[entry("off")]))
    await world.store.write(Batch(remove_entries=[entry("off").id]))
    async with following(world):
        world.clock.advance(90)
        with caplog.at_level(logging.CRITICAL):
            world.store.empty()
            assert world.is_denied()
            await eventually(lambda: world.store.all_records)
        assert world.store.all_entries == {item.id: item for item in (entry(), cut_off, passing[0])}
        assert world.store.all_records == {"1": record(revoked_at=5.0), "2": bot("2")}
        assert world.store.removals.keys() == {entry("off").id}
        assert world.store.mark not in ("", "g1")
        await eventually(lambda: world.sample("sidecar_store_reseeds_total") == 1)
        assert [entry.levelname for entry in caplog.records] == ["CRITICAL"]
        await world.store.write(Batch(add_entries=[entry("new")]))
        await eventually(lambda: world.is_denied("new"))
        assert world.is_denied()


async def test_what_only_the_second_mirror_knew_comes_back_as_well(world: World) -> None:
    """The store lost the last writes with everything else; the first to notice had not heard of them."""
    world.store.all_records["1"] = record()
    async with following(world) as first, following(world, world.another()) as second:
        second._picture.add([entry("late")])
        second._picture.end("1", 9.0)
        second._picture.merge_record(record("3"))
        world.store.empty()
        await world.store.write(Batch(add_entries=[entry()]))
        await eventually(lambda: entry("late").id in world.store.all_entries)
        await eventually(lambda: world.is_denied("late", first) and world.is_denied("late", second))
        assert world.store.all_records["1"].revoked_at == 9.0
        assert world.store.all_records["3"] == record("3")


async def test_store_that_went_back_gets_the_lost_writes_again(world: World) -> None:
    """A failover to a replica that had not heard of the last ones, known from the log or not."""
    async with following(world) as mirror:
        saved = world.store.save()
        await world.store.write(Batch(add_entries=[entry("j2")]))
        await eventually(lambda: world.is_denied("j2"))
        held = world.store.hold("follow")
        world.store.wake()
        await mirror.write(Batch(add_entries=[entry()], add=[record()]))
        world.store.lose(saved)
        held.set()
        await eventually(lambda: len(world.store.all_entries) == 2)
        await eventually(lambda: world.store.all_records == {"1": record()})
        assert world.is_denied()


async def test_write_that_the_store_lost_before_the_log_had_it_is_repeated(world: World) -> None:
    """The log ends where this process stands: only the answer that it was given tells that something is lost."""
    async with following(world) as mirror:
        await world.store.write(Batch(add_entries=[entry("j2")]))
        await eventually(lambda: world.is_denied("j2"))
        saved = world.store.save()
        held = world.store.hold("follow")
        world.store.wake()
        await eventually(lambda: world.store.calls.count("follow") > 2)
        await mirror.write(Batch(add_entries=[entry()], remove_entries=[entry("j2").id]))
        world.store.lose(saved)
        held.set()
        await eventually(lambda: entry().id in world.store.all_entries)
        await eventually(lambda: not world.store.all_entries.keys() & {entry("j2").id})
        assert world.is_denied()
        assert not world.is_denied("j2")


async def test_answer_that_spans_a_reading_of_everything_is_asked_again(world: World) -> None:
    """What has been read may have come of the write, or have lost it."""
    for later in ((), (entry().id,)):
        async with following(world, world.another()) as mirror:
            world.store.calls.clear()
            async with late_answer(world, mirror, Batch(add_entries=[entry()])):
                if later:
                    await world.store.write(Batch(remove_entries=later))
                before = mirror.revocations
                world.store.trim()
                world.store.trimmed += 1
                world.store.wake()
                await eventually(lambda: mirror.revocations is not before)  # noqa: B023 - awaited here
            assert world.is_denied("j1", mirror) is not bool(later)
        world.store.empty()


async def test_record_that_stands_again_in_the_store_is_ended_again(world: World) -> None:
    async with following(world) as mirror:
        await mirror.write(Batch(add=[record()]))
        await mirror.write(Batch(revoke=[("1", 9.0)]))
        await eventually(lambda: not mirror._promises)
        world.store.all_records["1"] = record(version=mirror._picture.records()[0].version)
        world.store.log[-1].records.append("1")
        world.store.log.append(replace(world.store.log[-1], mark="ff"))
        world.store.head = "ff"
        world.store.wake()
        await eventually(lambda: world.store.all_records["1"].revoked_at == 9.0)


async def test_copy_is_not_fresh_before_it_has_everything(world: World) -> None:
    """The age counts from when the store had nothing more to tell, not from its first piece."""
    async with following(world) as mirror:
        world.store.away = True
        world.store.wake()
        world.clock.advance(3600)
        for number in range(200):
            await MemoryStore.write(replace_away(world.store), Batch(add_entries=[entry(f"x{number}")]))
        world.store.away = True
        assert mirror.age >= 3600
        ages: list[float] = []
        follow = MemoryStore.follow

        async def counted(position: str, wait: float) -> Changes:
            ages.append(mirror.age)
            return await follow(world.store, position, wait)

        world.store.follow = counted  # type: ignore[method-assign]
        world.store.away = False
        await world.retried(lambda: world.is_denied("x199") and mirror.age < 60)
        assert sum(age >= 3600 for age in ages) >= 3, "200 entries come in four pieces"


async def test_answer_that_was_slow_is_as_old_as_its_question(world: World) -> None:
    """A server that was frozen answers by what it had when it was asked, however long the answer took."""
    calls = world.store.calls
    async with following(world) as mirror:
        released, count = world.store.hold("follow"), calls.count("follow")
        world.store.wake()
        await eventually(lambda: calls.count("follow") > count)
        world.store.next_piece = Changes(mirror._position, asked_after=0.25)
        world.clock.advance(5)
        again = world.store.hold("follow")
        released.set()
        await eventually(lambda: calls.count("follow") > count + 1)
        assert mirror.age == 4.75
        again.set()


def replace_away(store: HeldStore) -> HeldStore:
    """``store``, there again for others."""
    store.away = False
    return store


async def test_new_store_is_given_a_mark_and_nothing_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.store.mark = ""
    with caplog.at_level(logging.WARNING):
        async with following(world):
            assert world.store.mark
    assert world.sample("sidecar_store_reseeds_total") == 0
    assert not caplog.records


async def test_what_cannot_be_understood_is_skipped_and_counted(world: World) -> None:
    strange = replace(entry("nan"), expires_at=float("nan"))
    async with following(world) as mirror:
        world.store.next_piece = Changes("0", revocations=(strange, entry()), skipped=2)
        world.store.wake()
        await world.store.write(Batch())
        await eventually(world.is_denied)
        assert len(mirror.revocations) == 1
        assert world.sample("sidecar_revocation_skipped_entries_total") == 3


async def test_skipped_entries_are_counted(world: World) -> None:
    world.store.all_entries["x"] = replace(entry("nan"), id="x", expires_at=float("nan"))
    world.store.unreadable = 4
    async with following(world):
        assert world.sample("sidecar_revocation_skipped_entries_total") == 5


async def test_fault_of_the_store_does_not_end_the_following(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with following(world):

        async def faulty(position: str, wait: float) -> Changes:
            del world.store.follow
            raise KeyError("secret")

        world.store.follow = faulty  # type: ignore[method-assign]
        world.store.wake()
        await world.store.write(Batch(add_entries=[entry()]))
        await world.retried(world.is_denied)
    assert "secret" not in caplog.text


async def test_unknown_id_is_asked_of_the_store_once(world: World) -> None:
    async with following(world) as mirror:
        gate = world.store.hold("record")
        waiting = [asyncio.create_task(mirror.lookup("x")) for _ in range(50)]
        await eventually(lambda: world.store.calls.count("record"))
        waiting[0].cancel()
        gate.set()
        assert set(await asyncio.gather(*waiting[1:])) == {None}
        world.clock.advance(Mirror.ASK_AGAIN - 0.1)
        assert await mirror.lookup("x") is None
        assert world.store.calls.count("record") == 1
        world.clock.advance(0.1)
        assert await mirror.lookup("x") is None
        assert world.store.calls.count("record") == 2


async def test_token_minted_a_moment_ago_elsewhere_is_found_and_then_known(world: World) -> None:
    world.store.all_records["1"] = bot("1")
    mirror = world.mirror
    assert await mirror.lookup("1") == bot("1")
    assert mirror.record("1") == bot("1")
    assert mirror.is_bot_name("ingest")
    world.store.away = True
    assert await mirror.lookup("1") == bot("1")


async def test_store_that_is_down_is_no_verdict(world: World) -> None:
    """Unknown means revoked only after a lookup."""
    world.store.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.mirror.lookup("x")
    world.clock.advance(Mirror.ASK_AGAIN)
    world.store.away = False
    assert await world.mirror.lookup("x") is None


async def test_memory_of_unknown_ids_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.mirror, "_unknown", BoundedLru(3))
    for name in "abcdabcd":
        await world.mirror.lookup(name)
    assert world.store.calls.count("record") == 8
    await world.mirror.lookup("d")
    assert world.store.calls.count("record") == 8


async def test_answer_that_was_on_its_way_does_not_bring_a_revoked_token_back(world: World) -> None:
    async with following(world) as mirror:
        world.store.all_records["1"] = record()
        gate = world.store.hold("record")
        asked = asyncio.create_task(mirror.lookup("1"))
        await eventually(lambda: world.store.calls.count("record"))
        await world.store.write(Batch(revoke=[("1", 9.0)]))
        await eventually(lambda: mirror.record("1"))
        gate.set()
        await asked
        assert mirror.record("1") == record(revoked_at=9.0)


async def test_removal_is_remembered_until_its_end(world: World) -> None:
    async with following(world) as mirror:
        mirror._picture.remove(Removal(entry().id, 5, world.clock.now() + 60))
        mirror._picture.prune_removals(world.clock.now() + 86_400)
        assert mirror._picture.removal(entry().id)
        mirror._picture.prune_removals(world.clock.now() + 86_400 + 61)
        assert mirror._picture.removal(entry().id) is None


async def test_name_of_a_bot_stays_taken_after_its_token_ended(world: World) -> None:
    """Who revokes a bot's token must not thereby hand its name to a person."""
    async with following(world) as mirror:
        await mirror.write(Batch(add=[bot("1")]))
        await mirror.write(Batch(revoke=[("1", 5.0)]))
        assert mirror.is_bot_name("ingest")
        assert not mirror.is_bot_name("sam")


async def test_a_name_that_becomes_reserved_changes_the_version_of_the_list(world: World) -> None:
    """The gate checks the name of a known credential again for another version only."""
    async with following(world) as mirror:
        versions = [mirror.revocations.version]

        async def changes(batch: Batch) -> bool:
            await mirror.write(batch)
            versions.append(mirror.revocations.version)
            return versions[-1] != versions[-2]

        assert await changes(Batch(add=[bot("1")]))
        assert not await changes(Batch(add=[bot("2")]))  # the name is reserved already
        assert not await changes(Batch(add=[record("3")]))
        assert await changes(Batch(add=[make_registration("other", 1, world.clock.now(), "root")]))


async def test_what_ended_long_ago_leaves_the_memory(world: World) -> None:
    soon = world.clock.now() + 10
    batch = Batch(
        add=[record("1", expires_at=soon), record("2"), bot("3", expires_at=soon + 86_400)],
        add_entries=[entry(expires_at=soon), entry("j2")],
    )
    async with following(world) as mirror:
        await mirror.write(batch)
        world.clock.advance(KEEP_EXPIRED + 120)
        await world.store.write(Batch(add_entries=[entry("j3")]))
        await eventually(lambda: mirror.record("1") is None)
        assert mirror.record("2")
        assert mirror.record("3")
        assert mirror.is_bot_name("ingest")
        assert len(mirror.revocations) == 2


async def test_mostly_waste_is_read_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.replica.revocation_list._MAX_WASTE", 3)
    async with following(world) as mirror:
        for number in range(4):
            await mirror.write(Batch(add_entries=[entry(f"j{number}")]))
            await mirror.write(Batch(remove_entries=[entry(f"j{number}").id]))
        await eventually(lambda: len(mirror.revocations._archive) == 0)
        assert world.store.calls.count("snapshot") == 2


async def _changed_within(wait: Callable[[float], Awaitable[None]], seconds: float) -> bool:
    try:
        await asyncio.wait_for(wait(60), seconds)
    except TimeoutError:
        return False
    return True


async def test_a_change_wakes_those_that_wait_for_it(world: World) -> None:
    async with following(world) as mirror:
        waiting = asyncio.create_task(_changed_within(mirror.changed, 5))
        await asyncio.sleep(0)
        await world.store.write(Batch(add_entries=[entry()]))
        assert await waiting
        await mirror.changed(0.01)
    waiting = asyncio.create_task(_changed_within(world.mirror.changed, 5))
    await asyncio.sleep(0)
    await world.mirror._load()
    assert await waiting


async def test_revocations_of_this_process_are_counted_by_kind_and_scope() -> None:
    """Once the store has them, and not those that others have written."""
    world = World()
    await world.mirror.start()
    await world.mirror.write(Batch(add=(record("1"), bot("2"))))
    await world.mirror.write(Batch(revoke=(("1", world.clock.now()), ("2", world.clock.now())), add_entries=(entry(),)))
    await world.store.write(Batch(add_entries=(entry("j2"),)))
    await eventually(lambda: world.is_denied("j2"))
    counted = [world.sample("sidecar_tokens_revoked_total", kind=kind) for kind in ("personal", "bot", "token")]
    assert counted == [1, 1, 1]
    await world.mirror.aclose()
