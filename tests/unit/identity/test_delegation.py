"""Client, scopes, audiences and acting party of a token: what cannot be read as one is none."""

from typing import Any

import pytest

from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.delegation import MAX_NAME_LENGTH, MAX_SCOPES, DelegationPolicy, read_delegation

POLICY = DelegationPolicy(tuple(map(ClaimPath, ("azp", "client_id", "cid", "appid"))), trusts_act=True)
UNTRUSTED = DelegationPolicy(POLICY.client_claims)


def nested(depth: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": "last"}
    for number in range(depth):
        act = {"sub": f"agent{number}", "act": act}
    return act


@pytest.mark.parametrize(
    ("claims", "client"),
    [
        ({}, ""),
        ({"azp": "ui"}, "ui"),
        ({"appid": "a", "cid": "b", "client_id": "c", "azp": "d"}, "d"),
        ({"appid": "a", "cid": "b"}, "b"),
        ({"azp": "", "client_id": "c"}, ""),
        ({"azp": None, "client_id": "c"}, ""),
        ({"azp": ["ui"]}, ""),
        ({"azp": 7}, ""),
        ({"azp": "a\nb"}, ""),
        ({"azp": "x" * (MAX_NAME_LENGTH + 1)}, ""),
    ],
)
def test_the_first_claim_that_is_present_names_the_client(claims: dict[str, Any], client: str) -> None:
    """There is no fallback to a later claim, as for names of Actors."""
    assert read_delegation(claims, POLICY).client == client


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, ()),
        ({"scope": "a b"}, ("a", "b")),
        ({"scope": " a  a b "}, ("a", "b")),
        ({"scope": ""}, ()),
        ({"scope": "a\tb c"}, ("c",)),
        ({"scope": 'a" b\\ c\u00e4 d'}, ("d",)),
        ({"scope": ["a"]}, ()),
        ({"scope": 7}, ()),
        ({"scp": "a b"}, ("a", "b")),
        ({"scp": ["a", "b", "a", "", 7, "c d", None]}, ("a", "b")),
        ({"scp": {"a": 1}}, ()),
        ({"scope": "a b", "scp": ["b", "c"]}, ("b",)),
        ({"scope": "a", "scp": []}, ()),
        ({"scope": ["a"], "scp": ["a"]}, ()),
        ({"scope": None, "scp": ["a"]}, ("a",)),
    ],
)
def test_only_scopes_that_every_claim_has_count(claims: dict[str, Any], scopes: tuple[str, ...]) -> None:
    assert read_delegation(claims, POLICY).scopes == scopes


@pytest.mark.parametrize(
    ("claim", "audiences"),
    [
        (None, ()), ("a", ("a",)), (["a", "b", "a"], ("a", "b")), ([], ()), (7, ()), ([7, "a", None], ("a",)),
        ({"a": 1}, ()), ("", ()),
    ],
)  # fmt: skip
def test_audiences_are_texts(claim: object, audiences: tuple[str, ...]) -> None:
    assert read_delegation({"aud": claim}, POLICY).audiences == audiences


def test_lists_are_bounded() -> None:
    many = [f"s{number}" for number in range(MAX_SCOPES + 5)]
    found = read_delegation({"aud": many, "scp": many}, POLICY)
    assert (len(found.audiences), len(found.scopes)) == (MAX_SCOPES, MAX_SCOPES)


@pytest.mark.parametrize(
    ("act", "acting"),
    [
        ({"sub": "agent"}, "agent"),
        (nested(100), "agent99"),
        ("agent", ""),
        (["agent"], ""),
        ({}, ""),
        ({"sub": "a\x1b[0m"}, ""),
        ({"sub": ["agent"]}, ""),
        ({"client_id": "agent"}, ""),
        (False, ""),
    ],
)
def test_the_outermost_party_acts(act: object, acting: str) -> None:
    """Also where it cannot be read, the token is one with which an agent acts."""
    found = read_delegation({"act": act}, POLICY)
    assert (found.acting, found.is_delegated) == (acting, True)


def test_an_issuer_that_is_not_trusted_names_no_agent() -> None:
    found = read_delegation({"act": {"sub": "agent"}}, UNTRUSTED)
    assert (found.acting, found.is_delegated) == ("", True)
    assert not read_delegation({"act": None}, UNTRUSTED).is_delegated
