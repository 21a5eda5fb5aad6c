"""Whose tokens are whose, where a stranger's key may sign for any issuer (``allowUnboundIssuers``)."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pytest

from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.jwks_server import JwksServer, jwk
from tests.support.wire import Answer

OWN = "meta.example.com"
ALICE = ("Authorization", f"Basic {base64.b64encode(b'alice:opensesame').decode()}")


def stranger(**claims: object) -> tuple[str, str]:
    """A token by the key that is bound to no issuer."""
    text = forge.token(forge.claims(**claims), forge.header(alg="ES256"), key=forge.EC, algorithm="ES256")
    return "Authorization", f"Bearer {text}"


@pytest.fixture
async def scene(start: Start, tmp_path: Path) -> AsyncIterator[Scene]:
    """A sidecar with own keys, people in a password file, the issuer ``corp``, and unbound keys."""
    users = tmp_path / "htpasswd"
    users.write_text(f"alice:{bcrypt.hashpw(b'opensesame', bcrypt.gensalt(4)).decode()}\n")
    async with JwksServer() as server:
        server.publish(jwk(forge.EC, "k1"))
        yield await start(
            jwtTokenConfiguration=own_keys(tmp_path),
            authentication={
                "authenticators": [{"type": "basic", "name": "people", "configs": {"htpasswd": str(users)}}]
            },
            authenticationConfiguration={
                "publicKeyUrls": [server.url()],
                "allowUnboundIssuers": True,
                "tokenValidationAlgorithm": "ES256",
                "jwtPrincipalClaims": ["sub"],
            },
        )


async def ask(scene: Scene, credential: tuple[str, str], method: str = "GET", rest: str = "") -> Answer:
    body = json.dumps({"name": "laptop", "kind": "personal"}).encode() if method == "POST" else b""
    async with await scene.connect() as wire:
        headers = [credential, ("Content-Type", "application/json")]
        return await wire.ask(f"/oauth2/tokens{rest}", headers, method=method, body=body)


async def minted(scene: Scene, credential: tuple[str, str]) -> str:
    answer = await ask(scene, credential, "POST")
    assert answer.status == 201, answer.body
    (record,) = (await ask(scene, credential)).json()["data"]
    return str(record["id"])


async def test_no_stranger_owns_what_a_member_of_the_chain_has_vouched_for(scene: Scene) -> None:
    """Nor what belongs to the sidecar itself; any other name is the stranger's own."""
    token_id = await minted(scene, ALICE)
    for name in ("urn:auth-sidecar:people", "URN:AUTH-SIDECAR:people", OWN, f"{OWN}/assertion"):
        for method, rest in (("GET", ""), ("GET", f"/{token_id}"), ("DELETE", f"/{token_id}")):
            assert (await ask(scene, stranger(iss=name, sub="alice"), method, rest)).status == 401
    free = stranger(iss="https://anyone.example.com", sub="alice")
    assert (await ask(scene, free)).json()["data"] == []
    assert (await ask(scene, free, "DELETE", f"/{token_id}")).status == 404
    assert (await ask(scene, ALICE, "DELETE", f"/{token_id}")).status == 204


async def test_no_stranger_owns_the_tokens_of_an_issuer_that_has_been_removed(scene: Scene) -> None:
    """Its name is free then, but the owner is known by the provider as well."""
    token_id = await minted(scene, bearer())
    await scene.reload(authenticationConfiguration={"providers": []})
    again = stranger(iss=forge.ISSUER)
    assert (await ask(scene, again)).json()["data"] == []
    assert (await ask(scene, again, "DELETE", f"/{token_id}")).status == 404
    assert (await ask(scene, again, "GET", f"/{token_id}")).status == 404
