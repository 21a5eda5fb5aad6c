"""What a store promises, of whatever kind it is."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.identity.actor import ActorType
from sidecar.store.base import Batch, Changes, GapError, Page, RecordQuery, Store
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.store.replica.bot_names import make_registration
from sidecar.store.revocation_entry import RevocationEntry, Scope, make_entry
from tests.support.hand_clock import HandClock

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


def denial(name: str = "j", issuer: str = "iss", created_at: float = NOW, **changes: Any) -> RevocationEntry:
    return make_entry(Scope.TOKEN, issuer, name, created_at, **changes)


async def stand(store: Store) -> tuple[dict[str, TokenRecord], dict[str, RevocationEntry], str]:
    """All that the store has, and the position of one who knows it."""
    records: dict[str, TokenRecord] = {}
    denials: dict[str, RevocationEntry] = {}
    position = ""
    async for piece in store.snapshot():
        records |= {item.id: item for item in piece.records}
        denials |= {item.id: item for item in piece.entries}
        position = piece.position
        assert not piece.skipped
    return records, denials, position


async def collect(store: Store, position: str, enough: Callable[[Changes], bool]) -> Changes:
    """What is followed from ``position`` until ``enough``, put together."""
    seen = Changes(position)
    async with asyncio.timeout(10):
        while not enough(seen):
            more = await store.follow(seen.position, 2.0)
            seen = Changes(
                more.position,
                seen.records + more.records,
                seen.entries + more.entries,
                seen.removed + more.removed,
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
    for name in ("", "nobody", HOSTILE, "x" * 100_000):
        assert await store.record(name) is None
        assert await store.entry(name) is None


async def test_denial_comes_back_as_it_was_written(store: Store) -> None:
    full = make_entry(
        Scope.SUBJECT, "iss", HOSTILE, NOW + 0.25, issued_before=NOW - 1.5, expires_at=NOW + 9.75, reason=HOSTILE,
        created_by="sam",
    )  # fmt: skip
    endless = make_entry(Scope.ISSUER, "", "", NOW, issued_before=NOW)
    await store.write(Batch(add_entries=[full, endless]))
    assert await store.entry(full.id) == full
    assert (await stand(store))[1] == {full.id: full, endless.id: endless}


async def test_denial_of_the_same_id_is_replaced_and_a_forgiven_one_gone(store: Store) -> None:
    first, other = denial(reason="a", expires_at=NOW + 60), denial("other")
    again = replace(first, reason="b", created_at=NOW + 5, expires_at=None)
    await store.write(Batch(add_entries=[first, other]))
    await store.write(Batch(add_entries=[again]))
    assert await store.entry(first.id) == again
    assert await store.entries(None, "", 10, NOW + 3600) == Page(entries=(again, other), total=2)
    assert (await store.entries("iss", "", 10, NOW)).entries == (again, other)
    await store.write(Batch(remove_entries=[first.id, "nobody"]))
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


async def test_writing_a_batch_again_changes_nothing(store: Store) -> None:
    batch = Batch(add=[bot("1")], add_entries=[denial()])
    await store.write(batch)
    await store.write(Batch(add=[bot("2", created_at=NOW + 1)]))
    before = await stand(store)
    await store.write(batch)
    assert (await stand(store))[:2] == before[:2]


async def test_record_that_has_ended_keeps_its_end(store: Store) -> None:
    await store.write(Batch(add=[record()]))
    await store.write(Batch(revoke=[("1", NOW + 1), ("nobody", NOW)]))
    await store.write(Batch(revoke=[("1", NOW + 2)]))
    ended = await store.record("1")
    assert ended is not None
    assert ended.revoked_at == NOW + 1
    assert await store.record("nobody") is None


async def test_batch_takes_effect_as_a_whole(store: Store) -> None:
    _, _, position = await stand(store)
    await store.write(Batch(add=[record("1")]))
    await store.write(Batch(add=[record("2")], revoke=[("1", NOW)], add_entries=[denial(str(n)) for n in range(1000)]))
    seen = await store.follow(position, 1.0)
    while len(seen.entries) == 0:
        seen = await store.follow(seen.position, 1.0)
    assert len(seen.entries) == 1000
    assert {item.id: item.revoked_at for item in seen.records} == {"1": NOW, "2": None}


async def test_last_use_only_goes_forward_and_is_no_change(store: Store) -> None:
    await store.write(Batch(add=[record()]))
    _, _, position = await stand(store)
    await store.touch([("1", NOW + 5), ("nobody", NOW), (HOSTILE, NOW)])
    await store.touch([("1", NOW + 4)])
    used = await store.record("1")
    assert used is not None
    assert used.last_used_at == NOW + 5
    assert await store.record("nobody") is None
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
        (RecordQuery(owner=("iss", "sub"), actor_id="nobody"), ""),
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


async def test_denials_are_listed_newest_first_without_expired_ones(store: Store) -> None:
    await store.write(
        Batch(
            add_entries=[
                denial(str(number), "even" if number % 2 == 0 else "odd", NOW + number, expires_at=NOW + 10 * number)
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
    assert await store.entries("nobody", "", 10, NOW) == Page()


async def test_marks_of_pages_that_are_none_are_refused(store: Store) -> None:
    for after in ("x", "0", "\ud800", "{}", "zz" * 300):
        with pytest.raises(ValueError, match="mark"):
            await store.records(RecordQuery(), after, 10)
        with pytest.raises(ValueError, match="mark"):
            await store.entries(None, after, 10, NOW)


async def test_whoever_follows_a_snapshot_misses_nothing(open_store: Open) -> None:
    """Others write while the snapshot is read; snapshot and log together are the truth."""
    writer, reader = await open_store(), await open_store()
    await writer.write(Batch(add_entries=[denial(f"old{number}", created_at=NOW + number) for number in range(4500)]))

    async def keep_writing() -> None:
        for number in range(40):
            forgiven = [denial(f"old{number * 100}").id]
            await writer.write(
                Batch(add=[record(f"r{number}")], add_entries=[denial(f"new{number}")], remove_entries=forgiven)
            )

    writing = asyncio.create_task(keep_writing())
    records: dict[str, TokenRecord] = {}
    denials: dict[str, RevocationEntry] = {}
    position = ""
    async for piece in reader.snapshot():
        records |= {item.id: item for item in piece.records}
        denials |= {item.id: item for item in piece.entries}
        position = piece.position
        await asyncio.sleep(0)
    await writing
    while (changes := await reader.follow(position, 0.2)).position != position:
        position = changes.position
        records |= {item.id: item for item in changes.records}
        denials |= {item.id: item for item in changes.entries}
        for gone in changes.removed:
            denials.pop(gone, None)
    assert (records, denials) == (await stand(reader))[:2]
    assert len(denials) == 4500
    assert len(records) == 40


async def test_writes_of_this_and_other_processes_wake_a_follower(open_store: Open) -> None:
    mine, other = await open_store(), await open_store()
    _, _, position = await stand(mine)
    for writer, item in ((mine, denial("1")), (other, denial("2"))):
        following = asyncio.create_task(mine.follow(position, 30.0))
        async with asyncio.timeout(5):
            await writer.write(Batch(add_entries=[item]))
            changes = await following
        assert changes.entries == (item,)
        assert len(changes.written_at) == 1
        position = changes.position
    assert await mine.follow(position, 0.05) == Changes(position)


async def test_last_word_about_a_denial_counts(store: Store) -> None:
    _, _, position = await stand(store)
    for batch in (Batch(add_entries=[denial()]), Batch(remove_entries=[denial().id]), Batch(add_entries=[denial("2")])):
        await store.write(batch)
    seen = await collect(store, position, lambda changes: len(changes.entries) > 0)
    assert (seen.entries, seen.removed) == ((denial("2"),), (denial().id,))
    await store.write(Batch(add_entries=[denial()]))
    await store.write(Batch(remove_entries=[denial("2").id]))
    await store.write(Batch(add_entries=[denial("2")]))
    seen = await collect(store, seen.position, lambda changes: len(changes.entries) > 1)
    assert set(seen.entries) == {denial(), denial("2")}
    assert seen.removed == ()


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
    await old.write(Batch(add_entries=[denial()]))
    _, _, position = await stand(old)
    await old.aclose()
    world.empty()
    fresh = await open_store()
    with pytest.raises(GapError):
        await fresh.follow(position, 0.0)
    await fresh.write(Batch(add_entries=[denial("1")]))
    await fresh.write(Batch(add_entries=[denial("2")]))
    with pytest.raises(GapError):
        await fresh.follow(position, 0.0)
    for nonsense in ("", "x", "-1:", "99999999999999:", "99999999999999-0:ab"):
        with pytest.raises(GapError):
            await fresh.follow(nonsense, 0.0)


async def test_generation_is_given_once(open_store: Open) -> None:
    one, other = await open_store(), await open_store()
    assert await one.generation() == ""
    await one.write(Batch(add_entries=[denial()]))
    assert await one.generation() == ""
    given = await asyncio.gather(one.restore([], [], "g1"), other.restore([], [], "g2"))
    assert sorted(given) == [False, True]
    assert await one.generation() == await other.generation() == ("g1" if given[0] else "g2")


async def test_what_a_mirror_knows_is_put_back_and_overwrites_nothing(store: Store) -> None:
    await store.write(Batch(add=[record("1"), bot("new", created_at=NOW + 50)], add_entries=[denial(reason="here")]))
    known = [
        record("1", revoked_at=NOW + 1, name="never mind"),
        record("2", last_used_at=NOW + 3),
        bot("old"),
        bot("alone", "walker"),
    ]
    assert await store.restore(known, [denial(reason="there"), denial("2")], "g")
    records, denials, _ = await stand(store)
    assert records["1"] == record("1", revoked_at=NOW + 1)
    assert records["2"] == record("2", last_used_at=NOW + 3)
    assert records["old"].revoked_at == NOW + 50, "replaced while the store did not know it"
    assert records["new"].revoked_at is None
    assert records["alone"].revoked_at is None
    assert {item.reason for item in denials.values() if item.name == "j"} == {"here"}
    assert len(denials) == 2
    # bots that came back are replaced as any other
    await store.write(Batch(add=[bot("newer", "walker", created_at=NOW + 60)]))
    replaced = await store.record("alone")
    assert replaced is not None
    assert replaced.revoked_at == NOW + 60


async def test_followers_hear_of_what_was_put_back(open_store: Open) -> None:
    one, other = await open_store(), await open_store()
    await one.write(Batch(add_entries=[denial()]))
    _, _, position = await stand(other)
    await one.restore([record("1")], [denial("2")], "g")
    try:
        seen = await collect(other, position, lambda changes: bool(changes.entries))
        assert (seen.records, seen.entries) == ((record("1"),), (denial("2"),))
    except GapError:
        records, denials, _ = await stand(other)
        assert set(records) == {"1"}
        assert len(denials) == 2


async def test_what_is_long_over_goes_by_itself(open_store: Open) -> None:
    clock = HandClock(NOW)
    store = await open_store(clock)
    passing = [denial(str(number), expires_at=NOW + 60) for number in range(700)]
    await store.write(Batch(add=[record("1", expires_at=NOW + 60), bot("2", expires_at=NOW + 60), record("3")]))
    await store.write(Batch(add_entries=[*passing, denial("endless")]))
    clock.advance(3600)
    await store.write(Batch(add_entries=[denial("later")]))
    assert len((await stand(store))[1]) == 702, "other clocks may be slow"
    clock.advance(120)
    for _ in range(5):  # some with each write, the rest with the next
        await store.write(Batch(add_entries=[denial("later")]))
    records, denials, _ = await stand(store)
    assert {item.name for item in denials.values()} == {"endless", "later"}
    assert (await store.entries("iss", "", 10, NOW)).total == 2
    assert set(records) == {"1", "2", "3"}
    clock.advance(31 * 86400)
    await store.write(Batch(add_entries=[denial("later")]))
    assert set((await stand(store))[0]) == {"3"}
    assert (await store.records(RecordQuery(), "", 10)).total == 1
    assert (await store.records(RecordQuery(actor_id="crawler"), "", 10)).total == 0


async def test_status_tells_what_it_is(store: Store) -> None:
    status = await store.status()
    assert status.detail.startswith(("SQLite 3.", "Redis "))


async def test_denials_of_actors_are_those_without_issuer(store: Store) -> None:
    """The start asks for them: whether names are on the list that the rule in force may read otherwise."""
    about_actor = make_entry(Scope.ACTOR, "", "USER:sam", NOW - 1, issued_before=NOW)
    await store.write(Batch(add_entries=(make_entry(Scope.SUBJECT, "iss", "s", NOW, issued_before=NOW), about_actor)))
    assert (await store.entries("", "", 10, NOW)).entries == (about_actor,)
