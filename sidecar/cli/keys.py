"""``sidecar keys``: generates key pairs; rotates, lists and retires the keys in ``jwtTokenConfiguration.keyDir``."""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidecar import old_names
from sidecar.cli.key_secret import change_key_secret, load_with_key_secret
from sidecar.cli.options import add_config_option
from sidecar.cli.output import OutputError, print_durably
from sidecar.cli.table import table
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.config.reading.units import parse_duration
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem, Unavailable
from sidecar.keys.key_files import KEY_TYPES, algorithm_of, generate, write_pair
from sidecar.keys.key_folder import ListedKey, read_folder
from sidecar.keys.private_set import parse_private_set
from sidecar.keys.rotation import (
    Change,
    RotationResult,
    change_folder,
    removed,
    retired,
    rotated,
    utc_now,
    without_obsolete,
)
from sidecar.keys.signing import key_thumbprint
from sidecar.metrics import Metrics
from sidecar.store.base import RecordQuery
from sidecar.store.open import open_store
from sidecar.store.pages import all_records
from sidecar.store.timestamps import format_rfc3339

_KID = re.compile(r"[\x21-\x7e]{1,128}")
# Lifetime of our key set in caches of verifiers (its Cache-Control), and time until sidecars see a changed folder.
_PUBLISH_LEAD_TIME = 330.0
_RELOAD_INTERVAL = 60.0
# Upstream credentials have no record; their lifetime is five minutes.
_RETAIN = 3600.0


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    keys = subparsers.add_parser("keys", help="manage signing keys").add_subparsers(metavar="ACTION", required=True)
    parser = keys.add_parser("generate", help="generate a key pair and print its configuration block")
    parser.add_argument(
        "--dir", type=Path, default=Path(), metavar="DIR", help="output folder (default: current folder)"
    )
    parser.add_argument("--type", choices=KEY_TYPES, default="RS256", help="algorithm (default: RS256)")
    parser.add_argument("--kid", type=_kid, default=None, help="key id (default: the key's thumbprint)")
    parser.set_defaults(run=run_generate)
    rotating = keys.add_parser(
        "rotate",
        help="promote the next key to active and publish a new next key",
        description="A key is published before it becomes active: the first run creates the next key, a later run "
        "promotes it. A run that is too early, or a repeated one, changes nothing.",
    )
    add_config_option(rotating)
    rotating.add_argument(
        "--type", choices=KEY_TYPES, default=None, help="algorithm of the new key (default: that of the active key)"
    )
    old_names.add_option(
        rotating,
        "--publish-lead-time",
        _duration,
        default=_PUBLISH_LEAD_TIME,
        help="minimum time between publishing a key and signing with it (default: 330s; with keySecret, 1.1 times "
        "refresh more)",
    )
    _add_retain(rotating)
    rotating.set_defaults(run=run_rotate)
    retiring = keys.add_parser(
        "retire", help="stop signing with a key; without KID: remove retired keys that no token needs"
    )
    add_config_option(retiring)
    retiring.add_argument("kid", nargs="?", default=None, metavar="KID")
    retiring.add_argument(
        "--remove", action="store_true", help="remove the key immediately, which invalidates every token signed with it"
    )
    _add_retain(retiring)
    retiring.set_defaults(run=run_retire)
    listing = keys.add_parser("list", help="list the keys in order")
    add_config_option(listing)
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    listing.set_defaults(run=run_list)


def _add_retain(parser: argparse.ArgumentParser) -> None:
    old_names.add_option(
        parser,
        "--retain",
        _duration,
        default=None,
        help="minimum time that a retired key stays published; never less than a token on record needs it",
    )


def run_generate(options: argparse.Namespace) -> int:
    """Write the four files. The output is valid YAML: the paths as comments, and the configuration block."""
    key = generate(options.type)
    paths = write_pair(options.dir.resolve(), key)
    text = "".join(f"# {path}\n" for path in paths.values()) + (
        "jwtTokenConfiguration:\n"
        f"  rsapublicKeyFilePath: {json.dumps(str(paths['public_key.der']))}\n"
        f"  rsaprivateKeyFilePath: {json.dumps(str(paths['private_key.der']))}\n"
        '  jwtissuer: "auth-sidecar"   # iss of your tokens; choose your own name\n'
        f"  keyId: {json.dumps(options.kid or key_thumbprint(key.public_key()))}"
    )
    try:
        print_durably(text)
    except OutputError as error:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise OutputError(error.error, "; the key files were removed again") from error
    return 0


