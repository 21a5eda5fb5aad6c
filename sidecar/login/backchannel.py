"""OpenID Connect Back-Channel Logout 1.0: a provider's logout token ends sessions on every replica.

It becomes an entry of the revocation list, which every replica follows, so a repeated token writes the same entry again
and no memory of tokens is needed.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress

from sidecar.clock import Clock
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.login.client import ProviderClient
from sidecar.login.id_token import LogoutToken
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.sessions.service import Sessions, audit_session_ended
from sidecar.store.base import Batch, WriteBatch
from sidecar.store.revocation_entry import Scope, make_entry
from sidecar.tokens.jwt.compact import parse

_audit = logging.getLogger(AUDIT)
_log = logging.getLogger("sidecar.login")
_TYPES = frozenset({"jwt", "logout+jwt"})


class BackchannelLogout:
    """Takes logout tokens of ``clients``, by issuer. ``keep`` is how long an entry stands for each of them, in seconds;
    None: for good.
    """

    def __init__(
        self,
        clients: Mapping[str, ProviderClient],
        sessions: Sessions,
        write: WriteBatch,
        clock: Clock,
        metrics: Metrics,
        keep: Mapping[str, float | None],
        max_bytes: int,
    ) -> None:
        self._clients = dict(clients)
        self._sessions = sessions
        self._write = write
        self._now = clock.now
        self._count = metrics.backchannel_logouts
        self._keep = dict(keep)
        self._max_bytes = max_bytes

    async def receive(self, text: str) -> Failed | None:
        """End what the logout token ``text`` names; the failure if it is not accepted.

        Raises Unavailable if keys or store do not answer: the provider may try again.
        """
        client: ProviderClient | None = None
        with suppress(Refused):
            client = self._clients.get(parse(text, self._max_bytes, types=_TYPES).issuer or "")
        name = "none" if client is None else client.name
        try:
            if client is None:
                raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
            token = await client.logout_token(text)
            await self._end(client.name, token)
        except Unavailable:
            self._count.child(name, "unavailable").inc()
            raise
        except Refused as failure:
            self._count.child(name, "refused").inc()
            _log.warning(
                "logout token rejected",
                extra={"event": "logout_token_rejected", "provider": name, "cause": failure.cause.value},
            )
            return failure
        self._count.child(name, "accepted").inc()
        return None

    async def _end(self, provider: str, token: LogoutToken) -> None:
        now = self._now()
        keep = self._keep[provider]
        scope = Scope.SESSION if token.sid else Scope.SUBJECT_SESSIONS
        entry = make_entry(
            scope,
            token.issuer,
            token.sid or token.subject,
            now,
            # by the provider's clock, as the ID tokens that it is compared with; what is issued then or later stands
            issued_before=None if token.sid else token.issued_at,
            expires_at=None if keep is None else now + keep,
            reason="back-channel logout",
            created_by=f"provider {provider}",
        )
        # iat has whole seconds: of those of the same second the sessions that exist end, but no login that follows
        same_second = (
            [] if token.sid else await self._sessions.issued_within(token.issuer, token.subject, token.issued_at)
        )
        await self._write(Batch(revoke=tuple((record.id, now) for record in same_second), add_entries=(entry,)))
        for record in same_second:
            audit_session_ended(record, by=f"provider {provider}", cause="provider_logout")
        _audit.info(
            "logout at the provider",
            extra={"event": "provider_logout", "provider": provider, "issuer": token.issuer, "scope": scope.value},
        )
