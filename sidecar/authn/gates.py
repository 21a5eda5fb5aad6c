"""The revocation gate: checks each use of an accepted credential against revocation list and records, in memory."""

from typing import Protocol

from sidecar.authn.base import Accepted
from sidecar.clock import Clock, earliest_of
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.server_names import NO_SERVER_NAMES, ServerNames
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.revocation_list import RevocationList, revocation_keys


class RevocationView(Protocol):
    """The local snapshot of revocation list and records."""

    @property
    def age(self) -> float:
        """Seconds since the snapshot last matched the store; infinite before the first load."""

    @property
    def revocations(self) -> RevocationList:
        """The current revocation list."""

    def record(self, token_id: str) -> TokenRecord | None:
        """The record, or None if there is none."""

    def is_bot_name(self, name: str) -> bool:
        """Whether the name is reserved for a bot, ignoring case. If one becomes reserved, the version of the list
        changes."""


class RevocationGate:
    """Rejects revoked credentials, credentials whose record is revoked or missing, and foreign credentials with a bot's
    name.

    ``max_staleness`` is in seconds; with ``deny_when_stale`` no token of any issuer passes while the snapshot is
    older. ``server_names`` are reserved names of the upstream, which only issued tokens may carry.
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
        """Why the credential must not pass now, or None."""
        revocations = self._revocations
        revocation_list = revocations.revocations
        # no look-up if it was checked against this version: neither do entries match more tokens as time passes, nor
        # are more names reserved
        if accepted.revocation_list_version != revocation_list.version:
            failure = self._match_revocation(accepted, revocation_list)
            if failure is not None:
                return failure
        if accepted.record_id is not None:
            failure = self._match_record(accepted.record_id)
            if failure is None and accepted.source_id is not None:
                failure = self._match_record(accepted.source_id)
            if failure is not None:
                return failure
        if self._deny_when_stale and revocations.age > self._max_staleness:
            return Unavailable(Cause.MIRROR_STALE)
        return None

    def _match_record(self, record_id: str) -> Failed | None:
        record = self._revocations.record(record_id)
        if record is None:
            return Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        if record.revoked_at is None:
            return None
        if record.kind is TokenKind.BROWSER:
            return Refused(Reason.SESSION_ENDED, Cause.SESSION_REVOKED)
        return Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)

    def _match_revocation(self, accepted: Accepted, revocation_list: RevocationList) -> Failed | None:
        if not accepted.is_own:
            # server names never change during the life of the gate
            if self._server_names.contains(accepted.actor.id):
                return Refused(Reason.PRINCIPAL_RESERVED, Cause.SERVER_BOT)
            if self._revocations.is_bot_name(accepted.actor.id):
                return Refused(Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)
        if accepted.revocation_keys is None:
            accepted.revocation_keys = revocation_keys(accepted.actor)
        scope = revocation_list.match(accepted.revocation_keys, self._now())
        if scope is not None:
            reason = Reason.SESSION_ENDED if accepted.is_session else Reason.TOKEN_REVOKED
            return Refused(reason, Cause.DENIED, scope.value)
        accepted.revocation_list_version = revocation_list.version
        return None
