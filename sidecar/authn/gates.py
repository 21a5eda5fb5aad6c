"""What is asked of every accepted credential on every use, from memory: has it been revoked meanwhile?"""

from typing import Protocol

from sidecar.authn.base import Accepted
from sidecar.clock import Clock, earliest_of
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.server_names import NO_SERVER_NAMES, ServerNames
from sidecar.store.record import TokenRecord
from sidecar.store.replica.revocation_list import RevocationList, revocation_keys


class RevocationView(Protocol):
    """The local picture of denials and records."""

    @property
    def age(self) -> float:
        """Seconds since it last agreed with the store; infinite before it has been read."""

    @property
    def revocations(self) -> RevocationList:
        """The deny list of this moment."""

    def record(self, token_id: str) -> TokenRecord | None:
        """The record, or None where none is known."""

    def is_bot_name(self, name: str) -> bool:
        """Whether that name, in whatever letters, is kept for a bot."""


class RevocationGate:
    """Nobody passes whom the deny list concerns or whose record has ended, nor anybody else under a bot's name.

    ``max_staleness`` is in seconds; with ``deny_when_stale`` an older picture lets no token pass, whoever issued it.
    ``server_names`` are names of the server behind, which only the own issuer may give.
    """

    def __init__(
        self,
        revocations: RevocationView,
        clock: Clock,
        *,
        max_staleness: float,
        deny_when_stale: bool,
        server_names: ServerNames = NO_SERVER_NAMES,
    ) -> None:
        self._server_names = server_names
        self._revocations = revocations
        self._now = earliest_of(clock)  # an entry that a clock takes for over by mistake must not let a token in
        self._max_staleness = max_staleness
        self._deny_when_stale = deny_when_stale

    def check(self, accepted: Accepted) -> Failed | None:
        """Why the caller may not pass now, or None."""
        revocations = self._revocations
        denials = revocations.revocations
        # what was clear of this very list needs no look-up: time alone never makes an entry concern more tokens
        if accepted.revocation_list_version != denials.version:
            denied = self._denied(accepted, denials)
            if denied is not None:
                return denied
        if accepted.record_id is not None:
            record = revocations.record(accepted.record_id)
            if record is None:
                return Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
            if record.revoked_at is not None:
                return Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)
        elif not accepted.is_own and revocations.is_bot_name(accepted.actor.id):
            return Refused(Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)
        if self._deny_when_stale and revocations.age > self._max_staleness:
            return Unavailable(Cause.MIRROR_STALE)
        return None

    def _denied(self, accepted: Accepted, denials: RevocationList) -> Failed | None:
        # the names are as fixed as the gate: a look on the first use is enough
        if not accepted.is_own and self._server_names.has(accepted.actor.id):
            return Refused(Reason.PRINCIPAL_RESERVED, Cause.SERVER_BOT)
        if accepted.revocation_keys is None:
            accepted.revocation_keys = revocation_keys(accepted.actor)
        scope = denials.match(accepted.revocation_keys, self._now())
        if scope is not None:
            return Refused(Reason.TOKEN_REVOKED, Cause.DENIED, scope.value)
        accepted.revocation_list_version = denials.version
        return None
