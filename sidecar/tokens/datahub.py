"""DataHub's tokens: JWTs signed with HS256 by a key that its servers share.

Version 1 (sessions) is good by its signature alone; version 2 (personal and service account tokens) stands in
DataHub's store, under the hash that :func:`datahub_hash` makes.
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
"""RFC 7518 3.2; DataHub's own library refuses less too."""
ROOT_USER = "datahub"
"""Name of the user who may do everything; DataHub makes him when it is installed."""
FORMAT = "datahub"
"""``format`` of records of tokens in this form."""

# DataHub knows one kind of Actor; whoever is a SERVICE here is told by the record.
_ACTOR_TYPE = "USER"
_EXPECTATIONS = ValidationPolicy(issuers=None, algorithms=frozenset({ALGORITHM}), require_expiry=False)


class DataHubKind(StrEnum):
    """What the token is for, in the claim ``type``."""

    SESSION = "SESSION"
    PERSONAL = "PERSONAL"
    SERVICE_ACCOUNT = "SERVICE_ACCOUNT"


class Version(StrEnum):
    """How its revocation works: not at all, or by the store. A text in the claim ``version``."""

    STATELESS = "1"
    STATEFUL = "2"


@dataclass(frozen=True, slots=True)
class DataHubToken:
    """What a verified token says in DataHub's own claims."""

    actor_id: str
    kind: DataHubKind
    version: Version
    verified: VerifiedClaims


class SharedKey(VerificationKey):
    """The key that DataHub's servers share: the octets of the text as it is configured, base64 or not.

    Raises ValueError for less than 32 octets.
    """

    __slots__ = ()

    def __init__(self, secret: Secret) -> None:
        octets = secret.reveal().encode("utf-8")
        if len(octets) < MIN_KEY_BYTES:
            raise ValueError(f"must have at least {MIN_KEY_BYTES} bytes")
        super().__init__(None, frozenset({ALGORITHM}), OctKey.import_key(octets))


@dataclass(frozen=True, slots=True)
class DataHubSecrets:
    """What DataHub's tokens are signed and hashed with."""

    key: SharedKey
    salt: Secret


def is_datahub(token: Unverified, issuer: str, own_issuer: str) -> bool:
    """Whether ``token`` can only be meant as one of DataHub's.

    It says that DataHub's ``issuer`` made it; or it is signed by a shared secret, and either has DataHub's claims or
    says that we (``own_issuer``) made it.
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
    """Check signature, times and DataHub's claims. The issuer is not compared, an absent ``exp`` means for ever.

    ``leeway`` is the tolerance for ``exp``, ``early`` that for ``nbf`` and ``iat``, in seconds.

    Raises Refused: TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_INVALID or PRINCIPAL_INVALID.
    """
    expected = replace(_EXPECTATIONS, leeway=leeway, early=early) if leeway or early else _EXPECTATIONS
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
    """DataHub's ids keep their case and may be addresses; what does not show is refused all the same."""
    if value is None:
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MISSING)
    if not isinstance(value, str) or not is_actor_id(value):
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED)
    return value


def is_actor_id(text: str) -> bool:
    """Whether ``text`` can be the id of an Actor of DataHub's."""
    # isprintable() is False for control, format and surrogate characters and for every white space but the blank
    return 0 < len(text) <= MAX_PRINCIPAL and " " not in text and text.isprintable()


def datahub_hash(text: str, salt: Secret) -> str:
    """The name of a token in DataHub's store: base64 of SHA-256 over its text and the salt's."""
    return b64encode(sha256(f"{text}{salt.reveal()}".encode("utf-8", "surrogatepass")).digest()).decode("ascii")


def datahub_token(
    key: SharedKey,
    *,
    actor_id: str,
    kind: DataHubKind,
    token_id: str,
    issuer: str,
    issued_at: int,
    expires_at: int | None,
    mark: str = "",
) -> str:
    """Mint a token for ``actor_id``. Times are whole seconds since the epoch; ``expires_at`` None: it never ends.

    Sessions are of version 1, all others of version 2. ``mark`` tells what it is minted for where callers may not use
    it (:data:`UPSTREAM_CLAIM`). GMS ignores ``iat``; our own cut-offs need it.
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
    if mark:
        claims[UPSTREAM_CLAIM] = mark
    return sign({"alg": ALGORITHM}, claims, key.key)
