"""A name that had a bot's token stays the bot's until it is released, and no person loses a name by accident."""

from typing import Any

import pytest

from sidecar.errors import Reason, Refused
from sidecar.identity.actor import ActorType
from sidecar.keys.signing import SigningKey
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, RecordQuery
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.bot_names import BotNames, registration_id
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.mint import Minted, Minter, TokenRequest
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.memory_store import MemoryStore


class World:
    """Names and a minter over one store, and what a replica makes of the store's records."""

    def __init__(self, seen: tuple[str, ...] = ()) -> None:
        self.store = MemoryStore()
        self.clock = HandClock()
        self.bots = BotRegistry(
            self.store,
            self.store.write,
            self.clock,
            admin_names=("root", "corp/alice"),
            reserved=("anonymous",),
            is_person_seen=lambda name: name in seen,
        )
        self.minter = Minter(
            lambda: SigningKey("own1", "RS256", forge.RSA),
            self.store.write,
            self.bots.claim,
            self.clock,
            Metrics(),
            issuer="meta.example.com",
            audience="",
            principal_domain="",
        )

    async def mint(self, name: str, **changes: Any) -> Minted:
        values = {
            "name": name,
            "kind": TokenKind.BOT,
            "actor_id": name,
            "actor_type": ActorType.SERVICE,
            "lifetime": 60.0,
            **changes,
        }
        return await self.minter.mint(TokenRequest(**values))

    async def revoke(self, minted: Minted) -> None:
        await self.store.write(Batch(revoke=[(minted.record.id, self.clock.now())]))

    def is_kept(self, name: str) -> bool:
        names = BotNames()
        for record in self.store.all_records.values():
            names.learn(record)
        return names.has(name)

    async def listed(self) -> list[str]:
        return [record.name for record in (await self.bots.page("", 50)).records]


@pytest.fixture
def world() -> World:
    return World()


async def refusal(work: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await work
    return caught.value


def token(name: str, created_at: float, **changes: Any) -> TokenRecord:
    return TokenRecord("t", "ab", name, TokenKind.BOT, name, ActorType.SERVICE, created_at, **changes)


async def test_the_name_outlives_the_tokens_and_their_records(world: World) -> None:
    """Revoked, run out, swept away: the moment after a leak is the worst one to hand the name to a stranger."""
    minted = await world.mint("Ingest")
    await world.revoke(minted)
    assert world.is_kept("ingest")
    world.clock.advance(400 * 86_400)
    del world.store.all_records[minted.record.id]
    assert world.is_kept("INGEST")
    assert await world.bots.is_registered("ingest")
    assert await world.listed() == ["ingest"]


async def test_a_second_token_registers_nothing_new(world: World) -> None:
    await world.mint("ingest")
    world.clock.advance(1)
    await world.mint("ingest")
    assert [record.kind for record in world.store.all_records.values()].count(TokenKind.BOT_NAME) == 1


async def test_a_released_name_is_free_until_it_is_a_bots_again(world: World) -> None:
    await world.revoke(await world.mint("ingest"))
    await world.bots.release("INGEST", by="root")
    assert not world.is_kept("ingest")
    assert not await world.bots.is_registered("ingest")
    assert await world.listed() == []
    assert (await refusal(world.bots.release("ingest", by="root"))).reason is Reason.NOT_FOUND
    await world.mint("ingest")  # within the same second
    assert world.is_kept("ingest")
    assert await world.listed() == ["ingest"]


async def test_a_name_with_a_token_in_force_is_not_released(world: World) -> None:
    minted = await world.mint("ingest")
    failure = await refusal(world.bots.release("ingest", by="root"))
    assert failure.reason is Reason.CONFLICT
    assert minted.record.id in failure.message
    world.clock.advance(61)
    await world.bots.release("ingest", by="root")
    assert not world.is_kept("ingest")
    assert world.store.all_records[minted.record.id].revoked_at is not None


async def test_names_from_before_are_kept_by_their_records_and_adopted(world: World) -> None:
    """An installation whose bots were minted before names were registered loses none."""
    await world.store.write(Batch(add=[token("ingest", 1.0, expires_at=2.0)]))
    assert world.is_kept("ingest")
    assert await world.bots.adopt_existing(["ingest"]) == 1
    assert await world.bots.adopt_existing(["ingest"]) == 0
    world.store.all_records.pop("t")
    assert world.is_kept("ingest")


async def test_a_name_from_before_can_be_released(world: World) -> None:
    await world.store.write(Batch(add=[token("ingest", 1.0, revoked_at=2.0)]))
    await world.bots.release("ingest", by="root")
    assert not world.is_kept("ingest")


@pytest.mark.parametrize("name", ["root", "alice", "sam", "pat"])
async def test_a_name_of_a_person_is_replaced_on_request_only(name: str) -> None:
    """An admin's, also one that is named with its provider; one with tokens; one that came in a moment ago."""
    world = World(seen=("pat",))
    await world.mint("sam", kind=TokenKind.PERSONAL, actor_type=ActorType.USER)
    for work in (world.mint(name), world.bots.register(name, by="x", replace_person=False)):
        failure = await refusal(work)
        assert (failure.reason, failure.status) == (Reason.CONFLICT, 409)
        assert "callers of other issuers with this name are rejected" in failure.message
        assert "--replace-person" in failure.message
    assert not world.is_kept(name)
    await world.mint(name, replace_person=True)
    await world.mint(name)  # a bot's name by now
    assert world.is_kept(name)


async def test_invalid_and_reserved_names_are_rejected(world: World) -> None:
    for name in ("anonymous", "Anonymous", "a b", "a@b", ""):
        failure = await refusal(world.bots.register(name, by="x", replace_person=True))
        assert failure.reason is Reason.REQUEST_INVALID


async def test_no_list_of_tokens_shows_a_registration(world: World) -> None:
    await world.bots.register("ingest", by="x", replace_person=False)
    for query in (RecordQuery(), RecordQuery(active=True), RecordQuery(actor_id="ingest"), RecordQuery(kind="bot")):
        assert (await world.store.records(query, "", 50)).records == ()


def test_a_token_that_stands_keeps_its_name_whatever_was_released() -> None:
    """Of a release and a new token that two replicas write at once, the token counts."""
    names = BotNames()
    names.learn(token("ingest", 5.0))
    released = TokenRecord(
        registration_id("ingest", 0), "", "ingest", TokenKind.BOT_NAME, "", ActorType.SERVICE, 1.0, revoked_at=9.0
    )
    names.learn(released)
    assert names.has("ingest")
    assert names.unregistered() == ["ingest"]
    names.learn(token("ingest", 5.0, revoked_at=10.0))
    assert not names.has("ingest")
