"""What a store promises, of whatever kind it is."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.identity.actor import ActorType
from sidecar.store.base import Batch, Changes, Companion, GapError, Page, RecordQuery, Store
from sidecar.store.merge import Entries
from sidecar.store.record import Current, Owner, TokenKind, TokenRecord, bot_key
from sidecar.store.replica.bot_names import make_registration
from sidecar.store.revocation_entry import Removal, RevocationEntry, Scope, make_entry
from tests.support.hand_clock import HandClock
from tests.support.memory_store import MemoryStore

Open = Callable[..., Awaitable[Store]]
NOW = 1_800_000_000.0
HOSTILE = "\ud800\x00{}\r\n'\"\u20ac"


def record(token_id: str = "1", **changes: Any) -> TokenRecord:
    plain = TokenRecord(
        id=token_id,
        token_hash="ab",
        name="ingest",
        kind=TokenKind.PERSONAL,
        actor_id="sam",
        actor_type=ActorType.USER,
        created_at=NOW,
    )
    return replace(plain, **changes)


def bot(token_id: str, actor_id: str = "crawler", **changes: Any) -> TokenRecord:
    return record(token_id, kind=TokenKind.BOT, actor_id=actor_id, actor_type=ActorType.SERVICE, **changes)


def entry(name: str = "j", issuer: str = "iss", created_at: float = NOW, **changes: Any) -> RevocationEntry:
    return make_entry(Scope.TOKEN, issuer, name, created_at, **changes)


async def stand(store: Store) -> tuple[dict[str, TokenRecord], dict[str, RevocationEntry], str]:
    """All that the store has, and the position of one who knows it."""
    records: dict[str, TokenRecord] = {}
    entries: dict[str, RevocationEntry] = {}
    position = ""
    async for piece in store.snapshot():
        records |= {item.id: item for item in piece.records}
        entries |= {item.id: item for item in piece.revocations}
        position = piece.position
        assert not piece.skipped
    return records, entries, position


async def collect(store: Store, position: str, enough: Callable[[Changes], bool]) -> Changes:
    """What is followed from ``position`` until ``enough``, put together."""
    seen = Changes(position)
    async with asyncio.timeout(10):
        while not enough(seen):
            more = await store.follow(seen.position, 2.0)
            seen = Changes(
                more.position,
                seen.records + more.records,
                seen.revocations + more.revocations,
                seen.removals + more.removals,
                seen.currents + more.currents,
                seen.ends + more.ends,
                seen.written_at + more.written_at,
                seen.skipped + more.skipped,
            )
    return seen


async def test_record_comes_back_as_it_was_written(store: Store) -> None:
    full = record(
        "jti/1",
        created_at=NOW + 0.123456,
        expires_at=NOW + 1.7,
        description=HOSTILE,
        roles=("a", "b,c"),
        allow_impersonation=True,
        is_admin=True,
        owner=Owner("iss", "corp", HOSTILE, "sam"),
        last_used_at=NOW + 2.1,
        revoked_at=NOW + 3.3,
        format="datahub",
    )
    await store.write(Batch(add=[full, record("2")]))
    assert await store.record("jti/1") == full
    assert await store.record("2") == record("2")
    owned = await store.records(RecordQuery(owner=("iss", HOSTILE)), "", 10)
    assert owned.records == (full,)


async def test_ids_that_strangers_choose_are_only_unknown(store: Store) -> None:
    for name in ("", "unknown", HOSTILE, "x" * 100_000):
        assert await store.record(name) is None
        assert await store.entry(name) is None


async def test_entry_comes_back_as_it_was_written(store: Store) -> None:
    full = make_entry(
        Scope.SUBJECT, "iss", HOSTILE, NOW + 0.25, issued_before=NOW - 1.5, expires_at=NOW + 9.75, reason=HOSTILE,
        created_by="sam",
    )  # fmt: skip
    endless = make_entry(Scope.ISSUER, "", "", NOW, issued_before=NOW)
    await store.write(Batch(add_entries=[full, endless]))
    assert await store.entry(full.id) == full
    assert (await stand(store))[1] == {full.id: full, endless.id: endless}


async def test_entry_of_the_same_id_is_replaced_and_a_forgiven_one_gone(store: Store) -> None:
    first, other = entry(reason="a", expires_at=NOW + 60), entry("other")
    again = replace(first, reason="b", created_at=NOW + 5, expires_at=None)
    await store.write(Batch(add_entries=[first, other]))
    await store.write(Batch(add_entries=[again]))
    assert await store.entry(first.id) == again
    assert await store.entries(None, "", 10, NOW + 3600) == Page(entries=(again, other), total=2)
    assert (await store.entries("iss", "", 10, NOW)).entries == (again, other)
    await store.write(Batch(remove_entries=[first.id, "unknown"]))
    assert await store.entry(first.id) is None
    assert await store.entries("iss", "", 10, NOW) == Page(entries=(other,), total=1)


async def test_new_token_of_a_bot_ends_its_older_ones(store: Store) -> None:
    await store.write(Batch(add=[bot("1"), bot("other", "walker"), record("mine", actor_id="crawler")]))
    await store.write(Batch(add=[bot("2", created_at=NOW + 100)]))
    ended = await store.record("1")
    assert ended is not None
    assert ended.revoked_at == NOW + 100
    await store.write(Batch(add=[bot("3", created_at=NOW + 200)], keep_bot_tokens=True))
    for untouched in ("2", "3", "other", "mine"):
        kept = await store.record(untouched)
        assert kept is not None
        assert kept.revoked_at is None, untouched
    await store.write(Batch(add=[bot("4", created_at=NOW + 300)]))
    standing = (await store.records(RecordQuery(kind="bot", active=True, now=NOW), "", 10)).records
    assert {item.id for item in standing} == {"4", "other"}


async def test_of_tokens_minted_for_a_bot_at_once_one_survives_everywhere(open_store: Open) -> None:
    stores = [await open_store(), await open_store()]
    _, _, position = await stand(stores[0])
    await asyncio.gather(*(stores[number % 2].write(Batch(add=[bot(str(number))])) for number in range(20)))
    views = [(await stand(store))[0] for store in stores]
    seen = await collect(stores[1], position, lambda changes: len({item.id for item in changes.records}) == 20)
    views.append({item.id: item for item in seen.records})
    assert len([item for item in views[0].values() if item.revoked_at is None]) == 1
    assert len(views[0]) == 20
    assert views[0] == views[1] == views[2]


async def test_receipt_of_an_id_that_exists_has_no_record(store: Store) -> None:
    """Of many writers of one id one learns that it was the first; the others have changed nothing."""
    rivals = [record("x_1", kind=TokenKind.EXCHANGED, token_hash=f"{number}") for number in range(8)]
    receipts = await asyncio.gather(*(store.write(Batch(add=(rival,))) for rival in rivals))
    winners = [rival for rival, receipt in zip(rivals, receipts, strict=True) if receipt.entries.records]
    (winner,) = winners
    found = await store.record("x_1")
    assert found is not None
    assert found.token_hash == winner.token_hash
    assert not (await store.write(Batch(add=(record("x_1", token_hash="late"),)))).entries.records
    listed = await store.records(RecordQuery(), "", 10)
    assert [one.id for one in listed.records] == ["x_1"]
    assert (await store.records(RecordQuery(kind="exchanged"), "", 10)).records == listed.records


async def test_writing_a_batch_again_changes_nothing(store: Store) -> None:
    batch = Batch(add=[bot("1")], add_entries=[entry()])
    await store.write(batch)
    await store.write(Batch(add=[bot("2", created_at=NOW + 1)]))
    before = await stand(store)
    await store.write(batch)
    assert (await stand(store))[:2] == before[:2]


async def test_record_that_has_ended_keeps_its_end(store: Store) -> None:
    await store.write(Batch(add=[record()]))
    await store.write(Batch(revoke=[("1", NOW + 1), ("unknown", NOW)]))
    await store.write(Batch(revoke=[("1", NOW + 2)]))
    ended = await store.record("1")
    assert ended is not None
    assert ended.revoked_at == NOW + 1
    assert await store.record("unknown") is None


async def test_batch_takes_effect_as_a_whole(store: Store) -> None:
    _, _, position = await stand(store)
    await store.write(Batch(add=[record("1")]))
    await store.write(Batch(add=[record("2")], revoke=[("1", NOW)], add_entries=[entry(str(n)) for n in range(1000)]))
    seen = await store.follow(position, 1.0)
    while len(seen.revocations) == 0:
        seen = await store.follow(seen.position, 1.0)
    assert len(seen.revocations) == 1000
    assert {item.id: item.revoked_at for item in seen.records} == {"1": NOW, "2": None}


async def test_last_use_only_goes_forward_and_is_no_change(store: Store) -> None:
    await store.write(Batch(add=[record()]))
    _, _, position = await stand(store)
    await store.touch([("1", NOW + 5), ("unknown", NOW), (HOSTILE, NOW)])
    await store.touch([("1", NOW + 4)])
    used = await store.record("1")
    assert used is not None
    assert used.last_used_at == NOW + 5
    assert await store.record("unknown") is None
    assert await store.follow(position, 0.0) == Changes(position)


async def test_records_are_listed_newest_first_in_pages(store: Store) -> None:
    # two of a kind at the same instant: no page may repeat or drop one of them
    await store.write(Batch(add=[record(str(number), created_at=NOW + number // 2) for number in range(9)]))
    ids: list[str] = []
    after = ""
    for more in (True, True, True, True, False):
        page = await store.records(RecordQuery(), after, 2)
        assert page.total == 9
        ids += [item.id for item in page.records]
        after = page.after
        assert bool(after) is more
    assert ids == ["8", "7", "6", "5", "4", "3", "2", "1", "0"]


async def test_records_are_found_by_what_is_asked(store: Store) -> None:
    mine = Owner("iss", "corp", "sub", "sam")
    await store.write(
        Batch(
            add=[
                record("1", owner=mine, expires_at=NOW + 10),
                record("2", owner=mine, kind=TokenKind.SESSION, created_at=NOW + 1),
                record("3", owner=replace(mine, issuer="other"), created_at=NOW + 2),
                bot("4", created_at=NOW + 3),
                record("5", owner=mine, revoked_at=NOW, created_at=NOW + 4),
            ]
        )
    )
    for query, expected in (
        (RecordQuery(owner=("iss", "sub")), "521"),
        (RecordQuery(owner=("iss", "sub"), actor_id="unknown"), ""),
        (RecordQuery(owner=("iss", "sub"), owner_provider=mine.provider), "521"),
        (RecordQuery(owner=("iss", "sub"), owner_provider="another"), ""),
        (RecordQuery(actor_id="crawler"), "4"),
        (RecordQuery(kind="session"), "2"),
        (RecordQuery(active=True, now=NOW + 9), "4321"),
        (RecordQuery(active=True, now=NOW + 10), "432"),
        (RecordQuery(active=False, now=NOW + 10), "51"),
        (RecordQuery(owner=("iss", "sub"), active=False, now=NOW + 10, kind="personal"), "51"),
    ):
        page = await store.records(query, "", 10)
        assert "".join(item.id for item in page.records) == expected, query
        assert page.total == len(expected)
        if len(expected) > 1:
            first = await store.records(query, "", 1)
            rest = await store.records(query, first.after, 10)
            assert (first.records + rest.records, rest.total) == (page.records, page.total)


async def test_names_kept_for_bots_are_found_by_their_kind_alone(store: Store) -> None:
    """They are carried with the records of tokens, counted among none of them, and end once."""
    names = [make_registration(name, 0, NOW + place, "root") for place, name in enumerate(("one", "two"))]
    await store.write(Batch(add=[*names, bot("1", "one"), record("2")]))
    await store.write(Batch(add=names, revoke=[(names[0].id, NOW + 9)]))
    for query in (
        RecordQuery(),
        RecordQuery(active=True, now=NOW),
        RecordQuery(actor_id="one"),
        RecordQuery(kind="bot"),
    ):
        page = await store.records(query, "", 10)
        assert not [item for item in page.records if item.kind is TokenKind.BOT_NAME]
        assert page.total == len(page.records)
    every = RecordQuery(actor_id="", kind="bot_name")
    assert (await store.records(every, "", 10)).total == 2
    standing = await store.records(replace(every, active=True, now=NOW), "", 10)
    assert standing == Page(records=(names[1],), total=1)
    kept, _, _ = await stand(store)
    assert kept[names[0].id] == replace(names[0], revoked_at=NOW + 9)


async def test_entries_are_listed_newest_first_without_expired_ones(store: Store) -> None:
    await store.write(
        Batch(
            add_entries=[
                entry(str(number), "even" if number % 2 == 0 else "odd", NOW + number, expires_at=NOW + 10 * number)
                for number in range(1, 8)
            ]
        )
    )
    page = await store.entries(None, "", 2, NOW + 30)
    assert ([item.name for item in page.entries], page.total) == (["7", "6"], 4)
    page = await store.entries(None, page.after, 10, NOW + 30)
    assert ([item.name for item in page.entries], page.after) == (["5", "4"], "")
    page = await store.entries("odd", "", 10, NOW + 30)
    assert [item.name for item in page.entries] == ["7", "5"]
    assert await store.entries("unknown", "", 10, NOW) == Page()


async def test_marks_of_pages_that_are_none_are_refused(store: Store) -> None:
    for after in ("x", "0", "\ud800", "{}", "zz" * 300):
        with pytest.raises(ValueError, match="mark"):
            await store.records(RecordQuery(), after, 10)
        with pytest.raises(ValueError, match="mark"):
            await store.entries(None, after, 10, NOW)


async def test_a_follower_that_starts_with_a_snapshot_misses_nothing(open_store: Open) -> None:
    """Others write while the snapshot is read; snapshot and log together are the truth."""
    writer, reader = await open_store(), await open_store()
    await writer.write(Batch(add_entries=[entry(f"old{number}", created_at=NOW + number) for number in range(4500)]))

    async def keep_writing() -> None:
        for number in range(40):
            forgiven = [entry(f"old{number * 100}").id]
            await writer.write(
                Batch(add=[record(f"r{number}")], add_entries=[entry(f"new{number}")], remove_entries=forgiven)
            )

    writing = asyncio.create_task(keep_writing())
    records: dict[str, TokenRecord] = {}
    entries: dict[str, RevocationEntry] = {}
    position = ""
    async for piece in reader.snapshot():
        records |= {item.id: item for item in piece.records}
        entries |= {item.id: item for item in piece.revocations}
        position = piece.position
        await asyncio.sleep(0)
    await writing
    while (changes := await reader.follow(position, 0.2)).position != position:
        position = changes.position
        records |= {item.id: item for item in changes.records}
        entries |= {item.id: item for item in changes.revocations}
        for gone in changes.removals:
            entries.pop(gone.id, None)
    assert (records, entries) == (await stand(reader))[:2]
    assert len(entries) == 4500
    assert len(records) == 40


async def test_writes_of_this_and_other_processes_wake_a_follower(open_store: Open) -> None:
    mine, other = await open_store(), await open_store()
    _, _, position = await stand(mine)
    for writer, item in ((mine, entry("1")), (other, entry("2"))):
        following = asyncio.create_task(mine.follow(position, 30.0))
        async with asyncio.timeout(5):
            await writer.write(Batch(add_entries=[item]))
            changes = await following
        assert changes.revocations == (item,)
        assert len(changes.written_at) == 1
        position = changes.position
    assert await mine.follow(position, 0.05) == Changes(position)


async def test_last_word_about_an_entry_counts(store: Store) -> None:
    _, _, position = await stand(store)
    for batch in (Batch(add_entries=[entry()]), Batch(remove_entries=[entry().id]), Batch(add_entries=[entry("2")])):
        await store.write(batch)
    seen = await collect(store, position, lambda changes: len(changes.revocations) > 0)
    assert (seen.revocations, [gone.id for gone in seen.removals]) == ((entry("2"),), [entry().id])
    await store.write(Batch(add_entries=[entry()]))
    await store.write(Batch(remove_entries=[entry("2").id]))
    await store.write(Batch(add_entries=[entry("2")]))
    seen = await collect(store, seen.position, lambda changes: len(changes.revocations) > 1)
    assert set(seen.revocations) == {entry(), entry("2")}
    assert seen.removals == ()


async def test_long_log_comes_in_pieces(open_store: Open) -> None:
    writer, reader = await open_store(), await open_store()
    _, _, position = await stand(reader)
    for number in range(150):
        await writer.write(Batch(add=[record(str(number))]))
    seen = await collect(reader, position, lambda changes: len(changes.records) >= 150)
    assert [item.id for item in seen.records] == [str(number) for number in range(150)]
    assert len(seen.written_at) == 150


async def test_positions_of_another_life_are_gaps(world: Any, open_store: Open) -> None:
    """A reader from before the store was emptied must not go on as if nothing had happened."""
    old = await open_store()
    await old.write(Batch(add_entries=[entry()]))
    _, _, position = await stand(old)
    await old.aclose()
    world.empty()
    fresh = await open_store()
    with pytest.raises(GapError):
        await fresh.follow(position, 0.0)
    await fresh.write(Batch(add_entries=[entry("1")]))
    await fresh.write(Batch(add_entries=[entry("2")]))
    with pytest.raises(GapError):
        await fresh.follow(position, 0.0)
    for nonsense in ("", "x", "-1:", "99999999999999:", "99999999999999-0:ab"):
        with pytest.raises(GapError):
            await fresh.follow(nonsense, 0.0)


async def test_life_is_named_once(open_store: Open) -> None:
    one, other = await open_store(), await open_store()
    await asyncio.gather(one.merge(Entries()), other.merge(Entries()))
    name = await one.life()
    assert name
    await one.write(Batch(add_entries=[entry()]))
    assert await one.life() == await other.life() == name


async def test_every_entry_gets_a_later_version(open_store: Open) -> None:
    """Later than any that was given, and than what the writer has seen of another life of the store."""
    one, other = await open_store(), await open_store()
    receipts = [
        await one.write(
            Batch(add=[record("1"), bot("2")], add_entries=[entry("1"), entry("2")], remove_entries=[entry("3").id])
        ),
        await other.write(Batch(add_entries=[entry("1")])),
        await one.write(Batch(add_entries=[entry("4")]), 4 * 10**15),
        await other.write(Batch(remove_entries=[entry("1").id])),
    ]
    versions = [item.version for receipt in receipts for item in receipt.entries.versioned() if item.version]
    ordered = list(dict.fromkeys(versions))
    assert ordered == sorted(ordered)
    assert len(ordered) == 8
    assert receipts[0].entries.currents == [Current(bot_key("crawler"), receipts[0].entries.records[1].version, "2")]
    assert versions[-1] > receipts[2].entries.revocations[0].version > 4 * 10**15


async def test_receipt_is_shown_by_the_log(open_store: Open) -> None:
    """Its mark is among those of the piece that has its entries; a repeated write has the mark of the last one."""
    one, other = await open_store(), await open_store()
    _, _, position = await stand(other)
    receipt = await one.write(Batch(add=[bot("1")], add_entries=[entry()]))
    seen = await other.follow(position, 1.0)
    assert receipt.mark in seen.marks
    assert seen.is_complete
    for known, heard in ((receipt.entries.records, seen.records), (receipt.entries.revocations, seen.revocations)):
        assert [item.version for item in known] == [item.version for item in heard]
    again = await one.write(Batch(add=[bot("1")]))
    assert again.entries.records == []
    later = await other.follow(seen.position, 0.0)
    assert again.mark in (*seen.marks, *later.marks)


async def test_what_a_mirror_knows_is_merged_by_version(store: Store) -> None:
    first = (await store.write(Batch(add=[record("1"), bot("old")], add_entries=[entry(reason="old")]))).entries
    second = (
        await store.write(Batch(add=[bot("new", created_at=NOW + 50)], add_entries=[entry(reason="here")]))
    ).entries
    earlier = first.records[1].version - 5
    known = [
        replace(first.records[0], revoked_at=NOW + 1),
        record("2", last_used_at=NOW + 3, version=earlier),
        replace(first.records[1], revoked_at=None),
        bot("older", version=earlier),
        bot("alone", "walker", version=earlier),
    ]
    receipt = await store.merge(
        Entries(known, revocations=[first.revocations[0], replace(entry("2"), version=earlier)])
    )
    assert [item.name for item in receipt.entries.revocations] == ["2"], "of the other a later word is here"
    records, entries, _ = await stand(store)
    assert records["1"].revoked_at == NOW + 1
    assert records["2"] == record("2", last_used_at=NOW + 3)
    ended = {name for name, item in records.items() if item.revoked_at is not None}
    assert ended == {"1", "old", "older"}, "a bot's tokens from before its current one come back ended"
    assert {item.reason for item in entries.values() if item.name == "j"} == {"here"}
    assert len(entries) == 2
    # what comes back is replaced as any other
    await store.write(Batch(add=[bot("newer", "walker", created_at=NOW + 60)]))
    replaced = await store.record("alone")
    assert replaced is not None
    assert replaced.revoked_at == NOW + 60
    assert second.revocations[0].version == entries[entry().id].version


async def test_removal_outlives_what_a_mirror_still_knows(open_store: Open) -> None:
    """Also in a store that has lost both, and in either order."""
    one, other = await open_store(), await open_store()
    known = (await one.write(Batch(add_entries=[entry()]))).entries
    removed = (await one.write(Batch(remove_entries=[entry().id]))).entries
    assert not (await other.merge(known)).entries.revocations
    assert await one.entry(entry().id) is None
    again = (await one.write(Batch(add_entries=[entry()]))).entries
    assert not (await other.merge(removed)).entries.removals
    assert await one.entry(entry().id) == entry()
    assert list((await other.merge(again)).entries.revocations) == list(again.revocations), "it is there"


async def test_end_of_a_record_that_is_not_there_waits_for_it(store: Store) -> None:
    """The store may have lost the record while its end was on the way."""
    await store.write(Batch(revoke=[("1", NOW + 5)]))
    assert await store.record("1") is None
    await store.merge(Entries([record("1", version=7), record("2", version=8)]))
    ended, other = await store.record("1"), await store.record("2")
    assert ended == record("1", revoked_at=NOW + 5)
    assert other == record("2")


async def test_token_of_a_bot_that_was_lost_ends_the_earlier_ones_when_it_is_put_back(store: Store) -> None:
    earlier = (await store.write(Batch(add=[bot("1")]))).entries.records[0].version
    await store.merge(Entries(currents=[Current(bot_key("crawler"), earlier + 10, "2")]))
    ended = await store.record("1")
    assert ended is not None
    assert ended.revoked_at is not None
    await store.merge(Entries([bot("2", version=earlier + 10)]))
    assert await store.record("2") == bot("2")
    await store.merge(Entries([bot("0", version=earlier - 10)]))
    late = await store.record("0")
    assert late is not None
    assert late.revoked_at is not None


async def test_wait_without_a_write_tells_when_the_store_was_last_asked(store: Store) -> None:
    _, _, position = await stand(store)
    started = time.monotonic()
    changes = await store.follow(position, 0.3)
    assert 0.25 <= changes.asked_after <= time.monotonic() - started
    assert changes.is_complete


def _views(seed: int) -> tuple[list[Entries], random.Random]:
    """What several copies may know of few things, with versions that meet."""
    chance = random.Random(seed)
    views = []
    for _ in range(4):
        denied, removed = [], []
        for name in "ab":
            version = chance.randint(1, 4)
            if chance.random() < 0.4:
                removed.append(Removal(entry(name).id, version, NOW + version))
            elif chance.random() < 0.8:
                until = chance.choice([None, NOW + 5, NOW + 9])
                denied.append(replace(entry(name, expires_at=until, reason=chance.choice("xy")), version=version))
        records = [
            bot(str(number), version=number, revoked_at=chance.choice([None, None, NOW + number, NOW + 9]))
            for number in range(1, 5)
            if chance.random() < 0.6
        ]
        number = chance.randint(1, 4)
        currents = [Current(bot_key("crawler"), number, str(number))] if chance.random() < 0.5 else []
        ends = [(str(chance.randint(1, 4)), NOW + chance.randint(1, 9))] if chance.random() < 0.4 else []
        views.append(Entries(records, ends, denied, removed, currents))
    return views, chance


async def test_order_in_which_copies_put_back_changes_nothing(open_store: Open, world: Any) -> None:
    """Any order, twice or once, in one piece or several: the same stands afterwards."""
    for seed in range(12):
        views, chance = _views(seed)
        outcomes = []
        for _ in range(3):
            world.empty()
            store = await open_store()
            order = [*views, *chance.sample(views, 2)]
            chance.shuffle(order)
            for view in order:
                await store.merge(view)
            records, entries, _ = await stand(store)
            ended = {name: item.revoked_at is not None for name, item in records.items()}
            outcomes.append((ended, {name: (item, item.version) for name, item in entries.items()}))
            await store.aclose()
        assert outcomes[0] == outcomes[1] == outcomes[2], seed


async def test_followers_receive_what_was_put_back(open_store: Open) -> None:
    one, other = await open_store(), await open_store()
    await one.write(Batch(add_entries=[entry()]))
    _, _, position = await stand(other)
    await one.merge(Entries([record("1", version=5)], revocations=[replace(entry("2"), version=6)]))
    seen = await collect(other, position, lambda changes: bool(changes.revocations))
    assert (seen.records, seen.revocations) == ((record("1"),), (entry("2"),))


async def test_what_is_long_over_goes_by_itself(open_store: Open, world: Any) -> None:
    if world.settings.url.reveal().startswith("memory:"):
        pytest.skip("it forgets nothing by itself")
    now = time.time()
    clock = HandClock(now)
    store = await open_store(clock)
    passing = [entry(str(number), expires_at=now - 86_300) for number in range(700)]
    records = [record("1", expires_at=now - 86_300), bot("2", expires_at=now - 31 * 86_400), record("3")]
    await store.write(Batch(add=records, add_entries=[*passing, entry("endless")]))
    clock.advance(60)
    await store.write(Batch(add_entries=[entry("later")]))
    assert len((await stand(store))[1]) == 702, "other clocks may be slow"
    assert set((await stand(store))[0]) == {"1", "3"}
    assert (await store.records(RecordQuery(), "", 10)).total == 2
    assert (await store.records(RecordQuery(actor_id="crawler"), "", 10)).total == 0
    over = [entry(f"over{number}", expires_at=now - 90_000) for number in range(700)]
    await store.write(Batch(add_entries=over))
    for _ in range(6):  # some with each write, the rest with the next
        clock.advance(11)
        await store.write(Batch(add_entries=[entry("later")]))
    entries = (await stand(store))[1]
    assert {item.name for item in entries.values()} == {"endless", "later", *(item.name for item in passing)}
    assert (await store.entries("iss", "", 10, 0.0)).total == 702


async def test_process_whose_clock_is_ahead_forgets_nothing_for_others(open_store: Open) -> None:
    """Whatever its clock says: the store's has to say so too."""
    clock = HandClock(time.time() + 400 * 86_400)
    store = await open_store(clock)
    kept = [entry("soon", expires_at=time.time() + 60), entry("just", expires_at=time.time() - 60)]
    await store.write(Batch(add=[record("1", expires_at=time.time() + 60)], add_entries=kept))
    for _ in range(3):
        clock.advance(11)
        await store.write(Batch(add_entries=[entry("later")]))
    records, entries, _ = await stand(store)
    assert {item.name for item in entries.values()} == {"soon", "just", "later"}
    assert set(records) == {"1"}


