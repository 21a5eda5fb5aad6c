"""Bearer JWTs, of providers and of the own issuer. Every issuer has its own keys: one's key is nothing to another."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Outcome, Rejected
from sidecar.authn.bot_check import BotTokenCheck
from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.claims import PrincipalPolicy, make_actor
from sidecar.identity.request import RequestView, Scheme
from sidecar.keys.keyset import KeySource
from sidecar.store.deny_list import Facts, facts_of
from sidecar.tokens.compact import Unverified, parse
from sidecar.tokens.own import OwnTokens
from sidecar.tokens.verified_cache import VerifiedCache
from sidecar.tokens.verify import Expectations, VerifiedClaims, verify

Accept = Callable[[Unverified, VerifiedClaims], Awaitable[Accepted]]


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer: whose keys, which expectations, and how verified claims become an accepted caller.

    ``accept`` raises Refused for a bad principal or record, Unavailable when a record cannot be looked up.
    """

    name: str
    keys: KeySource
    expectations: Expectations
    accept: Accept


def foreign_acceptor(
    policy: PrincipalPolicy,
    leeway: float,
    *,
    is_own: bool = False,
    bots: BotTokenCheck | None = None,
    bots_may_impersonate: bool = False,
) -> Accept:
    """Accepts the tokens of a provider: the Actor follows from the claims alone.

    ``is_own``: the provider is the metadata server itself, whose tokens count as the own issuer's. ``bots`` says
    whether a bot's token is still its current one. ``bots_may_impersonate``: the server behind says which of
    them may.
    """

    async def accept(token: Unverified, verified: VerifiedClaims) -> Accepted:
        actor = make_actor(verified.claims, policy)
        if actor.is_bot and bots_may_impersonate:
            actor = replace(actor, may_impersonate=True)
        accepted = _accepted(verified, actor, leeway, facts=_facts(token, actor), is_own=is_own)
        if bots is not None and actor.is_bot:
            accepted.ask_again_at = await bots.confirm(token.text, actor.id)
        return accepted

    return accept


def own_acceptor(tokens: OwnTokens, leeway: float) -> Accept:
    """Accepts own tokens: the Actor follows from the record."""

    async def accept(token: Unverified, verified: VerifiedClaims) -> Accepted:
        identity = await tokens.identify(verified, token.text)
        actor, record = identity.actor, identity.record
        if record is None:
            return _accepted(verified, actor, leeway, facts=_facts(token, actor), is_own=True)
        facts = facts_of(actor, owner=record.owner, recorded_at=record.created_at)
        return _accepted(verified, actor, leeway, facts=facts, record_id=record.id, is_own=True)

    return accept


def _facts(token: Unverified, actor: Actor) -> Facts:
    """What the deny list asks about: without ``jti`` the token is known by the digest of what was signed."""
    return facts_of(actor, "" if actor.token_id else sha256(token.signing_input).hexdigest())


def _accepted(
    verified: VerifiedClaims,
    actor: Actor,
    leeway: float,
    *,
    facts: Facts,
    record_id: str | None = None,
    is_own: bool,
) -> Accepted:
    """The facts to remember about a verified token, its times widened by ``leeway`` (seconds)."""
    starts, expires = verified.not_before, verified.expires_at
    return Accepted(
        actor,
        verified.key,
        not_before=None if starts is None else starts - leeway,
        expires_at=None if expires is None else expires + leeway,
        record_id=record_id,
        is_own=is_own,
        facts=facts,
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
        cache: VerifiedCache[Accepted],
        clock: Clock,
        max_token_bytes: int,
        refuse: Callable[[Unverified], None] | None,
    ) -> None:
        """``refuse`` raises Refused for tokens that are never accepted whoever signed them (published ones)."""
        self._issuers = dict(issuers)
        self._unbound = unbound
        self._cache = cache
        self._now = clock.now
        self._max_token_bytes = max_token_bytes
        self._refuse = refuse

    def recall(self, view: RequestView) -> Accepted | None:
        """What was verified before and still holds."""
        credential = view.credential
        return self._cache.get(credential.value, self._now()) if credential.scheme is Scheme.BEARER else None

    async def authenticate(self, view: RequestView) -> Outcome:
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
        issuer = self._issuers.get(token.issuer or "", self._unbound)
        if issuer is None:
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ISSUER))
        try:
            accepted = await self._judge(issuer, token)
        except Refused as refusal:
            return Rejected(refusal, issuer.name)
        except Unavailable as failure:
            failure.detail = failure.detail or issuer.name
            raise
        self._cache.put(view.credential.value, accepted, generation)
        return accepted

    async def _judge(self, issuer: Issuer, token: Unverified) -> Accepted:
        if self._refuse is not None:
            self._refuse(token)
        expectations = issuer.expectations
        if token.algorithm not in expectations.algorithms:
            # Before any look-up: a token that cannot be accepted must not cause a fetch.
            raise Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM)
        keys = issuer.keys.candidates(token.kid, token.algorithm)
        if not keys:
            keys = await issuer.keys.refetch(token.kid, token.algorithm)
        exact = issuer.keys.issuer
        if exact is not None and expectations.issuers is not None and token.issuer != exact:
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
        verified = verify(token, keys, expectations, self._now())
        return await issuer.accept(token, verified)
