"""Who may mint, see and revoke which tokens, and what the minted ones may do."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claims import PrincipalPolicy
from sidecar.keys.keyset import VerificationKey
from sidecar.keys.signing import SigningKey
from sidecar.metrics import Metrics
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.tokens.issued.mint import Minted, Minter
from sidecar.tokens.issued.records import recorded_actor
from sidecar.tokens.issued.service import Caller, TokenRules, TokenService, TokenSpec
from sidecar.tokens.jwt.compact import parse
from sidecar.tokens.jwt.verify import VerifiedClaims
from sidecar.tokens.submitted import submitted_from_actor, submitted_from_jwt
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.members import unclaimed
from tests.support.memory_store import MemoryStore

ISSUER = "meta.example.com"
CORP = "https://idp.example.com"
SAM = Caller(Actor(ActorType.USER, "sam", CORP, "corp", "s-1", "sam@example.com", True, roles=("reader", "editor")))
EVE = Caller(Actor(ActorType.USER, "eve", CORP, "corp", "s-2"))
ADMIN = Caller(Actor(ActorType.USER, "root", CORP, "corp", "s-0", roles=("all",), is_admin=True))
JOB = Caller(Actor(ActorType.SERVICE, "job", CORP, "corp", "s-9"))


class World:
    """A service over a store in memory."""

    def __init__(self, *, verbatim: bool = False, **rules: Any) -> None:
        self.store = MemoryStore()
        self.clock = HandClock()
        self.metrics = Metrics()
        minter = Minter(
            lambda: SigningKey("own1", "RS256", forge.RSA),
            self.store.write,
            unclaimed,
            self.clock,
            self.metrics,
            issuer=ISSUER,
            audience="",
            principal_domain="",
            verbatim=verbatim,
        )
        defaults = {
            "verbatim": verbatim,
            "admin_names": frozenset({"root", "chief"}),
            "reserved": frozenset({"anonymous"}),
        }
        self.service = TokenService(
            self.store, self.store.write, minter, self.clock, TokenRules(ISSUER, **{**defaults, **rules})
        )

    async def mint(self, caller: Caller, **wish: Any) -> Minted:
        return await self.service.mint(caller, TokenSpec(**{"name": "laptop", "kind": TokenKind.PERSONAL, **wish}))

    async def bot(self, caller: Caller = ADMIN, **wish: Any) -> Minted:
        return await self.mint(caller, **{"name": "ingest", "kind": TokenKind.BOT, **wish})

    async def names(self, caller: Caller, **query: Any) -> list[str]:
        asked = {"actor_id": None, "kind": None, "active": None, "after": "", "limit": 50, **query}
        return [record.name for record in (await self.service.page(caller, **asked)).records]


def bearer(record: TokenRecord) -> Caller:
    """The caller with the token of ``record``."""
    actor = Actor(
        record.actor_type,
        record.actor_id,
        ISSUER,
        "own",
        record.actor_id,
        roles=record.roles,
        is_bot=record.kind is TokenKind.BOT,
        is_admin=record.is_admin,
        token_id=record.id,
    )
    return Caller(actor, is_own=True, record=record)


@pytest.fixture
def world() -> World:
    return World()


async def refusal(work: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await work
    return caught.value


async def test_own_personal_token_has_its_owners_roles_and_origin(world: World) -> None:
    minted = await world.mint(SAM)
    record = minted.record
    assert record.owner == Owner(CORP, "corp", "s-1", "sam")
    assert (record.actor_id, record.actor_type, record.roles) == ("sam", ActorType.USER, ("reader", "editor"))
    assert (record.is_admin, record.allow_impersonation) == (False, False)
    claims = parse(minted.token, 16_384).claims
    assert (claims["email"], claims["exp"] - claims["iat"]) == ("sam@example.com", 30 * 86_400)


@pytest.mark.parametrize(
    "wish",
    [
        {"kind": TokenKind.BOT, "actor_id": "ingest"},
        {"kind": TokenKind.SESSION},
        {"actor_id": "eve"},
        {"actor_type": ActorType.SERVICE},
        {"roles": ("reader",)},
        {"roles": ()},
        {"allow_impersonation": True},
    ],
)
async def test_what_only_admins_may_set(world: World, wish: dict[str, Any]) -> None:
    failure = await refusal(world.mint(SAM, **wish))
    assert (failure.reason, failure.status) == (Reason.FORBIDDEN, 403)
    assert world.store.batches == []


async def test_people_may_name_themselves(world: World) -> None:
    assert (await world.mint(SAM, actor_id="Sam", actor_type=ActorType.USER)).record.actor_id == "sam"


async def test_own_tokens_mint_nothing_unless_their_owner_is_an_admin(world: World) -> None:
    personal = bearer((await world.mint(SAM)).record)
    bot = bearer((await world.bot()).record)
    admin_bot = bearer((await world.bot(name="chief")).record)
    session = bearer((await world.mint(ADMIN, kind=TokenKind.SESSION, actor_id="sam")).record)
    without_record = Caller(replace(SAM.actor, issuer=ISSUER), is_own=True)
    for caller in (personal, bot, admin_bot, session, without_record, JOB):
        assert (await refusal(world.mint(caller))).reason is Reason.FORBIDDEN
    assert "bots cannot mint tokens" in (await refusal(world.mint(admin_bot))).message
    admins_own = bearer((await world.mint(ADMIN)).record)
    minted = await world.mint(admins_own, name="second")
    assert minted.record.owner == Owner(CORP, "corp", "s-0", "root")
    assert minted.record.is_admin


async def test_admin_comes_from_the_origin_alone(world: World) -> None:
    """A personal token is admin where its owner is, a bot where it is named; another person's token never."""
    assert (await world.mint(ADMIN)).record.is_admin
    assert not (await world.mint(SAM)).record.is_admin
    assert not (await world.mint(ADMIN, actor_id="chief")).record.is_admin
    assert not (await world.mint(ADMIN, kind=TokenKind.SESSION, actor_id="chief")).record.is_admin
    assert not (await world.mint(ADMIN, actor_id="root", actor_type=ActorType.SERVICE)).record.is_admin
    assert (await world.bot(name="chief")).record.is_admin
    assert not (await world.bot()).record.is_admin


