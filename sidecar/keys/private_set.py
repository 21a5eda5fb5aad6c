"""Own keys as one private JWK set (RFC 7517): the value of one secret, so that all keys change at once.

    {"keys": [{"kty": "RSA", "kid": "2026-11", "state": "active", ..., "d": ...},
              {"kty": "RSA", "kid": "2026-12", "state": "next", "since": "2026-11-20T00:00:00Z", ..., "d": ...},
              {"kty": "RSA", "kid": "2026-10", "state": "retired", "retiredAt": "2026-11-01T00:00:00Z", ...}]}

``state``, ``since`` and ``retiredAt`` mean the same as in :mod:`sidecar.keys.key_folder`. A key without a state is
active. A key that does not sign may have its public members only.

The set has two more members. ``removed`` has the ids of keys that were removed on purpose: any other key that
disappears stays published, so that an older set over a newer one invalidates no token. With ``disabled`` no key signs.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sidecar.keys.document import DocumentError, parse_object
from sidecar.keys.key_files import KeyFileError, PrivateKey, check_key
from sidecar.keys.key_folder import KID, STATES, ListedKey
from sidecar.keys.keyset import JoseKey, PublicKey, to_jose_key

_KINDS: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_WHAT = "the key set"
_MAX_REMOVED = 100


@dataclass(frozen=True, slots=True)
class PrivateSet:
    """The keys in order, the ids of removed keys, and whether signing is disabled."""

    keys: tuple[ListedKey, ...] = ()
    removed: tuple[str, ...] = ()
    disabled: bool = False


def parse_private_set(text: str) -> PrivateSet:
    """The key set in ``text``. Raises KeyFileError, which contains nothing of the keys but their ids."""
    try:
        document = parse_object(text.encode("utf-8", "surrogatepass"))
    except DocumentError:
        raise KeyFileError(f"{_WHAT} is not a JSON object") from None
    entries, removed, disabled = document.get("keys"), document.get("removed", []), document.get("disabled", False)
    if not isinstance(entries, list):
        raise KeyFileError(f"{_WHAT} has no list of keys")
    if not isinstance(removed, list) or not all(isinstance(kid, str) for kid in removed):
        raise KeyFileError(f"{_WHAT}: removed is not a list of key ids")
    if not isinstance(disabled, bool):
        raise KeyFileError(f"{_WHAT}: disabled is neither true nor false")
    listed = [_entry(number, entry) for number, entry in enumerate(entries, 1)]
    if len({key.kid for key in listed}) < len(listed):
        raise KeyFileError(f"{_WHAT} has a kid twice")
    return PrivateSet(tuple(listed), tuple(removed), disabled)


def encode_private_set(keys: Sequence[ListedKey], removed: Sequence[str] = ()) -> str:
    """The text for which :func:`parse_private_set` returns ``keys`` and the last 100 of ``removed``."""
    document: dict[str, Any] = {"keys": [_encoded(key) for key in keys]}
    if removed:
        document["removed"] = list(removed)[-_MAX_REMOVED:]
    return json.dumps(document, separators=(",", ":"))


def private_jose_key(private: PrivateKey) -> JoseKey:
    """The JOSE library's key object for ``private``."""
    if isinstance(private, rsa.RSAPrivateKey):
        return RSAKey.import_key(private)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return ECKey.import_key(private)
    return OKPKey.import_key(private)


def _entry(number: int, entry: object) -> ListedKey:
    which = f"key {number} of {_WHAT}"
    if not isinstance(entry, dict):
        raise KeyFileError(f"{which} is not an object with distinct members")
    kid, state = entry.get("kid"), entry.get("state", "active")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise KeyFileError(f"{which}: a kid has 1 to 128 letters, digits, dots, dashes and underscores")
    if state not in STATES:
        raise KeyFileError(f"{which}: the state of {kid} is not one of {', '.join(STATES)}")
    kind = _KINDS.get(str(entry.get("kty")))
    if kind is None:
        raise KeyFileError(f"{which}: {kid} is not an RSA, EC or Ed25519 key")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weak keys, which check_key refuses below
            key = kind.import_key({name: value for name, value in entry.items() if name not in _OURS})
        private, public = (key.private_key if key.is_private else None), key.public_key
    except (JoseError, ValueError, TypeError, KeyError):
        raise KeyFileError(f"{which}: {kid} is not a valid key") from None
    if not isinstance(public, PublicKey) or not (private is None or isinstance(private, PrivateKey)):
        raise KeyFileError(f"{which}: {kid} is not an RSA, EC or Ed25519 key")
    check_key(public, f"{kid} of {_WHAT}")
    if private is None and state == "active":
        raise KeyFileError(f"{which}: {kid} is active but has no private members")
    retired_at, since = (_timestamp(entry, name, which) for name in ("retiredAt", "since"))
    return ListedKey(kid, state, public, private, retired_at, since)


_OURS = frozenset({"state", "since", "retiredAt"})


def _timestamp(entry: dict[str, Any], name: str, which: str) -> datetime | None:
    value = entry.get(name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise KeyFileError(f"{which}: {name} is not a time such as 2026-11-01T00:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _encoded(key: ListedKey) -> dict[str, Any]:
    jose = to_jose_key(key.public) if key.private is None else private_jose_key(key.private)
    entry: dict[str, Any] = {**jose.as_dict(private=key.private is not None), "kid": key.kid, "state": key.state}
    times = {"since": key.since, "retiredAt": key.retired_at}
    return entry | {name: at.strftime("%Y-%m-%dT%H:%M:%SZ") for name, at in times.items() if at is not None}
