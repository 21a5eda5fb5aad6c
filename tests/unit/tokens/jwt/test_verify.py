"""Expectations: which issuer, key, audience, claims and lifetime a token must have."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.claim_path import ClaimPath
from sidecar.tokens.jwt.compact import parse
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims, verify
from tests.support import forge
from tests.support.forge import NOW, OTHER_RSA, RSA, claims, header, token

PLAIN = ValidationPolicy(issuers=frozenset({forge.ISSUER}), algorithms=frozenset({"RS256"}))
KEY = forge.public(RSA, "RS256")


def judge(text: str, expectations: ValidationPolicy = PLAIN, *keys: Any) -> VerifiedClaims:
    return verify(parse(text, 16_384), keys or (KEY,), expectations, NOW)


def cause_of(text: str, expectations: ValidationPolicy = PLAIN, *keys: Any) -> Cause:
    with pytest.raises(Refused) as refusal:
        judge(text, expectations, *keys)
    assert refusal.value.reason is Reason.TOKEN_INVALID
    return refusal.value.cause


def required(path: str, *values: str) -> ValidationPolicy:
    return replace(PLAIN, required_claims=((ClaimPath(path), frozenset(values)),))


def test_what_comes_out_is_what_was_signed() -> None:
    verified = judge(token(claims(jti="7", nbf=5, exp=NOW + 5)))
    assert (verified.issuer, verified.subject, verified.token_id) == (forge.ISSUER, "sam", "7")
    assert (verified.issued_at, verified.not_before, verified.expires_at) == (NOW - 60, 5, NOW + 5)
    assert verified.key is KEY


def test_withdrawn_key_verifies_nothing() -> None:
    withdrawn = forge.public(RSA, "RS256")
    withdrawn.live = False
    assert cause_of(token(), PLAIN, withdrawn) is Cause.KEY_UNUSABLE


def test_key_is_used_with_its_own_algorithm_only() -> None:
    """RFC 8725 3.1: an RSA key published for RS512 verifies no RS256, though it could."""
    both = replace(PLAIN, algorithms=frozenset({"RS256", "RS512"}))
    assert cause_of(token(), both, forge.public(RSA, "RS512")) is Cause.KEY_UNUSABLE


@pytest.mark.parametrize("published", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("named", ["EdDSA", "Ed25519"])
def test_both_names_of_ed25519_mean_one_algorithm(published: str, named: str) -> None:
    """RFC 9864."""
    either = replace(PLAIN, algorithms=frozenset({"EdDSA", "Ed25519"}))
    text = token(header_=header(alg=named), key=forge.ED, algorithm="Ed25519")
    assert judge(text, either, forge.public(forge.ED, published)).subject == "sam"


def test_algorithm_must_be_allowed_even_when_key_and_signature_are_good() -> None:
    assert cause_of(token(), replace(PLAIN, algorithms=frozenset({"ES256"}))) is Cause.ALGORITHM


def test_each_candidate_is_tried() -> None:
    """RFC 7517 4.5: several keys may share one id."""
    assert judge(token(), PLAIN, forge.public(OTHER_RSA, "RS256"), KEY).key is KEY


def test_key_without_id_serves_any_id_and_token_without_id_any_key() -> None:
    nameless = forge.public(RSA, "RS256", kid=None)
    assert judge(token(), PLAIN, nameless).key is nameless
    assert judge(token(header_=header(kid=...))).key is KEY


def test_no_keys_at_all() -> None:
    with pytest.raises(Refused) as refusal:
        verify(parse(token(), 16_384), (), PLAIN, NOW)
    assert refusal.value.cause is Cause.UNKNOWN_KID


def test_library_that_breaks_means_not_signed() -> None:
    broken = forge.public(RSA, "RS256")
    broken.key = object()  # type: ignore[assignment]  # a library that raises an unexpected exception
    assert cause_of(token(), PLAIN, broken) is Cause.SIGNATURE


def test_unbound_provider_takes_any_issuer() -> None:
    assert judge(token(claims(iss="any-issuer")), replace(PLAIN, issuers=None)).issuer == "any-issuer"


def test_audience_is_not_compared_when_none_is_expected() -> None:
    assert judge(token(claims(aud=["other"]))).subject == "sam"


@pytest.mark.parametrize(
    ("path", "accepted", "claim", "value"),
    [
        ("azp", "ui", "azp", "ui"),
        ("groups", "staff", "groups", ["other", "staff"]),
        ("realm_access.roles", "staff", "realm_access", {"roles": ["staff"]}),
        ("active", "true", "active", True),
        ("level", "3", "level", 3),
        ("level", "3.5", "level", [3.5]),
        ('"https://x.example/kind"', "job", "https://x.example/kind", "job"),
    ],
)
def test_required_claim_is_met(path: str, accepted: str, claim: str, value: object) -> None:
    assert judge(token(claims(**{claim: value})), required(path, accepted, "another")).subject == "sam"


@pytest.mark.parametrize(
    "value", [..., None, "", "UI", "ui ", "uix", [], ["x"], {"ui": "ui"}, [["ui"]], [None], True, 1, "True"]
)
def test_required_claim_is_not_met(value: object) -> None:
    assert cause_of(token(claims(kind=value)), required("kind", "ui", "2")) is Cause.REQUIRED_CLAIM


def test_all_required_claims_must_be_met() -> None:
    both = replace(PLAIN, required_claims=tuple((ClaimPath(name), frozenset({"1"})) for name in "ab"))
    assert judge(token(claims(a="1", b="1")), both).subject == "sam"
    assert cause_of(token(claims(a="1", b="2")), both) is Cause.REQUIRED_CLAIM


@pytest.mark.parametrize("changes", [{"exp": NOW + 541}, {"iat": ...}, {"exp": ...}, {"iat": 0}])
def test_lifetime_cap(changes: dict[str, Any]) -> None:
    """Without ``iat`` or ``exp`` the lifetime of a token is unknown."""
    capped = replace(PLAIN, max_lifetime=600.0, require_expiry=False)
    assert judge(token(claims(exp=NOW + 540)), capped).subject == "sam"
    assert cause_of(token(claims(**changes)), capped) is Cause.LIFETIME


@pytest.mark.parametrize("exp", [..., None])
def test_missing_expiry_is_accepted_only_where_allowed(exp: object) -> None:
    """``exp: null`` is how OpenMetadata writes endless tokens."""
    assert judge(token(claims(exp=exp)), replace(PLAIN, require_expiry=False)).expires_at is None
    assert cause_of(token(claims(exp=exp))) is Cause.EXPIRY_MISSING


def test_forged_token_is_not_told_its_other_faults() -> None:
    """The signature comes before every claim."""
    assert cause_of(token(claims(exp=1, iss="x", aud=5), key=OTHER_RSA)) is Cause.SIGNATURE
