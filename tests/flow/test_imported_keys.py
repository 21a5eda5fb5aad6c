"""An imported openmetadata.yaml: the server's key verifies the server's tokens, and signs nothing here."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load
from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.echo_upstream import echo_upstream
from tests.support.wire import Answer

SERVER = forge.OTHER_RSA
ISSUER = "open-metadata.org"
BOT = {"iss": ISSUER, "sub": "ingestion-bot", "isBot": True, "tokenType": "BOT", "iat": int(forge.NOW) - 9}


def server_token(**claims: Any) -> str:
    return forge.token({**BOT, **claims}, key=SERVER)


async def ask(scene: Scene, token: str, target: str = "/api/v1/tables", **more: Any) -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, [("Authorization", f"Bearer {token}"), *more.pop("headers", [])], **more)


def imported(folder: Path, **tokens: Any) -> dict[str, Any]:
    """Blocks that import a file which names the server's key pair."""
    (folder / "server_public.pem").write_bytes(SERVER.as_pem(private=False))
    files = {"rsapublicKeyFilePath": str(folder / "server_public.pem"), "rsaprivateKeyFilePath": "/absent/private.der"}
    block = {"jwtTokenConfiguration": {**files, "jwtissuer": ISSUER, "keyId": "server-key", **tokens}}
    (folder / "openmetadata.yaml").write_text(yaml.safe_dump(block))
    return {"import": {"openmetadata": str(folder / "openmetadata.yaml")}}


async def test_tokens_of_the_server_need_no_record(start: Start, tmp_path: Path) -> None:
    """Bots without ``exp`` and logins; no other token of that issuer, and no upstream credential."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **imported(tmp_path))
        assert (await ask(scene, server_token())).status == 200
        login = server_token(sub="admin", isBot=False, tokenType="OM_USER", exp=int(forge.NOW) + 60)
        assert (await ask(scene, login)).status == 200
        assert (await ask(scene, forge.token(BOT, key=forge.RSA))).status == 401
        assert (await ask(scene, server_token(auth_sidecar="upstream"))).status == 401


async def test_the_sidecar_is_no_issuer_by_an_import(start: Start, tmp_path: Path) -> None:
    """It publishes no key and mints nothing: the pair is the server's."""
    scene = await start(**imported(tmp_path))
    assert scene.sidecar._generation.issuers.own_keys is None
    assert (await ask(scene, server_token(), "/oauth2/jwks")).status == 404


async def test_der_is_read_as_well(start: Start, tmp_path: Path) -> None:
    blocks = imported(tmp_path)
    (tmp_path / "server_public.pem").write_bytes(SERVER.as_der(private=False))
    scene = await start(**blocks)
    assert (await ask(scene, server_token(), "/oauth2/userinfo")).json()["isBot"] is True


@pytest.mark.parametrize("ended", ["revoked", "replaced"])
async def test_what_was_minted_with_the_servers_key_before_is_judged_by_its_record(
    start: Start, tmp_path: Path, ended: str
) -> None:
    """Records are kept over the upgrade: an ended token does not come back because its key verifies the server's."""
    shared = {**own_keys(tmp_path), "jwtissuer": ISSUER}
    admins = {"adminPrincipals": ["corp/root"]}
    before = await start(jwtTokenConfiguration=shared, authorizerConfiguration=admins)
    lines = [("Content-Type", "application/json")]
    wish = json.dumps({"name": "etl", "kind": "bot"}).encode()
    root = bearer(sub="root")[1].removeprefix("Bearer ")
    minted = [await ask(before, root, "/oauth2/tokens", method="POST", body=wish, headers=lines) for _ in range(2)]
    old, current = (answer.json()["token"] for answer in minted)
    if ended == "revoked":
        record = minted[1].json()["id"]
        assert (await ask(before, root, f"/oauth2/tokens/{record}", method="DELETE")).status == 204
    blocks = imported(tmp_path)
    document = yaml.safe_load(before.config.read_text())
    del document["jwtTokenConfiguration"]
    after = before.config.with_suffix(".after.yaml")
    after.write_text(yaml.safe_dump({**document, **blocks}))
    await before.sidecar.reload(load([str(after)], {}))
    expected = {old: 401, current: 401 if ended == "revoked" else 200}
    for token, status in expected.items():
        for _ in range(2):
            assert (await ask(before, token, "/oauth2/userinfo")).status == status
    unknown = server_token(sub="etl", jti="0b5e2a64-31c8-4c3e-9a0e-1de0f2b3c4d5")
    assert (await ask(before, unknown, "/oauth2/userinfo")).status == 401
    assert (await ask(before, server_token(sub="sam", jti="7"), "/oauth2/userinfo")).status == 200