async def test_personal_token_never_exceeds_its_owners_roles(world: World) -> None:
    assert (await world.mint(ADMIN, roles=())).record.roles == ()
    assert (await refusal(world.mint(ADMIN, roles=("all", "more")))).reason is Reason.FORBIDDEN
    assert (await world.mint(ADMIN, actor_id="sam")).record.roles == ()
    assert (await refusal(world.mint(ADMIN, actor_id="sam", roles=("all",)))).reason is Reason.FORBIDDEN
    assert (await world.bot(roles=("any",))).record.roles == ("any",)


async def test_token_for_another_person_gives_no_hold_on_the_minters(world: World) -> None:
    """Its bearer sees it by its own origin, and nothing of the admin who made it."""
    mine = (await world.mint(ADMIN)).record
    theirs = (await world.mint(ADMIN, name="for sam", actor_id="sam")).record
    sam = bearer(theirs)
    assert await world.names(sam) == ["for sam"]
    assert (await refusal(world.service.revoke(sam, mine.id))).reason is Reason.NOT_FOUND
    await world.service.revoke(sam, theirs.id)


async def test_bot_is_called_as_its_token_and_manages_none(world: World) -> None:
    record = (await world.bot(name="Ingest", allow_impersonation=True)).record
    assert (record.actor_id, record.actor_type, record.allow_impersonation) == ("ingest", ActorType.SERVICE, True)
    assert record.owner == Owner(CORP, "corp", "s-0", "root")
    bot = bearer(record)
    other = (await world.mint(ADMIN)).record
    assert await world.names(bot) == []
    assert (await refusal(world.service.show(bot, other.id))).reason is Reason.NOT_FOUND
    assert await world.service.show(bot, record.id) == record


async def test_new_token_of_a_bot_replaces_the_old_one(world: World) -> None:
    old, new = (await world.bot()).record, (await world.bot()).record
    assert world.store.all_records[old.id].revoked_at is not None
    assert world.store.all_records[new.id].revoked_at is None


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"actor_id": "in gest"}, Reason.REQUEST_INVALID),
        ({"actor_id": "a@b.c"}, Reason.REQUEST_INVALID),
        ({"actor_id": "anonymous"}, Reason.REQUEST_INVALID),
        ({"kind": TokenKind.BOT, "name": "my bot"}, Reason.REQUEST_INVALID),
        ({"kind": TokenKind.BOT, "actor_id": "root"}, Reason.CONFLICT),
        ({"actor_id": "ingest"}, Reason.CONFLICT),
        ({"allow_impersonation": True}, Reason.REQUEST_INVALID),
        ({"expiry": "soon"}, Reason.REQUEST_INVALID),
        ({"expiry": "Unlimited"}, Reason.REQUEST_INVALID),
        ({"expiry": "NO_EXPIRY"}, Reason.REQUEST_INVALID),
    ],
)
async def test_what_no_caller_gets(wish: dict[str, Any], reason: Reason) -> None:
    world = World(is_bot_name=lambda name: name == "ingest")
    assert (await refusal(world.mint(ADMIN, **wish))).reason is reason
    assert world.store.batches == []


