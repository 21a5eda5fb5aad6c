"""Several own keys in one folder: ``<kid>.pem`` files, and ``keys.yaml`` with their order and state.

    keys:
      - {kid: 2026-11, state: active}
      - {kid: 2026-12, state: next, since: 2026-11-20T00:00:00Z}
      - {kid: 2026-10, state: retired, retiredAt: 2026-11-01T00:00:00Z}

The first active key signs, all verify and are published. The file of a key that does not sign may hold the public
half only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sidecar.keys.key_files import KeyFileError, PrivateKey, read_private_key, read_public_key, refuse_pipe
from sidecar.keys.keyset import PublicKey

LIST_NAME = "keys.yaml"
STATES = ("active", "next", "retired")
_MAX_BYTES = 64 * 1024
KID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One entry of the list with the key of its file. ``private`` is None if the file contains the public half only.

    ``since``: when it was published.
    """

    kid: str
    state: str
    public: PublicKey
    private: PrivateKey | None
    retired_at: datetime | None = None
    since: datetime | None = None


def read_folder(folder: Path) -> list[ListedKey]:
    """The keys of ``folder`` in the order of the list. Raises KeyFileError."""
    entries = _read_list(folder / LIST_NAME)
    listed = [_read_entry(entry, folder) for entry in entries]
    if len({key.kid for key in listed}) < len(listed):
        raise KeyFileError(f"{folder / LIST_NAME} lists a kid twice")
    return listed


def _read_list(path: Path) -> list[Any]:
    try:
        refuse_pipe(path)
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        document = yaml.safe_load(content) if len(content) <= _MAX_BYTES else None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KeyFileError(f"{path} is not YAML") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise KeyFileError(f"{path} has no list of keys")
    return entries


def _read_entry(entry: object, folder: Path) -> ListedKey:
    path = folder / LIST_NAME
    if not isinstance(entry, dict) or not {"kid", "state"} <= entry.keys() <= {"kid", "state", "since", "retiredAt"}:
        raise KeyFileError(f"{path}: an entry has kid, state, since and, if retired, retiredAt")
    kid, state = str(entry["kid"]), entry["state"]
    if not KID.fullmatch(kid):
        raise KeyFileError(f"{path}: a kid has at most 128 letters, digits, dots, dashes and underscores")
    if state not in STATES:
        raise KeyFileError(f"{path}: the state of {kid} is not one of {', '.join(STATES)}")
    retired_at, since = (_timestamp(entry, name, path) for name in ("retiredAt", "since"))
    file = folder / f"{kid}.pem"
    try:
        private = read_private_key(file)
    except KeyFileError:
        if state == "active":
            raise
        return ListedKey(kid, state, read_public_key(file), None, retired_at, since)
    return ListedKey(kid, state, private.public_key(), private, retired_at, since)


def _timestamp(entry: dict[str, Any], name: str, path: Path) -> datetime | None:
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise KeyFileError(f"{path}: {name} of {entry['kid']} is not a time such as 2026-11-01T00:00:00Z")
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def encode_key_list(keys: Sequence[ListedKey]) -> bytes:
    """The content of ``keys.yaml`` for which :func:`read_folder` returns ``keys``."""
    entries = []
    for key in keys:
        entry: dict[str, Any] = {"kid": key.kid, "state": key.state}
        entry |= {name: at for name, at in (("since", key.since), ("retiredAt", key.retired_at)) if at is not None}
        entries.append(entry)
    return yaml.safe_dump({"keys": entries}, sort_keys=False).encode()
