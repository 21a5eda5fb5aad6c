"""Claim paths: dots nest, quotes hold a name together, a claim literally so named wins."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.claim_path import ABSENT, ClaimPath


@pytest.mark.parametrize(
    ("path", "claims", "expected"),
    [
        ("sub", {"sub": "sam"}, "sam"),
        ("sub", {"sub": None}, None),
        ("sub", {}, ABSENT),
        ("realm_access.roles", {"realm_access": {"roles": [1]}}, [1]),
        ("realm_access.roles", {"realm_access.roles": 2, "realm_access": {"roles": 1}}, 2),
        ("realm_access.roles", {"realm_access": []}, ABSENT),
        ("realm_access.roles", {"realm_access": None}, ABSENT),
        ("realm_access.roles", {"realm_access": {}}, ABSENT),
        ('resource_access."my.client".roles', {"resource_access": {"my.client": {"roles": 3}}}, 3),
        ('"https://x.example/roles"', {"https://x.example/roles": 4}, 4),
        ("https://x.example/roles", {"https://x.example/roles": 4}, 4),
        ('"a.b"', {"a": {"b": 1}}, ABSENT),
        ("Email", {"EMAIL": 1}, 1),
        ("email", {"EMAIL": 1, "email": 2}, 2),
        ("a.b", {"A": {"B": 5}}, 5),
        ('"a"."b"', {"a": {"b": 6}}, 6),
    ],
)
def test_find(path: str, claims: dict[str, Any], expected: object) -> None:
    assert ClaimPath(path).find(claims) == expected


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", '"', '"a', 'a"b', '""', '"a"b', 'a."b'])
def test_text_that_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match="not a claim path"):
        ClaimPath(text)


@given(st.text(min_size=1).filter(lambda name: '"' not in name))
def test_any_name_can_be_quoted(name: str) -> None:
    assert ClaimPath(f'"{name}"').find({name: 1}) == 1
