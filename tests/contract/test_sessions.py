"""Browser sessions over every store: what one process creates or ends holds on the others, and time ends them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from sidecar.clock import Clock, SystemClock
from sidecar.errors import Cause, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.sessions.records import SessionContent, describe_session, session_id
from sidecar.sessions.sealing import Sealer, encode_base64url
from sidecar.sessions.service import Sessions, SessionTimes
from sidecar.store.base import Batch, RecordQuery, Store
from sidecar.store.replica.mirror import Mirror
from tests.contract.conftest import Open
from tests.contract.test_store import record
from tests.support.jwks_server import eventually

PATIENCE = 10.0
ALICE = Actor(ActorType.USER, "alice", issuer="https://idp.example.com", provider="corp", subject="a-1")
CONTENT = SessionContent("corp", ALICE.issuer, "a-1", 1_700_000_000, {"preferred_username": "alice"}, sid="idp-1")
FIRST, SECOND = Secret("first secret, of more than 32 bytes"), Secret("second secret, of more than 32 bytes")


class ShiftedClock(SystemClock):
    """The clock of a process, ``ahead`` by some seconds."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead
        self.now = lambda: SystemClock.now() + self.ahead


@dataclass
class Process:
    """One replica."""

    sessions: Sessions
    mirror: Mirror
    store: Store


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(open_store: Open) -> AsyncIterator[Start]:
    """Starts replicas over one store."""
    mirrors: list[Mirror] = []

    async def one(
        secrets: tuple[Secret, ...] = (FIRST,), times: SessionTimes | None = None, clock: Clock | None = None
    ) -> Process:
        store = await open_store()
        mirror = Mirror(store, SystemClock(), Metrics())
        mirrors.append(mirror)
        await mirror.start()
        assert await mirror.wait_first_load(PATIENCE)
        sealer = Sealer(secrets)
        sessions = Sessions(store, mirror, mirror.write, sealer, clock or SystemClock(), times or SessionTimes())
        return Process(sessions, mirror, store)

    yield one
    for mirror in mirrors:
        await mirror.aclose()


def secret(number: int) -> str:
    return encode_base64url(number.to_bytes(32, "big"))


async def refused(process: Process, value: str) -> Cause:
    with pytest.raises(Refused) as caught:
        await process.sessions.find(value)
    return caught.value.cause


async def test_session_of_one_replica_is_found_on_the_others_and_ends_there(start: Start) -> None:
    here, there = await start(), await start()
    made = await here.sessions.create(secret(1), CONTENT, ALICE)
    found = await there.sessions.find(secret(1))
    assert (found.record.id, found.content) == (made.id, CONTENT)
    assert secret(1) not in repr(found.record)
    await eventually(lambda: there.mirror.record(made.id), within=PATIENCE)
    await here.sessions.end(made, by="USER:alice", cause="signed_out")
    assert await refused(here, secret(1)) is Cause.SESSION_REVOKED
    await eventually(lambda: there.mirror.record(made.id).revoked_at, within=PATIENCE)  # type: ignore[union-attr]
    assert await refused(there, secret(1)) is Cause.SESSION_REVOKED


async def test_new_login_ends_the_session_that_the_browser_brought(start: Start) -> None:
    here = await start()
    await here.sessions.create(secret(1), CONTENT, ALICE)
    await here.sessions.create(secret(2), CONTENT, ALICE, replaces=secret(1))
    assert await refused(here, secret(1)) is Cause.SESSION_REVOKED
    assert (await here.sessions.find(secret(2))).record.id == session_id(secret(2))


async def test_of_too_many_sessions_the_one_that_was_idle_longest_ends(start: Start) -> None:
    here = await start(times=SessionTimes(per_person=2))
    await here.sessions.create(secret(1), CONTENT, ALICE)
    await asyncio.sleep(0.01)
    await here.sessions.create(secret(2), CONTENT, ALICE)
    await here.store.touch([(session_id(secret(1)), SystemClock.now() + 1)])
    await here.sessions.create(secret(3), CONTENT, ALICE)
    assert await refused(here, secret(2)) is Cause.SESSION_REVOKED
    assert (await here.sessions.find(secret(1))).record.revoked_at is None


async def test_sessions_are_in_no_list_of_tokens(start: Start) -> None:
    """Neither are they counted there, and a person's tokens are not in the list of sessions."""
    here = await start()
    await here.sessions.create(secret(1), CONTENT, ALICE)
    await here.mirror.write(Batch(add=[record("t1", actor_id="alice")]))
    for query in (RecordQuery(), RecordQuery(actor_id="alice")):
        page = await here.store.records(query, "", 10)
        assert ([one.id for one in page.records], page.total) == (["t1"], 1)
    page = await here.store.records(RecordQuery(kind="browser"), "", 10)
    assert [describe_session(one)["actor"] for one in page.records] == [{"type": "USER", "id": "alice"}]


async def test_replica_whose_clock_is_ahead_ends_nothing_for_the_others(start: Start) -> None:
    here, ahead = await start(), await start(clock=ShiftedClock(2 * 86400))
    await here.sessions.create(secret(1), CONTENT, ALICE)
    assert await refused(ahead, secret(1)) is Cause.SESSION_EXPIRED
    assert (await here.sessions.find(secret(1))).record.revoked_at is None


async def test_replica_without_the_new_secret_ends_nothing_for_the_others(start: Start) -> None:
    new, old = await start((SECOND, FIRST)), await start((FIRST,))
    await new.sessions.create(secret(1), CONTENT, ALICE)
    assert await refused(old, secret(1)) is Cause.SESSION_UNSEALED
    assert (await new.sessions.find(secret(1))).content == CONTENT


async def test_idle_session_ends_unless_another_replica_has_seen_it(start: Start) -> None:
    times = SessionTimes(idle=300.0)
    here = await start(times=times)
    await here.sessions.create(secret(1), CONTENT, ALICE)
    await here.sessions.create(secret(2), CONTENT, ALICE)
    later = await start(times=times, clock=ShiftedClock(400))
    await here.store.touch([(session_id(secret(2)), SystemClock.now() + 350)])
    assert await refused(later, secret(1)) is Cause.SESSION_IDLE
    assert (await later.sessions.find(secret(2))).record.revoked_at is None
