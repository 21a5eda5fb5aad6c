"""The decision: request in, verdict out. Check endpoints, the proxy and the API all use it."""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from multidict import CIMultiDict

from sidecar.access.guests import GuestPolicy
from sidecar.access.paths import Normalizations, read_target
from sidecar.access.resources import requires_audience
from sidecar.access.rules import AUTHENTICATED, Access, AccessRequirement, Resource
from sidecar.authn.base import Accepted
from sidecar.authn.chain import Chain, Denied, TokenValidation
from sidecar.budget import Budget
from sidecar.concurrency import Pending
from sidecar.errors import Cause, Failed, Reason, Refused, StepUpRequired, Unavailable, quoted
from sidecar.identity.actor import Actor
from sidecar.identity.request import Condition, Credential, Missing, Observer, RequestContext, Scheme
from sidecar.identity.token_sources import TokenSources

T = TypeVar("T")
_PUBLIC = AccessRequirement(Access.PUBLIC)
_BEARER = Scheme.BEARER
_NO_ORIGIN: list[str] = []


@dataclass(slots=True)  # not frozen: made for every request
class Allow:
    """The request may pass. ``accepted`` is None for a caller without an identity (public and guest paths).

    ``withholds_credentials``: the upstream must not receive the caller's credentials. They were refused, could not be
    checked, or the path ignores them. ``keeps_basic``: but it receives ``Basic``, the credential of an OAuth client.
    """

    accepted: Accepted | None
    withholds_credentials: bool = False
    keeps_basic: bool = False


@dataclass(frozen=True, slots=True)
class Deny:
    """The request may not pass, and why. All but ``failure``, ``resource`` and ``scopes`` is for the log.

    ``actor`` is the id of an authenticated caller, and ``rule`` the rule that the caller does not meet. ``resource`` is
    the protected resource that was requested, and ``scopes`` are all that the request needs; both are part of the
    challenge.
    """

    failure: Failed
    provider: str = ""
    authenticator: str = ""
    actor: str = ""
    rule: str = ""
    resource: Resource | None = None
    scopes: frozenset[str] = frozenset()
    client: str = ""
    acting: str = ""


Verdict = Allow | Deny
_ANONYMOUS = Allow(None)
_WITHOUT_CREDENTIALS = Allow(None, withholds_credentials=True)
_FOR_CLIENTS = Allow(None, withholds_credentials=True, keeps_basic=True)
_WHY_UNTRUSTED = "that the proxy that asks is in server.trustedProxies: it is not, so the rules cannot be applied"


class _TrustedPeer:
    """A condition that no caller can meet, because the peer is not a trusted proxy."""

    def missing(self, _actor: Actor) -> Missing | None:
        return Missing(Cause.PEER_UNTRUSTED, _WHY_UNTRUSTED)


_UNTRUSTED = (_TrustedPeer(),)
_REPAIRABLE = frozenset({Reason.SCOPE_MISSING, Reason.STEP_UP_REQUIRED})


def _for_resource(actor: Actor) -> Missing:
    """A token for a protected resource, at another path."""
    text = "a protected resource with the audience of the token"
    return Missing(Cause.RESOURCE_AUDIENCE, text, f"aud {quoted(*actor.audiences)}", reason=Reason.TOKEN_INVALID)


def _unmet(missing: Missing, actor: Actor, ruling: AccessRequirement) -> Deny:
    detail = f"requires {missing.text}; the caller has {missing.has}" if missing.has else ""
    message = None if missing.reason is Reason.TOKEN_INVALID else f"Forbidden: this requires {missing.text}"
    failure = Refused(missing.reason, missing.cause, detail, message=message)
    if missing.reason is Reason.STEP_UP_REQUIRED:
        failure = StepUpRequired(missing.cause, detail, missing.max_age, missing.acr_values)
    return Deny(
        failure,
        actor.provider,
        actor.authenticator,
        actor.id,
        missing.rule,
        ruling.resource,
        ruling.scopes,
        actor.client,
        actor.acting,
    )


