"""``sidecar secrets``: lists, prints, writes and migrates secrets of the secrets manager."""

import argparse
import asyncio
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import BaseModel

from sidecar.app.bot_tokens import bot_token_vault
from sidecar.authn.authenticators.basic import BasicOptions
from sidecar.authn.registry import build_specs
from sidecar.authn.support.password_file import PasswordFileError, read_text
from sidecar.cli.options import access_to_secrets, add_config_option, load_offline, load_settings
from sidecar.cli.output import print_durably
from sidecar.cli.table import table
from sidecar.config.load import Loaded
from sidecar.config.providers import has_own_keys
from sidecar.config.reading.decode import fields_by_name
from sidecar.config.reading.tree import Path, dotted
from sidecar.config.secrets_manager import EXAMPLE_BOT, NEEDED_TO_REACH, SECRETS_MANAGER, manager_of
from sidecar.errors import Misconfigured, Problem, SidecarError
from sidecar.keys.key_files import KeyFileError
from sidecar.keys.private_set import encode_private_set
from sidecar.keys.signing import keys_in_files
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.secrets.ids import MANAGERS, Manager, id_problem, openmetadata_id
from sidecar.secrets.resolve import without_final_newline
from sidecar.secrets.value import Secret
from sidecar.vaults.base import BoundedVault, Held, VaultError, VaultFailure, checked_value
from sidecar.vaults.reader import problems_of, read_references, what_to_do, with_vault

_audit = logging.getLogger(AUDIT)
_BY = "command line"
_MAX_INPUT = 64 * 1024 + 2
_NEAR_EXPIRY = 14 * 86400.0
_KEYS: tuple[str, ...] = ("jwtTokenConfiguration", "keySecret")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser("secrets", help="manage secrets in the secrets manager").add_subparsers(
        metavar="ACTION", required=True
    )
    lists = actions.add_parser(
        "list",
        help="list the settings whose values are in the secrets manager",
        description="Prints no values. Exit code 1: a secret cannot be read.",
    )
    add_config_option(lists)
    lists.add_argument("--json", action="store_true", help="one JSON object per line")
    lists.set_defaults(run=run_list)
    gets = actions.add_parser("get", help="print the value of a secret")
    add_config_option(gets)
    gets.add_argument("id", metavar="ID", help="id of the secret, without secret:")
    gets.set_defaults(run=run_get)
    sets = actions.add_parser(
        "set",
        help="write the value on standard input to a secret",
        description="One final newline is dropped. A deleted secret is recovered or created again.",
    )
    add_config_option(sets)
    sets.add_argument("id", metavar="ID", help="id of the secret, without secret:")
    sets.set_defaults(run=run_set)
    migrates = actions.add_parser(
        "migrate",
        help="write the secrets of the configuration to the secrets manager",
        description="Prints the settings with their new values, secret:<id>. Changes no file, and overwrites no secret "
        "that has another value. May be repeated.",
    )
    add_config_option(migrates)
    migrates.add_argument("--dry-run", action="store_true", help="write nothing; print what would be written")
    migrates.set_defaults(run=run_migrate)


def secret_lines(loaded: Loaded, *, offline: bool) -> Iterator[str]:
    """For ``sidecar check``: the secrets manager and the settings whose values are in it."""
    manager = manager_of(loaded.settings)
    vault = bot_token_vault(loaded, Metrics())
    if vault is not None:
        example = f"the bot {EXAMPLE_BOT}: secret:{vault.id_of(EXAMPLE_BOT)}"
        yield f"Tokens of bots are written to {vault.name}; {example}"
    if manager is None or not loaded.references:
        return
    state = "not read (--offline)" if offline else "read"
    yield f"Secrets in {manager.kind} ({state}):"
    for reference in loaded.references:
        yield f"  {reference.path}: secret:{reference.id}"


def run_list(options: argparse.Namespace) -> int:
    """Print every reference with the state of its secret."""
    loaded = load_offline(options)
    if not loaded.references:
        print("no setting refers to a secrets manager", file=sys.stderr)
        return 0
    access = access_to_secrets(loaded)
    results = asyncio.run(read_references(access))
    rows = [_entry(reference.path, reference.id, results[reference.id]) for reference in loaded.references]
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(table(("SETTING", "ID", "VERSION", "UPDATED", "EXPIRES", "STATE"), (tuple(row.values()) for row in rows)))
    problems = problems_of(access, results)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _entry(path: str, secret_id: str, result: Held | VaultError) -> dict[str, Any]:
    if isinstance(result, VaultError):
        facts = {"version": None, "updated": None, "expires": None, "state": result.failure.value}
    else:
        info = result.info
        facts = {
            "version": info.version,
            "updated": _time(info.updated),
            "expires": _time(info.expires),
            "state": _state(info.expires),
        }
    return {"setting": path, "id": secret_id, **facts}


