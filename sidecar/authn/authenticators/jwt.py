"""Bearer JWTs, of providers and of the own issuer. Every issuer has its own keys: one's key is nothing to another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Outcome, Rejected
from sidecar.authn.support.openmetadata_bot import BotTokenCheck
from sidecar.clock import Clock, earliest_of, latest_of
from sidecar.config.providers import OwnIssuers
from sidecar.errors import AFTER_SIGNATURE, Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.claims import PrincipalPolicy, make_actor
from sidecar.identity.request import RequestContext, Scheme
from sidecar.keys.keyset import KeySource, VerificationKey
from sidecar.store.replica.revocation_list import RevocationKeys, revocation_keys
from sidecar.tokens.issued.records import IssuedTokens
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims, verify

_BEARER = Scheme.BEARER


class PrincipalMapper(Protocol):
    """Makes verified claims into an accepted caller."""

    async def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        """The caller. Raises Refused for a bad principal or record, Unavailable when a record cannot be looked up."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer: whose keys, which expectations, and how verified claims become an accepted caller."""

    name: str
    keys: KeySource
    expectations: ValidationPolicy
    mapper: PrincipalMapper


class ProviderPrincipalMapper:
    """Accepts the tokens of a provider: the Actor follows from the claims alone.

    ``leeway`` is the tolerance for ``exp`` in seconds, ``early`` that for ``nbf``; None: the same. ``is_own``: the
    provider is the metadata server itself, whose tokens count as the own issuer's. ``bots`` says
    whether a bot's token is still its current one. ``bots_may_impersonate``: the server behind says which of them may.
    """

    def __init__(
        self,
        policy: PrincipalPolicy,
        leeway: float,
        early: float | None = None,
        *,
        is_own: bool = False,
        bots: BotTokenCheck | None = None,
        bots_may_impersonate: bool = False,
    ) -> None:
        self._policy = policy
        self._leeway = leeway
        self._early = early
        self._is_own = is_own
        self._bots = bots
        self._bots_may_impersonate = bots_may_impersonate

    def accept_at_once(self, token: Unverified, verified: VerifiedClaims) -> Accepted | None:
        """The caller; None for a bot that has to be asked about. Raises Refused for a bad principal."""
        accepted = self._made(token, verified)
        return None if self._bots is not None and accepted.actor.is_bot else accepted

    async def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        """The caller. Raises as :class:`PrincipalMapper` says."""
        accepted = self._made(token, verified)
        if self._bots is not None and accepted.actor.is_bot:
            accepted.revalidate_at = await self._bots.confirm(token.text, accepted.actor.id)
        return accepted

    def _made(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        actor = make_actor(verified.claims, self._policy)
        if actor.is_bot and self._bots_may_impersonate:
            actor = replace(actor, may_impersonate=True)
        return _accepted(
            verified, actor, self._leeway, self._early, facts=_revocation_keys(token, actor), is_own=self._is_own
        )


class IssuedTokenResolver:
    """Accepts own tokens: the Actor follows from the record.

    ``leeway`` is the tolerance for ``exp`` in seconds, ``early`` that for ``nbf``; None: the same.
    """

    def __init__(self, tokens: IssuedTokens, leeway: float, early: float | None = None) -> None:
        self._tokens = tokens
        self._leeway = leeway
        self._early = early

    async def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        """The caller. Raises as :class:`PrincipalMapper` says."""
        identity = await self._tokens.identify(verified, token.text)
        actor, record = identity.actor, identity.record
        if record is None:
            return _accepted(
                verified, actor, self._leeway, self._early, facts=_revocation_keys(token, actor), is_own=True
            )
        facts = revocation_keys(actor, owner=record.owner, recorded_at=record.created_at)
        return _accepted(verified, actor, self._leeway, self._early, facts=facts, record_id=record.id, is_own=True)


def _revocation_keys(token: Unverified, actor: Actor) -> RevocationKeys:
    """What the deny list asks about.

    Without ``jti`` the token is known by the digest of what was signed. A token of a provider ends with the session at
    the provider to which it belongs.
    """
    sid = token.claims.get("sid")
    session = sid if isinstance(sid, str) else ""
    return revocation_keys(actor, "" if actor.token_id else token.digest, session=session)


def _accepted(
    verified: VerifiedClaims,
    actor: Actor,
    leeway: float,
    early: float | None = None,
    *,
    facts: RevocationKeys | None,
    record_id: str | None = None,
    is_own: bool,
) -> Accepted:
    """The facts to remember about a verified token: ``exp`` widened by ``leeway`` seconds, ``nbf`` by ``early``."""
    starts, expires = verified.not_before, verified.expires_at
    return Accepted(
        actor,
        verified.key,
        not_before=None if starts is None else starts - (leeway if early is None else early),
        expires_at=None if expires is None else expires + leeway,
        record_id=record_id,
        is_own=is_own,
        revocation_keys=facts,
        certificate=verified.certificate,
    )


class JwtAuthenticator:
    """Recognises every Bearer that is a JWT of a known issuer by a private key, and decides on it."""

    name = "jwt"

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        *,
        unbound: Issuer | None,
        own_names: OwnIssuers | None = None,
        cache: VerifiedCache[Accepted],
        clock: Clock,
        max_token_bytes: int,
        refuse: Callable[[Unverified], None] | None,
        seen: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        """``unbound`` speaks for every issuer that is not among ``issuers``, except for ``own_names``.

        ``refuse`` raises Refused for tokens that are never accepted whoever signed them (published ones). ``seen`` gets
        the issuers of accepted tokens that no configuration names.
        """
        self._seen = seen
        self._issuers = dict(issuers)
        self._unbound = unbound
        self._own_names = own_names
        self._cache = cache
        self._now, self._earliest = latest_of(clock), earliest_of(clock)
        self._max_token_bytes = max_token_bytes
        self._refuse = refuse

    def recall(self, view: RequestContext) -> Accepted | None:
        """What was verified before and still holds."""
        credential = view.credential
        return self._cache.get(credential.value, self._now()) if credential.scheme is _BEARER else None

    def authenticate_at_once(self, view: RequestContext) -> Accepted | Abstained | None:
        """Accept a token not seen before whose keys are in memory. None: :meth:`authenticate` has to say."""
        credential = view.credential
        if credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        generation = self._cache.generation
        try:
            token = parse(credential.value, self._max_token_bytes)
            issuer = self._issuer_of(token)
            if (
                issuer is None
                or not isinstance(issuer.mapper, ProviderPrincipalMapper)
                or token.algorithm.startswith("HS")
            ):
                return None
            keys = self._candidates(issuer, token)
            if len(keys) != 1:  # what is refused is verified again: not by many keys, which anybody could ask for
                return None
            accepted = issuer.mapper.accept_at_once(token, self._verified(issuer, token, keys))
        except Refused:
            return None
        if accepted is not None:
            if issuer is self._unbound:
                self._note(token)
            self._cache.count_miss()
            self._cache.put(credential.value, accepted, generation)
        return accepted

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Verify a token not seen before. Raises Unavailable when its issuer's keys or its record cannot be had."""
        if view.credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        self._cache.count_miss()
        generation = self._cache.generation
        try:
            token = parse(view.credential.value, self._max_token_bytes)
        except Refused as refusal:
            return Abstained(refusal)
        if token.algorithm.startswith("HS"):
            # Signed by a shared secret, whatever issuer it names: never one of ours.
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM))
        issuer = self._issuer_of(token)
        if issuer is None:
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ISSUER))
        try:
            accepted = await self._evaluate(issuer, token)
            if issuer is self._unbound:
                self._note(token)
        except Refused as refusal:
            return Rejected(refusal, issuer.name)
        except Unavailable as failure:
            failure.detail = failure.detail or issuer.name
            raise
        self._cache.put(view.credential.value, accepted, generation)
        return accepted

    def _issuer_of(self, token: Unverified) -> Issuer | None:
        name = token.issuer or ""
        known = self._issuers.get(name)
        if known is not None or self._unbound is None:
            return known
        if self._own_names is not None and self._own_names.meaning(name):
            return None
        return self._unbound

    def _note(self, token: Unverified) -> None:
        if self._seen is not None and token.issuer:
            self._seen((token.issuer,))

    async def _evaluate(self, issuer: Issuer, token: Unverified) -> Accepted:
        keys = self._candidates(issuer, token)
        if not keys:
            keys = await issuer.keys.refetch(token.kid, token.algorithm)
        verified = self._verified(issuer, token, keys)
        with AFTER_SIGNATURE:
            return await issuer.mapper.accept(token, verified)

    def _candidates(self, issuer: Issuer, token: Unverified) -> tuple[VerificationKey, ...]:
        if self._refuse is not None:
            self._refuse(token)
        if token.algorithm not in issuer.expectations.algorithms:
            # Before any look-up: a token that cannot be accepted must not cause a fetch.
            raise Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM)
        return issuer.keys.candidates(token.kid, token.algorithm)

    def _verified(self, issuer: Issuer, token: Unverified, keys: tuple[VerificationKey, ...]) -> VerifiedClaims:
        expectations = issuer.expectations
        exact = issuer.keys.issuer
        if exact is not None and expectations.issuers is not None and token.issuer != exact:
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
        return verify(token, keys, expectations, self._now(), self._earliest())
