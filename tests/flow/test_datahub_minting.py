"""Tokens in DataHub's form that are minted here: by the API and the command line, good until they are revoked."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import main
from sidecar.tokens.jwt.compact import parse
from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.flow.test_datahub import AUTHENTICATION, CLIENT, SECRET
from tests.support.datahub import KEY_TEXT, token
from tests.support.wire import Answer


async def start_managed(start: Start, folder: Path, **blocks: Any) -> Scene:
    return await start(
        jwtTokenConfiguration=own_keys(folder),
        authorizerConfiguration={"adminPrincipals": ["corp/root"]},
        **blocks,
    )


async def call(scene: Scene, method: str, path: str, credential: str, document: Any = None) -> Answer:
    body = b"" if document is None else json.dumps(document).encode()
    headers = [("Authorization", credential), *([("Content-Type", "application/json")] if body else [])]
    async with await scene.connect() as wire:
        return await wire.ask(f"/oauth2{path}", headers, method=method, body=body)


async def test_a_minted_token_is_good_until_it_is_revoked(start: Start, tmp_path: Path) -> None:
    scene = await start_managed(start, tmp_path, authentication=AUTHENTICATION)
    admin = bearer(sub="root")[1]
    wish = {"name": "ingest", "kind": "bot", "format": "datahub", "expiry": "7"}
    minted = await call(scene, "POST", "/tokens", admin, wish)
    assert minted.status == 201
    record = minted.json()
    assert (record["format"], record["actor"]) == ("datahub", {"type": "SERVICE", "id": "ingest"})
    credential = f"Bearer {record['token']}"
    told = (await call(scene, "GET", "/userinfo", credential)).json()
    assert (told["actor"]["id"], told["isBot"], told["authenticator"]) == ("ingest", True, "datahub")
    assert (await call(scene, "DELETE", f"/tokens/{record['id']}", admin)).status == 204
    refused = await call(scene, "GET", "/userinfo", credential)
    assert (refused.status, refused.json()["reason"]) == (401, "token_revoked")


async def test_without_the_shared_secrets_none_is_minted(start: Start, tmp_path: Path) -> None:
    scene = await start_managed(start, tmp_path)
    answer = await call(scene, "POST", "/tokens", bearer(sub="root")[1], {"name": "x", "format": "datahub"})
    assert (answer.status, answer.json()["reason"]) == (409, "conflict")


async def test_the_command_line_mints_what_the_sidecar_accepts(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await start_managed(start, tmp_path, authentication=AUTHENTICATION)
    (config,) = map(str, tmp_path.glob("*.yaml"))
    assert (
        await run(
            "create", "--config", config, "--kind", "bot", "--name", "etl", "--expiry", "7", "--format", "datahub"
        )
        == 0
    )
    printed = capsys.readouterr()
    assert KEY_TEXT not in printed.out + printed.err
    assert await run("explain", "--config", config, printed.out.strip()) == 0


async def run(*arguments: str) -> int:
    """The exit code of ``sidecar token``, which has an event loop of its own."""
    return await asyncio.to_thread(main, ["token", *arguments])


async def test_the_system_client_gives_sessions_to_people(start: Start, tmp_path: Path) -> None:
    """As DataHub's frontend does for its users; no other kind, for no other caller, and never for an admin."""
    scene = await start_managed(start, tmp_path, authentication=AUTHENTICATION)
    system = f"Basic {CLIENT}:{SECRET}"
    wish = {"name": "ui", "kind": "session", "actor": {"type": "USER", "id": "root"}, "format": "datahub"}
    made = await call(scene, "POST", "/tokens", system, wish)
    assert made.status == 201, made.body
    credential = f"Bearer {made.json()['token']}"
    told = (await call(scene, "GET", "/userinfo", credential)).json()
    assert (told["actor"], told["isBot"]) == ({"type": "USER", "id": "root", "urn": "urn:li:corpuser:root"}, False)
    assert (await call(scene, "GET", "/revocations", credential)).status == 403
    assert (await call(scene, "GET", "/tokens", system)).json()["data"] == []
    for more, status in (
        ({"kind": "personal"}, 403),
        ({"format": "openmetadata"}, 403),
        ({"kind": "bot"}, 403),
        ({"roles": ["all"]}, 403),
        ({"actor": {"id": CLIENT}}, 400),
        ({"actor": {"id": "visitor"}}, 400),
        ({"actor": {"id": "Root"}}, 400),
        ({"actor": {"id": "root@example.com"}}, 400),
    ):
        assert (await call(scene, "POST", "/tokens", system, wish | more)).status == status, more
    del wish["actor"]
    assert (await call(scene, "POST", "/tokens", system, wish)).status == 400


async def test_a_datahub_user_in_capitals_gets_no_token_of_another(start: Start, tmp_path: Path) -> None:
    """Ids are carried in lower case here, which to DataHub is another user."""
    scene = await start_managed(start, tmp_path, authentication=AUTHENTICATION)
    for actor_id, status in (("Sam", 400), ("sam@x.com", 400), ("sam", 201)):
        credential = f"Bearer {token(actorId=actor_id, sub=actor_id)}"
        for form in ("datahub", "openmetadata"):
            made = await call(scene, "POST", "/tokens", credential, {"name": "x", "format": form})
            assert made.status == status, made.body


async def test_longest_life_holds_for_datahubs_form_too(start: Start, tmp_path: Path) -> None:
    scene = await start_managed(start, tmp_path, authentication=AUTHENTICATION, tokens={"maxLifetime": "1h"})
    admin = bearer(sub="root")[1]
    wish = {"name": "ingest", "kind": "bot", "format": "datahub"}
    assert (await call(scene, "POST", "/tokens", admin, {**wish, "expiry": "PT2H"})).status == 400
    made = (await call(scene, "POST", "/tokens", admin, wish)).json()
    claims = parse(made["token"], 16_384).claims
    assert claims["exp"] - claims["iat"] == 3600
    long = token(iss="meta.example.com", iat=int(scene.clock.now()), exp=int(scene.clock.now()) + 3601, jti=made["id"])
    refused = await call(scene, "GET", "/userinfo", f"Bearer {long}")
    assert (refused.status, refused.json()["reason"]) == (401, "token_invalid")
