"""The one decision: RequestView in, Verdict out. Check endpoints, the proxy and the API all come through here."""

import asyncio
from dataclasses import dataclass

from multidict import CIMultiDict

from sidecar.access.paths import read_target
from sidecar.access.rules import AUTHENTICATED, Access, Rules, Ruling
from sidecar.authn.base import Accepted
from sidecar.authn.chain import Chain, Denied, Judged
from sidecar.errors import Cause, Failed, Reason, Refused
from sidecar.identity.request import Credential, RequestView, Scheme

_PUBLIC = Ruling(Access.PUBLIC)
_BEARER = Scheme.BEARER


@dataclass(slots=True)  # not frozen: made for every request
class Allow:
    """The request may pass. ``accepted`` is None where nobody is identified (public and guest paths)."""

    accepted: Accepted | None


@dataclass(frozen=True, slots=True)
class Deny:
    """The request may not pass, and why. ``provider`` and ``authenticator`` are for the log."""

    failure: Failed
    provider: str = ""
    authenticator: str = ""


Verdict = Allow | Deny
_ANONYMOUS = Allow(None)


class Guests:
    """Where somebody who presents nothing is the guest. ``limits`` rules ``guest`` on those paths and methods."""

    def __init__(self, accepted: Accepted, limits: Rules) -> None:
        self.accepted = accepted
        self._limits = limits

    def welcome(self, view: RequestView, ruling: Ruling) -> bool:
        """Whether the guest may be here: never on public paths, nor where a rule asks for authenticated callers."""
        if view.target is None or ruling.requirements:
            return False
        # no rule at all is this very object; a rule that says the same was written to keep guests out
        if ruling.access is not Access.GUEST and ruling is not AUTHENTICATED:
            return False
        return self._limits.ruling(view.method, read_target(view.target)).access is Access.GUEST


class Decider:
    """Rules and chain put together. ``deadline`` bounds one decision, in seconds."""

    def __init__(
        self, rules: Rules, chain: Chain, *, deadline: float, public_preflight: bool, guests: Guests | None = None
    ) -> None:
        self._rules = rules
        self._chain = chain
        self._deadline = deadline
        self._public_preflight = public_preflight
        self._guests = guests
        self.rules_can_require = rules.can_require
        """Whether any rule could refuse an authenticated caller, so that a question without a path is not enough."""

    async def decide(self, view: RequestView) -> Verdict:
        """The verdict. Raises Refused only for a request target that must not be read (400)."""
        ruling = self._ruling(view)
        presented = self._chain.presented(view)
        if not presented:
            return self._without_credential(view, ruling)
        public = ruling.access is Access.PUBLIC
        if presented > 1:
            return _ANONYMOUS if public else Deny(Refused(Reason.CREDENTIALS_AMBIGUOUS, Cause.CREDENTIALS_MULTIPLE))
        outcome = self._chain.recall(view)
        if outcome is None:
            outcome = await self._ask(view)
        if public:
            return _ANONYMOUS if isinstance(outcome, Denied) else Allow(outcome)
        if isinstance(outcome, Denied):
            return Deny(outcome.failure, outcome.provider, outcome.authenticator)
        return self._with_requirements(outcome, ruling) if ruling.requirements else Allow(outcome)

    def accepted_at_once(self, view: RequestView) -> Accepted | None:
        """The caller, when the verdict is to allow and can be had without waiting; None: :meth:`decide` must be asked.

        Raises Refused as :meth:`decide` does.
        """
        if view.credential.scheme is not _BEARER or self._ruling(view).requirements or self._chain.presented(view) != 1:
            return None
        return self._chain.accept_at_once(view)

    async def judge(self, token: str) -> Judged:
        """The verdict on a token that was handed over to be judged, not to let anybody in.

        What belongs to the request, such as a client certificate, is no part of it.
        """
        view = RequestView("POST", None, CIMultiDict(), Credential(Scheme.BEARER, token, "Bearer"))
        try:
            async with asyncio.timeout(self._deadline):
                return await self._chain.judge(view)
        except TimeoutError:
            return Judged(None, self._chain.timed_out().failure)

    def _without_credential(self, view: RequestView, ruling: Ruling) -> Verdict:
        """Nothing was presented: the guest where he may be, nobody on public and guest paths, else refused."""
        if self._guests is not None and self._guests.welcome(view, ruling):
            outcome = self._chain.admit(self._guests.accepted, view)
            if isinstance(outcome, Denied):
                return Deny(outcome.failure, outcome.provider, outcome.authenticator)
            return Allow(outcome)
        if ruling.access is Access.AUTHENTICATED or ruling.requirements:
            return Deny(Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT))
        return _ANONYMOUS

    @staticmethod
    def _with_requirements(outcome: Accepted, ruling: Ruling) -> Verdict:
        for requirement in ruling.requirements:
            missing = requirement.missing(outcome.actor)
            if missing:
                actor = outcome.actor
                text = f"Forbidden: the rule for this path requires {missing}"
                failure = Refused(Reason.FORBIDDEN, Cause.RULE, message=text)
                return Deny(failure, actor.provider, actor.authenticator)
        return Allow(outcome)

    def _ruling(self, view: RequestView) -> Ruling:
        if view.target is None:
            return AUTHENTICATED
        readings = read_target(view.target)
        if view.preflight and self._public_preflight:
            return _PUBLIC
        return self._rules.ruling(view.method, readings)

    async def _ask(self, view: RequestView) -> Accepted | Denied:
        try:
            async with asyncio.timeout(self._deadline):
                return await self._chain.authenticate(view)
        except TimeoutError:
            return self._chain.timed_out()
