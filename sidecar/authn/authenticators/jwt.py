"""Bearer JWTs of providers and of the own issuer. A key is valid for its own issuer only."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Outcome, Rejected
from sidecar.authn.support.openmetadata_bot import BotTokenCheck
from sidecar.clock import Clock, earliest_of, latest_of
from sidecar.concurrency import Steps, run_steps
from sidecar.config.providers import OwnIssuers
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable, quoted
from sidecar.identity.actor import Actor
from sidecar.identity.claims import PrincipalPolicy, make_actor
from sidecar.identity.request import Observer, RequestContext, Scheme
from sidecar.keys.keyset import KeySource, VerificationKey
from sidecar.store.replica.revocation_list import RevocationKeys, revocation_keys
from sidecar.tokens.issued.records import IssuedTokens
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims, check_algorithm, verify

_BEARER = Scheme.BEARER


class PrincipalMapper(Protocol):
    """Maps verified claims to the caller."""

    def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted | Awaitable[Accepted]:
        """The caller; an awaitable if a record or another server has to be asked.

        Raises Refused for a bad principal or record, Unavailable if a record cannot be looked up.
        """


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer: its keys, its validation policy, and the mapping of verified claims to the caller.

    ``bearer`` False: its tokens authenticate no request; only the token endpoint uses them.
    """

    name: str
    keys: KeySource
    expectations: ValidationPolicy
    mapper: PrincipalMapper
    bearer: bool = True


class ProviderPrincipalMapper:
    """Maps tokens of a provider: the Actor follows from the claims alone.

    ``leeway`` is the tolerance for ``exp`` in seconds, ``early`` that for ``nbf``; None: the same. ``is_own``: the
    provider is the metadata server itself, whose tokens count as issued ones. ``bots`` checks whether a token is the
    current one of its bot. ``bots_may_impersonate``: bots may impersonate users; the upstream decides which of them.
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

    def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted | Awaitable[Accepted]:
        """The caller. Raises as :class:`PrincipalMapper` says."""
        accepted = self._accepted(token, verified)
        if self._bots is not None and accepted.actor.is_bot:
            return self._confirmed(self._bots, token, accepted)
        return accepted

    @staticmethod
    async def _confirmed(bots: BotTokenCheck, token: Unverified, accepted: Accepted) -> Accepted:
        accepted.revalidate_at = await bots.confirm(token.text, accepted.actor.id)
        return accepted

    def _accepted(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        actor = make_actor(verified.claims, self._policy)
        if actor.is_bot and self._bots_may_impersonate:
            actor = replace(actor, may_impersonate=True)
        return _accepted(
            verified, actor, self._leeway, self._early, facts=_revocation_keys(token, actor), is_own=self._is_own
        )


class IssuedTokenResolver:
    """Maps issued tokens: the Actor follows from the record.

    ``leeway`` is the tolerance for ``exp`` in seconds, ``early`` that for ``nbf``; None: the same.
    """

    def __init__(self, tokens: IssuedTokens, leeway: float, early: float | None = None) -> None:
        self._tokens = tokens
        self._leeway = leeway
        self._early = early

    def for_audience(self, audience: str) -> "IssuedTokenResolver":
        """The same, accepting only tokens with ``audience``."""
        return IssuedTokenResolver(self._tokens.for_audience(audience), self._leeway, self._early)

    async def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        """The caller. Raises as :class:`PrincipalMapper` says."""
        identity = await self._tokens.identify(verified, token.text)
        actor, record = identity.actor, identity.record
        if record is None:
            return _accepted(
                verified, actor, self._leeway, self._early, facts=_revocation_keys(token, actor), is_own=True
            )
        source = identity.source
        facts = revocation_keys(actor, owner=record.owner, recorded_at=record.created_at).with_source(source)
        accepted = _accepted(verified, actor, self._leeway, self._early, facts=facts, record_id=record.id, is_own=True)
        accepted.is_for_resource = identity.is_for_resource
        if source is not None and source.issuer == verified.issuer:
            accepted.source_id = source.token_id
        return accepted


def _revocation_keys(token: Unverified, actor: Actor) -> RevocationKeys:
    """The keys for the revocation list.

    A token without ``jti`` is identified by the digest of the signed text. A token of a provider ends with its session
    at the provider.
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
    """The facts about a verified token: ``exp`` extended by ``leeway`` seconds, ``nbf`` by ``early``."""
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


