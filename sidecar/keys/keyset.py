"""Parses a JWKS document into public keys, each bound to its algorithms (RFC 7517, RFC 7518, RFC 8037).

Entries are checked one by one: a bad one is skipped and counted and does not affect the others. Accepted keys are
rebuilt from their numbers, so that other members (certificates, URLs, private members) are never used.
"""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from sidecar.keys.document import DocumentError, parse_object
from sidecar.keys.weak_rsa import rsa_weakness
from sidecar.keys.well_known import WELL_KNOWN_THUMBPRINTS

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
JoseKey = RSAKey | ECKey | OKPKey

MAX_KEYS = 256
MAX_CANDIDATES = 16
RSA_PKCS1 = frozenset({"RS256", "RS384", "RS512"})
RSA_ALGORITHMS = RSA_PKCS1 | {"PS256", "PS384", "PS512"}
ED25519_ALGORITHMS = frozenset({"EdDSA", "Ed25519"})
EC_CURVES: dict[str, tuple[ec.EllipticCurve, str]] = {
    "P-256": (ec.SECP256R1(), "ES256"),
    "P-384": (ec.SECP384R1(), "ES384"),
    "P-521": (ec.SECP521R1(), "ES512"),
}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
UNSAFE = frozenset({"weak", "private", "published"})
"""Reasons for entries that are unsafe: anyone who reads the set can sign with them, or almost."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_STANDARD_TO_URL = str.maketrans("+/", "-_")
_MAX_KID = 512


class VerificationKey:
    """A public key and its permitted algorithms. Only ``live`` ever changes: to False, permanently, when it is
    withdrawn.

    ``algorithms`` are JWS names; ``fingerprint`` is the RFC 7638 thumbprint. Key sets contain public keys only.
    """

    __slots__ = ("algorithms", "fingerprint", "key", "kid", "live")

    def __init__(self, kid: str | None, algorithms: frozenset[str], key: JoseKey | OctKey) -> None:
        self.kid = kid
        self.algorithms = algorithms
        self.key = key
        self.live = True
        self.fingerprint = key.thumbprint()

    @property
    def identity(self) -> tuple[str | None, frozenset[str], str]:
        """Equal for two keys that are interchangeable."""
        return self.kid, self.algorithms, self.fingerprint


class KeyLookup(Protocol):
    """Looks up keys for verification."""

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Keys that may have made a signature, from memory; empty if none is known."""

    async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Look again for a key that :meth:`candidates` does not know; empty: it does not exist.

        Raises Unavailable(KEYS_UNAVAILABLE) if that cannot be determined now.
        """


class KeySource(KeyLookup, Protocol):
    """The keys of one issuer."""

    @property
    def issuer(self) -> str | None:
        """The exact name of the issuer once it is known, else None."""


@dataclass(frozen=True, slots=True)
class ParsedKeys:
    """The usable keys of a document, and the number of skipped entries by reason (a fixed set of words)."""

    keys: tuple[VerificationKey, ...]
    skipped: Counter[str]


class UnusableKeyError(Exception):
    """An entry of a key set is not used; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse_key_set(document: bytes, *, allow_published: bool = False) -> ParsedKeys:
    """Parse an RFC 7517 key set. Raises DocumentError if it is not one, or has more than 256 entries.

    A set without usable keys is not an error: it says that no key is valid. ``allow_published`` also accepts keys whose
    private half is published.
    """
    return key_set_from_document(parse_object(document), allow_published=allow_published)


