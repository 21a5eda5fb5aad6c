"""What is asked of every accepted credential on every use, from memory: has it been revoked meanwhile?"""

from typing import Protocol

from sidecar.authn.base import Accepted
from sidecar.clock import Clock, earliest_of
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.store.deny_list import DenyList, facts_of
from sidecar.store.record import TokenRecord


class Revocations(Protocol):
    """The local picture of denials and records."""

    @property
    def age(self) -> float:
        """Seconds since it last agreed with the store; infinite before it has been read."""

    @property
    def denials(self) -> DenyList:
        """The deny list of this moment."""

    def record(self, token_id: str) -> TokenRecord | None:
        """The record, or None where none is known."""

    def is_bot_name(self, name: str) -> bool:
        """Whether a bot of that name is on record."""


class RevocationGate:
    """Nobody passes whom the deny list concerns or whose record has ended, nor anybody else under a bot's name.

    ``max_staleness`` is in seconds; with ``deny_when_stale`` an older picture lets no token pass, whoever issued it.
    """

    def __init__(self, revocations: Revocations, clock: Clock, *, max_staleness: float, deny_when_stale: bool) -> None:
        self._revocations = revocations
        self._now = earliest_of(clock)  # an entry that a clock takes for over by mistake must not let a token in
        self._max_staleness = max_staleness
        self._deny_when_stale = deny_when_stale

    def check(self, accepted: Accepted) -> Failed | None:
        """Why the caller may not pass now, or None."""
        revocations = self._revocations
        denials = revocations.denials
        # what was clear of this very list needs no look-up: time alone never makes an entry concern more tokens
        if accepted.cleared != denials.version:
            denied = self._denied(accepted, denials)
            if denied is not None:
                return denied
        if accepted.record_id is not None:
            record = revocations.record(accepted.record_id)
            if record is None:
                return Refused(Reason.TOKEN_REVOKED, Cause.NOT_ON_RECORD)
            if record.revoked_at is not None:
                return Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)
        elif not accepted.is_own and revocations.is_bot_name(accepted.actor.id.lower()):
            return Refused(Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)
        if self._deny_when_stale and revocations.age > self._max_staleness:
            return Unavailable(Cause.MIRROR_STALE)
        return None

    def _denied(self, accepted: Accepted, denials: DenyList) -> Failed | None:
        if accepted.facts is None:
            accepted.facts = facts_of(accepted.actor)
        scope = denials.match(accepted.facts, self._now())
        if scope is not None:
            return Refused(Reason.TOKEN_REVOKED, Cause.DENIED, scope.value)
        accepted.cleared = denials.version
        return None