async def test_status_tells_what_it_is(store: Store) -> None:
    status = await store.status()
    assert status.detail.startswith(("SQLite 3.", "Redis ", "memory"))


async def test_entries_of_actors_are_those_without_issuer(store: Store) -> None:
    """The start asks for them: whether names are on the list that the rule in force may read otherwise."""
    about_actor = make_entry(Scope.ACTOR, "", "USER:sam", NOW - 1, issued_before=NOW)
    await store.write(Batch(add_entries=(make_entry(Scope.SUBJECT, "iss", "s", NOW, issued_before=NOW), about_actor)))
    assert (await store.entries("", "", 10, NOW)).entries == (about_actor,)


async def test_text_beside_a_record_is_replaced_by_those_who_know_it(store: Store) -> None:
    until = time.time() + 60
    assert await store.companion("s_1") is None
    assert await store.put_companion("s_1", "one", until, after=0)
    assert await store.put_companion("s_1", "one", until, after=0)  # the response to the first was lost
    assert not await store.put_companion("s_1", "other", until, after=0)
    assert await store.companion("s_1") == Companion("one", 1)
    assert await store.put_companion("s_1", "two \u20ac", until, after=1)
    assert not await store.put_companion("s_1", "late", until, after=1)
    assert await store.companion("s_1") == Companion("two \u20ac", 2)
    assert await store.companion(HOSTILE) is None
    assert await store.companion("s_2") is None


