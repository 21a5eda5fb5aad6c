"""Asks the authenticators in configured order; the first that recognises the credential decides. Then the gates.

A broken authenticator ends the request (503). One that is ``skippable`` lets those after it decide first; where none
of them recognises the credential, the request still ends so: nobody knows that it was a bad one. Who is accepted past
a broken one is accepted for a moment only: once it is back, it has to be asked.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sidecar.authn.base import Abstained, Accepted, AuthenticatorProtocol, Gate, Prompt, Rejected
from sidecar.clock import Clock, SystemClock
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.request import RequestContext, Scheme
from sidecar.metrics import Metrics
from sidecar.tokens.jwt.compact import no_jwt_cause

# How long a verdict past a broken member is recalled: it may have waited for that member's time limit.
_SKIPPED_CACHE_LIFETIME = 5.0

_BEARER = Scheme.BEARER


@dataclass(frozen=True, slots=True)
class Denied:
    """Nobody may pass on this credential: refused, or nobody can judge it now."""

    failure: Failed
    provider: str = ""
    authenticator: str = ""


@dataclass(frozen=True, slots=True)
class TokenValidation:
    """What a token that was handed over is worth, whatever the request that brought it.

    ``accepted``: the verdict of the authenticator that recognises it, None where it was not accepted. ``failure``: why
    it does not pass now; None: it passes, with its certificate where it is bound to one.
    """

    accepted: Accepted | None
    failure: Failed | None


def _no_certificate(_: RequestContext) -> None:
    return None


class Chain:
    """The configured authenticators and gates."""

    def __init__(
        self,
        authenticators: Sequence[AuthenticatorProtocol],
        gates: Sequence[Gate],
        metrics: Metrics,
        *,
        skippable: Collection[str] = (),
        headers: Sequence[str] = (),
        certificate: Callable[[RequestContext], str | None] = _no_certificate,
        clock: Clock | None = None,
        use: Gate | None = None,
    ) -> None:
        """``skippable`` are names of authenticators; ``headers`` are read for credentials besides Authorization.

        ``use`` notes who passes the gates.
        ``certificate`` tells the ``x5t#S256`` of the certificate that a request came with.
        """
        self._certificate = certificate
        self._now = (clock or SystemClock()).now
        self._skippable = frozenset(skippable)
        self.headers = self._headers = tuple(headers)
        self._authenticators = tuple(authenticators)
        self._prompt: list[Prompt] = []
        for authenticator in authenticators:
            if not isinstance(authenticator, Prompt):
                break
            self._prompt.append(authenticator)
        self._asked_of_all = tuple(gates)
        self._gates = self._asked_of_all if use is None else (*self._asked_of_all, use)
        self._outcomes = metrics.authentications

    def count_credentials(self, view: RequestContext) -> int:
        """How many credentials came with the request, each header line counted."""
        scheme = view.credential.scheme
        own = 1 if scheme is _BEARER else 0 if scheme is Scheme.NOTHING else 2 if scheme is Scheme.SEVERAL else 1
        if self._headers:
            own += sum(len(view.headers.getall(name, [])) for name in self._headers)
        return own

    def apply_gates(self, accepted: Accepted, view: RequestContext) -> Accepted | Denied:
        """The verdict on somebody who needs no credential."""
        return self._checked(accepted, view)

    def recall(self, view: RequestContext) -> Accepted | Denied | None:
        """The verdict on a credential that was verified before, without waiting; None when it has to be asked."""
        for authenticator in self._authenticators:
            accepted = authenticator.recall(view)
            if accepted is not None:
                return self._checked(accepted, view)
        return None

    def accept_at_once(self, view: RequestContext) -> Accepted | None:
        """The same, but only who may pass, also on a credential that can be verified without waiting.

        Whatever else it is, is left, uncounted, to be asked.
        """
        for authenticator in self._authenticators:
            accepted = authenticator.recall(view)
            if accepted is not None:
                break
        else:
            accepted = self._authenticate_at_once(view)
        return (
            None
            if accepted is None or self._first_gate_failure(accepted, view) is not None
            else self._counted(accepted)
        )

    def still_passes(self, accepted: Accepted, view: RequestContext) -> bool:
        """Whether somebody who was accepted before would be accepted now. Nothing is counted."""
        until = accepted.expires_at
        in_force = accepted.key.live and (until is None or self._now() < until)
        return in_force and self._first_gate_failure(accepted, view) is None

    def _authenticate_at_once(self, view: RequestContext) -> Accepted | None:
        """Who presents a new credential, if those that come first can tell: nobody may be asked out of turn."""
        for authenticator in self._prompt:
            outcome = authenticator.authenticate_at_once(view)
            if not isinstance(outcome, Abstained):
                return outcome
        return None

    async def authenticate(self, view: RequestContext) -> Accepted | Denied:
        """The verdict on a presented credential. Never raises for a bad or an unjudgeable one."""
        outcome = await self._verified(view)
        return outcome if isinstance(outcome, Denied) else self._checked(outcome, view)

    async def validate(self, view: RequestContext) -> TokenValidation:
        """What the credential of ``view`` is worth in the hands of whom it belongs to; that is no use of it."""
        outcome = self._recalled(view) or await self._verified(view)
        if isinstance(outcome, Denied):
            return TokenValidation(None, outcome.failure)
        failures = (gate.check(outcome) for gate in self._asked_of_all)
        return TokenValidation(outcome, next((failure for failure in failures if failure is not None), None))

    def _recalled(self, view: RequestContext) -> Accepted | None:
        known = (authenticator.recall(view) for authenticator in self._authenticators)
        return next((accepted for accepted in known if accepted is not None), None)

    async def _verified(self, view: RequestContext) -> Accepted | Denied:
        """Whom the credential identifies, before the gates are asked."""
        hint: Refused | None = None
        skipped: Denied | None = None
        for authenticator in self._authenticators:
            try:
                outcome = await authenticator.authenticate(view)
            except Unavailable as failure:
                broken = self._denied(failure, "", authenticator.name, "broken")
                if authenticator.name not in self._skippable:
                    return broken
                skipped = skipped or broken
                continue
            if isinstance(outcome, Accepted):
                if skipped is not None:
                    self._limit_caching(outcome)
                return outcome
            if isinstance(outcome, Rejected):
                return self._denied(outcome.failure, outcome.provider, authenticator.name, "rejected")
            hint = outcome.hint or hint
        return skipped or self._denied(hint or _unrecognised(view), "", "none", "rejected")

    def not_judged(self, failure: Unavailable) -> Denied:
        """The verdict on a credential that was not judged to the end, because of ``failure``."""
        return self._denied(failure, "", "none", "broken")

    def _limit_caching(self, accepted: Accepted) -> None:
        """Bound what is recalled of ``accepted``, which is the very object that its authenticator remembers."""
        soon = self._now() + _SKIPPED_CACHE_LIFETIME
        again = accepted.revalidate_at
        accepted.revalidate_at = soon if again is None else min(again, soon)

    def _checked(self, accepted: Accepted, view: RequestContext) -> Accepted | Denied:
        failure = self._first_gate_failure(accepted, view)
        if failure is None:
            return self._counted(accepted)
        actor = accepted.actor
        outcome = "broken" if isinstance(failure, Unavailable) else "rejected"
        return self._denied(failure, actor.provider, actor.authenticator, outcome)

    def _first_gate_failure(self, accepted: Accepted, view: RequestContext) -> Failed | None:
        """Why an accepted credential may not pass now: asked here, once for every way to be accepted or recalled."""
        if accepted.certificate is not None and accepted.certificate != self._certificate(view):
            return Refused(Reason.TOKEN_INVALID, Cause.PROOF_OF_POSSESSION)  # RFC 8705 section 3
        sources = view.credential.providers
        if sources and sources.isdisjoint((accepted.actor.provider, accepted.actor.authenticator)):
            return Refused(Reason.TOKEN_INVALID, Cause.TOKEN_PLACE, f"provider {accepted.actor.provider}")
        for gate in self._gates:
            failure = gate.check(accepted)
            if failure is not None:
                return failure
        return None

    def _counted(self, accepted: Accepted) -> Accepted:
        if accepted.counter is None:
            actor = accepted.actor
            accepted.counter = self._outcomes.child(actor.authenticator, actor.provider, "accepted", "none")
        accepted.counter.inc()
        return accepted

    def _denied(self, failure: Failed, provider: str, authenticator: str, outcome: str) -> Denied:
        self._outcomes.child(authenticator, provider, outcome, failure.cause.value).inc()
        return Denied(failure, provider, authenticator)


def _unrecognised(view: RequestContext) -> Refused:
    if view.credential.scheme is Scheme.BEARER:
        return Refused(Reason.TOKEN_MALFORMED, no_jwt_cause(view.credential.value))
    return Refused(Reason.CREDENTIALS_INVALID, Cause.SCHEME_UNKNOWN)
