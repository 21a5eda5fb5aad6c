"""Reading the secrets of a configuration: what is kept, what has changed, and when it is read again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.settings import SecretsManagerConfiguration
from sidecar.egress import NO_PROXY
from sidecar.keys.private_set import parse_private_set
from sidecar.secrets.resolve import SecretReference
from sidecar.vaults.reader import KEY_SET, SecretsReader, SecretsUnreadableError, VaultAccess
from tests.support.azure import Azure, azure

ID = "redis"


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> Iterator[Azure]:
    with azure(tmp_path) as world:
        world.put(ID, "one")
        yield world


def access(world: Azure, *references: SecretReference, **more: Any) -> VaultAccess:
    """To the stand-in; by default with one reference."""
    written = {"secretsManager": "azure-kv", "parameters": world.parameters(), **more}
    found = references or (SecretReference("store.password", ID, "c.yaml", 3),)
    return VaultAccess(SecretsManagerConfiguration.model_validate(written), NO_PROXY, found)


def values(reader: SecretsReader, given: VaultAccess) -> dict[str, str]:
    """What is read."""
    return {name: secret.reveal() for name, secret in reader.read(given).items()}


def test_a_refresh_says_whether_a_value_has_changed(world: Azure) -> None:
    """A new version with the same text is no change."""
    reader, given = SecretsReader(), access(world)
    assert values(reader, given) == {ID: "one"}
    assert reader.refresh() is False
    world.put(ID, "one")
    assert reader.refresh() is False
    world.put(ID, "two")
    assert reader.refresh() is True
    assert reader.refresh() is False
    assert values(reader, given) == {ID: "two"}


@pytest.mark.parametrize("attributes", [{"enabled": False}, None])
def test_what_was_read_is_kept(world: Azure, attributes: dict[str, Any] | None) -> None:
    """Disabled or deleted later: no change, and the state says so; a reference that is new is an error."""
    reader, given = SecretsReader(), access(world)
    values(reader, given)
    if attributes is None:
        world.secrets.clear()
    else:
        world.secrets[ID][-1].attributes.update(attributes)
    assert reader.refresh() is False
    assert ID in reader.problem
    assert values(reader, given) == {ID: "one"}
    more = (*given.references, SecretReference("store.sentinelPassword", "new", "c.yaml", 4))
    with pytest.raises(SecretsUnreadableError) as caught:
        reader.read(given.with_references(more))
    assert "store.sentinelPassword: secret:new" in str(caught.value)
    assert values(reader, given) == {ID: "one"}


def test_another_vault_brings_its_own_values(world: Azure) -> None:
    """The same id of another secrets manager is another secret: nothing is kept."""
    reader = SecretsReader()
    values(reader, access(world))
    world.secrets.clear()
    with pytest.raises(SecretsUnreadableError):
        reader.read(access(world, parameters=world.parameters(vaultUrl=world.url.replace("127.0.0.1", "localhost"))))


def test_a_key_set_that_is_disabled_does_not_sign(world: Azure) -> None:
    """Within one refresh, and signs again when it is enabled; any other disabled secret is kept as it is."""
    world.put("keys", json.dumps({"keys": []}))
    reader, given = SecretsReader(), access(world, SecretReference(KEY_SET, "keys"), SecretReference("x", ID))
    assert not parse_private_set(values(reader, given)["keys"]).disabled
    for name in ("keys", ID):
        world.secrets[name][-1].attributes["enabled"] = False
    assert reader.refresh() is True
    found = values(reader, given)
    assert parse_private_set(found["keys"]).disabled
    assert found[ID] == "one"
    assert reader.refresh() is False
    world.secrets["keys"][-1].attributes["enabled"] = True
    assert reader.refresh() is True
    assert not parse_private_set(values(reader, given)["keys"]).disabled


def test_the_pause_grows_while_it_fails(world: Azure) -> None:
    """By a tenth around ``refresh``; after failures twice as long, up to five minutes; 0: never."""
    reader, given = SecretsReader(), access(world, refresh="10s")
    assert reader.next_pause(0) == 0
    values(reader, given)
    assert all(9 <= reader.next_pause(0) <= 11 for _ in range(50))
    assert 36 <= reader.next_pause(3) <= 44
    assert 270 <= reader.next_pause(30) <= 330
    values(reader, access(world, refresh="0s"))
    assert reader.next_pause(0) == 0


def test_nothing_is_read_after_the_last_reference_is_gone(world: Azure) -> None:
    reader = SecretsReader()
    values(reader, access(world))
    reader.forget()
    world.requests.clear()
    assert reader.refresh() is False
    assert (world.requests, reader.references, reader.problem) == ([], 0, "")
