"""The one decision: RequestView in, Verdict out. Check endpoints, the proxy and the API all come through here."""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from multidict import CIMultiDict

from sidecar.access.paths import read_target
from sidecar.access.rules import AUTHENTICATED, Access, AccessRequirement, Rules
from sidecar.authn.base import Accepted
from sidecar.authn.chain import Chain, Denied, TokenValidation
from sidecar.budget import Budget
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.request import Condition, Credential, Missing, RequestContext, Scheme
from sidecar.identity.token_sources import TokenSources

T = TypeVar("T")
_PUBLIC = AccessRequirement(Access.PUBLIC)
_BEARER = Scheme.BEARER
_COOKIE = Scheme.COOKIE


@dataclass(slots=True)  # not frozen: made for every request
class Allow:
    """The request may pass. ``accepted`` is None where nobody is identified (public and guest paths).

    ``withholds_credentials``: the upstream must not receive the caller's credentials. They were refused, could not be
    checked, or the path ignores them.
    """

    accepted: Accepted | None
    withholds_credentials: bool = False


@dataclass(frozen=True, slots=True)
class Deny:
    """The request may not pass, and why. ``provider`` and ``authenticator`` are for the log."""

    failure: Failed
    provider: str = ""
    authenticator: str = ""


Verdict = Allow | Deny
_ANONYMOUS = Allow(None)
_WITHOUT_CREDENTIALS = Allow(None, withholds_credentials=True)
_WHY_UNTRUSTED = "that the proxy that asks is in server.trustedProxies: it is not, so the rules cannot be applied"


class GuestPolicy:
    """Where somebody who presents nothing is the guest. ``limits`` rules ``guest`` on those paths and methods."""

    def __init__(self, accepted: Accepted, limits: Rules) -> None:
        self.accepted = accepted
        self._limits = limits

    def allows(self, view: RequestContext, ruling: AccessRequirement) -> bool:
        """Whether the guest may be here: never on public paths, nor where a rule asks for authenticated callers."""
        if view.target is None or ruling.requirements or ruling.excludes_guests or ruling.access is Access.PUBLIC:
            return False
        readings = read_target(view.target)
        methods = (view.method, *view.other_methods)
        return all(self._limits.requirement_for(method, readings).access is Access.GUEST for method in methods)


class _TrustedPeer:
    """A condition that no caller can meet: that another peer had asked."""

    def missing(self, _actor: Actor) -> Missing | None:
        return Missing(Cause.PEER_UNTRUSTED, _WHY_UNTRUSTED)


_UNTRUSTED = (_TrustedPeer(),)


