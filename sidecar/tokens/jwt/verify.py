"""Verification of a JWT. Pure: token, keys, policy and time in; verified claims or a rejection out.

The library only verifies the signature. Algorithm, key and claims are selected and checked here, because libraries
check the claims that are present, not those that must be present (RFC 8725).
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.errors import Cause, Failed, Reason, Refused, quoted
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import claim_texts
from sidecar.keys.keyset import VerificationKey
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.jose import ED25519_NAMES, verify_signature

UPSTREAM_CLAIM = "auth_sidecar"
"""Claim in credentials minted for the upstream; a token with this claim is never accepted from a caller."""
_EARLIEST, _LATEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class ValidationPolicy:
    """Requirements for a token. Times are seconds.

    ``issuers`` None: any issuer (only for providers that are explicitly unbound). ``audiences`` empty: ``aud`` is not
    compared. ``required_claims``: each path must contain one of its values. ``max_lifetime``: maximum ``exp - iat``.
    ``leeway`` is the tolerance for ``exp``, and for ``nbf`` and ``iat`` too unless ``early`` is set.
    ``bound_to_certificates``: certificate-bound tokens are accepted; the caller of ``verify`` compares the certificate.
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
    """Claims signed by ``key`` that meet the policy. Times are seconds since the epoch."""

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
        """``x5t#S256`` of the client certificate that the token is bound to (RFC 8705 section 3.1); None: not bound."""
        confirmation = self.claims.get("cnf")
        return None if confirmation is None else str(confirmation["x5t#S256"])


def verify(
    token: Unverified,
    keys: Sequence[VerificationKey],
    policy: ValidationPolicy,
    now: float,
    earliest: float | None = None,
) -> VerifiedClaims:
    """Claims of ``token``, verified with ``keys`` and ``policy`` at ``now`` (seconds since the epoch).

    ``earliest`` is what ``nbf`` and ``iat`` are compared with where the clock is in doubt; None: ``now``.
    Raises Refused: TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, or TOKEN_INVALID for everything else.
    """
    check_algorithm(token, policy)
    key = find_signing_key(token, keys)
    claims = token.claims
    try:
        check_claims(claims, policy, now, earliest)
    except Failed as failure:
        failure.is_signed = True
        raise
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


def check_algorithm(token: Unverified, policy: ValidationPolicy) -> None:
    """Raise Refused(TOKEN_INVALID) for an algorithm that ``policy`` does not allow."""
    if token.algorithm not in policy.algorithms:
        raise _invalid(
            Cause.ALGORITHM, f"alg is {quoted(token.algorithm)}; allowed: {quoted(*sorted(policy.algorithms))}"
        )


def find_signing_key(token: Unverified, keys: Sequence[VerificationKey]) -> VerificationKey:
    """The first of ``keys`` that signed ``token``; each key is used only with its own algorithms and key id.

    Raises Refused(TOKEN_INVALID) with cause UNKNOWN_KID (no keys), KEY_UNUSABLE (none fits) or SIGNATURE.
    """
    if not keys:
        raise _invalid(Cause.UNKNOWN_KID, f"kid is {quoted(token.kid)}; the issuer publishes no such key")
    fits = False
    for key in keys:
        if key.live and _fits(key, token):
            fits = True
            if verify_signature(key.key, token.algorithm, token.signing_input, token.signature):
                return key
    if not fits:
        raise _invalid(Cause.KEY_UNUSABLE, f"kid is {quoted(token.kid)}; its key is not for {quoted(token.algorithm)}")
    raise _invalid(Cause.SIGNATURE, f"kid is {quoted(token.kid)}")


def check_claims(
    claims: Mapping[str, Any], policy: ValidationPolicy, now: float, earliest: float | None = None
) -> None:
    """Check ``claims`` of a trusted source against ``policy`` at ``now``. Raises Refused as :func:`verify`."""
    check_types(claims)
    if policy.issuers is not None and claims.get("iss") not in policy.issuers:
        raise _invalid(Cause.ISSUER, f"iss is {quoted(claims.get('iss'))}; expected: {quoted(*sorted(policy.issuers))}")
    _check_audience(claims.get("aud"), policy.audiences)
    check_required(claims, policy.required_claims)
    _check_forbidden(claims, bound_to_certificates=policy.bound_to_certificates)
    _check_times(claims, policy, now, now if earliest is None else earliest)


