"""The session cookie of a browser. It counts only without ``Authorization``, and never for pages of other origins."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sidecar.authn.base import ABSTAINED, Accepted, Outcome, Rejected
from sidecar.clock import Clock, latest_of
from sidecar.errors import Cause, Reason, Refused, quoted
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy, make_actor
from sidecar.identity.request import RequestContext, Scheme
from sidecar.sessions.cross_site import CrossSiteGuard
from sidecar.sessions.service import Session, Sessions
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import check_required

SESSION = "session"
# The cache is that of tokens. No token begins so, and the authenticator of tokens does not take a session.
_KEY = "\n"


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What the configuration in use requires of the sessions of one provider, whenever they began.

    ``principal`` maps claims to the Actor. ``is_issuer`` tells whether an issuer is that of the provider.
    ``required_claims`` are those of claims that sessions keep. ``with_address``: how claims with an e-mail address map
    to the Actor; None: as all others.
    """

    principal: PrincipalPolicy
    is_issuer: Callable[[str], bool]
    required_claims: tuple[tuple[ClaimPath, frozenset[str]], ...] = ()
    with_address: PrincipalPolicy | None = None


class SessionAuthenticator:
    """Decides on every request whose credential is the session cookie.

    ``policies`` are those of each provider, by its name. ``cache`` is that of verified tokens.
    """

    name = SESSION

    def __init__(
        self,
        sessions: Sessions,
        policies: Mapping[str, SessionPolicy],
        guard: CrossSiteGuard,
        cache: VerifiedCache[Accepted],
        clock: Clock,
        confirmed: Callable[[Session], Awaitable[Session]] | None = None,
    ) -> None:
        """``confirmed`` asks the provider about a session where that is due; see :class:`sidecar.login.recheck`."""
        self._sessions = sessions
        self._policies = dict(policies)
        self._guard = guard
        self._cache = cache
        self._now = latest_of(clock)
        self.confirmed = confirmed

    def recall(self, view: RequestContext) -> Accepted | None:
        """The person of a session that was found before and is still in force."""
        credential = view.credential
        if credential.scheme is not Scheme.COOKIE or self._guard.refusal(view) is not None:
            return None
        return self._cache.get(_KEY + credential.value, self._now())

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Decide on the session; abstain from all other credentials.

        Raises Unavailable if the session is unknown here and the store does not answer.
        """
        if view.credential.scheme is not Scheme.COOKIE:
            return ABSTAINED
        forged = self._guard.refusal(view)
        return self._find(view.credential.value) if forged is None else Rejected(forged)

    async def _find(self, secret: str) -> Outcome:
        generation = self._cache.generation
        self._cache.count_miss()
        try:
            session = await self._sessions.find(secret)
        except Refused as refusal:
            return Rejected(refusal)
        try:
            accepted = self.accepted(session)  # first: a session of another issuer is not confirmed by this provider
            if self.confirmed is not None:
                confirmed = await self.confirmed(session)
                accepted = accepted if confirmed is session else self.accepted(confirmed)
        except Refused as refusal:
            return Rejected(refusal, session.content.provider)
        self._cache.put(_KEY + secret, accepted, generation)
        return accepted

    def accepted(self, session: Session) -> Accepted:
        """The person of ``session``, by the configuration in use.

        Raises Refused: SESSION_ENDED for a session that could not begin with this configuration, others for a bad
        principal.
        """
        record, content = session.record, session.content
        policy = self._policies.get(content.provider)
        if policy is None:  # the provider was removed, or has no login any more
            raise Refused(Reason.SESSION_ENDED, Cause.PROVIDER_MISMATCH)
        if not policy.is_issuer(content.issuer):  # the name of a provider may be used again for another issuer
            raise Refused(Reason.SESSION_ENDED, Cause.ISSUER, f"the session is of issuer {quoted(content.issuer)}")
        try:
            check_required(content.claims, policy.required_claims)
        except Refused as refusal:
            raise Refused(Reason.SESSION_ENDED, refusal.cause, refusal.detail) from refusal
        principal = policy.principal
        if policy.with_address is not None and "email" in content.claims:
            principal = policy.with_address
        actor = make_actor(content.actor_claims(record, session.expires_at), principal)
        return Accepted(
            actor,
            expires_at=session.expires_at,
            revalidate_at=session.revalidate_at,
            record_id=record.id,
            is_session=True,
            revocation_keys=revocation_keys(actor, session=content.sid, session_began_at=record.created_at),
        )
