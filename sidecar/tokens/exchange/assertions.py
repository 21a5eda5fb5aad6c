"""Verification of assertions: JWTs that clients and workloads present at the token endpoint."""

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from sidecar.clock import Clock, earliest_of, latest_of
from sidecar.config.providers import Provider
from sidecar.errors import Cause, Reason, Refused, quoted
from sidecar.keys.keyset import KeySource
from sidecar.store.replica.revocation_list import Source
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import provider_validation
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims, check_algorithm, verify

MAX_AHEAD = 86_400.0
"""Maximum time until an assertion expires. Used assertions are remembered for longer than that."""
MIN_LEFT = 30.0
"""Minimum time until a credential expires for which a token is issued."""
_TYPES = frozenset({"jwt", "jose", "at+jwt"})  # JOSE: JWT-SVIDs of SPIFFE
_SPIFFE = "spiffe://"


class AssertionSource(Protocol):
    """The issuer of the tokens of a platform."""

    @property
    def name(self) -> str:
        """The name of the provider or authenticator."""

    def owns(self, token: Unverified) -> bool:
        """Whether ``token`` claims to come from this issuer."""

    def issuer_of(self, token: Unverified) -> str:
        """The name by which the issuer of ``token`` is revoked."""

    async def verify_assertion(self, token: Unverified, audience: str) -> VerifiedClaims:
        """The claims of ``token``, whose ``aud`` is ``audience`` alone.

        Raises Refused, and Unavailable if the keys are not available.
        """


def parse_assertion(text: str, max_bytes: int) -> Unverified:
    """Parse an assertion. Raises Refused."""
    return parse(text, max_bytes, types=_TYPES)


def sole_audience(token: Unverified) -> str | None:
    """The only ``aud`` of ``token``; None if it has none, or several."""
    audience = token.claims.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]
    return audience if isinstance(audience, str) else None


def check_sole_audience(token: Unverified, accepted: Collection[str]) -> None:
    """Raise Refused unless ``aud`` is one of ``accepted`` and nothing else."""
    if sole_audience(token) not in accepted:
        detail = f"aud is {quoted(token.claims.get('aud'))}; expected exactly one: {quoted(*sorted(accepted))}"
        raise Refused(Reason.TOKEN_INVALID, Cause.ASSERTION_AUDIENCE, detail)


def check_remaining(expires_at: float | None, now: float) -> None:
    """Raise Refused for a credential that ends too soon, or an assertion that ends too late."""
    if expires_at is None:
        raise Refused(Reason.TOKEN_INVALID, Cause.EXPIRY_MISSING)
    left = expires_at - now
    if left < MIN_LEFT:
        raise Refused(Reason.TOKEN_EXPIRED, Cause.EXPIRED, f"exp is {left:.0f} s ahead; at least {MIN_LEFT:g} s")
    if left > MAX_AHEAD:
        raise Refused(Reason.TOKEN_INVALID, Cause.LIFETIME, f"exp is {left:.0f} s ahead; at most {MAX_AHEAD:g} s")


def source_of(token: Unverified, verified: VerifiedClaims, issuer: str) -> Source:
    """``token`` as the source of the token that is issued for it."""
    session = verified.claims.get("sid")
    return Source(
        issuer,
        verified.subject,
        verified.token_id or token.digest,
        is_digest=not verified.token_id,
        session=session if isinstance(session, str) else "",
        issued_at=verified.issued_at,
    )


class KeyedAssertions:
    """Tokens of a provider, or assertions of a client, verified with its keys.

    A provider whose issuer is a SPIFFE trust domain (``spiffe://example.org``) owns the tokens whose ``sub`` is in that
    domain: the ``iss`` of JWT-SVIDs is optional, and the keys are those of the trust domain.
    """

    def __init__(self, provider: Provider, keys: KeySource, clock: Clock) -> None:
        self._provider = provider
        self._keys = keys
        self._clock = clock
        self._domain = f"{provider.issuer}/" if (provider.issuer or "").startswith(_SPIFFE) else ""
        # times are compared without tolerance for exp: the issued token must not outlive the assertion
        policy = replace(provider_validation(provider, None), audiences=frozenset(), leeway=0.0, require_expiry=True)
        self._policy: ValidationPolicy = replace(
            policy,
            early=provider.clock_skew if provider.early is None else provider.early,
            issuers=None if self._domain else policy.issuers,
        )

    @property
    def name(self) -> str:
        """The name of the provider."""
        return self._provider.name

    def owns(self, token: Unverified) -> bool:
        """See :class:`AssertionSource`."""
        if self._domain:
            subject = token.claims.get("sub")
            return isinstance(subject, str) and subject.startswith(self._domain)
        return token.issuer is not None and token.issuer in (self._provider.issuer, *self._provider.issuer_aliases)

    def issuer_of(self, token: Unverified) -> str:
        """See :class:`AssertionSource`."""
        return token.issuer or "" if not self._domain else self._provider.issuer or ""

    async def verify_assertion(self, token: Unverified, audience: str) -> VerifiedClaims:
        """See :class:`AssertionSource`."""
        return await self.verify(token, (audience,))

    async def verify(self, token: Unverified, audiences: Collection[str]) -> VerifiedClaims:
        """The claims of ``token``, whose ``aud`` is one of ``audiences`` and nothing else. Raises as above."""
        check_algorithm(token, self._policy)
        keys = self._keys.candidates(token.kid, token.algorithm)
        if not keys:
            keys = await self._keys.refetch(token.kid, token.algorithm)
        exact = self._keys.issuer
        if not self._domain and exact is not None and token.issuer != exact:
            detail = f"iss is {quoted(token.issuer)}; the discovery document says {quoted(exact)}"
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER, detail)
        now = latest_of(self._clock)()
        verified = verify(token, keys, self._policy, now, earliest_of(self._clock)())
        check_sole_audience(token, audiences)
        check_remaining(verified.expires_at, now)
        return verified
