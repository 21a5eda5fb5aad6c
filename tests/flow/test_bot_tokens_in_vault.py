"""Tokens of bots in a secrets manager: minted, replaced, revoked, conflicts, outages and crashes in between."""

import asyncio
import base64
import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from aiohttp import web

from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.base import Batch
from sidecar.store.open import open_store
from sidecar.store.revocation_entry import Scope, make_entry
from tests.support.azure import Azure, azure, never
from tests.support.http_client import request
from tests.support.identity_provider import IdentityProvider
from tests.support.managed_sidecar import ISSUER, ManagedSidecar, managed_sidecar, write_configuration
from tests.support.openbao import openbao
from tests.support.sidecar_process import running_sidecar

ID = "openmetadata-bot-ingestion-bot-config-jwttoken"
BOT = {"name": "ingestion-bot", "kind": "bot"}


@pytest.fixture(name="vault")
def _vault(tmp_path: Path) -> Iterator[Azure]:
    with azure(tmp_path) as world:
        yield world


@asynccontextmanager
async def started(vault: Azure, folder: Path, **tokens: Any) -> AsyncIterator[ManagedSidecar]:
    """A sidecar that keeps tokens of bots in the vault."""
    manager = {"secretsManager": "managed-azure-kv", "parameters": vault.parameters(), "timeout": "1s"}
    async with managed_sidecar(
        folder, secretsManagerConfiguration=manager, tokens={"botTokensInVault": True, **tokens}
    ) as sidecar:
        yield sidecar


async def eventually(condition: Callable[[], bool], within: float = 30.0) -> None:
    """Poll ``condition``."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def refusal(sidecar: ManagedSidecar, status: int, **body: Any) -> str:
    """The message of a refused minting."""
    reply = await sidecar.call("POST", "/tokens", sidecar.token_of("root"), body={**BOT, **body})
    assert reply.status == status, reply.body
    assert b"eyJ" not in reply.body
    return str(reply.json()["message"])


async def test_a_token_is_in_the_vault_until_it_is_replaced_or_revoked(vault: Azure, tmp_path: Path) -> None:
    """Under OpenMetadata's id; every answer says where; no revoked token stays."""
    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        first = await sidecar.mint(root, **BOT)
        assert first["secret"] == f"secret:{ID}"
        assert vault.value(ID) == first["token"]
        assert await sidecar.status(first["token"]) == 200
        second = await sidecar.mint(root, **BOT)
        assert vault.value(ID) == second["token"]
        assert [await sidecar.status(one["token"]) for one in (first, second)] == [401, 200]
        listed = (await sidecar.call("GET", "/bots", root)).json()["data"]
        assert [(bot["name"], bot["secret"]) for bot in listed] == [("ingestion-bot", f"secret:{ID}")]
        shown = {one["id"]: one["secret"] for one in (await sidecar.call("GET", "/tokens", root)).json()["data"]}
        assert shown == {second["id"]: f"secret:{ID}", first["id"]: None}
        # nothing is left on the revocation list
        assert (await sidecar.call("GET", "/revocations", root)).json()["data"] == []
        assert (await sidecar.call("DELETE", f"/tokens/{second['id']}", root)).status == 204
        await eventually(lambda: ID not in vault.secrets)
        third = await sidecar.mint(root, **BOT)  # the vault has to recover the deleted name
        assert vault.value(ID) == third["token"]
        await asyncio.sleep(6)  # longer than the cleaner waits
        assert vault.value(ID) == third["token"]


async def test_other_tokens_are_not_written(vault: Azure, tmp_path: Path) -> None:
    """Personal tokens and sessions stay with their owners."""
    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        for kind in ("personal", "session"):
            assert (await sidecar.mint(root, name="x", kind=kind, actor={"id": "alice"}))["secret"] is None
        assert vault.secrets == {}
        assert "require kind bot" in await refusal(sidecar, 400, kind="personal", replace=True)


async def test_what_is_not_the_bots_token_is_not_overwritten(vault: Azure, tmp_path: Path) -> None:
    """Another bot with the same id, another issuer, any other text, an unreadable version; unless it is asked for."""
    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        other = await sidecar.mint(root, name="ingestion.-bot", kind="bot")
        assert other["secret"] == f"secret:{ID}"
        message = await refusal(sidecar, 409)
        assert f'has a secret {ID} that is a token of "ingestion.-bot", not a token of "ingestion-bot"' in message
        assert "--replace" in message
        assert vault.value(ID) == other["token"]
        vault.put(ID, sidecar.token_of("ingestion-bot"))
        assert "is a token of the issuer " in await refusal(sidecar, 409)
        vault.put(ID, "a password")
        assert "is no token" in await refusal(sidecar, 409)
        vault.put(ID, "x", enabled=False)
        assert "cannot be read (status 403, SecretDisabled)" in await refusal(sidecar, 409)
        taken = await sidecar.mint(root, **BOT, replace=True)
        assert vault.value(ID) == taken["token"]
        assert await sidecar.status(other["token"]) == 200
        vault.put(ID, "null")  # what OpenMetadata writes for no token
        made = await sidecar.mint(root, **BOT)
        assert vault.value(ID) == made["token"]


