"""Configuration becomes expectations and policies; published tokens are known by name."""

from typing import Any

import pytest

from sidecar.config.providers import Provider
from sidecar.config.settings import AuthorizerConfiguration, JwtTokenConfiguration
from sidecar.errors import Cause, Misconfigured, Refused
from sidecar.identity.actor import ActorType
from sidecar.identity.claims import make_actor
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import (
    admin_names,
    issued_policy,
    issued_validation,
    provider_policy,
    provider_validation,
)
from sidecar.tokens.jwt.verify import check_claims
from sidecar.tokens.jwt.well_known import WELL_KNOWN_TOKENS, reject_well_known
from tests.support import forge

CORP = Provider(
    "corp",
    "https://idp/",
    issuer_aliases=("https://idp",),
    algorithms=frozenset({"RS256", "EdDSA"}),
    audiences=frozenset({"meta"}),
    required_claims={"realm_access.roles": frozenset({"staff"})},
    max_token_lifetime=60.0,
    principal_claims=("sub",),
    may_be_admin=True,
)
AUTHORIZER = AuthorizerConfiguration(
    admin_principals=("Admin", "Corp/Boss"), principal_domain="X.com", allowed_domains=("Y.com",)
)


def policy(provider: Provider = CORP) -> object:
    return provider_policy(provider, AUTHORIZER, ("Guest",), lambda name: False, "jwt")


def test_expectations_of_a_provider() -> None:
    made = provider_validation(CORP, None)
    assert made.issuers == frozenset({"https://idp/", "https://idp"})
    assert made.algorithms == frozenset({"RS256", "EdDSA", "Ed25519"})
    assert (made.audiences, made.max_lifetime, made.leeway, made.require_expiry) == (
        frozenset({"meta"}),
        60.0,
        30.0,
        True,
    )
    ((path, values),) = made.required_claims
    assert (path.text, values) == ("realm_access.roles", frozenset({"staff"}))


def test_exact_issuer_replaces_every_spelling() -> None:
    assert provider_validation(CORP, "https://idp").issuers == frozenset({"https://idp"})


def test_unbound_provider_expects_no_issuer() -> None:
    assert provider_validation(Provider("flat", None), None).issuers is None


def test_expectations_of_own_tokens() -> None:
    made = issued_validation(JwtTokenConfiguration(jwtissuer="me", audience="meta", clock_skew=5))
    assert (made.issuers, made.audiences, made.leeway, made.require_expiry) == (
        frozenset({"me"}),
        frozenset({"meta"}),
        5.0,
        False,
    )
    assert "none" not in made.algorithms
    assert not any(name.startswith("HS") for name in made.algorithms)
    assert issued_validation(JwtTokenConfiguration(jwtissuer="me")).audiences == frozenset()


@pytest.mark.parametrize(
    ("written", "early", "late"), [({}, 5.0, 0.0), ({"clock_skew": 0}, 0.0, 0.0), ({"clock_skew": 9}, 9.0, 9.0)]
)
def test_clocks_may_differ_a_little_over_when_an_own_token_begins(
    written: dict[str, Any], early: float, late: float
) -> None:
    """5 s for ``nbf`` and ``iat`` and none for ``exp``; what is written counts for all three."""
    expected = issued_validation(JwtTokenConfiguration(jwtissuer="me", **written))
    good = {"iss": "me", "iat": 1000, "nbf": 1000, "exp": 2000}
    check_claims(good, expected, 1000 - early)
    check_claims(good, expected, 2000 + late - 0.1)
    for now in (1000 - early - 0.1, 2000 + late):
        with pytest.raises(Refused):
            check_claims(good, expected, now)


def test_names_and_domains_compare_without_case() -> None:
    made = provider_policy(CORP, AUTHORIZER, ("Guest",), lambda name: False, "jwt")
    assert (made.principal_domain, made.allowed_domains, made.reserved) == (
        "x.com",
        frozenset({"y.com"}),
        frozenset({"guest"}),
    )
    assert admin_names(AUTHORIZER) == {"admin", "Corp/boss"}