async def test_endless_tokens_where_they_are_allowed() -> None:
    assert (await World(allow_never_expiring=True).mint(SAM, expiry="Unlimited")).record.expires_at is None


async def test_caller_without_a_subject_is_ambiguous(world: World) -> None:
    """Two people without ``sub`` would share an origin: neither gets tokens, nor sees any."""
    nameless = Caller(replace(SAM.actor, subject=""))
    assert (await refusal(world.mint(nameless))).reason is Reason.FORBIDDEN
    await world.mint(SAM)
    assert await world.names(nameless) == []


async def test_lists_go_by_origin_and_admins_see_all(world: World) -> None:
    await world.mint(SAM, name="a")
    await world.mint(EVE, name="b")
    other_issuer = Caller(replace(SAM.actor, issuer="https://other.example.com"))
    assert await world.names(SAM) == ["a"]
    assert await world.names(EVE) == ["b"]
    assert await world.names(other_issuer) == []
    assert await world.names(bearer((await world.mint(SAM, name="c")).record)) == ["c", "a"]
    assert await world.names(ADMIN) == ["c", "b", "a"]
    assert await world.names(ADMIN, actor_id="eve") == ["b"]
    assert await world.names(ADMIN, kind="bot") == []


async def test_another_persons_token_is_not_there(world: World) -> None:
    record = (await world.mint(SAM)).record
    for work in (world.service.show(EVE, record.id), world.service.revoke(EVE, record.id)):
        assert (await refusal(work)).status == 404
    assert (await refusal(world.service.show(EVE, "unknown"))).status == 404
    assert (await world.service.show(SAM, record.id)) == record
    assert (await world.service.show(ADMIN, record.id)) == record


async def test_the_same_issuer_and_subject_from_another_provider_is_another_person(world: World) -> None:
    """Unbound keys and plugins choose the name of the issuer themselves."""
    record = (await world.mint(SAM)).record
    stranger = Caller(replace(SAM.actor, provider="unbound"))
    assert await world.names(stranger) == []
    for work in (world.service.show(stranger, record.id), world.service.revoke(stranger, record.id)):
        assert (await refusal(work)).status == 404
    assert not stranger.may_manage(record)
    theirs = submitted_from_actor(SAM.actor, "")
    assert await world.service.may_manage(SAM, theirs)
    assert not await world.service.may_manage(stranger, theirs)
    assert not await world.service.may_manage(SAM, submitted_from_actor(stranger.actor, ""))


async def test_a_refused_tokens_provider_is_that_of_its_issuer(world: World) -> None:
    owned = World(provider_of={CORP: "corp"}.get)
    theirs = submitted_from_jwt(parse(forge.token(forge.claims(iss=CORP, sub="s-1")), 16_384))
    assert await owned.service.may_manage(SAM, theirs)
    assert not await owned.service.may_manage(Caller(replace(SAM.actor, provider="unbound")), theirs)


async def test_revoking_twice_writes_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    minted = await world.mint(SAM)
    caplog.set_level(logging.INFO, "sidecar.audit")
    caplog.clear()
    await world.service.revoke(SAM, minted.record.id)
    ended = world.store.all_records[minted.record.id].revoked_at
    world.clock.advance(60)
    await world.service.revoke(ADMIN, minted.record.id)
    assert world.store.all_records[minted.record.id].revoked_at == ended == world.clock.now() - 60
    (line,) = caplog.records
    assert (line.__dict__["token_id"], line.__dict__["by"]) == (minted.record.id, "USER:sam")


async def test_without_a_store_nothing_is_answered(world: World) -> None:
    record = (await world.mint(SAM)).record
    world.store.away = True
    for work in (
        world.mint(SAM),
        world.names(SAM),
        world.service.show(SAM, record.id),
        world.service.revoke(SAM, record.id),
        world.service.caller(SAM.actor, is_own=True, record_id=record.id),
    ):
        with pytest.raises(Unavailable):
            await work
    world.store.away = False
    assert await world.names(SAM) == ["laptop"]