def _mapped(issuer: Issuer, token: Unverified, verified: VerifiedClaims) -> Steps[Accepted]:
    try:
        accepted = issuer.mapper.accept(token, verified)
        if not isinstance(accepted, Accepted):
            accepted = yield accepted
    except Failed as failure:
        failure.is_signed = True
        raise
    assert isinstance(accepted, Accepted)  # noqa: S101 - the type of what an awaitable returns is lost
    return accepted


class JwtAuthenticator:
    """Decides on every Bearer token that is a JWT of a known issuer, signed with a private key."""

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
        """``unbound`` is used for every issuer that is not among ``issuers``, except for ``own_names``.

        ``refuse`` raises Refused for tokens that are never accepted (well-known ones). ``seen`` gets the issuers of
        accepted tokens that are not configured.
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
        """The cached result, while it is valid."""
        credential = view.credential
        if credential.scheme is not _BEARER:
            return None
        known = self._cache.get(credential.value, self._now())
        # the cache has sessions too; the secret of one is no token
        return None if known is None or known.is_session else known

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Verify a token that is not in the cache; an awaitable if its key or its record has to be fetched.

        Raises Unavailable if the keys of its issuer or its record are not available.
        """
        text = view.credential.value
        if view.credential.scheme is not _BEARER:
            return ABSTAINED
        self._cache.count_miss()
        try:
            token = parse(text, self._max_token_bytes)
        except Refused as refusal:
            return Abstained(refusal)
        if view.observer is not None:
            view.observer.observe("form", token)
        if token.algorithm.startswith("HS"):
            # signed with a shared secret: not a token of a known issuer, whatever it names
            detail = f"alg is {quoted(token.algorithm)}; keys of issuers are asymmetric"
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM, detail))
        issuer = self._issuer_of(token)
        if issuer is None:
            detail = f"iss is {quoted(token.issuer)}; configured: {quoted(*sorted(self._issuers))}"
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ISSUER, detail))
        if not issuer.bearer:
            detail = f"provider {issuer.name} is for workloads at the token endpoint (bearer: false)"
            return Rejected(Refused(Reason.TOKEN_INVALID, Cause.WORKLOAD_ONLY, detail), issuer.name)
        return run_steps(self._verification(token, issuer, self._cache.generation, view.observer))

    def _verification(
        self, token: Unverified, issuer: Issuer, generation: int, observer: Observer | None
    ) -> Steps[Outcome]:
        try:
            if observer is not None:
                observer.observe("issuer", issuer)
            keys = self._candidates(issuer, token)
            if not keys:
                keys = yield issuer.keys.refetch(token.kid, token.algorithm)
            if observer is not None and keys:
                observer.observe("keys", keys)
            verified = self._verified(issuer, token, keys)
            if observer is not None:
                observer.observe("claims", verified)
            accepted = yield from _mapped(issuer, token, verified)
        except Refused as refusal:
            return Rejected(refusal, issuer.name)
        except Unavailable as failure:
            failure.detail = failure.detail or issuer.name
            raise
        if observer is not None:
            observer.observe("principal", accepted)
        if issuer is self._unbound:
            self._note(token)
        self._cache.put(token.text, accepted, generation)
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

    def _candidates(self, issuer: Issuer, token: Unverified) -> tuple[VerificationKey, ...]:
        if self._refuse is not None:
            self._refuse(token)
        # before any look-up: a token that cannot be accepted must not cause a fetch
        check_algorithm(token, issuer.expectations)
        return issuer.keys.candidates(token.kid, token.algorithm)

    def _verified(self, issuer: Issuer, token: Unverified, keys: tuple[VerificationKey, ...]) -> VerifiedClaims:
        expectations = issuer.expectations
        exact = issuer.keys.issuer
        if exact is not None and expectations.issuers is not None and token.issuer != exact:
            detail = f"iss is {quoted(token.issuer)}; the discovery document says {quoted(exact)}"
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER, detail)
        return verify(token, keys, expectations, self._now(), self._earliest())