def _is_of_foreign_page(view: RequestContext, resource: Resource) -> bool:
    """Whether a page sent the request that may not call ``resource``. Programs send no ``Origin``."""
    if resource.origins is None:
        return False
    given = view.headers.getall("Origin", _NO_ORIGIN)
    return bool(given) and (len(given) > 1 or given[0] not in resource.origins)


class RuleTable(Protocol):
    """What a :class:`Decider` needs of :class:`sidecar.access.rules.Rules`, with or without protected resources."""

    can_require: bool
    written_can_require: bool

    def requirement_for(self, method: str, readings: Normalizations) -> AccessRequirement:
        """What holds for ``method`` on a path."""

    def may_require(self, readings: Normalizations) -> bool:
        """Whether any rule for this path could refuse an authenticated caller."""

    def deciding(self, method: str, readings: Normalizations) -> Iterable[tuple[str, Access]]:
        """The rules that decide, as log lines name them, with their access."""


class Decider:
    """Combines rules and chain. ``deadline`` limits the time of one decision, in seconds.

    ``undecided`` limits the requests that wait for a verdict. Callers choose the credentials that have to be looked up,
    and each look-up may take as long as ``deadline``; without a limit they could use up the capacity of all requests.
    """

    def __init__(
        self,
        rules: RuleTable,
        chain: Chain,
        *,
        deadline: float,
        public_preflight: bool,
        guests: GuestPolicy | None = None,
        undecided: Budget | None = None,
        sources: TokenSources | None = None,
    ) -> None:
        """``sources``: where credentials are read besides ``Authorization``."""
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
        """Whether any rule could reject an authenticated caller, so that a check must name the path."""
        self.credential_headers = chain.headers
        """Headers besides ``Authorization`` in which credentials are read."""

    def decide(self, view: RequestContext) -> Verdict | Awaitable[Verdict]:
        """The verdict; an awaitable if an authenticator has to wait. It then takes a slot of ``undecided``.

        Raises Refused only for a request that must not be read (400).
        """
        if self._sources is not None:
            self._sources.read_into(view)
        ruling = self._requirement(view)
        if ruling.ignores_credentials and ruling.access is Access.PUBLIC:
            return _FOR_CLIENTS if ruling.keeps_basic else _WITHOUT_CREDENTIALS
        if ruling.resource is not None and _is_of_foreign_page(view, ruling.resource):
            message = "Forbidden: this requires another origin"
            return Deny(Refused(Reason.CROSS_SITE, Cause.ORIGIN, "origins of the resource", message=message))
        presented = self._chain.count_credentials(view)
        if presented != 1:
            return self._with_several_credentials(ruling) if presented else self._without_credential(view, ruling)
        outcome = self._chain.authenticate(view)
        if isinstance(outcome, Accepted):
            is_plain = not ruling.requirements and not outcome.is_for_resource
            return Allow(outcome) if is_plain else self._with_requirements(outcome, ruling)
        if isinstance(outcome, Denied):
            return self._denied(outcome, ruling)
        return Pending(partial(self._decide_later, ruling), outcome)

    def deciding_rules(self, method: str, target: str) -> list[tuple[str, Access]]:
        """The rules for a request, as log lines name them, with their access; none: authenticated.

        Raises Refused(400) for a target that must not be read.
        """
        return list(dict.fromkeys(self._rules.deciding(method, read_target(target))))

    def may_repeat(self, view: RequestContext, accepted: Accepted | None) -> bool:
        """Whether an allowed request may be sent again: not on a public path, and only if it would still be allowed."""
        if self._requirement(view).access is Access.PUBLIC:
            return False
        return accepted is None or self.failure_now(view, accepted) is None

    def failure_now(self, view: RequestContext, accepted: Accepted) -> Failed | None:
        """Why the credential of an allowed request would not be accepted now; None: it would."""
        return self._chain.failure_now(accepted, view)

    def conditions_of_untrusted(self, targets: Iterable[str]) -> tuple[Condition, ...]:
        """The conditions for a check of a peer outside ``server.trustedProxies`` whose headers name ``targets``.

        The rules are not evaluated for paths that such a peer names. If they could reject a caller with a valid
        credential, the check is rejected: raises Refused(403). Rules of presets apply to the paths of the product only,
        so the named targets decide whether they apply.
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
        """Whether ``accepted`` comes from a presented credential: that of the guest does not."""
        return accepted is not None and (self._guests is None or accepted is not self._guests.accepted)

    async def apply_rules(self, token: str, observer: Observer | None = None) -> TokenValidation:
        """The validation of a submitted token, which authorizes nothing.

        Properties of the request, such as a client certificate, are not part of it. ``observer`` is notified of the
        steps.
        """
        credential = Credential(Scheme.BEARER, token, "Bearer")
        view = RequestContext("POST", None, CIMultiDict(), credential, observer=observer)
        validation = self._chain.validate(view)
        if isinstance(validation, TokenValidation):
            return validation
        try:
            return await self.within_limits(validation)
        except Unavailable as failure:
            return TokenValidation(None, self._chain.not_judged(failure).failure)

    def within_limits(self, pending: Awaitable[T], part: Budget | None = None) -> Awaitable[T]:
        """``pending``, within the deadline and with a slot of ``undecided``, or of a ``part`` of it.

        Raises Unavailable.
        """
        return (part or self.undecided).admit(self._within_deadline(pending))

    def _without_credential(self, view: RequestContext, ruling: AccessRequirement) -> Verdict:
        """No credential: the guest where it is allowed, no identity on public and guest paths, otherwise Deny."""
        if self._guests is not None and self._guests.allows(view, ruling):
            outcome = self._chain.apply_gates(self._guests.accepted, view)
            if isinstance(outcome, Denied):
                return self._denied(outcome, ruling)
            return Allow(outcome)
        if ruling.access is Access.AUTHENTICATED or ruling.requirements:
            failure = Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT)
            return Deny(failure, resource=ruling.resource, scopes=ruling.scopes)
        return _ANONYMOUS

    @staticmethod
    def _with_several_credentials(ruling: AccessRequirement) -> Verdict:
        if ruling.access is Access.PUBLIC:
            return _WITHOUT_CREDENTIALS
        failure = Refused(Reason.CREDENTIALS_AMBIGUOUS, Cause.CREDENTIALS_MULTIPLE)
        return Deny(failure, resource=ruling.resource, scopes=ruling.scopes)

    @staticmethod
    def _with_requirements(outcome: Accepted, ruling: AccessRequirement) -> Verdict:
        repairable: Missing | None = None
        if outcome.is_for_resource and not requires_audience(ruling):
            if ruling.access is Access.PUBLIC:
                return _WITHOUT_CREDENTIALS
            return _unmet(_for_resource(outcome.actor), outcome.actor, ruling)
        for requirement in ruling.requirements:
            missing = requirement.missing(outcome.actor)
            if missing is None:
                continue
            if missing.reason not in _REPAIRABLE:
                return _unmet(missing, outcome.actor, ruling)
            # only if nothing else is missing: otherwise new scopes or a new login would not help the caller
            repairable = repairable or missing
        return Allow(outcome) if repairable is None else _unmet(repairable, outcome.actor, ruling)

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

    async def _decide_later(self, ruling: AccessRequirement, outcome: Awaitable[Accepted | Denied]) -> Verdict:
        try:
            known = await self.within_limits(outcome)
        except Unavailable as failure:
            known = self._chain.not_judged(failure)
        return self._denied(known, ruling) if isinstance(known, Denied) else self._with_requirements(known, ruling)

    @staticmethod
    def _denied(outcome: Denied, ruling: AccessRequirement) -> Verdict:
        if ruling.access is Access.PUBLIC:
            return _WITHOUT_CREDENTIALS
        failure = outcome.failure
        return Deny(failure, outcome.provider, outcome.authenticator, resource=ruling.resource, scopes=ruling.scopes)

    async def _within_deadline(self, outcome: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._deadline):
                return await outcome
        except TimeoutError:
            raise Unavailable(Cause.DEADLINE) from None