def run_rotate(options: argparse.Namespace) -> int:
    """Print each step."""
    loaded = load_with_key_secret(options)
    is_over = asyncio.run(_retention_end(loaded.settings, options.retain))

    def change(keys: Sequence[ListedKey]) -> RotationResult:
        lead_time = options.publish_lead_time
        if lead_time == _PUBLISH_LEAD_TIME:
            lead_time += _seconds_until_seen(loaded.settings) - _RELOAD_INTERVAL
        return rotated(keys, utc_now(), publish_lead_time=lead_time, algorithm=options.type, is_obsolete=is_over)

    return _print_change(_change(loaded, change, may_be_new=True))


def run_retire(options: argparse.Namespace) -> int:
    """Print each step."""
    loaded = load_with_key_secret(options)
    if options.kid is None:
        is_over = asyncio.run(_retention_end(loaded.settings, options.retain))
        return _print_change(_change(loaded, lambda keys: without_obsolete(keys, is_over)))
    if options.remove:
        return _print_change(_change(loaded, lambda keys: removed(keys, options.kid)))
    return _print_change(_change(loaded, lambda keys: retired(keys, options.kid, utc_now())))


def _change(loaded: Loaded, change: Change, *, may_be_new: bool = False) -> RotationResult:
    """Apply ``change`` where the keys are: in the secrets manager or in a folder."""
    if loaded.settings.jwt_token_configuration.key_secret is not None:
        return change_key_secret(loaded, change)
    return change_folder(_folder(loaded.settings), change, may_be_new=may_be_new)


def run_list(options: argparse.Namespace) -> int:
    """Print the keys, the active one first."""
    settings = load_with_key_secret(options).settings
    secret = settings.jwt_token_configuration.key_secret
    keys = read_folder(_folder(settings)) if secret is None else list(parse_private_set(secret.reveal()).keys)
    signing = next((key.kid for key in keys if key.state == "active"), None)
    entries = [_entry(key, signs=key.kid == signing) for key in keys]
    if options.json:
        print(json.dumps(entries))
    else:
        print(table(("KID", "STATE", "TYPE", "SIGNS", "SINCE", "RETIRED"), (_row(entry) for entry in entries)))
    return 0


def _entry(key: ListedKey, *, signs: bool) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "state": key.state,
        "type": algorithm_of(key.public),
        "signs": signs,
        "since": None if key.since is None else format_rfc3339(key.since.timestamp()),
        "retiredAt": None if key.retired_at is None else format_rfc3339(key.retired_at.timestamp()),
    }


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    return tuple("yes" if value is True else "" if value is False else value for value in entry.values())


def _print_change(change: RotationResult) -> int:
    lines = [*change.steps, *([change.note] if change.note else [])]
    if not change.steps:
        lines = [f"nothing changed{': ' + change.note if change.note else ''}"]
    try:
        print("\n".join(lines), flush=True)
    except OutputError as error:
        if not change.steps:
            raise
        raise OutputError(error.error, "; the keys were changed; run sidecar keys list") from error
    return 0


def _folder(settings: Settings) -> Path:
    folder = settings.jwt_token_configuration.key_dir
    if not folder:
        message = (
            "is not set. Rotation needs keyDir or keySecret; a single key pair (rsa...FilePath) cannot be rotated "
            "without invalidating its tokens"
        )
        raise Misconfigured([Problem("jwtTokenConfiguration.keyDir", message)])
    return Path(folder)


async def _retention_end(settings: Settings, keep: float | None) -> Callable[[ListedKey], bool]:
    """A predicate: no token needs this retired key any more, according to the records in the store."""
    if keep is None and not settings.tokens.require_record:
        print("keys are retained: tokens without a record may need them; set --retain", file=sys.stderr)
        return lambda key: False
    now = utc_now().timestamp()
    try:
        oldest = await _oldest_active(settings, now)
    except Unavailable:
        print("keys are retained: the store cannot be read, so that tokens may need them", file=sys.stderr)
        return lambda key: False

    def is_over(key: ListedKey) -> bool:
        if key.retired_at is None:
            return False
        retired = key.retired_at.timestamp()
        return now >= retired + (_RETAIN if keep is None else keep) and oldest > retired + _seconds_until_seen(settings)

    return is_over


def _seconds_until_seen(settings: Settings) -> float:
    """Time until every sidecar uses changed keys."""
    if settings.jwt_token_configuration.key_secret is None:
        return _RELOAD_INTERVAL
    return _RELOAD_INTERVAL + 1.1 * settings.secrets_manager_configuration.refresh


async def _oldest_active(settings: Settings, now: float) -> float:
    """Issue time of the oldest active issued token; infinite if there is none."""
    store = await open_store(settings.store, Metrics(), SystemClock())
    try:
        active = all_records(store, RecordQuery(active=True, now=now))
        return min([record.created_at async for record in active], default=float("inf"))
    finally:
        await store.aclose()


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _kid(text: str) -> str:
    if not _KID.fullmatch(text):
        raise argparse.ArgumentTypeError("must be 1 to 128 visible ASCII characters")
    return text
