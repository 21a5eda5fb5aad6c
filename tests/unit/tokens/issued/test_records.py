"""Issued tokens are identified by their records, and accepted with the audiences of their kind only."""

from typing import Any

import pytest

from sidecar.errors import Cause, Refused
from sidecar.identity.actor import ActorType
from sidecar.identity.claims import PrincipalPolicy
from sidecar.store.record import TokenKind, TokenRecord, hash_token
from sidecar.tokens.issued.records import IssuedTokens, OwnAudiences
from sidecar.tokens.jwt.verify import VerifiedClaims

AUDIENCES = OwnAudiences("meta", frozenset({"service"}), frozenset({"https://x/mcp"}))


class _Records:
    def __init__(self, kind: TokenKind) -> None:
        self.kind = kind

    async def lookup(self, token_id: str) -> TokenRecord | None:
        return TokenRecord(token_id, hash_token("text"), "n", self.kind, "sam", ActorType.USER, 1.0)


async def outcome(kind: TokenKind, audience: Any, gate: str = "") -> tuple[str, bool]:
    """The cause of the refusal, and whether the token is for a protected resource."""
    tokens = IssuedTokens(_Records(kind), PrincipalPolicy("own"), require_record=True, audiences=AUDIENCES)
    if gate:
        tokens = tokens.for_audience(gate)
    claims = {"aud": audience}
    key: Any = None
    try:
        found = await tokens.identify(VerifiedClaims(claims, key, "iss", "sam", "id"), "text")
    except Refused as refusal:
        return refusal.cause, False
    return "", found.is_for_resource


@pytest.mark.parametrize(
    ("kind", "audience", "gate", "expected"),
    [
        (TokenKind.PERSONAL, "meta", "", ("", False)),
        (TokenKind.PERSONAL, ["x", "meta"], "", ("", False)),
        (TokenKind.PERSONAL, "service", "", (Cause.AUDIENCE, False)),
        (TokenKind.EXCHANGED, "service", "", ("", False)),
        (TokenKind.EXCHANGED, "https://x/mcp", "", ("", True)),
        (TokenKind.EXCHANGED, "kafka:prod", "", (Cause.AUDIENCE, False)),
        (TokenKind.EXCHANGED, None, "", (Cause.AUDIENCE, False)),
        (TokenKind.EXCHANGED, "kafka:prod", "kafka:prod", ("", False)),
        (TokenKind.EXCHANGED, "service", "kafka:prod", (Cause.AUDIENCE, False)),
        (TokenKind.PERSONAL, "meta", "kafka:prod", (Cause.AUDIENCE, False)),
        (TokenKind.BROWSER, "meta", "", (Cause.RECORD_MISMATCH, False)),
    ],
)
async def test_audience_of_each_kind(kind: TokenKind, audience: Any, gate: str, expected: tuple[str, bool]) -> None:
    assert await outcome(kind, audience, gate) == expected


async def test_token_of_the_endpoint_needs_its_record_whatever_the_setting() -> None:
    """Without a record it could not be revoked."""

    class Nothing:
        async def lookup(self, _token_id: str) -> None:
            return None

    tokens = IssuedTokens(Nothing(), PrincipalPolicy("own"), require_record=False)
    key: Any = None
    for name in ("src", "client_id"):
        with pytest.raises(Refused) as caught:
            await tokens.identify(VerifiedClaims({name: "x"}, key, "iss", "sam", "id"), "text")
        assert caught.value.cause is Cause.NOT_ON_RECORD
