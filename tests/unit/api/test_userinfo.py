"""An Actor as JSON."""

import pytest

from sidecar.api.userinfo import describe_actor
from sidecar.identity.actor import Actor, ActorType
from sidecar.store.timestamps import format_rfc3339


def test_members_are_those_of_the_contract() -> None:
    actor = Actor(
        ActorType.SERVICE, "etl", issuer="i", provider="p", email="e@x", groups=("g",), roles=("r",), token_id="t",
        expires_at=0.0, is_bot=True, authenticator="jwt", subject="raw", is_admin=True,
        client="etl-job", scopes=("read",), acting="agent",
    )  # fmt: skip
    assert describe_actor(actor) == {
        "actor": {"type": "SERVICE", "id": "etl", "urn": "urn:li:corpuser:etl"},
        "issuer": "i",
        "provider": "p",
        "email": "e@x",
        "groups": ["g"],
        "roles": ["r"],
        "authenticator": "jwt",
        "tokenId": "t",
        "expiresAt": "1970-01-01T00:00:00Z",
        "isBot": True,
        "client": "etl-job",
        "scopes": ["read"],
        "acting": "agent",
    }
    assert describe_actor(Actor(ActorType.USER, "ann"))["expiresAt"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1_800_000_000.9, "2027-01-15T08:00:00Z"),
        (1e18, None),
        (-1e18, None),
        (float("inf"), None),
        (float("nan"), None),
    ],
)
def test_moments_that_no_calendar_has_are_none(seconds: float, text: str | None) -> None:
    assert format_rfc3339(seconds, "seconds") == text
