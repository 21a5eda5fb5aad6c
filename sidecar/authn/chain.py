"""The authentication chain: asks the authenticators in configured order, then checks the gates.

The first authenticator that recognises a credential decides on it. If one fails, the request ends with 503. After a
failure of one in ``skippable``, the next authenticators are asked; if none of them recognises the credential, the
request still ends with 503, because the failed one might have. What is accepted after such a failure is cached for
seconds only: once the authenticator works again, it has to decide.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from sidecar.authn.base import Abstained, Accepted, AuthenticatorProtocol, Gate, Rejected
from sidecar.clock import Clock, SystemClock
from sidecar.concurrency import Steps, run_steps
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.request import RequestContext, Scheme
from sidecar.metrics import Metrics
from sidecar.tokens.jwt.compact import no_jwt_cause

# How long a result after a failed authenticator is cached: it may have waited for that authenticator's time limit.
_SKIPPED_CACHE_LIFETIME = 5.0

_BEARER = Scheme.BEARER
_OUTCOMES = (Accepted, Rejected, Abstained)


@dataclass(frozen=True, slots=True)
class Denied:
    """The credential is not accepted: rejected, or no authenticator can decide now."""

    failure: Failed
    provider: str = ""
    authenticator: str = ""


@dataclass(frozen=True, slots=True)
class TokenValidation:
    """The result for a submitted token, independent of the request that contains it.

    ``accepted``: the result of the authenticator that recognises it; None: it was not accepted. ``failure``: why it is
    not accepted now; None: it is, with its certificate if it is bound to one.
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
        """``skippable`` are names of authenticators; ``headers`` contain credentials besides ``Authorization``.

        ``use`` records the credentials that pass the gates. ``certificate`` returns the ``x5t#S256`` of the certificate
        of a request.
        """
        self._certificate = certificate
        self._now = (clock or SystemClock()).now
        self._skippable = frozenset(skippable)
        self.headers = self._headers = tuple(headers)
        self._authenticators = tuple(authenticators)
        self._token_gates = tuple(gates)
        self._gates = self._token_gates if use is None else (*self._token_gates, use)
        self._outcomes = metrics.authentications

    def count_credentials(self, view: RequestContext) -> int:
        """The number of credentials in the request; each header line counts."""
        scheme = view.credential.scheme
        own = 1 if scheme is _BEARER else 0 if scheme is Scheme.NOTHING else 2 if scheme is Scheme.SEVERAL else 1
        if self._headers:
            own += sum(len(view.headers.getall(name, [])) for name in self._headers)
        return own

    def apply_gates(self, accepted: Accepted, view: RequestContext) -> Accepted | Denied:
        """``accepted`` if the gates pass it now."""
        failure = self._first_gate_failure(accepted, view)
        if failure is None:
            counter = accepted.counter
            if counter is None:
                actor = accepted.actor
                counter = self._outcomes.child(actor.authenticator, actor.provider, "accepted", "none")
                accepted.counter = counter
            counter.value += 1
            return accepted
        actor = accepted.actor
        outcome = "broken" if isinstance(failure, Unavailable) else "rejected"
        return self._denied(failure, actor.provider, actor.authenticator, outcome)

    def failure_now(self, accepted: Accepted, view: RequestContext) -> Failed | None:
        """Why ``accepted``, a result from before, would not be accepted now, or None. Nothing is counted."""
        if not accepted.key.live:
            return Refused(Reason.TOKEN_INVALID, Cause.KEY_UNUSABLE)
        if accepted.expires_at is not None and self._now() >= accepted.expires_at:
            return Refused(Reason.TOKEN_EXPIRED, Cause.EXPIRED)
        return self._first_gate_failure(accepted, view)

    def authenticate(self, view: RequestContext) -> Accepted | Denied | Awaitable[Accepted | Denied]:
        """The result for the credential in ``view``; a bad or undecidable one is Denied, not an exception."""
        for authenticator in self._authenticators:
            accepted = authenticator.recall(view)
            if accepted is not None:
                return self.apply_gates(accepted, view)
        return run_steps(self._authentication(view))

    def validate(self, view: RequestContext) -> TokenValidation | Awaitable[TokenValidation]:
        """The result for the credential in ``view``, not counted as a use of it."""
        return run_steps(self._validation(view))

    def not_judged(self, failure: Unavailable) -> Denied:
        """The result for a credential that was not decided on because of ``failure``."""
        return self._denied(failure, "", "none", "broken")

    def _authentication(self, view: RequestContext) -> Steps[Accepted | Denied]:
        outcome = yield from self._ask_authenticators(view)
        return outcome if isinstance(outcome, Denied) else self.apply_gates(outcome, view)

    def _validation(self, view: RequestContext) -> Steps[TokenValidation]:
        known = (authenticator.recall(view) for authenticator in self._authenticators)
        outcome: Accepted | Denied | None = next((accepted for accepted in known if accepted is not None), None)
        if outcome is None:
            outcome = yield from self._ask_authenticators(view)
        if isinstance(outcome, Denied):
            return TokenValidation(None, outcome.failure)
        failures = (gate.check(outcome) for gate in self._token_gates)
        return TokenValidation(outcome, next((failure for failure in failures if failure is not None), None))

    def _ask_authenticators(self, view: RequestContext) -> Steps[Accepted | Denied]:
        """The decision of the authenticators, before the gates."""
        hint: Refused | None = None
        skipped: Denied | None = None
        for authenticator in self._authenticators:
            try:
                outcome = authenticator.authenticate(view)
                if not isinstance(outcome, _OUTCOMES):
                    outcome = yield outcome
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

    def _limit_caching(self, accepted: Accepted) -> None:
        """Limit how long ``accepted`` is recalled; its authenticator has cached this very object."""
        soon = self._now() + _SKIPPED_CACHE_LIFETIME
        again = accepted.revalidate_at
        accepted.revalidate_at = soon if again is None else min(again, soon)

    def _first_gate_failure(self, accepted: Accepted, view: RequestContext) -> Failed | None:
        """Why an accepted credential is not accepted now. All results pass here, new and recalled ones."""
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

    def _denied(self, failure: Failed, provider: str, authenticator: str, outcome: str) -> Denied:
        self._outcomes.child(authenticator, provider, outcome, failure.cause.value).inc()
        return Denied(failure, provider, authenticator)


def _unrecognised(view: RequestContext) -> Refused:
    if view.credential.scheme is Scheme.BEARER:
        return Refused(Reason.TOKEN_MALFORMED, no_jwt_cause(view.credential.value))
    return Refused(Reason.CREDENTIALS_INVALID, Cause.SCHEME_UNKNOWN)
