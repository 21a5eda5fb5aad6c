"""Checks of ID tokens and logout tokens beyond those of every token (OpenID Connect Core 1.0 section 3.1.3.7)."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from sidecar.clock import Clock, earliest_of, latest_of
from sidecar.config.providers import Provider
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import MAX_AUTH_TIME_AHEAD
from sidecar.keys.keyset import KeyLookup, VerificationKey
from sidecar.login.transaction import NO_DEMAND, Demand
from sidecar.sessions.records import SessionContent
from sidecar.sessions.sealing import encode_base64url
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import provider_validation
from sidecar.tokens.jwt.verify import check_types, find_signing_key, verify

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_MAX_SUBJECT = 255
MAX_ISSUE_AGE = 600.0
"""Maximum age of an ID token at the login, in seconds."""
_MAX_LOGOUT_AGE = 300.0
_LOGOUT_TYPES = frozenset({"jwt", "logout+jwt"})
# The hash of ``at_hash`` is that of the signature; Ed25519 signs with SHA-512.
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """A verified logout token. ``subject`` or ``sid`` is not empty; ``issued_at`` is by the provider's clock."""

    issuer: str
    subject: str
    sid: str
    issued_at: float
    expires_at: float | None


class TokenChecks:
    """Verifies the tokens of one provider that are meant for the client ``client_id``."""

    def __init__(self, provider: Provider, client_id: str, keys: KeyLookup, clock: Clock, max_bytes: int) -> None:
        self._provider = provider
        self._client_id = client_id
        self._keys = keys
        self._now, self._earliest = latest_of(clock), earliest_of(clock)
        self._max_bytes = max_bytes

    async def id_token(
        self, text: str, issuer: str, *, nonce: str, access_token: str, demand: Demand = NO_DEMAND
    ) -> dict[str, Any]:
        """The claims of a good ID token. Raises Refused, and Unavailable if the keys cannot be fetched.

        ``issuer`` is the exact one of the discovery document. ``demand``: what this login has asked for.
        """
        claims, leeway = await self._verified(text, issuer, access_token)
        self._check_nonce(claims, nonce)
        self._check_authentication(claims, leeway, demand)
        return claims

    async def refreshed_id_token(
        self, text: str, issuer: str, *, before: SessionContent, access_token: str
    ) -> dict[str, Any]:
        """The claims of a good ID token of a refresh (section 12.2), which continues ``before``. Raises as above."""
        claims, _ = await self._verified(text, issuer, access_token)
        if claims["sub"] != before.subject:
            raise _invalid(Cause.PROVIDER_ANSWER, "sub is that of another person")
        if claims.get("nonce") is not None:
            self._check_nonce(claims, before.nonce)
        if before.authenticated_at is not None and claims.get("auth_time") not in (None, before.authenticated_at):
            raise _invalid(Cause.AUTHENTICATION_AGE, "auth_time has changed")
        return claims

    async def _verified(self, text: str, issuer: str, access_token: str) -> tuple[dict[str, Any], float]:
        """The claims of an ID token for this client that was issued just now, and the clock skew."""
        token = parse(text, self._max_bytes)
        policy = replace(
            provider_validation(self._provider, issuer),
            audiences=frozenset({self._client_id}),
            max_lifetime=None,
            require_expiry=True,
        )
        if token.algorithm not in policy.algorithms:
            raise _invalid(Cause.ALGORITHM)
        claims = dict(verify(token, await self._candidates(token), policy, self._now(), self._earliest()).claims)
        self._check_parties(claims)
        subject, issued = claims.get("sub"), claims.get("iat")
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
            raise _invalid(Cause.CLAIM_TYPE, "sub is missing or too long")
        if issued is None or self._now() - issued > MAX_ISSUE_AGE + policy.leeway:
            raise _invalid(Cause.LIFETIME, "iat is missing or too old for a login")
        self._check_access_token(token, claims, access_token)
        return claims, policy.leeway

    @staticmethod
    def _check_nonce(claims: Mapping[str, Any], nonce: str) -> None:
        given = claims.get("nonce")
        if not isinstance(given, str) or not hmac.compare_digest(_as_bytes(given), _as_bytes(nonce)):
            raise _invalid(Cause.NONCE)

    async def logout_token(self, text: str, issuer: str) -> LogoutToken:
        """A good logout token (Back-Channel Logout 1.0 section 2.6). Raises Refused, Unavailable."""
        token = parse(text, self._max_bytes, types=_LOGOUT_TYPES)
        policy = provider_validation(self._provider, issuer)
        if token.algorithm not in policy.algorithms:
            raise _invalid(Cause.ALGORITHM)
        find_signing_key(token, await self._candidates(token))
        claims = token.claims
        check_types(claims)
        audience = claims.get("aud")
        if claims.get("iss") != issuer:
            raise _invalid(Cause.ISSUER)
        if self._client_id not in ([audience] if isinstance(audience, str) else audience or ()):
            raise _invalid(Cause.AUDIENCE)
        issued, expires, now = claims.get("iat"), claims.get("exp"), self._now()
        if not _is_time(issued) or not -policy.leeway <= now - issued <= _MAX_LOGOUT_AGE + policy.leeway:
            raise _invalid(Cause.LIFETIME, "iat is missing, in the future or too old")
        if expires is not None and (not _is_time(expires) or now >= expires + policy.leeway):
            raise _invalid(Cause.EXPIRED)
        events = claims.get("events")
        is_logout = isinstance(events, dict) and isinstance(events.get(LOGOUT_EVENT), dict)
        if not is_logout or "nonce" in claims or not isinstance(claims.get("jti"), str):
            raise _invalid(Cause.TOKEN_TYPE)
        subject, sid = claims.get("sub", ""), claims.get("sid", "")
        if not isinstance(subject, str) or not isinstance(sid, str) or not (subject or sid):
            raise _invalid(Cause.CLAIM_TYPE, "neither sub nor sid")
        return LogoutToken(issuer, subject, sid, float(issued), expires)

    async def _candidates(self, token: Unverified) -> Sequence[VerificationKey]:
        found = self._keys.candidates(token.kid, token.algorithm)
        return found or await self._keys.refetch(token.kid, token.algorithm)

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        audience, party = claims.get("aud"), claims.get("azp")
        if isinstance(audience, list) and any(item != self._client_id for item in audience) and party is None:
            raise _invalid(Cause.AUTHORIZED_PARTY, "several audiences and no azp")
        if party is not None and party != self._client_id:
            raise _invalid(Cause.AUTHORIZED_PARTY)

    @staticmethod
    def _check_access_token(token: Unverified, claims: Mapping[str, Any], access_token: str) -> None:
        given = claims.get("at_hash")
        if given is None:
            return
        kind = _HASHES["512"] if token.algorithm.startswith("Ed") else _HASHES.get(token.algorithm[-3:])
        if kind is None or not isinstance(given, str) or not access_token:
            raise _invalid(Cause.ACCESS_TOKEN_HASH)
        digest = kind(access_token.encode()).digest()
        if not hmac.compare_digest(_as_bytes(given), encode_base64url(digest[: len(digest) // 2]).encode()):
            raise _invalid(Cause.ACCESS_TOKEN_HASH)

    def _check_authentication(self, claims: Mapping[str, Any], leeway: float, demand: Demand) -> None:
        login = self._provider.login
        if login is not None and login.max_age is not None:
            self._check_age(claims, login.max_age, leeway)
        if demand.max_age is not None:
            # without leeway: the rule that asks has none, and would refuse the session at once
            self._check_age(claims, demand.max_age, 0.0)
        acr_values = demand.acr_values or (() if login is None else login.acr_values)
        if acr_values and claims.get("acr") not in acr_values:
            raise _invalid(Cause.AUTHENTICATION_CLASS, f"acr is not one of {', '.join(acr_values)}")

    def _check_age(self, claims: Mapping[str, Any], max_age: float, leeway: float) -> None:
        authenticated = claims.get("auth_time")
        if not _is_time(authenticated) or not -MAX_AUTH_TIME_AHEAD <= self._now() - authenticated <= max_age + leeway:
            raise _invalid(Cause.AUTHENTICATION_AGE, f"auth_time is missing, ahead or older than {max_age:g} s")


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _invalid(cause: Cause, detail: str = "") -> Refused:
    return Refused(Reason.LOGIN_FAILED, cause, detail)
