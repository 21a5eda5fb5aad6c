"""Bearer JWTs find their issuer, and its keys only."""

from collections.abc import Awaitable
from typing import Any

import pytest
from multidict import CIMultiDict

from sidecar.authn.authenticators.jwt import Issuer, JwtAuthenticator, ProviderPrincipalMapper
from sidecar.authn.base import Abstained, Accepted, Outcome, Rejected
from sidecar.concurrency import settled
from sidecar.config.providers import OwnIssuers
from sidecar.config.settings import Settings
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import Credential, RequestContext, Scheme, read_credential
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy
from tests.support import forge
from tests.support.hand_clock import HandClock

ALGORITHMS = frozenset({"RS256", "ES256"})


class Keys:
    """Fixed keys; counts how often a refresh was requested."""

    def __init__(self, *keys: VerificationKey, issuer: str | None = None, later: VerificationKey | None = None) -> None:
        self.keys = keys
        self.issuer = issuer
        self.later = later
        self.refetched = 0
        self.broken = False

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        return tuple(key for key in self.keys if key.kid == kid and algorithm in key.algorithms)

    async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        self.refetched += 1
        if self.broken:
            raise Unavailable(Cause.KEYS_UNAVAILABLE)
        self.keys = (*self.keys, *((self.later,) if self.later else ()))
        return self.candidates(kid, algorithm)


RSA = forge.public(forge.RSA, "RS256")
OTHER = forge.public(forge.OTHER_RSA, "RS256")


def issuer(name: str, keys: Keys, *issuers: str, audiences: tuple[str, ...] = ("meta",)) -> Issuer:
    expectations = ValidationPolicy(frozenset(issuers) or None, ALGORITHMS, frozenset(audiences))
    policy = PrincipalPolicy(name, (ClaimPath("sub"),), principal_domain="example.com", authenticator="jwt")
    return Issuer(name, keys, expectations, ProviderPrincipalMapper(policy, 0.0))


class World:
    """An authenticator over issuers, and its clock."""

    def __init__(self, issuers: dict[str, Issuer], *, unbound: Issuer | None = None, **options: Any) -> None:
        self.clock = HandClock(forge.NOW)
        self.authenticator = JwtAuthenticator(
            issuers,
            unbound=unbound,
            clock=self.clock,
            max_token_bytes=16_384,
            **{"refuse": None, "cache": VerifiedCache(10, Metrics()), **options},
        )

    async def judge(self, authorization: str) -> Outcome:
        return await settled(self.authenticator.authenticate(view(authorization)))


def view(authorization: str) -> RequestContext:
    headers: CIMultiDict[str] = CIMultiDict([("Authorization", authorization)])
    return RequestContext("GET", "/", headers, read_credential(headers))


def bearer(**claims: Any) -> str:
    return f"Bearer {forge.token(forge.claims(**claims))}"


def corp(keys: Keys | None = None) -> dict[str, Issuer]:
    return {forge.ISSUER: issuer("corp", keys or Keys(RSA), forge.ISSUER)}


def cause(outcome: Outcome) -> Cause:
    assert isinstance(outcome, Rejected), outcome
    return outcome.failure.cause


async def test_a_good_token_is_accepted_and_remembered() -> None:
    world = World(corp())
    asked = view(bearer())
    assert world.authenticator.recall(asked) is None
    outcome = await settled(world.authenticator.authenticate(asked))
    assert isinstance(outcome, Accepted)
    assert (outcome.actor.id, outcome.actor.provider, outcome.is_own) == ("sam", "corp", False)
    assert world.authenticator.recall(asked) is outcome
    world.clock.advance(601)
    assert world.authenticator.recall(asked) is None


async def test_a_session_in_the_cache_is_not_recalled_as_a_token() -> None:
    """Its secret, submitted as a token with the prefix of its key in the cache, would pass for one."""
    cache: VerifiedCache[Accepted] = VerifiedCache(10, Metrics())
    world = World(corp(), cache=cache)
    session = Accepted(Actor(ActorType.USER, "sam"), is_session=True)
    cache.put("\nsecret", session, cache.generation)
    asked = RequestContext("POST", None, CIMultiDict(), Credential(Scheme.BEARER, "\nsecret", "Bearer"))
    assert cache.get("\nsecret", forge.NOW) is session
    assert world.authenticator.recall(asked) is None


@pytest.mark.parametrize("authorization", ["Basic eA==", "Digest x", "Token x"])
async def test_other_schemes_are_left_to_other_authenticators(authorization: str) -> None:
    world = World(corp())
    outcome = await world.judge(authorization)
    assert isinstance(outcome, Abstained)
    assert world.authenticator.recall(view(authorization)) is None


async def test_what_is_no_jwt_and_unknown_issuers_are_left_to_others_with_a_hint() -> None:
    world = World(corp())
    for authorization, reason in (
        ("Bearer opaque", Reason.TOKEN_MALFORMED),
        ("Bearer ", Reason.TOKEN_MALFORMED),
        (bearer(iss="https://elsewhere.example.com"), Reason.TOKEN_INVALID),
        (bearer(iss=forge.ISSUER + "/"), Reason.TOKEN_INVALID),
        (bearer(iss=...), Reason.TOKEN_INVALID),
    ):
        outcome = await world.judge(authorization)
        assert isinstance(outcome, Abstained), authorization
        assert outcome.hint is not None
        assert outcome.hint.reason is reason