def test_policy_follows_the_provider() -> None:
    service = Provider("k8s", "i", principal_claims=("sub",), actor_type="SERVICE", namespaced=True, groups_claim="g")
    made = make_actor(
        {"sub": "Job", "g": ["a"], "roles": ["r"]},
        provider_policy(service, AUTHORIZER, (), lambda name: False, "jwt"),
    )
    assert (made.type, made.id, made.groups, made.roles) == (ActorType.SERVICE, "k8s/job", ("a",), ("r",))


def test_unbound_flat_form_makes_no_admins() -> None:
    """The tokens that are accepted there are not of ``authority``."""
    unbound = Provider("default", None, principal_claims=("sub",), is_flat=True)
    made = make_actor({"sub": "admin"}, provider_policy(unbound, AUTHORIZER, (), lambda name: False, "jwt"))
    assert not made.is_admin


def test_own_policy_knows_bots_and_admins() -> None:
    made = make_actor({"sub": "admin", "isBot": True}, issued_policy(("sub",), AUTHORIZER, "jwt"))
    assert (made.provider, made.is_bot, made.is_admin) == ("own", True, True)
    assert made.email == "admin@x.com"


@pytest.mark.parametrize(
    "provider",
    [
        Provider("corp", "i", principal_claims=("a..b",)),
        Provider("corp", "i", groups_claim='"a'),
        Provider("corp", "i", service_claim="."),
    ],
)
def test_claim_path_that_cannot_be_read_stops_the_start(provider: Provider) -> None:
    with pytest.raises(Misconfigured, match=r"providers\[corp\]"):
        policy(provider)


def test_required_claim_path_that_cannot_be_read_stops_the_start() -> None:
    with pytest.raises(Misconfigured, match="requiredClaims"):
        provider_validation(Provider("corp", "i", required_claims={"": frozenset()}), None)


def published(**header: object) -> Unverified:
    return parse(forge.token(header_=forge.header(**header)), 16_384)


def test_openmetadatas_published_key_id_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        reject_well_known(published(kid="Gb389a-9f76-gdjs-a92j-0242bk94356"))
    assert refusal.value.cause is Cause.PUBLISHED_SECRET
    reject_well_known(published())


def test_openmetadatas_published_admin_token_is_refused() -> None:
    """Recognised by the digest of its signing input, whichever key verifies it."""
    header = b'{"kid":"Gb389a-9f76-gdjs-a92j-0242bk94356","typ":"JWT","alg":"RS256"}'
    claims = (
        b'{"sub":"admin","isBot":false,"iss":"open-metadata.org","iat":1663938462,"email":"admin@openmetadata.org"}'
    )
    sample = parse(forge.token(claims, header), 16_384)
    sample.kid = None
    with pytest.raises(Refused):
        reject_well_known(sample)
    assert len(WELL_KNOWN_TOKENS) == 1


def test_what_a_provider_says_of_names_and_domains_holds_for_its_claims() -> None:
    own = Provider(
        "corp",
        "i",
        principal_claims=("upn",),
        principal="verbatim",
        address_claim="mail",
        needs_verified=True,
        principal_domain="Z.com",
        allowed_domains=(),
        enforce_domain=True,
    )
    made = provider_policy(own, AUTHORIZER, (), lambda name: False, "jwt")
    assert (made.principal_domain, made.allowed_domains, made.enforce_domain) == ("z.com", frozenset(), True)
    actor = make_actor({"upn": "Jane@Z.com", "mail": "J@y.com", "email_verified": True}, made)
    assert (actor.id, actor.email) == ("Jane@Z.com", "j@y.com")
    with pytest.raises(Refused):
        make_actor({"upn": "Jane@Y.com", "email_verified": True}, made)
