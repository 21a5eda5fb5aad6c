"""Records last, a bot has one token, and the memory copy follows every process's writes without being asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.db import Database
from sidecar.errors import Cause, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.metrics import Metrics
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.tokens.records import Changes, RecordMirror, SqliteRecords
from tests.support.hand_clock import HandClock


def record(token_id: str = "1", **changes: Any) -> TokenRecord:
    plain = TokenRecord(
        id=token_id,
        token_hash="ab",
        name="ingest",
        kind=TokenKind.PERSONAL,
        actor_id="sam",
        actor_type=ActorType.USER,
        created_at=1_800_000_000.0,
    )
    return replace(plain, **changes)


def bot(token_id: str, actor_id: str = "ingest", **changes: Any) -> TokenRecord:
    return record(token_id, kind=TokenKind.BOT, actor_id=actor_id, actor_type=ActorType.SERVICE, **changes)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "s.db", Metrics())
    yield opened
    await opened.aclose()


@pytest.fixture
def records(database: Database) -> SqliteRecords:
    return SqliteRecords(database)


class FlakyStore:
    """A store that counts what it is asked, can be down, and can be held up."""

    def __init__(self, *known: TokenRecord) -> None:
        self.known = {item.id: item for item in known}
        self.reached = 0
        self.changed: tuple[TokenRecord, ...] = ()
        self.down = False
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def add(self, record: TokenRecord) -> None:
        self.known[record.id] = record

    async def get(self, token_id: str) -> TokenRecord | None:
        self.asked.append(token_id)
        await self.go_on.wait()
        self._fail_when_down()
        return self.known.get(token_id)

    async def changes(self, after: int) -> Changes:
        self._fail_when_down()
        return Changes(self.reached, self.changed if after < self.reached else ())

    def _fail_when_down(self) -> None:
        if self.down:
            raise Unavailable(Cause.STORE_UNAVAILABLE)


def mirror_of(store: FlakyStore | SqliteRecords, clock: HandClock | None = None) -> RecordMirror:
    clock = clock or HandClock()
    return RecordMirror(store, clock, Metrics(), clock.wait)


async def test_record_comes_back_as_it_was_written(records: SqliteRecords) -> None:
    full = record(
        expires_at=1_900_000_000.5,
        description="d\u00e9",
        roles=("a", "b,c"),
        allow_impersonation=True,
        is_admin=True,
        owner=Owner("iss", "corp", "sub", "sam"),
        last_used_at=1_800_000_001.0,
    )
    await records.add(full)
    assert await records.get("1") == full
    assert await records.get("2") is None


async def test_new_token_of_a_bot_ends_its_older_ones(records: SqliteRecords) -> None:
    for item in (bot("1"), bot("other", "crawler"), record("mine", actor_id="ingest")):
        await records.add(item)
    await records.add(bot("2", created_at=1_800_000_100.0))
    old = await records.get("1")
    assert old is not None
    assert old.revoked_at == 1_800_000_100.0
    for untouched in ("2", "other", "mine"):
        kept = await records.get(untouched)
        assert kept is not None
        assert kept.revoked_at is None


async def test_of_two_tokens_minted_at_once_one_survives(records: SqliteRecords) -> None:
    await asyncio.gather(*(records.add(bot(str(number))) for number in range(10)))
    everything = (await records.changes(0)).records
    assert len([item for item in everything if item.revoked_at is None]) == 1
    assert len(everything) == 10


async def test_record_that_cannot_be_written_ends_nothing(records: SqliteRecords) -> None:
    await records.add(bot("1"))
    with pytest.raises(Unavailable):
        await records.add(bot("1"))
    kept = await records.get("1")
    assert kept is not None
    assert kept.revoked_at is None


async def test_changes_are_what_was_written_since(records: SqliteRecords) -> None:
    await records.add(bot("1"))
    first = await records.changes(0)
    assert [item.id for item in first.records] == ["1"]
    assert (await records.changes(first.reached)).records == ()
    await records.add(bot("2"))
    second = await records.changes(first.reached)
    assert sorted((item.id, item.revoked_at is None) for item in second.records) == [("1", False), ("2", True)]
    assert (await records.changes(99)).records  # a point that was never reached: the file is another one


def test_shown_record_has_times_in_utc_and_no_hash() -> None:
    shown = record(expires_at=1_800_000_000.25, roles=("r",), owner=Owner("i", "p", "s", "sam")).as_json()
    assert shown["createdAt"] == "2027-01-15T08:00:00.000Z"
    assert shown["expiresAt"] == "2027-01-15T08:00:00.250Z"
    assert shown["revokedAt"] is None
    assert shown["actor"] == {"type": "USER", "id": "sam"}
    assert shown["owner"] == {"issuer": "i", "provider": "p", "id": "sam"}
    assert "ab" not in shown.values()


async def test_mirror_knows_everything_from_its_start(records: SqliteRecords) -> None:
    await records.add(record("1"))
    mirror = mirror_of(records)
    assert mirror.age == float("inf")
    await mirror.start()
    assert mirror.status("1") == record("1")
    assert mirror.status("2") is None
    assert mirror.age == 0
    await mirror.aclose()


async def test_mirror_follows_another_process(tmp_path: Path, records: SqliteRecords) -> None:
    clock = HandClock()
    mirror = mirror_of(records, clock)
    await mirror.start()
    elsewhere = await Database.open(tmp_path / "s.db", Metrics())
    await SqliteRecords(elsewhere).add(bot("1"))
    await SqliteRecords(elsewhere).add(bot("2"))
    await elsewhere.aclose()
    for _ in range(200):
        if mirror.status("2"):
            break
        clock.advance(RecordMirror.POLL)
        await asyncio.sleep(0.01)
    ended = mirror.status("1")
    assert ended is not None
    assert ended.revoked_at is not None
    assert mirror.status("2") == bot("2")
    await mirror.aclose()


async def test_revocation_reaches_a_token_that_was_known_as_good() -> None:
    store = FlakyStore(record("1"))
    mirror = mirror_of(store)
    await mirror.lookup("1")
    store.reached, store.changed = 1, (record("1", revoked_at=5.0),)
    await mirror.refresh()
    assert await mirror.lookup("1") == mirror.status("1") == record("1", revoked_at=5.0)


async def test_closed_mirror_follows_no_more() -> None:
    store, clock = FlakyStore(), HandClock()
    mirror = mirror_of(store, clock)
    await mirror.start()
    await mirror.aclose()
    await _let_follow(clock)
    assert mirror.age > 0
    assert [task for task in asyncio.all_tasks() if task.get_name() == "record mirror"] == []


async def test_unknown_id_is_asked_of_the_store_once(records: SqliteRecords) -> None:
    clock, store = HandClock(), FlakyStore()
    mirror = mirror_of(store, clock)
    store.go_on.clear()
    waiting = [asyncio.create_task(mirror.lookup("x")) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    store.go_on.set()
    assert set(await asyncio.gather(*waiting[1:])) == {None}
    clock.advance(RecordMirror.ASK_AGAIN - 0.1)
    assert await mirror.lookup("x") is None
    assert store.asked == ["x"]
    clock.advance(0.1)
    assert await mirror.lookup("x") is None
    assert store.asked == ["x", "x"]


async def test_token_minted_a_moment_ago_elsewhere_is_found() -> None:
    mirror = mirror_of(FlakyStore(bot("1")))
    assert await mirror.lookup("1") == bot("1")
    assert mirror.status("1") == bot("1")
    assert mirror.is_bot_name("ingest")


async def test_known_id_is_not_asked_of_the_store() -> None:
    store = FlakyStore(record("1"))
    mirror = mirror_of(store)
    await mirror.lookup("1")
    store.down = True
    assert await mirror.lookup("1") == record("1")
    assert store.asked == ["1"]


async def test_store_that_is_down_is_no_verdict() -> None:
    """Unknown means revoked only when somebody has looked."""
    store = FlakyStore()
    store.down = True
    clock = HandClock()
    mirror = mirror_of(store, clock)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await mirror.lookup("x")
    assert store.asked == ["x"]
    clock.advance(RecordMirror.ASK_AGAIN)
    store.down = False
    assert await mirror.lookup("x") is None


async def test_memory_of_unknown_ids_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordMirror, "_MOST_UNKNOWN", 3)
    store = FlakyStore()
    mirror = mirror_of(store)
    for name in "abcdabcd":
        await mirror.lookup(name)
    assert store.asked == list("abcdabcd")
    await mirror.lookup("d")
    assert len(store.asked) == 8


async def test_start_does_not_need_the_store_and_age_tells() -> None:
    store, clock = FlakyStore(), HandClock()
    store.down = True
    mirror = mirror_of(store, clock)
    await mirror.start()
    assert mirror.age == float("inf")
    store.down = False
    await mirror.refresh()
    clock.advance(7)
    assert mirror.age == 7
    await mirror.aclose()


async def test_follower_goes_on_after_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    store, clock = FlakyStore(), HandClock()
    mirror = mirror_of(store, clock)
    await mirror.start()
    store.down = True
    await _let_follow(clock)
    await _let_follow(clock)
    assert mirror.age > 0
    assert len(caplog.records) == 1  # an outage is told once, not five times a second
    store.down = False
    store.reached, store.changed = 1, (record("1"),)
    await _let_follow(clock)
    assert mirror.status("1") == record("1")
    await mirror.aclose()


async def _let_follow(clock: HandClock) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    clock.advance(RecordMirror.POLL)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_revoked_stays_revoked_whatever_arrives_late() -> None:
    store = FlakyStore(record("1"))
    mirror = mirror_of(store)
    store.reached, store.changed = 1, (record("1", revoked_at=5.0),)
    await mirror.refresh()
    store.reached, store.changed = 2, (record("1"),)
    await mirror.refresh()
    late = mirror.status("1")
    assert late is not None
    assert late.revoked_at == 5.0


async def test_store_that_lost_records_is_read_anew() -> None:
    store = FlakyStore()
    store.reached, store.changed = 9, (record("1"), bot("2"))
    mirror = mirror_of(store)
    await mirror.refresh()
    store.reached, store.changed = 3, (record("3"),)
    store.changes = _everything(store)  # type: ignore[method-assign]  # a store that starts over tells everything
    await mirror.refresh()
    assert mirror.status("1") is None
    assert mirror.status("3") == record("3")
    assert mirror.is_bot_name("ingest")


def _everything(store: FlakyStore) -> Any:
    async def changes(after: int) -> Changes:
        return Changes(store.reached, store.changed)

    return changes


async def test_name_of_a_bot_stays_taken_after_its_token_ended() -> None:
    """Who revokes a bot's token must not thereby hand its name to a person."""
    mirror = mirror_of(FlakyStore(bot("1", revoked_at=5.0)))
    await mirror.lookup("1")
    assert mirror.is_bot_name("ingest")
    assert not mirror.is_bot_name("sam")


async def test_long_expired_records_leave_the_memory() -> None:
    store, clock = FlakyStore(), HandClock()
    mirror = mirror_of(store, clock)
    soon = clock.now() + 10
    store.reached = 1
    store.changed = (record("1", expires_at=soon), record("2"), record("3", expires_at=soon + 86_400))
    await mirror.refresh()
    clock.advance(RecordMirror.KEEP_EXPIRED + 11)
    await mirror.refresh()
    assert [name for name in "123" if mirror.status(name)] == ["2", "3"]


async def test_gauge_shows_the_age() -> None:
    clock, metrics = HandClock(), Metrics()
    mirror = RecordMirror(FlakyStore(), clock, metrics)
    await mirror.refresh()
    clock.advance(3)
    assert metrics.registry.get_sample_value("sidecar_revocation_mirror_age_seconds") == 3
