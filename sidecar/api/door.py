"""Who calls the API, by the credential of this very request, and what a handed-over token is worth."""

from aiohttp import web

from sidecar.access.decide import Decider, Deny
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.tokens.compact import Unverified, parse
from sidecar.tokens.service import Caller, TokenService
from sidecar.web.view import connection_of, own_view

# Refused, but only after the signature was found good.
GENUINE = frozenset(
    {
        Reason.TOKEN_REVOKED,
        Reason.TOKEN_NOT_YET_VALID,
        Reason.PRINCIPAL_INVALID,
        Reason.PRINCIPAL_RESERVED,
        Reason.DOMAIN_NOT_ALLOWED,
    }
)
# Signed with the own key, but not the token that is on record under that id: it must not end that one.
NOT_OURS = frozenset({Cause.NOT_ON_RECORD, Cause.RECORD_MISMATCH})


class NotAdmittedError(Exception):
    """The caller's credential was refused; carries the verdict for answer and log."""

    def __init__(self, verdict: Deny) -> None:
        super().__init__(verdict.failure.reason.value)
        self.verdict = verdict


class Door:
    """Lets callers in."""

    def __init__(self, decider: Decider, tokens: TokenService, max_token_bytes: int) -> None:
        self._decider = decider
        self._tokens = tokens
        self._max_token_bytes = max_token_bytes

    async def enter(self, request: web.BaseRequest) -> Caller:
        """The caller. Raises NotAdmittedError, and Unavailable when the record of its token cannot be read."""
        view = own_view(request)
        view.target = None  # route rules are about the service behind, not about this
        view.preflight = False
        verdict = await self._decider.decide(view)
        if isinstance(verdict, Deny):
            raise NotAdmittedError(verdict)
        accepted = verdict.accepted
        if accepted is None:
            raise Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT)
        if self._decider.is_identified(accepted):
            connection_of(request).recognise()
        return await self._tokens.caller(accepted.actor, is_own=accepted.is_own, record_id=accepted.record_id)

    async def accepted(self, token: str) -> tuple[Unverified, Caller] | Failed:
        """``token`` and whom it identifies now, or why it is not accepted. Raises Unavailable."""
        verdict = await self._decider.judge(token)
        if isinstance(verdict, Deny):
            if isinstance(verdict.failure, Unavailable):
                raise verdict.failure
            return verdict.failure
        if verdict.accepted is None:
            return Refused(Reason.TOKEN_MISSING)
        accepted = verdict.accepted
        caller = await self._tokens.caller(accepted.actor, is_own=accepted.is_own, record_id=accepted.record_id)
        return parse(token, self._max_token_bytes), caller

    def genuine(self, token: str, failure: Failed) -> Unverified | None:
        """``token`` where ``failure``, for which it is not accepted, says that its issuer has signed it all the same.

        Its time may still come, or a setting or a removed entry may make it acceptable again.
        """
        if failure.reason not in GENUINE or failure.cause in NOT_OURS:
            return None
        return parse(token, self._max_token_bytes)
