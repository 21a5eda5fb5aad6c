"""Azure Key Vault through the SDK: credentials, hostile answers, limits, and what the logs have of it."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.config.settings import SecretsManagerConfiguration
from sidecar.egress import NO_PROXY, Egress, read_proxy
from sidecar.secrets.value import Secret
from sidecar.vaults.base import BoundedVault, VaultError, VaultFailure
from sidecar.vaults.open import open_vault
from tests.support.azure import CLIENT, CLIENT_SECRET, TENANT, Azure, azure, never
from tests.support.ports import free_port

ID = "metadata-password"
SECRET = "value-that-is-in-the-vault"


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> Iterator[Azure]:
    with azure(tmp_path) as world:
        world.put(ID, SECRET)
        yield world


@pytest.fixture(autouse=True)
def _no_azure_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_", "IMDS_"))]:
        monkeypatch.delenv(name)


@asynccontextmanager
async def opened(
    world: Azure, *, egress: Egress = NO_PROXY, wait: str = "2s", **parameters: Any
) -> AsyncIterator[BoundedVault]:
    """A client; parameters that are None are left out."""
    given = {key: value for key, value in world.parameters(**parameters).items() if value is not None}
    written = {"secretsManager": "managed-azure-kv", "parameters": given, "timeout": wait}
    vault = open_vault(SecretsManagerConfiguration.model_validate(written), egress)
    try:
        yield vault
    finally:
        await vault.aclose()


async def failure(world: Azure, **options: Any) -> VaultError:
    """How reading the secret fails."""
    async with opened(world, **options) as vault:
        with pytest.raises(VaultError) as caught:
            await vault.get(ID)
    return caught.value


NONE: dict[str, Any] = {"tenantId": None, "clientId": None, "clientSecret": None}


async def test_client_secret(world: Azure) -> None:
    """All three parameters; nothing else is asked."""
    async with opened(world) as vault:
        assert (await vault.get(ID)).value.reveal() == SECRET
    assert set(world.tokens.values()) == {"secret"}


async def test_client_secret_of_the_environment(world: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TENANT_ID", TENANT), ("CLIENT_ID", CLIENT), ("CLIENT_SECRET", CLIENT_SECRET)):
        monkeypatch.setenv(f"AZURE_{name}", value)
    async with opened(world, **NONE) as vault:
        assert (await vault.get(ID)).value.reveal() == SECRET
    assert set(world.tokens.values()) == {"secret"}


async def test_workload_identity(world: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables that the webhook of AKS sets."""
    (tmp_path / "projected").write_text("projected-token")
    for name, value in (
        ("TENANT_ID", TENANT),
        ("CLIENT_ID", CLIENT),
        ("FEDERATED_TOKEN_FILE", str(tmp_path / "projected")),
    ):
        monkeypatch.setenv(f"AZURE_{name}", value)
    async with opened(world, **NONE) as vault:
        assert (await vault.get(ID)).value.reveal() == SECRET
    assert set(world.tokens.values()) == {"workload"}


@pytest.mark.parametrize(("client", "who"), [(None, "identity"), (CLIENT, f"identity {CLIENT}")])
async def test_managed_identity(world: Azure, monkeypatch: pytest.MonkeyPatch, client: str | None, who: str) -> None:
    """Of the machine, or the user-assigned one; by the metadata service, which no proxy is used for."""
    assert world.metadata is not None
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.metadata.url)
    async with opened(world, **{**NONE, "clientId": client}) as vault:
        assert (await vault.get(ID)).value.reveal() == SECRET
    assert set(world.tokens.values()) == {who}


async def test_an_identity_that_is_not_assigned(world: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.metadata is not None
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.metadata.url)
    error = await failure(world, **{**NONE, "clientId": "another"})
    assert error.failure is VaultFailure.UNAUTHORIZED
    assert "not assigned" in error.detail