async def test_text_beside_a_record_expires_and_is_in_no_log(open_store: Open) -> None:
    store = await open_store()
    _, _, position = await stand(store)
    await store.put_companion("s_1", "one", time.time() + 0.3, after=0)
    _, _, later = await stand(store)
    assert later == position
    assert await store.companion("s_1") == Companion("one", 1)
    if not isinstance(store, MemoryStore):  # which has no clock
        await asyncio.sleep(0.4)
        assert await store.companion("s_1") is None
        assert await store.put_companion("s_1", "again", time.time() + 60, after=0)


async def test_lock_has_one_holder_until_it_is_released_or_over(open_store: Open) -> None:
    here, there = await open_store(), await open_store()
    assert await here.lock("refresh:s_1", "a", 30.0)
    assert await here.lock("refresh:s_1", "a", 30.0)
    assert not await there.lock("refresh:s_1", "b", 30.0)
    assert await there.lock("refresh:s_2", "b", 30.0)
    await there.unlock("refresh:s_1", "b")
    assert not await there.lock("refresh:s_1", "b", 30.0)
    await here.unlock("refresh:s_1", "a")
    assert await there.lock("refresh:s_1", "b", 0.2)
    await asyncio.sleep(0.3)
    assert await here.lock("refresh:s_1", "a", 30.0)