def _fits(key: VerificationKey, token: Unverified) -> bool:
    if token.kid is not None and key.kid is not None and token.kid != key.kid:
        return False
    if token.algorithm in ED25519_NAMES:
        return not ED25519_NAMES.isdisjoint(key.algorithms)
    return token.algorithm in key.algorithms


def check_types(claims: Mapping[str, Any]) -> None:
    """Raise Refused(TOKEN_INVALID) for a registered claim of the wrong type (RFC 7519 section 4.1).

    ``exp: null``, which OpenMetadata writes for tokens that never expire, means absent.
    """
    for name in ("iss", "sub", "jti", "azp"):
        if not isinstance(claims.get(name, ""), str):
            raise _invalid(Cause.CLAIM_TYPE, f"{name} is not a string")
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name, 0)
        if not _is_time(moment) and not (name == "exp" and moment is None):
            raise _invalid(Cause.CLAIM_TYPE, f"{name} is not a time")
    if "aud" in claims and not _is_text_or_texts(claims["aud"]):
        raise _invalid(Cause.CLAIM_TYPE, "aud is neither a string nor a list of strings")


def _is_time(value: object) -> bool:
    """Whether it is a finite number of seconds in 64 bits, which every JSON writer and store can represent."""
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
        raise _invalid(Cause.AUDIENCE, f"aud is {quoted(*presented)}; expected: {quoted(*sorted(accepted))}")


def check_required(claims: Mapping[str, Any], required: Sequence[tuple[ClaimPath, frozenset[str]]]) -> None:
    """Raise Refused(TOKEN_INVALID) unless each path of ``required`` contains one of its values."""
    for path, accepted in required:
        if accepted.isdisjoint(claim_texts(path.find(claims))):
            raise _invalid(Cause.REQUIRED_CLAIM, f"{path.text} is not one of {quoted(*sorted(accepted))}")


def _check_forbidden(claims: Mapping[str, Any], *, bound_to_certificates: bool) -> None:
    if "cnf" in claims and not (bound_to_certificates and _names_certificate(claims["cnf"])):
        raise _invalid(Cause.PROOF_OF_POSSESSION)
    if UPSTREAM_CLAIM in claims:
        raise _invalid(Cause.UPSTREAM_ONLY)
    if "events" in claims:
        # A logout token or another security event (RFC 8417 2.2), which may lack a specific type.
        raise _invalid(Cause.TOKEN_TYPE)


def _names_certificate(confirmation: object) -> bool:
    """Whether a certificate is the only confirmation method; any other member would be a proof that is not checked."""
    if not isinstance(confirmation, dict) or set(confirmation) != {"x5t#S256"}:
        return False
    thumbprint = confirmation["x5t#S256"]
    return isinstance(thumbprint, str) and re.fullmatch(r"[A-Za-z0-9_-]{43}", thumbprint) is not None


def _check_times(claims: Mapping[str, Any], policy: ValidationPolicy, now: float, earliest: float) -> None:
    expires, not_before, issued = claims.get("exp"), claims.get("nbf"), claims.get("iat")
    leeway = policy.leeway
    early = leeway if policy.early is None else policy.early
    if expires is None and policy.require_expiry:
        raise _invalid(Cause.EXPIRY_MISSING)
    if expires is not None and now >= expires + leeway:
        raise Refused(Reason.TOKEN_EXPIRED, Cause.EXPIRED, f"exp was {now - expires:.0f} s ago; tolerance {leeway:g} s")
    if not_before is not None and earliest + early < not_before:
        detail = f"nbf is {not_before - earliest:.0f} s ahead; tolerance {early:g} s"
        raise Refused(Reason.TOKEN_NOT_YET_VALID, Cause.NOT_YET_VALID, detail)
    if issued is not None and earliest + early < issued:
        detail = f"iat is {issued - earliest:.0f} s ahead; tolerance {early:g} s"
        raise Refused(Reason.TOKEN_NOT_YET_VALID, Cause.ISSUED_IN_FUTURE, detail)
    longest = policy.max_lifetime
    if longest is not None and (expires is None or issued is None or expires - issued > longest):
        lifetime = "unknown" if expires is None or issued is None else f"{expires - issued:.0f} s"
        raise _invalid(Cause.LIFETIME, f"lifetime is {lifetime}; at most {longest:g} s")


def _invalid(cause: Cause, detail: str = "") -> Refused:
    return Refused(Reason.TOKEN_INVALID, cause, detail)
