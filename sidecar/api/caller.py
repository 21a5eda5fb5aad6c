"""Who calls the API, by the credential of this very request, and what a handed-over token is worth."""

from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from sidecar.access.decide import Decider, Deny
from sidecar.authn.base import Accepted
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.store.record import hash_token
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.store.revocation_entry import entry_key
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.submitted import SubmittedToken, submitted_from_actor, submitted_from_jwt
from sidecar.web.request import connection_of, own_context

# Signed, but by a key that speaks for another issuer, or not the text that is on record under its id: it must not end
# the token that it names.
_FORGED = frozenset({Cause.ISSUER, Cause.RECORD_MISMATCH})
# Signed, and meant for another audience: an issuer that many share makes such tokens for anybody.
_FOR_OTHERS = frozenset({Cause.AUDIENCE, Cause.REQUIRED_CLAIM})
# Signed, and accepted under no settings: no entry could end it anywhere else.
_NO_ACCESS_TOKEN = frozenset({Cause.CLAIM_TYPE, Cause.TOKEN_TYPE, Cause.UPSTREAM_ONLY})
_NO_ID = "The token has no id that the deny list could know it by; deny its Actor, or end it where it was issued"
_OPAQUE = "The token is active at its issuer but refused here, and no entry was written; end it where it was issued"
_NOT_FOR_CALLERS = "The token is not one that callers may present, and no entry was written; end it where it was issued"


class AuthenticationFailed(Exception):
    """The caller's credential was refused; carries the verdict for answer and log."""

    def __init__(self, verdict: Deny) -> None:
        super().__init__(verdict.failure.reason.value)
        self.verdict = verdict


class NotRevocableError(Refused):
    """No entry of the deny list could end the token (RFC 7009 section 2.2.1)."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.REQUEST_INVALID, message=message)


@dataclass(frozen=True, slots=True)
class SubmittedVerdict:
    """What a handed-over token is worth: its signature and its claims count, the request that brought it does not.

    ``token``: the token as the deny list knows it; None: it has ended, or no issuer known here has made it.
    ``failure``: why it does not pass now; None: it identifies ``caller``. ``jwt``: what it says, where it
    can be read. ``reason_not_revocable``: why no entry could end it; empty: one can.
    """

    token: SubmittedToken | None
    failure: Failed | None
    caller: Caller | None = None
    jwt: Unverified | None = None
    reason_not_revocable: str = ""

    @property
    def is_for_others(self) -> bool:
        """Whether it was made for another audience, so that to hold it gives no right to write an entry here."""
        return self.failure is not None and self.failure.cause in _FOR_OTHERS

    def revocable_token(self) -> SubmittedToken | None:
        """The token, which an entry will end. Raises NotRevocableError where none can."""
        if self.reason_not_revocable:
            raise NotRevocableError(self.reason_not_revocable)
        return self.token


class CallerAuthentication:
    """Lets callers in."""

    def __init__(self, decider: Decider, tokens: TokenService, max_token_bytes: int) -> None:
        self._decider = decider
        self._tokens = tokens
        self._max_token_bytes = max_token_bytes

    async def authenticate(self, request: web.BaseRequest) -> Caller:
        """The caller. Raises NotAdmittedError, and Unavailable when the record of its token cannot be read."""
        view = own_context(request)
        view.target = None  # route rules are about the service behind, not about this
        view.preflight = False
        verdict = await self._decider.decide(view)
        if isinstance(verdict, Deny):
            raise AuthenticationFailed(verdict)
        accepted = verdict.accepted
        if accepted is None:
            raise Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT)
        if self._decider.is_authenticated(accepted):
            connection_of(request).mark_authenticated()
        return await self._caller(accepted)

    async def verify_submitted(self, token: str) -> SubmittedVerdict:
        """What ``token`` is worth. Raises Unavailable while that cannot be told: its keys or its record are away."""
        judged = await self._decider.apply_rules(token)
        accepted, failure = judged.accepted, judged.failure
        if isinstance(failure, Unavailable):
            raise failure
        jwt = self._parse(token)
        if accepted is not None:
            genuine = submitted_from_actor(accepted.actor, hash_token(token) if jwt is None else jwt.digest)
            bearer = await self._caller(accepted) if failure is None else None
            return SubmittedVerdict(genuine, failure, bearer, jwt, "" if _is_looked_up(genuine, accepted) else _NO_ID)
        assert failure is not None  # noqa: S101 - there is one where nobody is accepted
        return await self._rejected_token(token, jwt, failure)

    async def _rejected_token(self, token: str, jwt: Unverified | None, failure: Failed) -> SubmittedVerdict:
        """A refused token. If it is genuine, time, a setting or a removed entry may make it acceptable again."""
        if not failure.is_signed or failure.cause in _FORGED or failure.cause is Cause.EXPIRED:
            return SubmittedVerdict(None, failure, jwt=jwt)
        if jwt is None:
            return SubmittedVerdict(None, failure, reason_not_revocable=_OPAQUE)
        if failure.cause in _NO_ACCESS_TOKEN:
            return SubmittedVerdict(None, failure, jwt=jwt, reason_not_revocable=_NOT_FOR_CALLERS)
        genuine = submitted_from_jwt(jwt)
        if await self._tokens.reuses_recorded_id(genuine, token):
            return SubmittedVerdict(None, failure, jwt=jwt)
        return SubmittedVerdict(genuine, failure, jwt=jwt)

    async def _caller(self, accepted: Accepted) -> Caller:
        return await self._tokens.caller(accepted.actor, is_own=accepted.is_own, record_id=accepted.record_id)

    def _parse(self, token: str) -> Unverified | None:
        with suppress(Refused):
            return parse(token, self._max_token_bytes)
        return None


def _is_looked_up(genuine: SubmittedToken, accepted: Accepted) -> bool:
    """Whether the deny list looks for ``token`` when ``accepted`` is presented: else an entry would end nothing."""
    keys = accepted.revocation_keys or revocation_keys(accepted.actor)
    return (genuine.scope, entry_key(genuine.scope, genuine.issuer, genuine.name)) in keys.probes
