"""Several own keys in one folder: ``<kid>.pem`` files, and ``keys.yaml`` with their order and state.

    keys:
      - {kid: 2026-11, state: active}
      - {kid: 2026-12, state: next}
      - {kid: 2026-10, state: retired, retiredAt: 2026-11-01T00:00:00Z}

The first active key signs, all verify and are published. The file of a key that does not sign may hold the public
half only.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from sidecar.keys.key_files import KeyFileError, PrivateKey, read_private_key, read_public_key
from sidecar.keys.keyset import PublicKey

LIST_NAME = "keys.yaml"
STATES = ("active", "next", "retired")
_MAX_BYTES = 64 * 1024
_KID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One entry of the list with the key of its file. ``private`` is None when only the public half is there."""

    kid: str
    state: str
    public: PublicKey
    private: PrivateKey | None
    retired_at: datetime | None = None


def read_folder(folder: Path) -> list[ListedKey]:
    """The keys of ``folder`` in the list's order. Raises KeyFileError."""
    entries = _read_list(folder / LIST_NAME)
    listed = [_read_entry(entry, folder) for entry in entries]
    if len({key.kid for key in listed}) < len(listed):
        raise KeyFileError(f"{folder / LIST_NAME} lists a kid twice")
    return listed


def _read_list(path: Path) -> list[Any]:
    try:
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
    if not isinstance(entry, dict) or not {"kid", "state"} <= entry.keys() <= {"kid", "state", "retiredAt"}:
        raise KeyFileError(f"{path}: an entry is kid, state and, when retired, retiredAt")
    kid, state, retired_at = str(entry["kid"]), entry["state"], entry.get("retiredAt")
    if not _KID.fullmatch(kid):
        raise KeyFileError(f"{path}: a kid is up to 128 letters, digits, dots, dashes and underscores")
    if state not in STATES:
        raise KeyFileError(f"{path}: the state of {kid} is not one of {', '.join(STATES)}")
    if retired_at is not None and not isinstance(retired_at, datetime):
        raise KeyFileError(f"{path}: retiredAt of {kid} is not a time such as 2026-11-01T00:00:00Z")
    file = folder / f"{kid}.pem"
    try:
        private = read_private_key(file)
    except KeyFileError:
        if state == "active":
            raise
        return ListedKey(kid, state, read_public_key(file), None, retired_at)
    return ListedKey(kid, state, private.public_key(), private, retired_at)