async def test_a_metadata_service_that_is_silent_or_absent(world: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the timeout of the call, and it counts as passing: a pod may start before it."""
    assert world.metadata is not None
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.metadata.url)
    world.answer = never
    began = time.monotonic()
    assert (await failure(world, **NONE)).failure is VaultFailure.TIMEOUT
    assert time.monotonic() - began < 6
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{free_port()}")
    error = await failure(world, **NONE)
    assert error.failure in (VaultFailure.CONNECT, VaultFailure.TIMEOUT)
    assert error.is_passing


async def trickle(request: web.BaseRequest) -> web.StreamResponse:
    """A body that never ends, one byte at a time."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def huge(request: web.BaseRequest) -> web.StreamResponse:
    """60 MB."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(60):
        await response.write(b"x" * 1_000_000)
    return response


def plain(status: int, body: str = "", **headers: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """An answer with these headers."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body.encode(), headers={"Content-Type": "application/json", **lines})

    return answer


MARK = "text-of-a-hostile-answer"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (never, VaultFailure.TIMEOUT),
        (trickle, VaultFailure.TIMEOUT),
        (huge, None),
        (plain(200, MARK), None),
        (plain(200, "[]"), None),
        (plain(200, "{}"), VaultFailure.INVALID),
        (plain(200, '{"value": null}'), VaultFailure.INVALID),
        (plain(200, "\x1f\x8b" + MARK, Content_Encoding="gzip"), None),
        (plain(302, MARK, Location="https://127.0.0.1:1/"), VaultFailure.UNAVAILABLE),
        (plain(403, f'{{"error": {{"code": "Forbidden", "message": "{MARK}"}}}}'), VaultFailure.FORBIDDEN),
        (plain(403, f'{{"error": {{"code": "{MARK} x"}}}}'), VaultFailure.FORBIDDEN),
        (plain(404, MARK), VaultFailure.ABSENT),
        (plain(429, MARK, Retry_After="600"), VaultFailure.THROTTLED),
        (plain(500, MARK), VaultFailure.UNAVAILABLE),
        (plain(503, MARK, Retry_After="1"), VaultFailure.UNAVAILABLE),
    ],
)
async def test_a_hostile_answer_costs_little_and_says_nothing(
    world: Azure, answer: Any, expected: VaultFailure | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every answer ends within the timeout, as a VaultError; nothing of it is logged, also at debug level."""
    caplog.set_level(logging.DEBUG)

    async def to_secrets(request: web.BaseRequest) -> web.StreamResponse | None:
        is_authenticated = "Authorization" in request.headers
        found: web.StreamResponse | None = await answer(request) if is_authenticated else None
        return found

    world.answer = to_secrets
    began = time.monotonic()
    error = await failure(world)
    assert time.monotonic() - began < 7
    if expected is None:
        assert error.failure in (VaultFailure.UNAVAILABLE, VaultFailure.INVALID, VaultFailure.CONNECT)
    else:
        assert error.failure is expected
    assert MARK not in str(error)
    assert MARK not in caplog.text
    assert CLIENT_SECRET not in caplog.text
    assert "access-token" not in caplog.text


async def test_a_wait_that_is_asked_for_is_bounded(world: Azure) -> None:
    """``Retry-After`` of ten minutes: the call fails at once and says five."""

    async def throttled(request: web.BaseRequest) -> web.StreamResponse | None:
        return await plain(429, Retry_After="600")(request) if "Authorization" in request.headers else None

    world.answer = throttled
    error = await failure(world)
    assert (error.failure, error.retry_after) == (VaultFailure.THROTTLED, 300.0)
    assert len([path for method, path in world.requests if path.startswith("/secrets/")]) == 2


async def test_a_token_is_asked_for_key_vault_only(world: Azure) -> None:
    """A vault that names another audience gets none."""
    world.resource = "https://management.azure.com"
    error = await failure(world)
    assert error.failure is VaultFailure.UNAUTHORIZED
    assert not world.tokens


async def test_a_proxy_that_is_down_is_not_passed_by(world: Azure) -> None:
    """Requests to other hosts use the proxy of the configuration, whatever the environment says."""
    egress = Egress(read_proxy(f"http://127.0.0.1:{free_port()}", "outbound.proxy"))
    error = await failure(world, egress=egress, vaultUrl="https://acme.vault.azure.net", authority="login.example.com")
    assert error.failure is VaultFailure.CONNECT
    assert not world.requests


async def test_a_write_waits_for_a_recovery(world: Azure) -> None:
    """A name that is being recovered can be written a moment later."""
    async with opened(world) as vault:
        await vault.delete(ID)
        world.busy_for = 2
        await vault.set(ID, Secret("again"))
        assert (await vault.get(ID)).value.reveal() == "again"


async def test_a_version_that_is_not_valid_yet_is_passed_over(world: Azure) -> None:
    """The newest earlier one that is enabled is used; without one the secret is disabled."""
    world.put(ID, "earlier")
    world.put(ID, "switched-off", enabled=False)
    world.put(ID, "future", nbf=int(time.time()) + 3600)
    async with opened(world) as vault:
        assert (await vault.get(ID)).value.reveal() == "earlier"
        world.put("only", "future", nbf=int(time.time()) + 3600)
        with pytest.raises(VaultError) as caught:
            await vault.get("only")
        assert caught.value.failure is VaultFailure.DISABLED


async def test_an_expired_value_is_used_and_says_so(world: Azure) -> None:
    world.put(ID, "expired", exp=1_600_000_000)
    async with opened(world) as vault:
        held = await vault.get(ID)
    assert held.value.reveal() == "expired"
    assert held.info.expires == 1_600_000_000


def test_without_a_vault_nothing_of_the_sdk_is_loaded() -> None:
    """Neither by a command nor by another secrets manager."""
    code = (
        "import sys, sidecar.cli.serve, sidecar.cli.check, sidecar.cli.secrets, sidecar.vaults.open;"
        "print([name for name in sys.modules if name.startswith(('azure', 'msal', 'requests'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
