"""Is this token what it says? Pure: token, keys, expectations and now go in, verified claims or a refusal come out.

The library decides about the signature alone; which algorithm, which key and which claims is decided here, because
libraries check what is present, not what must be (RFC 8725).
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.errors import AFTER_SIGNATURE, Cause, Reason, Refused
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import claim_texts
from sidecar.keys.keyset import VerificationKey
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.jose import ED25519_NAMES, verify_signature

UPSTREAM_CLAIM = "auth_sidecar"
"""Claim of the credentials that we mint for the service behind; a token that carries it is never a caller's."""
_EARLIEST, _LATEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class ValidationPolicy:
    """What a token must be. Times are seconds.

    ``issuers`` None: any issuer (only for providers that are explicitly unbound). ``audiences`` empty: ``aud`` is not
    compared. ``required_claims``: each path must hold one of its values. ``max_lifetime``: longest ``exp - iat``.
    ``leeway`` is the tolerance for ``exp``, and for ``nbf`` and ``iat`` too unless ``early`` says what theirs is.
    ``bound_to_certificates``: tokens that are bound to a certificate are accepted; who asks compares the certificate.
    """

    issuers: frozenset[str] | None
    algorithms: frozenset[str]
    audiences: frozenset[str] = frozenset()
    required_claims: tuple[tuple[ClaimPath, frozenset[str]], ...] = ()
    max_lifetime: float | None = None
    leeway: float = 0.0
    early: float | None = None
    require_expiry: bool = True
    bound_to_certificates: bool = False


@dataclass(slots=True)  # not frozen: made for every token, and freezing triples the cost of making one
class VerifiedClaims:
    """Claims that ``key`` has signed and that met the expectations. Times are seconds since the epoch."""

    claims: Mapping[str, Any]
    key: VerificationKey
    issuer: str = ""
    subject: str = ""
    token_id: str = ""
    issued_at: float | None = None
    not_before: float | None = None
    expires_at: float | None = None

    @property
    def certificate(self) -> str | None:
        """``x5t#S256`` of the certificate that the caller must have shown (RFC 8705 section 3.1); None: none."""
        confirmation = self.claims.get("cnf")
        return None if confirmation is None else str(confirmation["x5t#S256"])


def verify(
    token: Unverified,
    keys: Sequence[VerificationKey],
    expectations: ValidationPolicy,
    now: float,
    earliest: float | None = None,
) -> VerifiedClaims:
    """Claims of ``token``, checked against ``keys`` and ``expectations`` at ``now`` (seconds since the epoch).

    ``earliest`` is what ``nbf`` and ``iat`` are compared with where the clock is in doubt; None: ``now``.
    Raises Refused: TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, or TOKEN_INVALID for everything else.
    """
    if token.algorithm not in expectations.algorithms:
        raise _invalid(Cause.ALGORITHM)
    key = signing_key(token, keys)
    claims = token.claims
    with AFTER_SIGNATURE:
        check_claims(claims, expectations, now, earliest)
    return VerifiedClaims(
        claims,
        key,
        issuer=claims.get("iss", ""),
        subject=claims.get("sub", ""),
        token_id=claims.get("jti", ""),
        issued_at=claims.get("iat"),
        not_before=claims.get("nbf"),
        expires_at=claims.get("exp"),
    )


def signing_key(token: Unverified, keys: Sequence[VerificationKey]) -> VerificationKey:
    """The first of ``keys`` that has signed ``token``; each is used with its own algorithm and key id only.

    Raises Refused(TOKEN_INVALID) with cause UNKNOWN_KID (no keys), KEY_UNUSABLE (none fits) or SIGNATURE.
    """
    if not keys:
        raise _invalid(Cause.UNKNOWN_KID)
    fitting = [key for key in keys if key.live and _fits(key, token)]
    if not fitting:
        raise _invalid(Cause.KEY_UNUSABLE)
    for key in fitting:
        if verify_signature(key.key, token.algorithm, token.signing_input, token.signature):
            return key
    raise _invalid(Cause.SIGNATURE)


def check_claims(
    claims: Mapping[str, Any], expectations: ValidationPolicy, now: float, earliest: float | None = None
) -> None:
    """Whether ``claims`` of certain origin meet ``expectations`` at ``now``. Raises Refused as :func:`verify`."""
    _check_types(claims)
    if expectations.issuers is not None and claims.get("iss") not in expectations.issuers:
        raise _invalid(Cause.ISSUER)
    _check_audience(claims.get("aud"), expectations.audiences)
    _check_required(claims, expectations.required_claims)
    _check_forbidden(claims, bound_to_certificates=expectations.bound_to_certificates)
    _check_times(claims, expectations, now, now if earliest is None else earliest)