@pytest.mark.parametrize("name", ["x" * 200, "бот"])
async def test_a_name_that_makes_no_id_is_refused(vault: Azure, tmp_path: Path, name: str) -> None:
    """With a message that says so, before anything is sent."""
    async with started(vault, tmp_path) as sidecar:
        assert "choose another name" in await refusal(sidecar, 400, name=name)
        assert vault.requests == []


async def test_without_the_vault_no_token_is_minted(vault: Azure, tmp_path: Path) -> None:
    """503, the former token stays valid and in the vault, and nothing is left behind."""

    async def refuse_writes(request: web.BaseRequest) -> web.StreamResponse | None:
        return web.json_response({}, status=503) if request.method == "PUT" else None

    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        first = await sidecar.mint(root, **BOT)
        vault.may_write = False
        reply = await sidecar.call("POST", "/tokens", root, body=BOT)
        assert (reply.status, reply.json()["reason"]) == (503, "unavailable")
        assert (await sidecar.call("GET", "/revocations", root)).json()["data"] == []
        vault.may_write, vault.answer = True, refuse_writes
        assert (await sidecar.call("POST", "/tokens", root, body=BOT)).status == 503
        assert await sidecar.status(first["token"]) == 200
        assert vault.value(ID) == first["token"]
        # the write may have been done all the same: that token stays denied
        (entry,) = (await sidecar.call("GET", "/revocations", root)).json()["data"]
        assert entry["reason"] == f"bot token being written to secret:{ID}"
        records = (await sidecar.call("GET", "/tokens", root)).json()["data"]
        assert [record["id"] for record in records] == [first["id"]]


async def test_a_token_between_vault_and_record_is_not_valid_and_is_deleted(vault: Azure, tmp_path: Path) -> None:
    """As after a crash: also where tokens without a record are accepted."""
    async with started(vault, tmp_path, requireRecord=False) as sidecar:
        root = sidecar.token_of("root")
        await sidecar.mint(root, **BOT)
        first = await sidecar.mint(root, **BOT)  # revokes the one before, so that the cleaner looks at the secret

        async def written_and_lost(request: web.BaseRequest) -> web.StreamResponse | None:
            if request.method != "PUT":
                return None
            vault.put(ID, json.loads(await request.read())["value"])
            return web.json_response({}, status=503)

        vault.answer = written_and_lost
        assert (await sidecar.call("POST", "/tokens", root, body=BOT)).status == 503
        lost = vault.value(ID)
        assert lost != first["token"]
        assert await sidecar.status(lost) == 401
        assert await sidecar.status(first["token"]) == 200
        (entry,) = (await sidecar.call("GET", "/revocations", root)).json()["data"]
        vault.answer = None
        await asyncio.sleep(6)  # likewise
        assert vault.value(ID) == lost  # another process may be about to put it on record
        earlier = make_entry(
            Scope.TOKEN, ISSUER, entry["jti"], time.time() - 61, expires_at=time.time() + 900, reason=entry["reason"]
        )
        store = await open_store(
            StoreSettings(url=Secret(f"sqlite:///{tmp_path}/sidecar.db")), Metrics(), SystemClock()
        )
        await store.write(Batch(add_entries=(earlier,)))
        await store.aclose()
        second = await sidecar.mint(root, name="other-bot", kind="bot")  # a change, so that it looks again
        await eventually(lambda: ID not in vault.secrets)
        assert vault.value("openmetadata-bot-other-bot-config-jwttoken") == second["token"]
        assert await sidecar.status(lost) == 401


