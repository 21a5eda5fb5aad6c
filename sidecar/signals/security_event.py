"""Verifies security event tokens (RFC 8417) with the keys of a provider, by the rules of SSF 1.0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from sidecar.clock import Clock, earliest_of
from sidecar.errors import Cause, Reason, Refused, quoted
from sidecar.keys.keyset import KeyLookup, VerificationKey
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.verify import check_types, find_signing_key

_TYPES = frozenset({"secevent+jwt"})
_MAX_AGE = 7 * 86400.0
_LATEST = 2**53


@dataclass(frozen=True, slots=True)
class Transmitter:
    """A provider that sends events. ``subject_issuer``: the issuer whose subjects it may name, and no others.

    Tokens must have ``issuer`` and ``audience``, and one of ``algorithms``. ``leeway``: tolerance for times in seconds.
    """

    provider: str
    issuer: str
    audience: str
    subject_issuer: str
    algorithms: frozenset[str]
    leeway: float
    keys: KeyLookup


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """A verified event. ``happened_at``: ``event_timestamp``, else ``iat``; ``subject`` is its subject identifier."""

    jti: str
    type: str
    content: Mapping[str, Any]
    subject: Mapping[str, Any]
    happened_at: float


class SecurityEventVerifier:
    """Verifies the tokens of one transmitter."""

    def __init__(self, transmitter: Transmitter, clock: Clock, max_bytes: int) -> None:
        self._transmitter = transmitter
        self._now = earliest_of(clock)
        self._max_bytes = max_bytes

    async def verify(self, text: str) -> SecurityEvent:
        """The event in the token ``text``. Raises Refused, and Unavailable if the keys cannot be fetched."""
        wanted = self._transmitter
        token = parse(text, self._max_bytes, types=_TYPES)
        # parse accepts a token without typ; RFC 8417 section 2.3 leaves it open, SSF 1.0 does not
        if "typ" not in token.header:
            raise _invalid(Cause.TOKEN_TYPE, "typ is missing")
        if token.issuer != wanted.issuer:
            raise _invalid(Cause.ISSUER, f"iss is {quoted(token.issuer)}; expected: {quoted(wanted.issuer)}")
        if token.algorithm not in wanted.algorithms:
            raise _invalid(Cause.ALGORITHM, f"alg is {quoted(token.algorithm)}")
        find_signing_key(token, await self._candidates(token))
        claims = token.claims
        check_types(claims)
        audience = claims.get("aud")
        if wanted.audience not in ([audience] if isinstance(audience, str) else audience or ()):
            raise _invalid(Cause.AUDIENCE, f"aud is {quoted(audience)}; expected: {quoted(wanted.audience)}")
        # with these claims it would be another kind of token (SSF 1.0 section 4.1)
        for name in ("exp", "sub", "nonce"):
            if name in claims:
                raise _invalid(Cause.TOKEN_TYPE, f"{name} is present")
        return self._event(claims)

    def _event(self, claims: Mapping[str, Any]) -> SecurityEvent:
        events, issued, jti = claims.get("events"), claims.get("iat"), claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise _invalid(Cause.CLAIM_TYPE, "jti is missing")
        if not isinstance(events, dict) or len(events) != 1:
            raise _invalid(Cause.CLAIM_TYPE, "events does not have exactly one event")
        [(kind, content)] = events.items()
        if not isinstance(content, dict):
            raise _invalid(Cause.CLAIM_TYPE, "the event is not an object")
        issued_at = self._time("iat", issued)
        stated = content.get("event_timestamp")
        happened_at = issued_at if stated is None else self._time("event_timestamp", stated)
        # transmitters of older drafts put the subject into the event
        subject = claims.get("sub_id", content.get("subject"))
        if not isinstance(subject, dict):
            raise _invalid(Cause.CLAIM_TYPE, "sub_id is missing")
        return SecurityEvent(jti, kind, content, subject, happened_at)

    def _time(self, name: str, value: object) -> float:
        """``value`` if it is a time that is neither in the future nor long ago. Raises Refused."""
        leeway = self._transmitter.leeway
        if not _is_time(value) or not -leeway <= self._now() - value <= _MAX_AGE + leeway:
            raise _invalid(Cause.LIFETIME, f"{name} is missing, in the future or older than 7 days")
        return float(value)

    async def _candidates(self, token: Unverified) -> Sequence[VerificationKey]:
        keys = self._transmitter.keys
        return keys.candidates(token.kid, token.algorithm) or await keys.refetch(token.kid, token.algorithm)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST


def _invalid(cause: Cause, detail: str) -> Refused:
    return Refused(Reason.TOKEN_INVALID, cause, detail)
