"""What holds for every secrets manager: OpenBao, Kubernetes, and Azure Key Vault through its SDK."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.settings import SecretsManagerConfiguration
from sidecar.egress import NO_PROXY
from sidecar.secrets.value import Secret
from sidecar.vaults.base import BoundedVault, VaultError, VaultFailure
from sidecar.vaults.open import open_vault
from tests.support.azure import azure
from tests.support.kubernetes import cluster
from tests.support.openbao import openbao

ID = "acme-sidecar-store-password"
ACCOUNT = ("default", "sidecar")


@dataclass(frozen=True, slots=True)
class World:
    """How a secrets manager is reached, and whether the account may not write to it."""

    manager: str
    parameters: dict[str, Any]
    reader: dict[str, Any]
    has_versions: bool = True


def _azure(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    world = stack.enter_context(azure(folder))
    wrong = world.parameters(clientSecret="not-the-secret")
    return World("managed-azure-kv", world.parameters(), wrong)


def _openbao(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    bao = stack.enter_context(openbao(require_tool("bao"), folder))
    role, secret = bao.add_approle('path "secret/data/other" { capabilities = ["read"] }')
    reader = {"baoAddress": bao.url, "baoAuthMethod": "approle", "baoRoleId": role, "baoSecretId": secret}
    return World("managed-openbao", bao.parameters(), reader)


def _kubernetes(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    server = stack.enter_context(cluster(require_tool("kube-apiserver"), folder))
    server.create_account(*ACCOUNT)
    (folder / "admin").write_text(server.admin)
    (folder / "account").write_text(server.token(*ACCOUNT))
    reached = {"apiServer": server.url, "caFile": str(server.ca_file)}
    admin, account = ({**reached, "tokenFile": str(folder / name)} for name in ("admin", "account"))
    return World("kubernetes", admin, account, has_versions=False)


_WORLDS = {"azure": _azure, "openbao": _openbao, "kubernetes": _kubernetes}


@pytest.fixture(
    scope="module",
    name="world",
    params=["azure", "openbao", pytest.param("kubernetes", marks=pytest.mark.heavy)],
)
def _world(
    request: pytest.FixtureRequest, require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with ExitStack() as stack:
        yield _WORLDS[request.param](require_tool, tmp_path_factory.mktemp(request.param), stack)


def opened(world: World, *, reader: bool = False, **more: Any) -> BoundedVault:
    """A client; ``reader``: with the account that may not read :data:`ID`."""
    parameters = world.reader if reader else world.parameters
    written = {"secretsManager": world.manager, "parameters": parameters, "tags": ["team:data:lake"], **more}
    return open_vault(SecretsManagerConfiguration.model_validate(written), NO_PROXY)


@pytest.fixture(name="vault")
async def _vault(world: World) -> AsyncIterator[BoundedVault]:
    """Without the secret."""
    vault = opened(world)
    await vault.delete(ID)
    yield vault
    await vault.aclose()


async def failure(call: Any) -> VaultFailure:
    """How ``call`` fails."""
    with pytest.raises(VaultError) as caught:
        await call
    return caught.value.failure


async def test_a_secret_is_written_read_replaced_and_deleted(vault: BoundedVault) -> None:
    """Text of any characters comes back as it is, and the newest version counts."""
    assert await failure(vault.get(ID)) is VaultFailure.ABSENT
    text = 'päss "wörd"\n secret:other \U0001f511'
    first = await vault.set(ID, Secret(text))
    held = await vault.get(ID)
    assert held.value.reveal() == text
    assert held.info.version == first
    second = await vault.set(ID, Secret("two"))
    assert second != first
    assert (await vault.get(ID)).value.reveal() == "two"
    await vault.delete(ID)
    assert await failure(vault.get(ID)) is VaultFailure.ABSENT
    await vault.delete(ID)


async def test_a_deleted_secret_can_be_written_again(vault: BoundedVault) -> None:
    """Whatever the secrets manager keeps of it."""
    await vault.set(ID, Secret("one"))
    await vault.delete(ID)
    await vault.set(ID, Secret("two"))
    assert (await vault.get(ID)).value.reveal() == "two"


async def test_a_version_that_was_overtaken_is_not_deleted(vault: BoundedVault) -> None:
    """Only the newest version can be deleted by its name; then there is no secret, and it can be written again."""
    first = await vault.set(ID, Secret("one"))
    second = await vault.set(ID, Secret("two"))
    assert await failure(vault.delete(ID, first)) is VaultFailure.CONFLICT
    assert (await vault.get(ID)).value.reveal() == "two"
    await vault.delete(ID, second)
    assert await failure(vault.get(ID)) is VaultFailure.ABSENT
    await vault.delete(ID, second)
    await vault.set(ID, Secret("three"), "")
    assert (await vault.get(ID)).value.reveal() == "three"


async def test_versions_are_listed_newest_first(world: World, vault: BoundedVault) -> None:
    """A secrets manager with one version lists that one."""
    assert await failure(vault.versions(ID)) is VaultFailure.ABSENT
    made = [await vault.set(ID, Secret(text)) for text in ("one", "two", "three")]
    # Key Vault recovers the versions from before the deletion too
    listed = [info.version for info in await vault.versions(ID)][: len(made)]
    assert listed == (made[::-1] if world.has_versions else made[-1:])
    assert all(info.enabled and info.updated is not None for info in await vault.versions(ID))


async def test_a_write_replaces_the_version_that_was_read_and_no_other(vault: BoundedVault) -> None:
    """A version that was overtaken is a conflict, and so is a secret that exists or does not."""
    assert await failure(vault.set(ID, Secret("x"), "1")) in (VaultFailure.CONFLICT, VaultFailure.ABSENT)
    first = await vault.set(ID, Secret("one"), "")
    second = await vault.set(ID, Secret("two"), first)
    assert await failure(vault.set(ID, Secret("lost"), first)) is VaultFailure.CONFLICT
    assert await failure(vault.set(ID, Secret("lost"), "")) is VaultFailure.CONFLICT
    assert (await vault.get(ID)).info.version == second
    assert (await vault.get(ID)).value.reveal() == "two"
    await vault.delete(ID)
    await vault.set(ID, Secret("again"), "")


@pytest.mark.parametrize("text", ["", " ", "\n", "null", "null\n", "x" * (64 * 1024 + 1), "\ud800"])
async def test_nothing_is_no_secret(vault: BoundedVault, text: str) -> None:
    """Not written, not even to a secrets manager that takes it."""
    assert await failure(vault.set(ID, Secret(text))) is VaultFailure.INVALID
    assert await failure(vault.get(ID)) is VaultFailure.ABSENT


async def test_one_final_newline_is_dropped(vault: BoundedVault) -> None:
    """As in files."""
    await vault.set(ID, Secret("one\n\n"))
    assert (await vault.get(ID)).value.reveal() == "one\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "a?x", "a#b", "a b", "a%2fb", "//a", "a\n", "ä", "a" * 600])
async def test_an_id_that_is_none_is_not_asked_for(vault: BoundedVault, name: str) -> None:
    """Every call refuses it before anything is sent."""
    for call in (vault.get(name), vault.set(name, Secret("x")), vault.delete(name), vault.versions(name)):
        with pytest.raises(VaultError) as caught:
            await call
        assert caught.value.failure is VaultFailure.INVALID
        assert " id" in caught.value.detail


async def test_an_account_without_access_gets_a_message(world: World, vault: BoundedVault) -> None:
    """Forbidden, or a credential that is refused; never that there is no such secret."""
    await vault.set(ID, Secret("one"))
    reader = opened(world, reader=True)
    try:
        expected = VaultFailure.UNAUTHORIZED if world.manager == "managed-azure-kv" else VaultFailure.FORBIDDEN
        assert await failure(reader.get(ID)) is expected
        assert await failure(reader.set(ID, Secret("two"))) is expected
    finally:
        await reader.aclose()
    assert (await vault.get(ID)).value.reveal() == "one"
