"""OpenMetadata's own ingestion client reads the token that the sidecar has minted, under Azure's host names.

Sidecar and client reach the stand-in of Azure through one CONNECT proxy, and trust it by a CA of its own.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.support.azure import CLIENT, CLIENT_SECRET, TENANT, VAULT, azure
from tests.support.connect_proxy import ConnectProxy
from tests.support.loopback_server import LoopbackServer
from tests.support.sidecar_process import running_sidecar

pytestmark = pytest.mark.heavy
CLIENT_PROGRAM = Path(__file__).parent / "clients" / "openmetadata_vault.py"
ID = "openmetadata-bot-ingestion-bot-config-jwttoken"


async def run(*command: object, **environment: str) -> tuple[int, str, str]:
    """A program, without blocking the loop of the proxy."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(240):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_ingestion_reads_a_minted_token(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """From an empty vault: keys, a token, a call of the client; after a rotation and a revocation too."""
    client = require_tool("openmetadata-client")
    asked: list[str] = []

    async def server(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/api/v1/system/version":
            return web.json_response({"version": "2.0.6", "revision": "x", "timestamp": 0})
        asked.append(request.headers.get("Authorization", ""))
        return web.json_response({"data": [], "paging": {"total": 0}})

    async with AsyncExitStack() as stack:
        vault = stack.enter_context(azure(tmp_path, is_public=True))
        upstream = stack.enter_context(LoopbackServer(server))
        proxy = await stack.enter_async_context(ConnectProxy(int(vault.server.url.rpartition(":")[2])))
        parameters = {"vaultName": VAULT, "tenantId": TENANT, "clientId": CLIENT, "clientSecret": CLIENT_SECRET}
        manager = {"secretsManager": "managed-azure-kv", "parameters": {**parameters, "caFile": str(vault.ca_file)}}
        document: dict[str, Any] = {
            "outbound": {"proxy": proxy.url},
            "upstream": {"url": upstream.url, "credentials": "passthrough"},
            "secretsManagerConfiguration": manager,
            "jwtTokenConfiguration": {"keySecret": "secret:openmetadata-sidecar-keys", "jwtissuer": "meta.example.com"},
            "tokens": {"botTokensInVault": True},
            "rules": [{"preset": "openmetadata"}],
        }
        config = tmp_path / "commands.yaml"
        store = {"url": f"sqlite:///{tmp_path}/sidecar.db"}
        config.write_text(yaml.safe_dump({**document, "store": store}), encoding="utf-8")
        sidecar_command = (sys.executable, "-m", "sidecar")
        code, _, err = await run(*sidecar_command, "keys", "rotate", "--config", config)
        assert code == 0, err
        running = running_sidecar(tmp_path, document)
        sidecar = await asyncio.to_thread(running.__enter__)
        stack.push(running.__exit__)

        async def mint() -> dict[str, Any]:
            command = ("token", "create", "--config", config, "--kind", "bot", "--name", "ingestion-bot", "--json")
            code, out, err = await run(*sidecar_command, *command)
            assert code == 0, err
            made: dict[str, Any] = json.loads(out)
            return made

        async def ingest() -> dict[str, Any]:
            """What the client says, which knows the reference only."""
            asked.clear()
            code, out, err = await run(
                client,
                CLIENT_PROGRAM,
                sidecar.url,
                f"secret:{ID}",
                HTTPS_PROXY=proxy.url,
                NO_PROXY="127.0.0.1",
                REQUESTS_CA_BUNDLE=str(vault.ca_file),
                AZURE_KEY_VAULT_NAME=VAULT,
                AZURE_TENANT_ID=TENANT,
                AZURE_CLIENT_ID=CLIENT,
                AZURE_CLIENT_SECRET=CLIENT_SECRET,
                HOME=str(tmp_path),
            )
            assert code == 0, err
            told: dict[str, Any] = json.loads(out.splitlines()[-1])
            return told

        fine = {"error": None, "text": ""}
        first = await mint()
        assert first["record"]["secret"] == f"secret:{ID}"
        assert await ingest() == fine
        assert set(asked) == {f"Bearer {first['token']}"}
        second = await mint()
        assert await ingest() == fine
        assert set(asked) == {f"Bearer {second['token']}"}
        code, _, err = await run(*sidecar_command, "token", "revoke", "--config", config, second["record"]["id"])
        assert code == 0, err
        assert ID not in vault.secrets
        assert (await ingest())["error"] is not None
        assert asked == []
        assert '"cause":"unresolved_reference"' in sidecar.process.output
        third = await mint()
        assert await ingest() == fine
        assert set(asked) == {f"Bearer {third['token']}"}
        names = {line.split()[1] for line in proxy.asked}
        assert names == {f"{VAULT}.vault.azure.net:443", "login.microsoftonline.com:443"}
        shown = sidecar.process.output
        assert not any(made["token"] in shown for made in (first, second, third))
