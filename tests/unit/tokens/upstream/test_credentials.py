"""Upstream credentials and assertions, which callers cannot use."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import Cause, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.keys.keyset import parse_key_set
from sidecar.keys.signing import SigningKey
from sidecar.secrets.value import Secret
from sidecar.tokens.datahub import verify_datahub
from sidecar.tokens.jwt.compact import decode_segment, parse, split
from sidecar.tokens.jwt.jose import verify_signature
from sidecar.tokens.jwt.verify import ValidationPolicy, verify
from sidecar.tokens.upstream.assertion import IdentityAssertions
from sidecar.tokens.upstream.credentials import DataHubCredentials, OpenMetadataCredentials
from sidecar.tokens.upstream.token_cache import LIFETIME, TokenCache
from tests.support import forge
from tests.support.datahub import KEY
from tests.support.hand_clock import HandClock

SAM = Actor(ActorType.USER, "sam", issuer="i", provider="corp", subject="Sam", groups=("a,b",), roles=("r",))


class Keys:
    """Own keys whose first one may change."""

    current = SigningKey("own1", "RS256", forge.RSA)


def credentials(clock: HandClock, keys: Keys | None = None, **changes: Any) -> OpenMetadataCredentials:
    values = {
        "issuer": "meta.example.com",
        "algorithm": "RS256",
        "principal_domain": "Example.com",
        "principal_claims": ("email", "preferred_username", "sub"),
        **changes,
    }
    return OpenMetadataCredentials(lambda: (keys or Keys()).current, clock, **values)


def claims_of(token: str) -> dict[str, Any]:
    return dict(parse(token, 16_384).claims)


def test_credential_has_openmetadatas_shape() -> None:
    clock = HandClock()
    token = credentials(clock).token_for(SAM)
    assert parse(token, 16_384).header == {"alg": "RS256", "kid": "own1", "typ": "JWT"}
    assert claims_of(token) == {
        "iss": "meta.example.com",
        "sub": "sam",
        "email": "sam@example.com",
        "username": "sam",
        "preferred_username": "sam",
        "roles": ["r"],
        "isBot": False,
        "tokenType": "OM_USER",
        "auth_sidecar": "upstream",
        "iat": clock.now(),
        "exp": clock.now() + LIFETIME,
    }


@pytest.mark.parametrize(
    "principal_claims", [("email",), ("preferred_username",), ("sub",), ("upn", "email"), ("oid",)]
)
@pytest.mark.parametrize("domain", ["", "example.com"])
@pytest.mark.parametrize(
    "actor",
    [
        SAM,
        replace(SAM, email="other.name@x.com", domain="x.com", email_in_token=True),
        replace(SAM, id="corp/sam"),
        replace(SAM, id="Sam.X@x.com", email="sam.x@x.com", domain="x.com", email_in_token=True),
        replace(SAM, type=ActorType.SERVICE, is_bot=True, is_admin=True),
    ],
)
def test_server_derives_the_actors_name_by_its_own_rules(
    actor: Actor, domain: str, principal_claims: tuple[str, ...]
) -> None:
    token = credentials(HandClock(), principal_domain=domain, principal_claims=principal_claims).token_for(actor)
    claims = claims_of(token)
    deciding = next(claims[name] for name in principal_claims if name in claims)
    assert (deciding.partition("@")[0].lower(), claims["isBot"]) == (actor.id.lower().partition("@")[0], False)
    assert deciding.count("@") <= 1


def test_callers_cannot_present_upstream_credentials() -> None:
    clock = HandClock()
    token = parse(credentials(clock).token_for(SAM), 16_384)
    everything = ValidationPolicy(issuers=None, algorithms=frozenset({"RS256"}), require_expiry=False)
    with pytest.raises(Refused) as refusal:
        verify(token, (forge.public(forge.RSA, "RS256", kid="own1"),), everything, clock.now())
    assert refusal.value.cause is Cause.UPSTREAM_ONLY


def test_server_may_want_another_algorithm_of_the_rsa_key() -> None:
    token = parse(credentials(HandClock(), algorithm="RS512").token_for(SAM), 16_384)
    assert token.algorithm == "RS512"
    with pytest.raises(Refused) as refusal:
        verify(
            token,
            (forge.public(forge.RSA, "RS512", kid="own1"),),
            ValidationPolicy(issuers=None, algorithms=frozenset({"RS512"})),
            HandClock().now(),
        )
    assert refusal.value.cause is Cause.UPSTREAM_ONLY  # the signature was good


def test_credential_is_kept_until_half_of_its_life() -> None:
    clock = HandClock()
    minted = credentials(clock)
    first = minted.token_for(SAM)
    clock.advance(LIFETIME / 2 - 1)
    assert minted.token_for(replace(SAM, token_id="another")) == first
    clock.advance(1)
    second = minted.token_for(SAM)
    assert second != first
    clock.advance(-2)
    assert minted.token_for(SAM) != second


def test_credential_follows_what_it_carries_and_the_key() -> None:
    clock, keys = HandClock(), Keys()
    minted = credentials(clock, keys)
    first = minted.token_for(SAM)
    assert claims_of(minted.token_for(replace(SAM, roles=("x",))))["roles"] == ["x"]
    assert claims_of(minted.token_for(replace(SAM, id="pat")))["sub"] == "pat"
    keys.current = SigningKey("own2", "RS256", forge.OTHER_RSA)
    assert parse(minted.token_for(SAM), 16_384).kid == "own2"
    assert first


def test_memory_of_short_lived_tokens_is_bounded() -> None:
    made: list[str] = []

    def mint(name: str) -> str:
        def note(_: object) -> str:
            made.append(name)
            return name

        return tokens.get(name, 0.0, note)

    tokens = TokenCache(size=2)
    for name in "abcab":
        mint(name)
    assert made == list("abcab")
    mint("b")
    mint("a")
    mint("c")
    mint("a")
    assert made == list("abcabc")


def test_assertion_says_everything_exactly() -> None:
    clock = HandClock()
    assertions = IdentityAssertions("meta.example.com", "http://upstream", clock)
    token = assertions.token_for(SAM)
    header, claims, _ = split(token, 16_384)
    assert json.loads(decode_segment(claims)) == {
        "iss": "meta.example.com/assertion",
        "aud": "http://upstream",
        "sub": "sam",
        "iat": clock.now(),
        "exp": clock.now() + LIFETIME,
        "actor": {
            "type": "USER",
            "id": "sam",
            "urn": "urn:li:corpuser:sam",
            "issuer": "i",
            "provider": "corp",
            "subject": "Sam",
            "email": "",
            "groups": ["a,b"],
            "roles": ["r"],
            "isBot": False,
            "tokenId": "",
        },
    }
    assert json.loads(decode_segment(header))["typ"] == "auth-assertion+jwt"


def test_assertion_verifies_with_the_published_key_set() -> None:
    assertions = IdentityAssertions("meta.example.com", "up", HandClock())
    (key,) = parse_key_set(assertions.jwks).keys
    signed, _, signature = assertions.token_for(SAM).rpartition(".")
    assert verify_signature(key.key, "ES256", signed.encode(), decode_segment(signature))
    (other,) = parse_key_set(IdentityAssertions("meta.example.com", "up", HandClock()).jwks).keys
    assert not verify_signature(other.key, "ES256", signed.encode(), decode_segment(signature))
    assert b'"d"' not in assertions.jwks
    assert assertions.etag.strip('"').isalnum()
    assert assertions.etag != IdentityAssertions("meta.example.com", "up", HandClock()).etag


def test_assertion_is_never_a_callers_token() -> None:
    with pytest.raises(Refused) as refusal:
        parse(IdentityAssertions("meta.example.com", "up", HandClock()).token_for(SAM), 16_384)
    assert refusal.value.cause is Cause.TOKEN_TYPE


def test_assertion_is_renewed_at_half_of_its_life_and_per_actor() -> None:
    clock = HandClock()
    assertions = IdentityAssertions("meta.example.com", "up", clock)
    first = assertions.token_for(SAM)
    assert assertions.token_for(replace(SAM)) == first
    assert assertions.token_for(replace(SAM, groups=("c",))) != first
    clock.advance(LIFETIME / 2)
    assert assertions.token_for(SAM) != first


def test_no_credential_has_an_admins_name_for_another_user() -> None:
    """The upstream recognises admins by name alone: another issuer's ``admin`` would be its admin."""
    minting = credentials(HandClock(), admin_names=frozenset({"sam"}))
    assert minting.token_for(SAM) == ""
    assert claims_of(minting.token_for(replace(SAM, is_admin=True)))["sub"] == "sam"
    assert claims_of(minting.token_for(replace(SAM, id="ann")))["sub"] == "ann"