async def test_one_issuers_key_is_nothing_to_another() -> None:
    issuers = {**corp(), "https://b": issuer("b", Keys(OTHER), "https://b")}
    world = World(issuers)
    assert cause(await world.judge(bearer(iss="https://b"))) is Cause.SIGNATURE
    outcome = await world.judge(f"Bearer {forge.token(forge.claims(iss='https://b'), key=forge.OTHER_RSA)}")
    assert isinstance(outcome, Accepted)


async def test_a_recognised_token_is_decided_on() -> None:
    outcome = await World(corp()).judge(bearer(aud="other"))
    assert isinstance(outcome, Rejected)
    assert (outcome.provider, outcome.failure.cause) == ("corp", Cause.AUDIENCE)


@pytest.mark.parametrize("name", ["urn:auth-sidecar:basic", "om", "om/assertion", "datahub-metadata-service"])
async def test_unbound_keys_never_speak_in_a_name_of_our_own_making(name: str) -> None:
    """Owners of tokens are known by it."""
    own_names = OwnIssuers(Settings.model_validate({"jwtTokenConfiguration": {"jwtissuer": "om"}}))
    world = World(corp(), unbound=issuer("flat", Keys(OTHER)), own_names=own_names)
    for text, expected in ((name, Abstained), ("https://anyone", Accepted)):
        asked = view(f"Bearer {forge.token(forge.claims(iss=text), key=forge.OTHER_RSA)}")
        assert isinstance(world.authenticator.authenticate(asked), expected)


async def test_tokens_of_any_issuer_go_to_the_unbound_one_where_it_exists() -> None:
    unbound = issuer("flat", Keys(OTHER))
    world = World(corp(), unbound=unbound)
    outcome = await world.judge(f"Bearer {forge.token(forge.claims(iss='https://any'), key=forge.OTHER_RSA)}")
    assert isinstance(outcome, Accepted)
    assert outcome.actor.provider == "flat"
    bound = await world.judge(f"Bearer {forge.token(key=forge.OTHER_RSA)}")
    assert cause(bound) is Cause.SIGNATURE, "a bound issuer's tokens are its own keys' business"


async def test_discovery_settles_the_spelling() -> None:
    slash = forge.ISSUER + "/"
    keys = Keys(RSA)
    both = issuer("corp", keys, forge.ISSUER, slash)
    world = World({forge.ISSUER: both, slash: both})
    assert isinstance(await world.judge(bearer()), Accepted)
    keys.issuer = slash
    assert cause(await world.judge(bearer(jti="2"))) is Cause.ISSUER
    assert isinstance(await world.judge(bearer(iss=slash)), Accepted)


async def test_an_unknown_key_is_looked_for_once_more() -> None:
    keys = Keys(later=RSA)
    world = World(corp(keys))
    assert isinstance(await world.judge(bearer()), Accepted)
    assert isinstance(await world.judge(bearer(jti="2")), Accepted)
    assert keys.refetched == 1
    unknown = f"Bearer {forge.token(header_=forge.header(kid='k9'))}"
    assert cause(await world.judge(unknown)) is Cause.UNKNOWN_KID


async def test_an_algorithm_that_cannot_be_accepted_causes_no_fetch() -> None:
    keys = Keys(RSA)
    outcome = await World(corp(keys)).judge(f"Bearer {forge.token(header_=forge.header(alg='PS256', kid='k9'))}")
    assert cause(outcome) is Cause.ALGORITHM
    assert keys.refetched == 0


async def test_without_keys_it_is_broken_not_refused() -> None:
    keys = Keys()
    keys.broken = True
    with pytest.raises(Unavailable) as failure:
        await World(corp(keys)).judge(bearer())
    assert failure.value.detail == "corp"


async def test_published_tokens_are_refused_with_any_signature() -> None:
    def refuse(token: object) -> None:
        raise Refused(Reason.TOKEN_INVALID, Cause.PUBLISHED_SECRET)

    assert cause(await World(corp(), refuse=refuse).judge(bearer())) is Cause.PUBLISHED_SECRET


async def test_nothing_is_remembered_of_a_refused_token() -> None:
    world = World(corp())
    asked = view(bearer(aud="other"))
    await settled(world.authenticator.authenticate(asked))
    assert world.authenticator.recall(asked) is None


async def test_only_a_key_that_has_to_be_fetched_is_awaited() -> None:
    """Whatever the outcome, and however many keys may have signed the token."""
    good, forged = bearer(), bearer(jti="2", aud="other")
    for keys in (Keys(RSA), Keys(OTHER, RSA)):
        world = World(corp(keys))
        assert isinstance(world.authenticator.authenticate(view(good)), Accepted)
        assert isinstance(world.authenticator.authenticate(view(forged)), Rejected)
        assert isinstance(world.authenticator.authenticate(view("Bearer opaque")), Abstained)
    pending = World(corp(Keys(later=RSA))).authenticator.authenticate(view(good))
    assert isinstance(pending, Awaitable)
    assert isinstance(await pending, Accepted)
