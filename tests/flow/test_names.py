"""Names of Actors: by each rule, for DataHub, in tokens and revocation entries, and when the rule is required."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.app.running import run_sidecar
from sidecar.cli.main import main
from sidecar.config.load import load
from sidecar.errors import Misconfigured
from sidecar.tokens.jwt.compact import decode_segment
from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.datahub import KEY_TEXT, SALT_TEXT
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.jwks_server import JwksServer, jwk
from tests.support.ports import free_port
from tests.support.wire import Answer

JANE = {"sub": "7", "email": "Jane.Doe@Example.org", "email_verified": True}
DATAHUB = {
    "systemClientSecret": "s3cret-of-the-tests",
    "tokenService": {"signingKey": KEY_TEXT, "salt": SALT_TEXT},
    "authenticators": [{"type": "datahub"}],
}


def blocks(keys: JwksServer, folder: Path, *, credentials: str = "datahub", **principal: str) -> dict[str, Any]:
    """A sidecar before a DataHub; its one provider is that of the tests."""
    corp = {
        "name": "corp",
        "issuer": forge.ISSUER,
        "publicKeyUrls": [keys.url()],
        "audiences": ["meta"],
        "mayBeAdmin": True,
        "emailVerified": "required",
        **principal,
    }
    return {
        "upstream": {"credentials": credentials},
        "authenticationConfiguration": {"providers": [corp]},
        "authorizerConfiguration": {
            "adminPrincipals": ["Chief@Example.org", "datahub"],
            "principalDomain": "example.org",
        },
        "authentication": DATAHUB,
        "jwtTokenConfiguration": own_keys(folder),
    }


@pytest.fixture
async def keys() -> AsyncIterator[JwksServer]:
    async with JwksServer() as server:
        server.publish(jwk(forge.RSA, "k1"))
        yield server


async def call(scene: Scene, target: str, credential: tuple[str, str], document: Any = None) -> Answer:
    async with await scene.connect() as wire:
        if document is None:
            return await wire.ask(target, [credential])
        body = json.dumps(document).encode()
        head = [credential, ("Content-Type", "application/json")]
        return await wire.ask(target, head, method="POST", body=body)


def seen(answer: Answer, credentials: str) -> str:
    """The user that DataHub sees."""
    received = Received.of(answer.json())
    if credentials == "datahubHeader":
        return received.all("X-DataHub-Actor")[0].removeprefix("urn:li:corpuser:")
    return str(json.loads(decode_segment(received.all("Authorization")[0].split(".")[1]))["actorId"])


@pytest.mark.parametrize("credentials", ["datahub", "datahubHeader"])
@pytest.mark.parametrize(
    ("principal", "name"),
    [
        ({}, "Jane.Doe@Example.org"),
        ({"principal": "verbatim"}, "Jane.Doe@Example.org"),
        ({"principal": "localPart"}, "jane.doe"),
    ],
)
async def test_datahub_sees_the_user_that_it_made_at_log_in(
    start: Start, tmp_path: Path, keys: JwksServer, credentials: str, principal: dict[str, str], name: str
) -> None:
    """By default it is called as the provider writes it; ``localPart`` is for installations that had it so."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **blocks(keys, tmp_path, credentials=credentials, **principal))
        answer = await call(scene, "/entities", bearer(**JANE))
        assert (answer.status, seen(answer, credentials)) == (200, name)
        assert Received.of(answer.json()).all("X-Auth-Request-Email") == ["jane.doe@example.org"]