@pytest.mark.parametrize("name", ["Sam", "sam@other.example"])
def test_no_credential_bears_a_name_that_the_server_reads_as_an_admins(name: str) -> None:
    """DataHub's ids keep their case and may be addresses; OpenMetadata reads neither."""
    assert credentials(HandClock(), admin_names=frozenset({"sam"})).token_for(replace(SAM, id=name)) == ""


SYSTEM = replace(SAM, id="__datahub_system", authenticator="system")


def datahub(clock: HandClock, admin_names: frozenset[str] = frozenset()) -> DataHubCredentials:
    return DataHubCredentials(
        KEY,
        clock,
        issuer="datahub-metadata-service",
        authenticator="system",
        system_client=("__datahub_system", Secret("s3cret")),
        admin_names=admin_names,
    )


@pytest.mark.parametrize("actor", [SAM, replace(SAM, type=ActorType.SERVICE), replace(SAM, id="corp/Sam@x.com")])
def test_datahub_credential_is_a_session_that_gms_looks_up_nowhere(actor: Actor) -> None:
    clock = HandClock()
    scheme, _, token = datahub(clock).authorization_for(actor).partition(" ")
    assert scheme == "Bearer"
    claims = claims_of(token)
    assert len(claims.pop("jti")) == 36
    assert claims == {
        "actorType": "USER",
        "actorId": actor.id,
        "type": "SESSION",
        "version": "1",
        "sub": actor.id,
        "iat": clock.now(),
        "exp": clock.now() + LIFETIME,
        "iss": "datahub-metadata-service",
        "auth_sidecar": "upstream",
    }