def key_set_from_document(document: Mapping[str, object], *, allow_published: bool = False) -> ParsedKeys:
    """:func:`parse_key_set` for a document that is parsed already."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise DocumentError("not_json", "no array of keys")
    if len(entries) > MAX_KEYS:
        raise DocumentError("useless", f"more than {MAX_KEYS} keys")
    keys: dict[object, VerificationKey] = {}
    skipped: Counter[str] = Counter()
    for entry in entries:
        try:
            key = _parse_entry(entry)
            if key.fingerprint in WELL_KNOWN_THUMBPRINTS and not allow_published:
                raise UnusableKeyError("published")
        except UnusableKeyError as unusable:
            skipped[unusable.reason] += 1
        except Exception:  # noqa: BLE001 - malicious numbers can raise anything; skip the entry only
            skipped["malformed"] += 1
        else:
            keys.setdefault(key.identity, key)
    return ParsedKeys(tuple(keys.values()), skipped)


def _parse_entry(entry: object) -> VerificationKey:
    if not isinstance(entry, dict):
        raise UnusableKeyError("malformed")
    kty = entry.get("kty")
    if kty == "oct":
        raise UnusableKeyError("symmetric")
    reader = _PARSERS.get(kty) if isinstance(kty, str) else None
    if reader is None:
        raise UnusableKeyError("type")
    if not _PRIVATE_MEMBERS.isdisjoint(entry):
        raise UnusableKeyError("private")
    _check_purpose(entry)
    kid = _parse_kid(entry)
    public, family = reader(entry)
    algorithms = _bound_algorithms(entry.get("alg"), family)
    _check_certificate(entry.get("x5c"), public)
    return VerificationKey(kid, algorithms, to_jose_key(public))


def _check_purpose(entry: Mapping[str, Any]) -> None:
    if entry.get("use") not in (None, "sig", "jwt-svid"):  # the last in bundles of SPIFFE
        raise UnusableKeyError("use")
    operations = entry.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        raise UnusableKeyError("use")


def _parse_kid(entry: Mapping[str, Any]) -> str | None:
    kid = entry.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > _MAX_KID):
        raise UnusableKeyError("kid")
    return kid


def _bound_algorithms(algorithm: object, family: frozenset[str]) -> frozenset[str]:
    """The key's algorithms: its own ``alg`` (RFC 7517 4.4), else all that its type and curve allow."""
    if algorithm is None:
        return family
    if not isinstance(algorithm, str) or algorithm not in family:
        raise UnusableKeyError("algorithm")
    return ED25519_ALGORITHMS if algorithm in ED25519_ALGORITHMS else frozenset({algorithm})


def _check_certificate(chain: object, public: PublicKey) -> None:
    """A certificate adds no trust here, but one for another key makes the entry contradictory (RFC 7517 4.7)."""
    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        return
    try:
        certified = x509.load_der_x509_certificate(base64.b64decode(chain[0])).public_key()
    except Exception:  # noqa: BLE001 - unreadable and never used: keep the key
        return
    if certified != public:
        raise UnusableKeyError("certificate")


def _parse_rsa(entry: Mapping[str, Any]) -> tuple[PublicKey, frozenset[str]]:
    modulus, exponent = _parse_integer(entry, "n"), _parse_integer(entry, "e")
    if rsa_weakness(modulus, exponent):
        raise UnusableKeyError("weak")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key(), RSA_ALGORITHMS


def _parse_ec(entry: Mapping[str, Any]) -> tuple[PublicKey, frozenset[str]]:
    name = entry.get("crv")
    if not isinstance(name, str) or name not in EC_CURVES:
        raise UnusableKeyError("curve")
    curve, algorithm = EC_CURVES[name]
    length = (curve.key_size + 7) // 8
    x, y = (int.from_bytes(_parse_bytes(entry, axis, length)) for axis in ("x", "y"))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key(), frozenset({algorithm})
    except ValueError as error:
        raise UnusableKeyError("curve") from error


def _parse_okp(entry: Mapping[str, Any]) -> tuple[PublicKey, frozenset[str]]:
    if entry.get("crv") != "Ed25519":
        raise UnusableKeyError("curve")
    point = _parse_bytes(entry, "x", 32)
    if not is_sound_ed25519(point):
        raise UnusableKeyError("weak")
    return ed25519.Ed25519PublicKey.from_public_bytes(point), ED25519_ALGORITHMS