async def test_a_revocation_does_not_wait_for_the_vault(
    vault: Azure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The token ends at once; the copy is named by readiness and metric, and deleted later."""
    caplog.set_level(logging.WARNING)

    async def refuse_deletes(request: web.BaseRequest) -> web.StreamResponse | None:
        return web.json_response({}, status=403) if request.method == "DELETE" else None

    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        made = await sidecar.mint(root, **BOT)
        vault.answer = refuse_deletes
        began = time.monotonic()
        assert (await sidecar.call("DELETE", f"/tokens/{made['id']}", root)).status == 204
        assert time.monotonic() - began < 1
        assert await sidecar.status(made["token"]) == 401
        await eventually(lambda: "secret_not_deleted" in [getattr(line, "event", "") for line in caplog.records])
        (line,) = [line for line in caplog.records if getattr(line, "event", "") == "secret_not_deleted"]
        assert "Key Vault Secrets Officer" in line.detail  # type: ignore[attr-defined]
        assert made["token"] not in caplog.text
        vault.answer = None


def _segment(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def _forged(**claims: Any) -> str:
    return f"{_segment({'alg': 'RS256'})}.{_segment({'iss': ISSUER, **claims})}.{_segment('x')}"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 30_000,
        "..",
        "a.b.c",
        "\u202e\ud83d\ude00",
        "eyJhbGciOiJSUzI1NiJ9." + "W" * 4000 + ".x",
        _forged(sub=["ingestion-bot"], isBot=True),
        _forged(sub="other", isBot=True, jti={"a": 1}),
        _forged(sub="ingestion-bot", isBot="true", jti="\n"),
        _forged(sub="x" * 5000, iss=["a"] * 1000),
        _forged(sub="ingestion-bot", iss={"a": "b"}),
    ],
)
async def test_a_hostile_text_in_the_vault_is_a_conflict(
    vault: Azure, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Never an internal error, neither of a minting nor of the cleaner."""
    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        made = await sidecar.mint(root, **BOT)
        vault.put(ID, text)
        assert len(await refusal(sidecar, 409)) < 1000
        assert (await sidecar.call("DELETE", f"/tokens/{made['id']}", root)).status == 204
        read = len(vault.requests)
        await eventually(lambda: len(vault.requests) > read)
        await asyncio.sleep(0.5)
        assert vault.value(ID) == text
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


async def _redirect(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "https://127.0.0.1:1/secrets/x"})


async def _garbage(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="<html>S3CRET", content_type="application/json")


async def _huge(_: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"value": "S3CRET" * 200_000})


async def _odd(_: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"value": 7, "id": [], "attributes": "S3CRET"})


async def _unauthorized(_: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"error": "S3CRET"}, status=401)


async def _cut(request: web.BaseRequest) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"S3CRET")
    assert request.transport is not None
    request.transport.close()
    return answer


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("hostile", [_redirect, _garbage, _huge, _odd, _unauthorized, _cut, never])
async def test_a_hostile_answer_mints_nothing(
    vault: Azure,
    tmp_path: Path,
    hostile: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    method: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """503, and nothing of the answer in it or in the log; the former token stays valid."""
    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        first = await sidecar.mint(root, **BOT)

        async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
            is_meant = request.method == method and request.path.startswith("/secrets/")
            return await hostile(request) if is_meant else None

        vault.answer = answer
        reply = await sidecar.call("POST", "/tokens", root, body=BOT)
        assert reply.status == 503, reply.body
        assert b"S3CRET" not in reply.body
        assert await sidecar.status(first["token"]) == 200
        vault.answer = None
        assert len(vault.secrets[ID]) == 1
    assert "S3CRET" not in caplog.text
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


async def test_two_writers_at_the_same_time(vault: Azure, tmp_path: Path) -> None:
    """Who is overwritten gets 409 and no token, and what is in the vault is what counts."""
    async with started(vault, tmp_path) as sidecar:
        root = sidecar.token_of("root")
        first = await sidecar.mint(root, **BOT)

        def overwriting() -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]:
            async def answer(request: web.BaseRequest) -> web.StreamResponse | None:
                if request.method == "GET" and "/secrets/" in request.path and vault.value(ID) != first["token"]:
                    vault.answer = None
                    vault.put(ID, first["token"])
                return None

            return answer

        vault.answer = overwriting()
        assert "at the same time" in await refusal(sidecar, 409)
        assert await sidecar.status(first["token"]) == 200
        results = await asyncio.gather(*(sidecar.call("POST", "/tokens", root, body=BOT) for _ in range(4)))
        tokens = [reply.json()["token"] for reply in results if reply.status == 201]
        assert tokens
        assert [token for token in tokens if await sidecar.status(token) == 200] == [vault.value(ID)]


async def broken(_: web.BaseRequest) -> web.StreamResponse | None:
    """An override: nothing works."""
    return web.json_response({}, status=503)