def _state(expires: float | None) -> str:
    left = float("inf") if expires is None else expires - datetime.now(UTC).timestamp()
    return "expired" if left <= 0 else "expires soon" if left < _NEAR_EXPIRY else "ok"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def run_get(options: argparse.Namespace) -> int:
    """Print the value alone. Audited."""
    loaded = load_offline(options)
    manager = _manager(loaded, options.id)

    async def get(vault: BoundedVault) -> Held:
        return await vault.get(options.id)

    held = _call(loaded, manager, options.id, get)
    _audit.info(
        "secret printed",
        extra={"event": "secret_printed", "secret": options.id, "version": held.info.version, "by": _BY},
    )
    print_durably(held.value.reveal())
    return 0


def run_set(options: argparse.Namespace) -> int:
    """Write the value. Prints nothing. Audited."""
    loaded = load_offline(options)
    manager = _manager(loaded, options.id, writes=True)
    if sys.stdin is None or sys.stdin.isatty():
        raise SidecarError("the value is read from standard input: sidecar secrets set ID < FILE")
    content = sys.stdin.buffer.read(_MAX_INPUT + 1)
    try:
        value = checked_value(content.decode())
    except UnicodeDecodeError:
        raise SidecarError("the value on standard input is not UTF-8 text") from None
    except VaultError as error:
        raise SidecarError(f"standard input: {error.detail}") from None

    async def write(vault: BoundedVault) -> str:
        return await vault.set(options.id, value)

    version = _call(loaded, manager, options.id, write)
    _audit.info(
        "secret written", extra={"event": "secret_written", "secret": options.id, "version": version, "by": _BY}
    )
    return 0


def run_migrate(options: argparse.Namespace) -> int:
    """Write each secret that is not in the secrets manager, read it back, and print the settings to change."""
    loaded = load_settings(options)
    manager = _manager(loaded, writes=True)
    block = loaded.settings.secrets_manager_configuration
    wanted: dict[Path, tuple[str, Secret]] = {}
    files = list(_files_with_secrets(loaded))
    for path, secret in [*_literal_secrets(loaded), *((item.path, item.content) for item in files)]:
        try:
            name = "keys" if path == _KEYS else re.sub("[^A-Za-z0-9]+", "-", "-".join(map(str, path)))
            secret_id = openmetadata_id(manager.kind, block.prefix, loaded.settings.cluster_name, "sidecar", name)
        except ValueError as error:
            raise Misconfigured(
                [Problem(f"{SECRETS_MANAGER}.prefix", f"makes an id that is not valid: {error}")]
            ) from None
        wanted[path] = (secret_id, secret)

    async def write(vault: BoundedVault) -> tuple[int, int]:
        written = 0
        for secret_id, secret in wanted.values():
            written += await _migrate(vault, secret_id, secret, dry_run=options.dry_run)
        return written, len(wanted) - written

    written, kept = _call(loaded, manager, "", write) if wanted else (0, 0)
    if wanted:
        print(_as_yaml({path: f"secret:{secret_id}" for path, (secret_id, _) in wanted.items()}))
        for setting in (setting for item in files for setting in item.replaces):
            print(f"# remove {setting}")
    verb = "to write" if options.dry_run else "written"
    print(f"{written} {verb}, {kept} already there", file=sys.stderr)
    return 0


async def _migrate(vault: BoundedVault, secret_id: str, secret: Secret, *, dry_run: bool) -> int:
    """Write one secret unless it is there; the number of secrets that were written."""
    try:
        present = await vault.get(secret_id)
    except VaultError as error:
        if error.failure is not VaultFailure.ABSENT:
            raise VaultError(error.failure, f"{secret_id}: {error.detail}") from None
    else:
        if present.value != secret:
            detail = f"{secret_id} exists with another value; delete it, or refer to it in the configuration"
            raise VaultError(VaultFailure.CONFLICT, detail)
        return 0
    if dry_run:
        return 1
    version = await vault.set(secret_id, secret, "")
    if (await vault.get(secret_id)).value != secret:
        raise VaultError(VaultFailure.CONFLICT, f"{secret_id} was written, but another value was read back")
    _audit.info(
        "secret migrated", extra={"event": "secret_migrated", "secret": secret_id, "version": version, "by": _BY}
    )
    return 1