async def test_tokens_for_people_who_are_called_by_addresses(start: Start, tmp_path: Path, keys: JwksServer) -> None:
    """Minted for the id as it is shown, whichever letters were asked with; not for another, and for bots never."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **blocks(keys, tmp_path, principal="verbatim"))
        asked = {"name": "laptop", "actor": {"id": "jane.doe@EXAMPLE.org"}}
        minted = (await call(scene, "/oauth2/tokens", bearer(**JANE), asked)).json()
        assert minted["actor"] == {"type": "USER", "id": "Jane.Doe@Example.org"}
        own = ("Authorization", f"Bearer {minted['token']}")
        assert (await call(scene, "/oauth2/userinfo", own)).json()["actor"]["id"] == "Jane.Doe@Example.org"
        assert seen(await call(scene, "/entities", own), "datahub") == "Jane.Doe@Example.org"
        other = {"name": "laptop", "actor": {"id": "john@example.org"}}
        assert (await call(scene, "/oauth2/tokens", bearer(**JANE), other)).status == 403
        admin = bearer(sub="0", email="CHIEF@example.org", email_verified=True)
        assert (await call(scene, "/oauth2/tokens", admin, other)).json()["actor"]["id"] == "john@example.org"
        bad = {"name": "laptop", "actor": {"id": "(x)john@example.org"}}
        assert (await call(scene, "/oauth2/tokens", admin, bad)).status == 400
        bot = {"name": "Ingest@example.org", "kind": "bot"}
        assert (await call(scene, "/oauth2/tokens", admin, bot)).status == 400


@pytest.mark.parametrize("principal", ["verbatim", "localPart"])
@pytest.mark.parametrize("denied", ["jane.doe", "JANE.DOE@example.org"])
async def test_a_denied_actor_stays_denied_by_either_rule(
    start: Start, tmp_path: Path, keys: JwksServer, principal: str, denied: str
) -> None:
    """An entry under the one name holds after a change to the other, in any letters, for own tokens too."""
    with echo_upstream() as upstream:
        settings = blocks(keys, tmp_path, principal=principal)
        settings["authorizerConfiguration"] = {"adminPrincipals": ["corp/0"], "principalDomain": "example.org"}
        scene = await start(upstream.url, **settings)
        minted = (await call(scene, "/oauth2/tokens", bearer(**JANE), {"name": "laptop"})).json()
        scene.clock.advance(1)
        entry = {"actor": {"type": "USER", "id": denied}}
        admin = bearer(sub="0")
        assert (await call(scene, "/oauth2/revocations", admin, entry)).status == 201
        refused = (await call(scene, "/oauth2/userinfo", bearer(**JANE))).json()
        assert refused["reason"] == "token_revoked"
        other = {**JANE, "sub": "8", "email": "john@example.org"}
        assert (await call(scene, "/oauth2/userinfo", bearer(**other))).status == 200
        own = await call(scene, "/oauth2/userinfo", ("Authorization", f"Bearer {minted['token']}"))
        assert (own.status, own.json()["reason"]) == (401, "token_revoked")


def document(keys: JwksServer, folder: Path, **principal: str) -> dict[str, Any]:
    made = blocks(keys, folder, **principal)
    made["upstream"]["url"] = "http://127.0.0.1:9"
    made["store"] = {"url": f"sqlite:///{folder}/sidecar.db"}
    made["server"] = {"listen": f"127.0.0.1:{free_port()}", "adminListen": f"127.0.0.1:{free_port()}"}
    return made


def written(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "sidecar.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


@pytest.mark.parametrize("entry", ["record", "revocation"])
async def test_the_rule_must_be_written_once_the_store_holds_names(
    tmp_path: Path, keys: JwksServer, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default would call people otherwise than the entries do: a denied person would pass again."""
    content = document(keys, tmp_path)
    path = written(tmp_path, content)
    async with run_sidecar(load([path], {})):
        pass
    capsys.readouterr()
    await run("check", "--config", path)
    text = "".join(capsys.readouterr())
    assert (
        "corp: principal: verbatim (default for these upstream.credentials): Alice@Corp.com becomes Alice@Corp.com"
        in text
    )
    assert "authenticationConfiguration.principal: is not set: verbatim applies" in text
    if entry == "record":
        assert await run("token", "create", "--config", path, "--name", "laptop", "--kind", "personal") == 0
    else:
        lines = tmp_path / "revocations"
        lines.write_text(json.dumps({"actor": {"type": "USER", "id": "alice"}}), encoding="utf-8")
        assert await run("revocations", "import", "--config", path, str(lines)) == 0
    with pytest.raises(Misconfigured) as refusal:
        async with run_sidecar(load([path], {})):
            pass
    (problem,) = refusal.value.problems
    assert problem.path == "authenticationConfiguration.principal"
    assert "principal: localPart the name Alice@Corp.com gives the Actor alice," in problem.message
    assert "principal: verbatim Alice@Corp.com," in problem.message
    capsys.readouterr()
    assert await run("check", "--config", path) == 2
    assert "authenticationConfiguration.principal: must be set" in "".join(capsys.readouterr())
    for rule in ("localPart", "verbatim"):
        content["authenticationConfiguration"]["principal"] = rule
        async with run_sidecar(load([written(tmp_path, content)], {})):
            pass


async def test_a_store_that_cannot_be_asked_may_hold_names(tmp_path: Path, keys: JwksServer) -> None:
    content = document(keys, tmp_path)
    content["store"] = {"url": f"redis://127.0.0.1:{free_port()}/0"}
    with pytest.raises(Misconfigured, match="the store cannot be read"):
        async with run_sidecar(load([written(tmp_path, content)], {})):
            pass
