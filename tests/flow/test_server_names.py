"""With minted credentials no caller can act at the upstream as one of its bots, its system client or its admin."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import Scene, Start, bearer, merged, own_keys
from tests.flow.test_forward_headers import passed_on
from tests.support.echo_upstream import echo_upstream
from tests.support.wire import Answer

ADMINS = {"adminPrincipals": ["corp/root"], "principalDomain": "example.com"}


def openmetadata(tmp_path: Path, **upstream: Any) -> dict[str, Any]:
    return {
        "upstream": {"credentials": "openmetadata", **upstream},
        "jwtTokenConfiguration": own_keys(tmp_path),
        "authorizerConfiguration": ADMINS,
    }


async def ask(scene: Scene, *headers: tuple[str, str], target: str = "/x") -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, list(headers))


@pytest.mark.parametrize(
    "name", ["ingestion-bot", "Ingestion-Bot@evil.example", "McpApplicationBot", "x-bot", "nightly"]
)
async def test_a_foreign_token_named_as_a_bot_of_the_server_is_refused(start: Start, tmp_path: Path, name: str) -> None:
    """Forwarded, checked and asked about alike; the metric says why, the answer only that the name is reserved."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **openmetadata(tmp_path, serverBots=["Nightly"]))
        for target in ("/x", "/oauth2/auth", "/oauth2/userinfo"):
            for _ in range(2):  # the second time from memory
                answer = await ask(scene, bearer(sub=name), target=target)
                assert (answer.status, answer.json()["reason"]) == (401, "principal_reserved")
        assert (await ask(scene, bearer(sub="sam"))).status == 200
        labels = 'authenticator="jwt",outcome="rejected",provider="corp",reason="server_bot"'
        assert await scene.metric(f"sidecar_authentications_total{{{labels}}}") == 6


async def test_every_way_of_coming_in_is_covered(start: Start, tmp_path: Path) -> None:
    """Passwords and guests name Actors too."""
    users = tmp_path / "user.props"
    users.write_text("ingestion-bot:secret-of-a-person\nsam:secret-of-sam\n")
    members = [
        {"type": "basic", "configs": {"userProps": str(users)}},
        {"type": "guest", "configs": {"enabled": True, "guestUser": "usage-bot"}},
    ]
    blocks = merged(openmetadata(tmp_path), {"authentication": {"authenticators": members}})
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **blocks)
        refused = await ask(scene, ("Authorization", "Basic aW5nZXN0aW9uLWJvdDpzZWNyZXQtb2YtYS1wZXJzb24="))
        assert (refused.status, refused.json()["reason"]) == (401, "principal_reserved")
        assert (await ask(scene, ("Authorization", "Basic c2FtOnNlY3JldC1vZi1zYW0="))).status == 200
        assert (await ask(scene)).json()["reason"] == "principal_reserved"


async def test_a_known_token_is_rejected_when_a_bot_of_its_name_is_minted(start: Start, tmp_path: Path) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **openmetadata(tmp_path))
        robot = bearer(sub="robot")
        assert (await ask(scene, robot)).status == 200
        wish = json.dumps({"name": "robot", "kind": "bot", "replacePerson": True}).encode()
        async with await scene.connect() as wire:
            lines = [bearer(sub="root"), ("Content-Type", "application/json")]
            minted = await wire.ask("/oauth2/tokens", lines, method="POST", body=wish)
        assert minted.status == 201, minted.body
        refused = await ask(scene, robot)
        assert (refused.status, refused.json()["reason"]) == (401, "principal_reserved")


async def test_a_bot_that_was_minted_here_may_bear_such_a_name(start: Start, tmp_path: Path) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **openmetadata(tmp_path))
        wish = json.dumps({"name": "ingestion-bot", "kind": "bot"}).encode()
        async with await scene.connect() as wire:
            lines = [bearer(sub="root"), ("Content-Type", "application/json")]
            minted = await wire.ask("/oauth2/tokens", lines, method="POST", body=wish)
        assert minted.status == 201, minted.body
        assert (await ask(scene, ("Authorization", f"Bearer {minted.json()['token']}"))).status == 200
        assert (await ask(scene, bearer(sub="ingestion-bot"))).status == 401


@pytest.mark.parametrize("credentials", ["passthrough", "none"])
async def test_without_minted_credentials_such_names_stay_free(start: Start, credentials: str) -> None:
    """There the server verifies the token itself, or receives no name."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, upstream={"credentials": credentials})
        assert (await ask(scene, bearer(sub="ingestion-bot"))).status == 200


async def test_other_issuers_cannot_name_the_servers_default_admin(start: Start, tmp_path: Path) -> None:
    """Whatever ``adminPrincipals`` say here: no token is minted for a caller who is called ``admin`` and is none."""
    request = await passed_on(start, [bearer(sub="admin")], **openmetadata(tmp_path))
    assert request.all("Authorization") == []