class Decider:
    """Rules and chain put together. ``deadline`` bounds one decision, in seconds.

    ``undecided``: places for requests that wait for a verdict. Callers choose what is asked about, and each question
    may wait as long as ``deadline``; without a bound they could take every place that other requests need.
    """

    def __init__(
        self,
        rules: Rules,
        chain: Chain,
        *,
        deadline: float,
        public_preflight: bool,
        guests: GuestPolicy | None = None,
        undecided: Budget | None = None,
        sources: TokenSources | None = None,
    ) -> None:
        """``sources``: where a credential may stand besides ``Authorization``."""
        self._sources = sources
        self.undecided = undecided or Budget()
        # callers without a good credential decide how long their bodies take, so verdicts keep the other half
        self.undecided_bodies = Budget(self.undecided.places / 2, self.undecided)
        self._rules = rules
        self._chain = chain
        self._deadline = deadline
        self._public_preflight = public_preflight
        self._guests = guests
        self.rules_can_require = rules.can_require
        """Whether any rule could refuse an authenticated caller, so that a question without a path is not enough."""
        self.credential_headers = chain.headers
        """Headers besides ``Authorization`` in which credentials are read."""

    async def decide(self, view: RequestContext) -> Verdict:
        """The verdict. Raises Refused only for a request that must not be read (400)."""
        if self._sources is not None:
            self._sources.read_into(view)
        ruling = self._requirement(view)
        public = ruling.access is Access.PUBLIC
        if public and ruling.ignores_credentials:
            return _WITHOUT_CREDENTIALS
        presented = self._chain.count_credentials(view)
        if not presented:
            return self._without_credential(view, ruling)
        if presented > 1:
            return (
                _WITHOUT_CREDENTIALS
                if public
                else Deny(Refused(Reason.CREDENTIALS_AMBIGUOUS, Cause.CREDENTIALS_MULTIPLE))
            )
        outcome = self._chain.recall(view)
        if outcome is None:
            outcome = await self._authenticate(view)
        if public:
            return _WITHOUT_CREDENTIALS if isinstance(outcome, Denied) else Allow(outcome)
        if isinstance(outcome, Denied):
            return Deny(outcome.failure, outcome.provider, outcome.authenticator)
        return self._with_requirements(outcome, ruling) if ruling.requirements else Allow(outcome)

    def accepted_at_once(self, view: RequestContext) -> Accepted | None:
        """The caller, when the verdict is to allow and can be had without waiting; None: :meth:`decide` must be asked.

        Raises Refused as :meth:`decide` does.
        """
        if self._sources is not None:
            self._sources.read_into(view)
        scheme = view.credential.scheme
        if scheme is not _BEARER and scheme is not _COOKIE:
            return None
        ruling = self._requirement(view)
        if ruling.requirements or ruling.ignores_credentials or self._chain.count_credentials(view) != 1:
            return None
        return self._chain.accept_at_once(view)

    def may_repeat(self, view: RequestContext, accepted: Accepted | None) -> bool:
        """Whether what was allowed may be sent once more: not on a public path, and ``accepted`` could still pass."""
        if self._requirement(view).access is Access.PUBLIC:
            return False
        return accepted is None or self._chain.still_passes(accepted, view)

    def conditions_of_untrusted(self, targets: Iterable[str]) -> tuple[Condition, ...]:
        """What a check of a peer outside ``server.trustedProxies`` must meet, which names ``targets`` as asked for.

        The rules are not read for what such a peer says. Where they could refuse a caller with a good credential, it
        is refused itself: raises Refused(403). Rules of presets are about the product's paths alone: what is named
        decides whether it is one of them.
        """
        rules = self._rules
        if not rules.can_require:
            return ()
        known = tuple(targets)
        if rules.written_can_require or any(self._may_be_required(target) for target in known):
            message = f"Forbidden: this requires {_WHY_UNTRUSTED}"
            raise Refused(Reason.FORBIDDEN, Cause.PEER_UNTRUSTED, message=message)
        return () if known else _UNTRUSTED

    def _may_be_required(self, target: str) -> bool:
        try:
            return self._rules.may_require(read_target(target))
        except Refused:
            return True

    def is_authenticated(self, accepted: Accepted | None) -> bool:
        """Whether ``accepted`` comes from a credential that was presented: the guest's does not."""
        return accepted is not None and (self._guests is None or accepted is not self._guests.accepted)

    async def apply_rules(self, token: str) -> TokenValidation:
        """The verdict on a token that was handed over to be judged, not to let anybody in.

        What belongs to the request, such as a client certificate, is no part of it.
        """
        view = RequestContext("POST", None, CIMultiDict(), Credential(Scheme.BEARER, token, "Bearer"))
        try:
            return await self.undecided.admit(self._within_deadline(self._chain.validate(view)))
        except Unavailable as failure:
            return TokenValidation(None, self._chain.not_judged(failure).failure)

    def _without_credential(self, view: RequestContext, ruling: AccessRequirement) -> Verdict:
        """Nothing was presented: the guest where he may be, nobody on public and guest paths, else refused."""
        if self._guests is not None and self._guests.allows(view, ruling):
            outcome = self._chain.apply_gates(self._guests.accepted, view)
            if isinstance(outcome, Denied):
                return Deny(outcome.failure, outcome.provider, outcome.authenticator)
            return Allow(outcome)
        if ruling.access is Access.AUTHENTICATED or ruling.requirements:
            return Deny(Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT))
        return _ANONYMOUS

    @staticmethod
    def _with_requirements(outcome: Accepted, ruling: AccessRequirement) -> Verdict:
        for requirement in ruling.requirements:
            missing = requirement.missing(outcome.actor)
            if missing is not None:
                actor = outcome.actor
                failure = Refused(Reason.FORBIDDEN, missing.cause, message=f"Forbidden: this requires {missing.text}")
                return Deny(failure, actor.provider, actor.authenticator)
        return Allow(outcome)

    def _requirement(self, view: RequestContext) -> AccessRequirement:
        if view.target is None:
            ruling = AUTHENTICATED
        else:
            readings = read_target(view.target)
            if view.preflight and self._public_preflight:
                return _PUBLIC
            ruling = self._rules.requirement_for(view.method, readings)
            for method in view.other_methods:
                ruling = ruling.and_also(self._rules.requirement_for(method, readings))
        return ruling.and_also(AccessRequirement(Access.AUTHENTICATED, view.conditions)) if view.conditions else ruling

    async def _authenticate(self, view: RequestContext) -> Accepted | Denied:
        try:
            return await self.undecided.admit(self._within_deadline(self._chain.authenticate(view)))
        except Unavailable as failure:
            return self._chain.not_judged(failure)

    async def _within_deadline(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._deadline):
                return await call
        except TimeoutError:
            raise Unavailable(Cause.DEADLINE) from None
