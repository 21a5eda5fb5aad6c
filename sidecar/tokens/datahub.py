"""DataHub's token format: JWTs signed with HS256 by a key that all of its servers share.

Version 1 (sessions) is valid by its signature alone. Version 2 (personal and service account tokens) is stored by
DataHub under the hash that :func:`datahub_hash` computes.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any

from joserfc.jwk import OctKey

from sidecar.errors import AFTER_SIGNATURE, Cause, Reason, Refused
from sidecar.identity.names import MAX_PRINCIPAL
from sidecar.keys.keyset import VerificationKey
from sidecar.secrets.value import Secret
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.jose import sign
from sidecar.tokens.jwt.verify import UPSTREAM_CLAIM, ValidationPolicy, VerifiedClaims, verify

ALGORITHM = "HS256"
DEFAULT_ISSUER = "datahub-metadata-service"
MIN_KEY_BYTES = 32
"""RFC 7518 section 3.2; DataHub's own library enforces the same minimum."""
ROOT_USER = "datahub"
"""Name of DataHub's superuser, which its installation creates."""
FORMAT = "datahub"
"""``format`` of the records of tokens in this format."""

# DataHub knows one type of Actor; the record of a token says whether it is a SERVICE here.
_ACTOR_TYPE = "USER"
_VALIDATION = ValidationPolicy(issuers=None, algorithms=frozenset({ALGORITHM}), require_expiry=False)


class DataHubKind(StrEnum):
    """Purpose of the token, in the claim ``type``."""

    SESSION = "SESSION"
    PERSONAL = "PERSONAL"
    SERVICE_ACCOUNT = "SERVICE_ACCOUNT"


class Version(StrEnum):
    """How the token is revoked: not at all, or by the store. A string in the claim ``version``."""

    STATELESS = "1"
    STATEFUL = "2"


@dataclass(frozen=True, slots=True)
class DataHubToken:
    """DataHub's claims of a verified token."""

    actor_id: str
    kind: DataHubKind
    version: Version
    verified: VerifiedClaims


class SharedKey(VerificationKey):
    """The key that DataHub's servers share: the UTF-8 bytes of the configured text, not decoded from base64.

    Raises ValueError for fewer than 32 bytes.
    """

    __slots__ = ()

    def __init__(self, secret: Secret) -> None:
        key_bytes = secret.reveal().encode("utf-8")
        if len(key_bytes) < MIN_KEY_BYTES:
            raise ValueError(f"must have at least {MIN_KEY_BYTES} bytes")
        super().__init__(None, frozenset({ALGORITHM}), OctKey.import_key(key_bytes))


@dataclass(frozen=True, slots=True)
class DataHubSecrets:
    """Signing key and hash salt of DataHub tokens."""

    key: SharedKey
    salt: Secret


def is_datahub(token: Unverified, issuer: str, own_issuer: str) -> bool:
    """Whether ``token`` can only be a DataHub token.

    Either its issuer is DataHub's ``issuer``; or it is signed with a shared secret and has DataHub's claims or the
    issuer ``own_issuer``, which is this sidecar's.
    """
    if token.issuer == issuer:
        return True
    has_claims = "actorId" in token.claims or "actorType" in token.claims
    return token.algorithm.startswith("HS") and (has_claims or (bool(own_issuer) and token.issuer == own_issuer))


def verify_datahub(
    token: Unverified,
    key: SharedKey,
    now: float,
    leeway: float = 0.0,
    early: float = 0.0,
    *,
    earliest: float | None = None,
) -> DataHubToken:
    """Check signature, times and DataHub's claims. The issuer is not compared; without ``exp`` the token never expires.

    ``leeway`` is the tolerance for ``exp``, ``early`` the tolerance for ``nbf`` and ``iat``, in seconds.

    Raises Refused: TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_INVALID or PRINCIPAL_INVALID.
    """
    expected = replace(_VALIDATION, leeway=leeway, early=early) if leeway or early else _VALIDATION
    verified = verify(token, (key,), expected, now, earliest)
    claims = verified.claims
    with AFTER_SIGNATURE:
        if claims.get("actorType") != _ACTOR_TYPE:
            raise Refused(Reason.TOKEN_INVALID, Cause.REQUIRED_CLAIM, "actorType")
        try:
            kind, version = DataHubKind(_text(claims, "type")), Version(_text(claims, "version"))
        except ValueError:
            raise Refused(Reason.TOKEN_INVALID, Cause.REQUIRED_CLAIM, "type or version") from None
        return DataHubToken(_actor_id(claims.get("actorId")), kind, version, verified)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _actor_id(value: object) -> str:
    """The Actor id: DataHub ids keep their case and may be e-mail addresses; invisible characters are rejected."""
    if value is None:
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MISSING)
    if not isinstance(value, str) or not is_actor_id(value):
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED)
    return value


def is_actor_id(text: str) -> bool:
    """Whether ``text`` is a valid id of a DataHub Actor."""
    # isprintable() is False for control, format and surrogate characters and for all white space except the space
    return 0 < len(text) <= MAX_PRINCIPAL and " " not in text and text.isprintable()


def datahub_hash(text: str, salt: Secret) -> str:
    """The key of a token in DataHub's store: base64 of SHA-256 over its text and the salt."""
    return b64encode(sha256(f"{text}{salt.reveal()}".encode("utf-8", "surrogatepass")).digest()).decode("ascii")


def mint_datahub_token(
    key: SharedKey,
    *,
    actor_id: str,
    kind: DataHubKind,
    token_id: str,
    issuer: str,
    issued_at: int,
    expires_at: int | None,
    purpose: str = "",
) -> str:
    """Mint a token for ``actor_id``. Times are whole seconds since the epoch; ``expires_at`` None: it never expires.

    Sessions have version 1, all others version 2. ``purpose`` sets :data:`UPSTREAM_CLAIM` for tokens that callers must
    not present. DataHub's server ignores ``iat``; our revocation by issue time needs it.
    """
    version = Version.STATELESS if kind is DataHubKind.SESSION else Version.STATEFUL
    claims: dict[str, Any] = {
        "actorType": _ACTOR_TYPE,
        "actorId": actor_id,
        "type": kind.value,
        "version": version.value,
        "jti": token_id,
        "sub": actor_id,
        "iat": issued_at,
    }
    if expires_at is not None:
        claims["exp"] = expires_at
    claims["iss"] = issuer
    if purpose:
        claims[UPSTREAM_CLAIM] = purpose
    return sign({"alg": ALGORITHM}, claims, key.key)
