"""Own keys in the secrets manager: ``sidecar keys`` reads and changes the private JWK set of ``keySecret``."""

import argparse
import asyncio
import logging
import os
from collections.abc import Mapping

from sidecar.authn.registry import validate
from sidecar.cli.options import access_to_secrets, config_paths
from sidecar.config.load import Loaded, load
from sidecar.config.secrets_manager import SECRETS_MANAGER, manager_of
from sidecar.errors import Misconfigured, Problem, SidecarError
from sidecar.keys.private_set import encode_private_set, parse_private_set
from sidecar.keys.rotation import Change, RotationResult
from sidecar.logs import AUDIT
from sidecar.secrets.value import Secret
from sidecar.vaults.base import MAX_VALUE_BYTES, BoundedVault, VaultError, VaultFailure
from sidecar.vaults.reader import KEY_SET, SecretsUnreadableError, problems_of, read_references, what_to_do, with_vault

_audit = logging.getLogger(AUDIT)
_EMPTY = Secret(encode_private_set([]))
_ATTEMPTS = 3
_MAX_AZURE = 25_000


def load_with_key_secret(options: argparse.Namespace) -> Loaded:
    """The configuration named by ``options``. A key set that does not exist yet is empty.

    Raises as :func:`sidecar.cli.options.load_settings`.
    """

    def read(first: Loaded) -> Mapping[str, Secret]:
        access = access_to_secrets(first)
        results = asyncio.run(read_references(access))
        held = {}
        for secret_id, result in results.items():
            if not isinstance(result, VaultError):
                held[secret_id] = result.value
            elif secret_id == _key_set_id(first) and result.failure is VaultFailure.ABSENT:
                held[secret_id] = _EMPTY
        if len(held) < len(results):
            missing = {name: one for name, one in results.items() if name not in held}
            references = tuple(one for one in access.references if one.id in missing)
            raise SecretsUnreadableError(problems_of(access.with_references(references), results))
        return held

    return load(config_paths(options), os.environ, validate, read)


def change_key_secret(loaded: Loaded, change: Change) -> RotationResult:
    """Apply ``change`` to the key set in the secrets manager.

    Reads the newest version, writes with compare-and-set, and reads back. Raises as ``change``, Misconfigured and
    SidecarError.
    """
    secret_id, manager = _key_set_id(loaded), manager_of(loaded.settings)
    if not secret_id or manager is None:
        message = "is no secret:<id>; keys can only be changed in a secrets manager, or in keyDir"
        raise Misconfigured([Problem(KEY_SET, message)])
    if not manager.writes:
        name = loaded.settings.secrets_manager_configuration.secrets_manager
        message = f"is {name}, which is only read; write managed-{name} to change keys there"
        raise Misconfigured([Problem(f"{SECRETS_MANAGER}.secretsManager", message)])

    async def work(vault: BoundedVault) -> RotationResult:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await _changed(vault, secret_id, change)
            except VaultError as error:
                if error.failure is not VaultFailure.CONFLICT or attempt == _ATTEMPTS:
                    raise
        raise AssertionError  # the last attempt has returned or raised

    try:
        return asyncio.run(with_vault(loaded.settings.secrets_manager_configuration, loaded.egress, work))
    except VaultError as error:
        raise SidecarError(f"error: {manager.kind}: {secret_id}: {error}; {what_to_do(manager.kind, error)}") from None


async def _changed(vault: BoundedVault, secret_id: str, change: Change) -> RotationResult:
    version, text = "", _EMPTY.reveal()
    try:
        held = await vault.get(secret_id)
    except VaultError as error:
        if error.failure is not VaultFailure.ABSENT:
            raise
    else:
        version, text = held.info.version, held.value.reveal()
    present = parse_private_set(text)
    result = change(present.keys)
    if not result.steps:
        return result
    left = {key.kid for key in result.keys}
    removed = [*present.removed, *(key.kid for key in present.keys if key.kid not in left)]
    written = Secret(encode_private_set(result.keys, removed))
    size = len(written.reveal())
    if size > MAX_VALUE_BYTES or size > _MAX_AZURE:
        detail = f"the key set would have {size} bytes; remove retired keys first: sidecar keys retire"
        raise VaultError(VaultFailure.INVALID, detail)
    version = await vault.set(secret_id, written, version)
    if (await vault.get(secret_id)).value != written:
        detail = "another rotation has overwritten this one; see sidecar keys list, then rotate again"
        raise VaultError(VaultFailure.INVALID, detail)
    _audit.info(
        "signing keys written",
        extra={"event": "signing_keys_written", "secret": secret_id, "version": version, "by": "command line"},
    )
    return result


def _key_set_id(loaded: Loaded) -> str:
    """The id of the key set in the secrets manager; empty: it is not there."""
    return next((one.id for one in loaded.references if one.path == KEY_SET), "")