async def test_without_own_keys_nothing_is_minted_but_tokens_can_be_revoked(world: World) -> None:
    record = (await world.mint(SAM)).record
    bare = TokenService(world.store, world.store.write, None, world.clock, TokenRules(ISSUER))
    failure: Failed = await refusal(bare.mint(SAM, TokenSpec("x", TokenKind.PERSONAL)))
    assert failure.reason is Reason.CONFLICT
    await bare.revoke(SAM, record.id)


async def test_namespaced_actor_keeps_its_name(world: World) -> None:
    """A provider's name before the slash keeps its case: the token names the very Actor that minted it."""
    caller = Caller(replace(SAM.actor, id="Corp/sam"))
    assert (await world.mint(caller)).record.actor_id == "Corp/sam"


async def test_another_spelling_of_the_callers_id_is_another_actor(world: World) -> None:
    """The case of a provider's name tells two providers apart, so it tells two people apart."""
    sam = Caller(Actor(ActorType.USER, "corp/sam", CORP, "corp", "s-1"))
    with pytest.raises(Refused) as refusal:
        await world.mint(sam, actor_id="Corp/sam")
    assert refusal.value.reason is Reason.FORBIDDEN
    assert (await world.mint(sam, actor_id="corp/SAM")).record.actor_id == "corp/sam"


async def test_what_is_not_said_lives_no_longer_than_it_may() -> None:
    world = World(max_lifetime=3600.0)
    record = (await world.mint(SAM)).record
    assert record.expires_at == record.created_at + 3600


JANE = Caller(
    Actor(ActorType.USER, "Jane@Example.com", CORP, "corp", "s-3", "jane@example.com", True, is_admin=True),
)


async def test_address_in_an_own_token_is_that_of_its_name_or_made_up(world: World) -> None:
    """A server may take the caller's name from it: beside the name from another claim it would name another person."""
    other = replace(SAM, actor=replace(SAM.actor, email="s.smith@example.com"))
    assert "email" not in parse((await world.mint(other)).token, 16_384).claims
    made_up = await World(verbatim=True).mint(JANE, actor_id="Pat@Example.com")
    claims = parse(made_up.token, 16_384).claims
    assert (claims["sub"], claims["email"]) == ("Pat@Example.com", "pat@example.com")


async def test_a_bot_never_has_its_makers_name_in_other_letters() -> None:
    """People may not use a bot's name, and names compare without case: its maker could not come in again."""
    world = World(verbatim=True)
    maker = replace(JANE, actor=replace(JANE.actor, id="Ingest"))
    assert (await refusal(world.bot(maker, name="ingest"))).reason is Reason.CONFLICT


async def test_reserved_and_bot_names_are_no_persons_in_other_letters() -> None:
    world = World(verbatim=True, is_bot_name=lambda name: name == "ingest")
    for name, reason in (("Anonymous", Reason.REQUEST_INVALID), ("INGEST", Reason.CONFLICT)):
        assert (await refusal(world.mint(JANE, actor_id=name))).reason is reason
    assert (await world.bot(JANE, name="Reader")).record.actor_id == "reader"


async def test_an_id_in_other_letters_is_the_caller_except_at_datahub() -> None:
    world = World(verbatim=True)
    assert (await world.mint(JANE, actor_id="JANE@example.com")).record.actor_id == "Jane@Example.com"
    datahubs = replace(JANE, actor=replace(JANE.actor, id="Jane", provider="datahub"))
    assert (await world.mint(datahubs, actor_id="jane")).record.actor_id == "jane"


@pytest.mark.parametrize(
    ("provider", "actor_id", "names", "is_admin"),
    [
        ("corp", "Jane@Corp.com", {"jane@corp.com"}, True),
        ("corp", "Jane@Corp.com", {"corp/jane@corp.com"}, True),
        ("corp", "Jane@Corp.com", {"jane"}, False),
        ("datahub", "Sam", {"datahub/Sam"}, True),
        ("datahub", "Sam", {"datahub/sam"}, False),
    ],
)
def test_an_owner_is_compared_without_case_but_for_datahubs_users(
    provider: str, actor_id: str, names: set[str], is_admin: bool
) -> None:
    record = TokenRecord(
        "1", "h", "laptop", TokenKind.PERSONAL, actor_id, ActorType.USER, 0.0, is_admin=True,
        owner=Owner(CORP, provider, "s", actor_id),
    )  # fmt: skip
    policy = PrincipalPolicy("own", admin_names=frozenset(names), admin_providers=frozenset({"corp"}))
    verified = VerifiedClaims({}, VerificationKey("own1", frozenset({"RS256"}), forge.RSA), ISSUER, "s", "1")
    assert recorded_actor(record, verified, policy).is_admin is is_admin