def test_datahub_credential_is_refused_when_a_caller_presents_it() -> None:
    clock = HandClock()
    token = datahub(clock).authorization_for(SAM).partition(" ")[2]
    signed, _, signature = token.rpartition(".")
    assert verify_signature(KEY.key, "HS256", signed.encode(), decode_segment(signature))
    with pytest.raises(Refused) as caught:
        verify_datahub(parse(token, 16_384), KEY, clock.now())
    assert caught.value.cause is Cause.UPSTREAM_ONLY


def test_datahub_credential_is_one_for_each_actor_and_renewed_in_time() -> None:
    clock = HandClock()
    credentials = datahub(clock)
    first = credentials.authorization_for(SAM)
    assert credentials.authorization_for(replace(SAM, email="new@x.com")) == first
    assert credentials.authorization_for(replace(SAM, id="Sam")) != first
    clock.advance(LIFETIME / 2)
    assert credentials.authorization_for(SAM) != first


def test_system_credential_is_passed_on_for_the_system_client_alone() -> None:
    credentials = datahub(HandClock(), frozenset({SYSTEM.id}))
    assert credentials.authorization_for(SYSTEM) == "Basic __datahub_system:s3cret"
    # another caller with the name: a session would make it the system client too
    assert credentials.authorization_for(replace(SYSTEM, authenticator="basic")) == ""
    # a caller of an authenticator that has the same name in the configuration
    assert credentials.authorization_for(replace(SAM, authenticator="system")).startswith("Bearer ")


def test_no_datahub_credential_has_an_admins_name_for_another_user() -> None:
    """A GMS knows its admins by their urn alone."""
    credentials = datahub(HandClock(), frozenset({"sam", "corp/ann"}))
    for actor in (SAM, replace(SAM, id="Sam"), replace(SAM, id="corp/ann")):
        assert credentials.authorization_for(actor) == ""
        token = credentials.authorization_for(replace(actor, is_admin=True)).partition(" ")[2]
        assert claims_of(token)["actorId"] == actor.id
    assert credentials.authorization_for(replace(SAM, id="pat"))
