"""Sessions without a store around them: floods, outages, and what a record is worth."""

from contextlib import suppress
from dataclasses import replace

import pytest

from sidecar.errors import Cause, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.secrets.value import Secret
from sidecar.sessions.records import (
    MAX_CONTENT_BYTES,
    SessionContent,
    is_secret,
    open_content,
    seal_content,
    session_id,
)
from sidecar.sessions.sealing import Sealer, encode_base64url
from sidecar.sessions.service import Sessions, SessionTimes
from sidecar.store.base import Batch
from sidecar.store.record import TokenKind, TokenRecord
from tests.support.hand_clock import HandClock
from tests.support.memory_store import MemoryStore

ALICE = Actor(ActorType.USER, "alice", issuer="https://idp", provider="corp", subject="a-1")
CONTENT = SessionContent("corp", "https://idp", "a-1", 1_700_000_000, {"preferred_username": "alice"})
SEALER = Sealer([Secret("s" * 32)])


class StoreAlone:
    """The copy in memory of a process that has just started: everything is asked of the store."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.asked = 0

    def record(self, token_id: str) -> TokenRecord | None:
        return None

    async def lookup(self, token_id: str) -> TokenRecord | None:
        self.asked += 1
        return await self.store.record(token_id)


def secret(number: int) -> str:
    return encode_base64url(number.to_bytes(32, "big"))


def sessions_of(store: MemoryStore, clock: HandClock, **times: float) -> tuple[Sessions, StoreAlone]:
    records = StoreAlone(store)

    async def write(batch: Batch) -> None:
        await store.write(batch)

    return Sessions(store, records, write, SEALER, clock, SessionTimes(**times)), records  # type: ignore[arg-type]


async def cause_of(sessions: Sessions, value: str) -> Cause:
    with pytest.raises(Refused) as caught:
        await sessions.find(value)
    assert caught.value.status == 401
    return caught.value.cause


async def test_made_up_cookies_ask_the_store_fifty_times_a_second() -> None:
    clock = HandClock()
    sessions, records = sessions_of(MemoryStore(), clock)
    causes = [await cause_of(sessions, secret(number)) for number in range(60)]
    assert (causes.count(Cause.SESSION_UNKNOWN), causes.count(Cause.THROTTLED), records.asked) == (50, 10, 50)
    clock.advance(1)
    assert await cause_of(sessions, secret(99)) is Cause.SESSION_UNKNOWN


async def test_session_that_this_process_does_not_know_yet_is_found_for_its_end() -> None:
    """At sign-out, and when a login replaces it; what cannot be asked is not unknown."""
    clock, store = HandClock(), MemoryStore()
    sessions, _ = sessions_of(store, clock)
    first = await sessions.create(secret(1), CONTENT, ALICE)
    assert await sessions.stored(secret(1)) == first
    assert await sessions.stored(secret(2)) is None
    assert await sessions.stored("x") is None
    await sessions.create(secret(3), CONTENT, ALICE, replaces=secret(1))
    assert await cause_of(sessions, secret(1)) is Cause.SESSION_REVOKED
    for number in range(10, 60):
        with suppress(Refused):
            await sessions.find(secret(number))
    with pytest.raises(Unavailable) as caught:
        await sessions.stored(secret(3))
    assert caught.value.cause is Cause.THROTTLED
    # a login has redeemed a code and is not turned away by others' made-up cookies
    await sessions.create(secret(4), CONTENT, ALICE, replaces=secret(3))
    clock.advance(1)
    assert await cause_of(sessions, secret(3)) is Cause.SESSION_REVOKED
    store.away = True
    with pytest.raises(Unavailable):
        await sessions.stored(secret(4))


@pytest.mark.parametrize("value", ["x", "A" * 42, "A" * 44, "A" * 42 + "B", "é" * 43, "A" * 9000, " " * 43])
async def test_what_is_no_value_of_ours_asks_no_store(value: str) -> None:
    sessions, records = sessions_of(MemoryStore(), HandClock())
    assert await cause_of(sessions, value) is Cause.SESSION_UNKNOWN
    assert records.asked == 0
    assert not is_secret(value)


async def test_unknown_session_is_503_while_the_store_is_away() -> None:
    sessions, _ = sessions_of(MemoryStore(away=True), HandClock())
    with pytest.raises(Unavailable):
        await sessions.find(secret(1))
    with pytest.raises(Unavailable):
        await sessions.create(secret(1), CONTENT, ALICE)


async def test_record_of_another_kind_or_another_value_is_no_session() -> None:
    store = MemoryStore()
    sessions, _ = sessions_of(store, HandClock())
    await sessions.create(secret(1), CONTENT, ALICE)
    good = store.all_records[session_id(secret(1))]
    for bad in (replace(good, kind=TokenKind.PERSONAL), replace(good, token_hash="ab")):
        store.all_records[good.id] = bad
        assert await cause_of(sessions, secret(1)) is Cause.SESSION_UNKNOWN


async def test_session_ends_at_its_time_and_not_by_use() -> None:
    clock = HandClock()
    sessions, _ = sessions_of(MemoryStore(), clock, max_age=3600.0, idle=1800.0)
    await sessions.create(secret(1), CONTENT, ALICE)
    for _ in range(6):
        clock.advance(599)
        await sessions.find(secret(1))
    clock.advance(6)
    assert await cause_of(sessions, secret(1)) is Cause.SESSION_EXPIRED


async def test_lower_maximum_age_ends_sessions_that_began_before_and_a_higher_one_extends_none() -> None:
    clock, store = HandClock(), MemoryStore()
    made = await sessions_of(store, clock, max_age=7200.0)[0].create(secret(1), CONTENT, ALICE)
    lowered, raised = (sessions_of(store, clock, max_age=age)[0] for age in (3600.0, 14400.0))
    assert (await lowered.find(secret(1))).expires_at == made.created_at + 3600
    assert (await raised.find(secret(1))).expires_at == made.created_at + 7200
    clock.advance(3600)
    assert await cause_of(lowered, secret(1)) is Cause.SESSION_EXPIRED
    await raised.find(secret(1))
    clock.advance(3600)
    assert await cause_of(raised, secret(1)) is Cause.SESSION_EXPIRED


async def test_no_session_is_idle_while_the_store_does_not_answer() -> None:
    clock, store = HandClock(), MemoryStore()
    sessions, _ = sessions_of(store, clock, max_age=36000.0, idle=600.0)
    await sessions.create(secret(1), CONTENT, ALICE)
    known = store.all_records[session_id(secret(1))]
    sessions._records = type("Known", (), {"record": lambda _, __: known})()
    clock.advance(5000)
    store.away = True
    assert (await sessions.find(secret(1))).record == known
    clock.advance(5000)
    store.away = False
    assert await cause_of(sessions, secret(1)) is Cause.SESSION_IDLE


def test_large_claims_drop_the_hint_and_too_large_ones_are_refused() -> None:
    claims = {"groups": ["g" * 100] * 250}
    content = replace(CONTENT, claims=claims, id_token="t" * 16000, refresh_token="kept")
    text = seal_content("s_1", content, SEALER)
    assert len(text) < 2 * MAX_CONTENT_BYTES
    assert open_content("s_1", text, SEALER) == replace(content, id_token="")
    with pytest.raises(Refused) as caught:
        seal_content("s_1", replace(content, claims={"x": "y" * 40000}), SEALER)
    assert caught.value.cause is Cause.TOKEN_SIZE


def test_content_opens_for_its_own_record_only() -> None:
    text = seal_content("s_1", CONTENT, SEALER)
    assert open_content("s_1", text, SEALER) == CONTENT
    assert open_content("s_2", text, SEALER) is None


async def test_record_and_what_stands_beside_it_disclose_neither_value_nor_claims() -> None:
    store = MemoryStore()
    sessions, _ = sessions_of(store, HandClock())
    content = replace(CONTENT, refresh_token="refresh-1", id_token="id-1")
    record = await sessions.create(secret(7), content, ALICE)
    shown = repr(record) + repr(store.companions)
    for hidden in (secret(7), "a-1", "refresh-1", "id-1", "preferred_username"):
        assert hidden not in shown
    assert record.actor_id == ""
    # what requests use has no token of the provider
    session = await sessions.find(secret(7))
    assert (session.content.refresh_token, session.content.id_token, session.is_refreshable) == ("", "", True)


async def test_session_goes_on_while_the_store_is_away_where_it_is_known() -> None:
    clock, store = HandClock(), MemoryStore()
    sessions, _ = sessions_of(store, clock)
    record = await sessions.create(secret(1), CONTENT, ALICE)
    there, _ = sessions_of(store, clock)
    store.away = True
    assert (await sessions.current(record)).content == CONTENT
    with pytest.raises(Unavailable):
        await there.current(record)


async def test_store_that_was_emptied_has_no_session_any_more() -> None:
    store = MemoryStore()
    sessions, _ = sessions_of(store, HandClock())
    record = await sessions.create(secret(1), CONTENT, ALICE)
    store.companions.clear()
    with pytest.raises(Refused) as caught:
        await sessions.current(record)
    assert caught.value.cause is Cause.SESSION_UNKNOWN
