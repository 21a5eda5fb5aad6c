"""Identity assertions for the upstream."""

import json
from dataclasses import replace
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet

from sidecar.identity.actor import Actor, ActorType
from sidecar.tokens.upstream.assertion import IdentityAssertions
from sidecar.tokens.upstream.token_cache import TokenCache
from tests.support.hand_clock import HandClock

ANN = Actor(ActorType.USER, "ann", issuer="https://i", provider="corp", groups=("a", "b"), token_id="t")


def said(statements: IdentityAssertions, text: str) -> dict[str, Any]:
    keys = KeySet.import_key_set(json.loads(statements.jwks))
    return jwt.decode(text, keys, algorithms=["ES256"]).claims


def test_a_statement_says_that_groups_were_left_out() -> None:
    """No empty list stands in their place, which would say that there are none."""
    statements = IdentityAssertions("sidecar", "meta", HandClock())
    whole, short = said(statements, statements.token_for(ANN)), statements.token_for(ANN, with_groups=False)
    assert whole["actor"]["groups"] == ["a", "b"]
    assert "groups_omitted" not in whole
    claims = said(statements, short)
    assert claims["groups_omitted"] is True
    assert "groups" not in claims["actor"]
    assert {**claims["actor"], "groups": ["a", "b"]} == whole["actor"]
    assert statements.token_for(ANN, with_groups=False) == short


def test_statements_about_actors_that_differ_in_anything_differ() -> None:
    statements = IdentityAssertions("sidecar", "meta", HandClock())
    others = [
        replace(ANN, groups=("a",)), replace(ANN, groups=("b", "a")), replace(ANN, groups=("a,b",)),
        replace(ANN, roles=("a", "b"), groups=()), replace(ANN, token_id="u"), replace(ANN, type=ActorType.SERVICE),
        replace(ANN, is_bot=True), replace(ANN, provider="other"), replace(ANN, email="ann@example.com"),
    ]  # fmt: skip
    texts = {statements.token_for(actor) for actor in (ANN, *others)}
    assert len(texts) == len(others) + 1


def test_remembered_texts_are_bounded_by_memory() -> None:
    tokens = TokenCache(max_bytes=10_000)
    for number in range(100):
        tokens.get(number, 1000, lambda _issued: "x" * 1000)
    assert len(tokens._tokens) == 4
    assert tokens._tokens.weight <= 10_000
    assert tokens.get(99, 1000, lambda _issued: "again") == "x" * 1000
    tokens.get(99, 2000, lambda _issued: "y")
    for number in range(96, 99):
        tokens.get(number, 2000, lambda _issued: "y")
    assert tokens._tokens.weight == 4 * 402
