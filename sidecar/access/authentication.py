"""Rules that require a recent or a stronger authentication (RFC 9470). What proves it is in the token or session."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.clock import SystemClock
from sidecar.errors import Cause, Reason, quoted
from sidecar.identity.actor import MAX_AUTH_TIME_AHEAD, Actor
from sidecar.identity.request import Missing


@dataclass(frozen=True, slots=True)
class AuthenticationRequirement:
    """The person has authenticated within ``max_age`` seconds (None: whenever), with a class of ``acr_values`` (empty:
    any). ``rule`` has written it.
    """

    max_age: float | None
    acr_values: tuple[str, ...]
    rule: str = field(default="", compare=False)
    now: Callable[[], float] = field(default=SystemClock.now, compare=False)

    def missing(self, actor: Actor) -> Missing | None:
        """What ``actor`` lacks."""
        if self.acr_values and actor.acr not in self.acr_values:
            has = f"the acr {quoted(actor.acr)}" if actor.acr else "no acr"
            return self._missing(Cause.AUTHENTICATION_CLASS, f"an acr of {quoted(*self.acr_values)}", has)
        if self.max_age is not None:
            text = f"an authentication within {self.max_age:g} s"
            if actor.authenticated_at is None:
                return self._missing(Cause.AUTHENTICATION_AGE, text, "no auth_time")
            age = self.now() - actor.authenticated_at
            if age > self.max_age:
                return self._missing(Cause.AUTHENTICATION_AGE, text, f"one of {age:.0f} s ago")
            if age < -MAX_AUTH_TIME_AHEAD:
                return self._missing(Cause.AUTHENTICATION_AGE, text, f"an auth_time {-age:.0f} s ahead")
        return None

    def _missing(self, cause: Cause, text: str, has: str) -> Missing:
        return Missing(
            cause, text, has, self.rule, Reason.STEP_UP_REQUIRED, max_age=self.max_age, acr_values=self.acr_values
        )