def _fits(key: VerificationKey, token: Unverified) -> bool:
    if token.kid is not None and key.kid is not None and token.kid != key.kid:
        return False
    if token.algorithm in ED25519_NAMES:
        return not ED25519_NAMES.isdisjoint(key.algorithms)
    return token.algorithm in key.algorithms


def _check_types(claims: Mapping[str, Any]) -> None:
    """RFC 7519 4.1. ``exp: null`` is what OpenMetadata writes into endless tokens and counts as absent."""
    for name in ("iss", "sub", "jti", "azp"):
        if not isinstance(claims.get(name, ""), str):
            raise _invalid(Cause.CLAIM_TYPE, f"{name} is not a string")
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name, 0)
        if not _is_time(moment) and not (name == "exp" and moment is None):
            raise _invalid(Cause.CLAIM_TYPE, f"{name} is not a moment")
    if "aud" in claims and not _is_text_or_texts(claims["aud"]):
        raise _invalid(Cause.CLAIM_TYPE, "aud is neither a string nor a list of strings")


def _is_time(value: object) -> bool:
    """Whether it is a number of seconds that every later reader can hold: JSON writers and stores end at 64 bits."""
    if type(value) is int:
        return _EARLIEST <= value <= _LATEST
    return type(value) is float and math.isfinite(value)


def _is_text_or_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _check_audience(audience: str | list[str] | None, accepted: Collection[str]) -> None:
    if not accepted:
        return
    presented = [audience] if isinstance(audience, str) else audience or []
    if not any(item in accepted for item in presented):
        raise _invalid(Cause.AUDIENCE)


def _check_required(claims: Mapping[str, Any], required: Sequence[tuple[ClaimPath, frozenset[str]]]) -> None:
    for path, accepted in required:
        if accepted.isdisjoint(claim_texts(path.find(claims))):
            raise _invalid(Cause.REQUIRED_CLAIM, path.text)


def _check_forbidden(claims: Mapping[str, Any], *, bound_to_certificates: bool) -> None:
    if "cnf" in claims and not (bound_to_certificates and _names_certificate(claims["cnf"])):
        raise _invalid(Cause.PROOF_OF_POSSESSION)
    if UPSTREAM_CLAIM in claims:
        raise _invalid(Cause.UPSTREAM_ONLY)
    if "events" in claims:
        # A logout token or another security event (RFC 8417 2.2), which may have no type of its own.
        raise _invalid(Cause.TOKEN_TYPE)


def _names_certificate(confirmation: object) -> bool:
    """Whether a certificate is all that it asks for; any other member would be a proof that nobody has checked."""
    if not isinstance(confirmation, dict) or set(confirmation) != {"x5t#S256"}:
        return False
    thumbprint = confirmation["x5t#S256"]
    return isinstance(thumbprint, str) and re.fullmatch(r"[A-Za-z0-9_-]{43}", thumbprint) is not None


def _check_times(claims: Mapping[str, Any], expectations: ValidationPolicy, now: float, earliest: float) -> None:
    expires, starts, issued = claims.get("exp"), claims.get("nbf"), claims.get("iat")
    leeway = expectations.leeway
    early = leeway if expectations.early is None else expectations.early
    if expires is None and expectations.require_expiry:
        raise _invalid(Cause.EXPIRY_MISSING)
    if expires is not None and now >= expires + leeway:
        raise Refused(Reason.TOKEN_EXPIRED, Cause.EXPIRED)
    if starts is not None and earliest + early < starts:
        raise Refused(Reason.TOKEN_NOT_YET_VALID, Cause.NOT_YET_VALID)
    if issued is not None and earliest + early < issued:
        raise Refused(Reason.TOKEN_NOT_YET_VALID, Cause.ISSUED_IN_FUTURE)
    longest = expectations.max_lifetime
    if longest is not None and (expires is None or issued is None or expires - issued > longest):
        raise _invalid(Cause.LIFETIME)


def _invalid(cause: Cause, detail: str = "") -> Refused:
    return Refused(Reason.TOKEN_INVALID, cause, detail)