_PARSERS = {"RSA": _parse_rsa, "EC": _parse_ec, "OKP": _parse_okp}


def is_sound_ed25519(encoded: bytes) -> bool:
    """Whether 32 bytes are a canonical point of edwards25519 outside its small subgroup (RFC 8032 5.1.3).

    With a point of small order, signatures can be made that verify for many messages.
    """
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime) % prime
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    if y >= prime:
        return False
    for _ in range(3):  # doubling three times takes exactly the points of order 1, 2, 4 and 8 to the neutral one
        xx = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
        if pow(xx, (prime - 1) // 2, prime) > 1:  # no square: no point has this y
            return False
        y = (y * y + xx) * pow(1 - d * xx * y * y, -1, prime) % prime
    return y != 1


def _parse_integer(entry: Mapping[str, Any], member: str) -> int:
    """An unsigned integer; accepts standard base64, padding and leading zeros, as OpenMetadata writes them."""
    value = entry.get(member)
    text = value.translate(_STANDARD_TO_URL).rstrip("=") if isinstance(value, str) else value
    return int.from_bytes(_decode(text))


def _parse_bytes(entry: Mapping[str, Any], member: str, length: int) -> bytes:
    content = _decode(entry.get(member))
    if len(content) != length:
        raise UnusableKeyError("malformed")
    return content


def _decode(text: object) -> bytes:
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise UnusableKeyError("malformed")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise UnusableKeyError("malformed") from error


def to_jose_key(public: PublicKey) -> JoseKey:
    """The JOSE library's key object for ``public``."""
    if isinstance(public, rsa.RSAPublicKey):
        return RSAKey.import_key(public)
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ECKey.import_key(public)
    return OKPKey.import_key(public)


def public_jwk(key: VerificationKey, algorithm: str | None = None) -> dict[str, str]:
    """The public members of ``key`` (RFC 7517); ``alg`` is ``algorithm``, else present if there is only one."""
    members = {name: str(value) for name, value in key.key.as_dict(private=False).items() if name != "kid"}
    members["use"] = "sig"
    if key.kid is not None:
        members["kid"] = key.kid
    if algorithm is None and len(key.algorithms) == 1:
        (algorithm,) = key.algorithms
    if algorithm is not None:
        members["alg"] = algorithm
    return members


def update_keys(old: Iterable[VerificationKey], new: Iterable[VerificationKey]) -> tuple[VerificationKey, ...]:
    """The keys of ``new``, as the objects of ``old`` if unchanged; the other keys of ``old`` are withdrawn."""
    kept = {key.identity: key for key in old}
    current = tuple(kept.pop(key.identity, key) for key in new)
    for key in kept.values():
        key.live = False
    return current


class KeyIndex:
    """Finds candidates in one look-up. Immutable; rebuilt when the keys change."""

    def __init__(self, *sets: Iterable[VerificationKey]) -> None:
        """Index the union of ``sets``. ``kid`` is a hint: a set without key ids offers all its keys for every kid."""
        self._named: dict[tuple[str | None, str], tuple[VerificationKey, ...]] = {}
        self._nameless: dict[tuple[str | None, str], tuple[VerificationKey, ...]] = {}
        self.size = 0
        for keys in map(tuple, sets):
            self.size += len(keys)
            nameless = all(key.kid is None for key in keys)
            for key in keys:
                self._add(key, nameless=nameless)

    def _add(self, key: VerificationKey, *, nameless: bool) -> None:
        for algorithm in key.algorithms:
            for table, kid in ((self._named, None), (self._nameless if nameless else self._named, key.kid)):
                found = table.get((kid, algorithm), ())
                if key not in found and len(found) < MAX_CANDIDATES:
                    table[kid, algorithm] = (*found, key)

    def find(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """At most 16 keys for ``algorithm`` with the id ``kid``; all if ``kid`` is None."""
        return self._named.get((kid, algorithm)) or self._nameless.get((None, algorithm), ())