def test_commands_say_where_a_token_is(vault: Azure, tmp_path: Path) -> None:
    """``check``, ``token create``, ``token show``, ``bots list``; failures and conflicts are exit code 1."""
    with IdentityProvider() as idp:
        manager = {"secretsManager": "managed-azure-kv", "parameters": vault.parameters(), "timeout": "1s"}
        config = write_configuration(
            tmp_path, idp, secretsManagerConfiguration=manager, tokens={"botTokensInVault": True}
        )

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "sidecar", *words, "--config", str(config)]
            return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

        checked = run("check")
        example = f"Tokens of bots are written to Azure Key Vault; the bot ingestion-bot: secret:{ID}"
        assert example in checked.stdout, checked.stderr
        create = ("token", "create", "--kind", "bot", "--name", "ingestion-bot")
        made = run(*create)
        assert made.returncode == 0, made.stderr
        assert vault.value(ID) == made.stdout.strip()
        lines = [json.loads(line) for line in made.stderr.splitlines()]
        assert lines[-1]["secret"] == f"secret:{ID}"
        assert [line["event"] for line in lines[:-1]] == ["secret_written", "token_minted"]
        shown = json.loads(run("token", "show", lines[-1]["id"]).stdout)
        assert shown["secret"] == f"secret:{ID}"
        assert f"secret:{ID}" in run("bots", "list").stdout
        vault.put(ID, "a password")
        refused = run(*create)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"has a secret {ID} that is no token" in refused.stderr
        assert run(*create, "--replace").returncode == 0
        misused = run("token", "create", "--kind", "personal", "--name", "x", "--replace")
        assert misused.returncode == 2
        vault.may_write = False
        refused = run(*create)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Key Vault Secrets Officer" in refused.stderr
        vault.answer = broken
        checked = run("check")
        assert checked.returncode == 1
        assert (
            f"error: tokens.botTokensInVault: secret:{ID} in Azure Key Vault: unavailable: status 503" in checked.stderr
        )
        revoked = run("token", "revoke", json.loads(run("token", "list", "--json").stdout.splitlines()[0])["id"])
        assert revoked.returncode == 0
        assert "warning: the token is revoked, and still in Azure Key Vault as " in revoked.stderr


def test_openbao_with_the_policy_of_the_guide(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """From an empty server: keys, a token that works, one that replaces it, and none after its revocation."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "secrets.md").read_text(encoding="utf-8")
    policy = guide.partition("```hcl\n")[2].partition("```")[0]
    with openbao(require_tool("bao"), tmp_path) as bao:
        role, secret = bao.add_approle(policy)
        (tmp_path / "secret-id").write_text(secret)
        reached = {"baoAddress": bao.url, "baoAuthMethod": "approle", "baoRoleId": role}
        manager = {
            "secretsManager": "managed-openbao",
            "parameters": {**reached, "baoSecretId": f"file:{tmp_path}/secret-id"},
        }
        document = {
            "secretsManagerConfiguration": manager,
            "jwtTokenConfiguration": {
                "keySecret": "secret:/openmetadata/sidecar/keys",
                "jwtissuer": "meta.example.com",
            },
            "tokens": {"botTokensInVault": True},
            "store": {"url": f"sqlite:///{tmp_path}/sidecar.db"},
        }
        config = tmp_path / "commands.yaml"
        config.write_text(json.dumps(document))

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "sidecar", *words, "--config", str(config)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            return done

        def held() -> str | None:
            try:
                found = bao.ask("GET", "secret/data/openmetadata/bot/ingestion-bot/config/jwttoken")
            except HTTPError:
                return None
            return str(found["data"]["data"]["value"])

        run("keys", "rotate")
        run("check")
        with running_sidecar(tmp_path, document) as sidecar:

            def status(token: str) -> int:
                headers = (("Authorization", f"Bearer {token}"),)
                return request(f"{sidecar.url}/oauth2/auth", headers=headers).status

            create = ("token", "create", "--kind", "bot", "--name", "ingestion-bot", "--json")
            first, second = (json.loads(run(*create).stdout) for _ in range(2))
            assert first["record"]["secret"] == "secret:/openmetadata/bot/ingestion-bot/config/jwttoken"
            assert held() == second["token"]
            assert [status(one["token"]) for one in (first, second)] == [401, 200]
            run("token", "revoke", second["record"]["id"])
            assert held() is None
            third = json.loads(run(*create).stdout)
            assert held() == third["token"]
            assert status(third["token"]) == 200
            bao.put("openmetadata/bot/ingestion-bot/config/jwttoken", "a password")
            command = [sys.executable, "-m", "sidecar", *create, "--config", str(config)]
            assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 1
            assert held() == "a password"
            assert status(third["token"]) == 200