def _manager(loaded: Loaded, secret_id: str | None = None, *, writes: bool = False) -> Manager:
    """The secrets manager. Raises Misconfigured if it cannot be used for this, or ``secret_id`` is not valid."""
    manager = manager_of(loaded.settings)
    name = loaded.settings.secrets_manager_configuration.secrets_manager
    path = f"{SECRETS_MANAGER}.secretsManager"
    if manager is None:
        raise Misconfigured([Problem(path, f"is {name}; this command needs one of {', '.join(MANAGERS)}")])
    if writes and not manager.writes:
        raise Misconfigured([Problem(path, f"is {name}, which is only read; write managed-{name} to allow writing")])
    if problem := id_problem(manager.kind, secret_id) if secret_id is not None else "":
        raise Misconfigured([Problem("ID", problem)])
    return manager


def _call(loaded: Loaded, manager: Manager, secret_id: str, work: Any) -> Any:
    """The result of ``work`` with the open secrets manager; a failure says what to do."""
    try:
        return asyncio.run(with_vault(loaded.settings.secrets_manager_configuration, loaded.egress, work))
    except VaultError as error:
        where = f"{manager.kind}: {secret_id}" if secret_id else str(manager.kind)
        raise SidecarError(f"error: {where}: {error}; {what_to_do(manager.kind, error)}") from None


def _literal_secrets(loaded: Loaded) -> Iterator[tuple[Path, Secret]]:
    """The secrets of the configuration that are not in the secrets manager, and may be: each with its setting."""
    found = list(_secrets_in(loaded.settings, ()))
    for spec in build_specs(loaded.authenticators):
        if spec.options is not None and spec.configured is not None:
            found += _secrets_in(spec.options, (*spec.configured.path, "configs"))
    there = {reference.path for reference in loaded.references}
    for path, secret in found:
        name = dotted(path)
        # a store's address without a password is no secret
        is_plain = name == "store.url" and "@" not in secret.reveal()
        if name in loaded.sources and name not in there and not name.startswith(NEEDED_TO_REACH) and not is_plain:
            yield path, secret


@dataclass(frozen=True, slots=True)
class _FileContent:
    """The content of files that are secret as a whole: the setting that takes it, and those that it replaces."""

    path: Path
    content: Secret
    replaces: tuple[str, ...]


def _files_with_secrets(loaded: Loaded) -> Iterator[_FileContent]:
    """Key files and password files. Raises Misconfigured."""
    jwt = loaded.settings.jwt_token_configuration
    if jwt.key_secret is None and has_own_keys(jwt):
        named = {
            "keyDir": jwt.key_dir,
            "rsaprivateKeyFilePath": jwt.rsaprivate_key_file_path,
            "rsapublicKeyFilePath": jwt.rsapublic_key_file_path,
            "keyId": jwt.key_id,
        }
        settings = tuple(f"{_KEYS[0]}.{name}" for name, value in named.items() if value)
        try:
            content = Secret(encode_private_set(keys_in_files(jwt)))
        except KeyFileError as error:
            raise Misconfigured([Problem(settings[0], str(error))]) from error
        yield _FileContent(_KEYS, content, settings)
    for spec in build_specs(loaded.authenticators):
        if isinstance(spec.options, BasicOptions) and spec.options.htpasswd and spec.configured is not None:
            path = (*spec.configured.path, "configs")
            try:
                text = read_text(FilePath(spec.options.htpasswd))
            except PasswordFileError as error:
                problem = Problem(dotted((*path, "htpasswd")), f"{spec.options.htpasswd} {error}")
                raise Misconfigured([problem]) from error
            content = Secret(without_final_newline(text))
            yield _FileContent((*path, "htpasswdSecret"), content, (dotted((*path, "htpasswd")),))


def _secrets_in(model: BaseModel, path: Path) -> Iterator[tuple[Path, Secret]]:
    for name, (alias, _) in zip(type(model).model_fields, fields_by_name(type(model)).items(), strict=True):
        value = getattr(model, name)
        if isinstance(value, Secret):
            yield (*path, alias), value
        elif isinstance(value, BaseModel):
            yield from _secrets_in(value, (*path, alias))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _secrets_in(item, (*path, alias, index))


def _as_yaml(values: Mapping[Path, str]) -> str:
    """The settings as YAML. Those in lists, which cannot be merged, are comments."""
    tree: dict[str, Any] = {}
    comments = []
    for path, value in values.items():
        names = [part for part in path if isinstance(part, str)]
        if len(names) < len(path):
            comments.append(f"# {dotted(path)}: {value}")
            continue
        block = tree
        for name in names[:-1]:
            block = block.setdefault(name, {})
        block[names[-1]] = value
    return "\n".join([*(yaml.safe_dump(tree, sort_keys=False).splitlines() if tree else []), *comments])
