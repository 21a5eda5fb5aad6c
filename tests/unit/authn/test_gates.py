"""The gates check an accepted credential of any issuer on every use, and a revocation always takes effect."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from multidict import CIMultiDict

from sidecar.app.authentication import server_names
from sidecar.authn.authenticators.jwt import IssuedTokenResolver, Issuer, JwtAuthenticator, ProviderPrincipalMapper
from sidecar.authn.base import Accepted
from sidecar.authn.chain import Chain, Denied
from sidecar.authn.gates import RevocationGate
from sidecar.concurrency import settled
from sidecar.config.settings import Settings
from sidecar.errors import Cause, Reason, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import RequestContext, read_credential
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.record import Owner, TokenKind, TokenRecord, hash_token
from sidecar.store.replica.mirror import Mirror
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.revocation_entry import RevocationEntry, Scope, actor_entry_name, make_entry
from sidecar.tokens.issued.records import IssuedTokens
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually
from tests.support.memory_store import MemoryStore

NOW = forge.NOW
SERVER_NAMES = server_names(
    Settings.model_validate({"upstream": {"credentials": "datahubHeader"}, "authentication": {"systemClientId": "gms"}})
)
OWN_ISSUER = "open-metadata.org"
SAM = Actor(ActorType.USER, "sam", issuer=forge.ISSUER, subject="sam", token_id="j1", issued_at=NOW - 60)


@dataclass
class FakeMirror:
    """What the gate asks, as the test sets it."""

    age: float = 0.0
    revocations: RevocationList = field(default_factory=RevocationList)
    known: dict[str, TokenRecord] = field(default_factory=dict)
    bots: tuple[str, ...] = ()

    def record(self, token_id: str) -> TokenRecord | None:
        return self.known.get(token_id)

    def is_bot_name(self, name: str) -> bool:
        return name in self.bots


def record(**changes: Any) -> TokenRecord:
    plain = TokenRecord("1", "ab", "laptop", TokenKind.PERSONAL, "sam", ActorType.USER, NOW - 600)
    return replace(plain, **changes)


def accepted(actor: Actor = SAM, **more: Any) -> Accepted:
    return Accepted(actor, forge.public(forge.RSA, "RS256"), **more)


def entry(scope: Scope = Scope.TOKEN, issuer: str = forge.ISSUER, name: str = "j1", **more: Any) -> RevocationEntry:
    return make_entry(scope, issuer, name, NOW, **more)


def gate(picture: FakeMirror, *, deny_when_stale: bool = True, clock: HandClock | None = None) -> RevocationGate:
    return RevocationGate(picture, clock or HandClock(NOW), max_staleness=600, deny_when_stale=deny_when_stale)


def verdict(picture: FakeMirror, of: Accepted, **more: Any) -> tuple[Reason, Cause, str] | None:
    failure = gate(picture, **more).check(of)
    return None if failure is None else (failure.reason, failure.cause, failure.detail)


@pytest.mark.parametrize("is_own", [False, True])
def test_denied_token_of_any_issuer_is_revoked_and_the_log_says_by_what(is_own: bool) -> None:
    picture = FakeMirror()
    assert verdict(picture, accepted(is_own=is_own)) is None
    picture.revocations.add(entry())
    assert verdict(picture, accepted(is_own=is_own)) == (Reason.TOKEN_REVOKED, Cause.DENIED, "token")


@pytest.mark.parametrize(
    "entry",
    [
        entry(Scope.SUBJECT, name="sam", issued_before=NOW),
        entry(Scope.ISSUER, name="", issued_before=NOW),
        entry(Scope.ACTOR, "", actor_entry_name("USER", "sam"), issued_before=NOW),
    ],
    ids=lambda entry: entry.scope.value,
)
def test_credential_without_facts_of_its_own_is_judged_by_its_actor(entry: RevocationEntry) -> None:
    picture = FakeMirror()
    picture.revocations.add(entry)
    assert verdict(picture, accepted()) == (Reason.TOKEN_REVOKED, Cause.DENIED, entry.scope.value)


def test_every_change_of_the_list_is_noticed_by_what_was_clear_before() -> None:
    picture, known = FakeMirror(), accepted()
    assert verdict(picture, known) is None
    picture.revocations.add(entry(name="other"))
    assert verdict(picture, known) is None
    picture.revocations.add(entry())
    assert verdict(picture, known) is not None
    picture.revocations.discard(entry().id)
    assert verdict(picture, known) is None
    swapped = RevocationList()
    swapped.add(entry())
    picture.revocations = swapped
    assert verdict(picture, known) is not None


def test_what_is_clear_of_this_list_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, known = FakeMirror(), accepted()
    picture.revocations.add(entry(name="other"))
    assert verdict(picture, known) is None
    monkeypatch.setattr(RevocationList, "match", None)
    assert verdict(picture, known) is None


def test_own_token_passes_while_its_record_stands() -> None:
    known = accepted(is_own=True, record_id="1")
    assert verdict(FakeMirror(known={"1": record()}), known) is None
    ended = FakeMirror(known={"1": record(revoked_at=NOW)})
    assert verdict(ended, known) == (Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED, "")
    assert verdict(FakeMirror(), known) == (Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD, "")


def test_a_known_credential_is_rejected_once_its_name_is_reserved() -> None:
    picture, known = FakeMirror(), accepted()
    assert verdict(picture, known) is None
    picture.bots = ("sam",)
    picture.revocations.match_again()
    assert verdict(picture, known) == (Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME, "")


def test_no_other_token_passes_under_the_name_of_a_bot() -> None:
    picture = FakeMirror(bots=("sam",))
    assert verdict(picture, accepted()) == (Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME, "")
    assert verdict(picture, accepted(is_own=True)) is None


@pytest.mark.parametrize("actor_id", ["__datahub_system", "__DataHub_System", "gms"])
def test_a_name_of_the_server_passes_for_the_own_issuer_only(actor_id: str) -> None:
    """Also where an authenticator that checks no names itself, such as a plugin, has accepted it."""
    guard = RevocationGate(
        FakeMirror(), HandClock(NOW), max_staleness=600, deny_when_stale=True, server_names=SERVER_NAMES
    )
    for _ in range(2):
        failure = guard.check(accepted(replace(SAM, id=actor_id)))
        assert failure is not None
        assert (failure.reason, failure.cause) == (Reason.PRINCIPAL_RESERVED, Cause.SERVER_BOT)
    assert guard.check(accepted(replace(SAM, id=actor_id), is_own=True)) is None
    assert guard.check(accepted()) is None


@pytest.mark.parametrize("more", [{}, {"is_own": True}, {"is_own": True, "record_id": "1"}])
@pytest.mark.parametrize("age", [600.1, float("inf")])
def test_stale_snapshot_accepts_no_token_unless_configured(age: float, more: dict[str, Any]) -> None:
    picture = FakeMirror(age=age, known={"1": record()})
    failure = gate(picture).check(accepted(**more))
    assert isinstance(failure, Unavailable)
    assert failure.cause is Cause.MIRROR_STALE
    assert gate(picture, deny_when_stale=False).check(accepted(**more)) is None
    picture.age = 600
    assert gate(picture).check(accepted(**more)) is None


def test_what_a_stale_picture_knows_as_revoked_is_refused_and_not_broken() -> None:
    picture = FakeMirror(age=9000, known={"1": record(revoked_at=NOW)})
    picture.revocations.add(entry())
    for known in (accepted(), accepted(replace(SAM, token_id="j2"), is_own=True, record_id="1")):
        failure = gate(picture).check(known)
        assert failure is not None
        assert failure.reason is Reason.TOKEN_REVOKED


def test_entry_that_has_expired_denies_no_more() -> None:
    picture, clock = FakeMirror(), HandClock(NOW)
    picture.revocations.add(entry(expires_at=NOW + 60))
    assert verdict(picture, accepted(), clock=clock) is not None
    clock.advance(120)
    assert verdict(picture, accepted(), clock=clock) is None


# --- the whole way: verification, cache, mirror


class Keys:
    """A key that is fetched when the test lets it, in the middle of a verification."""

    issuer = None

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        return ()

    async def refetch(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        self.is_asked.set()
        await self.may_answer.wait()
        return (forge.public(forge.RSA, "RS256"),)


class World:
    """One provider and the own issuer, judged over a mirror of a store."""

    def __init__(self) -> None:
        clock, metrics = HandClock(NOW), Metrics()
        self.store = MemoryStore()
        self.mirror = Mirror(self.store, clock, metrics, clock.wait)
        self.keys = Keys()
        policy = PrincipalPolicy("corp", (ClaimPath("sub"),), authenticator="jwt")
        algorithms = frozenset({"RS256"})
        foreign = Issuer(
            "corp",
            self.keys,  # type: ignore[arg-type] # as far as it is asked
            ValidationPolicy(frozenset({forge.ISSUER}), algorithms),
            ProviderPrincipalMapper(policy, 30),
        )
        tokens = IssuedTokens(self.mirror, replace(policy, own_issuer=True), require_record=False)
        own = Issuer(
            "own",
            self.keys,  # type: ignore[arg-type] # likewise
            ValidationPolicy(frozenset({OWN_ISSUER}), algorithms, require_expiry=False),
            IssuedTokenResolver(tokens, 0),
        )
        self.cache: VerifiedCache[Accepted] = VerifiedCache(10, metrics)
        authenticator = JwtAuthenticator(
            {forge.ISSUER: foreign, OWN_ISSUER: own},
            unbound=None,
            cache=self.cache,
            clock=clock,
            max_token_bytes=16_384,
            refuse=None,
        )
        guard = RevocationGate(self.mirror, clock, max_staleness=600, deny_when_stale=True)
        self.chain = Chain((authenticator,), (guard,), metrics)

    async def present(self, token: str) -> Accepted | Denied:
        headers: CIMultiDict[str] = CIMultiDict([("Authorization", f"Bearer {token}")])
        view = RequestContext("GET", None, headers, read_credential(headers))
        return await settled(self.chain.authenticate(view))

    async def is_revoked(self, token: str) -> bool:
        outcome = await self.present(token)
        return isinstance(outcome, Denied) and outcome.failure.reason is Reason.TOKEN_REVOKED


@pytest.fixture
async def world() -> Any:
    made = World()
    await made.mirror.start()
    await made.mirror.wait_first_load(2)
    yield made
    await made.mirror.aclose()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["revoked here", "revoked on another replica"])
async def test_revocation_beats_a_concurrent_fill_of_the_cache(world: World, elsewhere: bool) -> None:
    """The revocation lands while the token is between the look-up of its key and the cache."""
    token = forge.token(forge.claims(jti="j1"))
    world.keys.may_answer.clear()
    judging = asyncio.create_task(world.present(token))
    await world.keys.is_asked.wait()
    batch = Batch(add_entries=[entry()])
    await (world.store.write(batch) if elsewhere else world.mirror.write(batch))
    await eventually(lambda: len(world.mirror.revocations))
    world.keys.may_answer.set()
    outcome = await judging
    assert isinstance(outcome, Denied)
    assert outcome.failure.cause is Cause.DENIED
    assert len(world.cache) == 1, "the result was cached, and the token is still refused"
    assert await world.is_revoked(token)


async def test_token_that_is_known_as_good_is_refused_once_it_is_revoked(world: World) -> None:
    token = forge.token(forge.claims(jti="j1"))
    assert isinstance(await world.present(token), Accepted)
    await world.mirror.write(Batch(add_entries=[entry()]))
    assert await world.is_revoked(token)


async def test_token_without_jti_is_denied_by_the_digest_of_what_was_signed(world: World) -> None:
    token, other = forge.token(), forge.token(forge.claims(sub="kim"))
    digest = hash_token(token.rpartition(".")[0])
    await world.mirror.write(Batch(add_entries=[entry(Scope.DIGEST, name=digest)]))
    assert await world.is_revoked(token)
    assert not await world.is_revoked(other)


async def test_end_of_an_origin_ends_its_own_tokens_by_when_they_were_recorded(world: World) -> None:
    owner = Owner(forge.ISSUER, "corp", "raw", "sam")
    old = forge.token(forge.claims(iss=OWN_ISSUER, jti="1", iat=..., exp=...))
    new = forge.token(forge.claims(iss=OWN_ISSUER, jti="2", iat=..., exp=...))
    await world.mirror.write(
        Batch(
            add=[
                record(token_hash=hash_token(old), owner=owner, created_at=NOW - 10),
                record(id="2", token_hash=hash_token(new), owner=owner, created_at=NOW),
            ]
        )
    )
    assert isinstance(await world.present(old), Accepted)
    await world.mirror.write(Batch(add_entries=[entry(Scope.SUBJECT, name="raw", issued_before=NOW)]))
    assert await world.is_revoked(old)
    assert isinstance(await world.present(new), Accepted)


async def test_cut_off_ends_own_tokens_without_a_record_too(world: World) -> None:
    token = forge.token(forge.claims(iss=OWN_ISSUER, iat=..., exp=...))
    assert isinstance(await world.present(token), Accepted)
    await world.mirror.write(Batch(add_entries=[entry(Scope.SUBJECT, OWN_ISSUER, "sam", issued_before=NOW)]))
    assert await world.is_revoked(token)
