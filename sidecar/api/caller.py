"""Authenticates the caller of the API, and verifies tokens submitted in request bodies."""

from contextlib import suppress
from dataclasses import dataclass, replace

from aiohttp import web

from sidecar.access.decide import Decider, Deny, Verdict
from sidecar.authn.base import Accepted
from sidecar.concurrency import settled
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.request import Scheme, read_credential
from sidecar.store.record import hash_token
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.submitted import SubmittedToken, submitted_from_actor, submitted_from_jwt
from sidecar.web.request import connection_of, own_context

# Signed with the key of another issuer, or not the token that is on record under its id: it must not revoke the token
# that it names.
_FORGED = frozenset({Cause.ISSUER, Cause.RECORD_MISMATCH})
# Signed, but for another audience: a shared issuer creates such tokens for many other services.
_FOR_OTHERS = frozenset({Cause.AUDIENCE, Cause.REQUIRED_CLAIM})
# Signed, but accepted under no configuration: an entry would have no effect.
_NO_ACCESS_TOKEN = frozenset({Cause.CLAIM_TYPE, Cause.TOKEN_TYPE, Cause.UPSTREAM_ONLY})
_NO_ID = "The token has no id for a revocation entry; revoke the tokens of its Actor, or revoke it at its issuer"
_OPAQUE = "The token is active at its issuer but rejected here; no entry was written; revoke it at its issuer"
_NOT_FOR_CALLERS = "The token is not for callers; no entry was written; revoke it at its issuer"


class AuthenticationFailed(Exception):
    """The caller's credential was rejected; contains the verdict for response and log."""

    def __init__(self, verdict: Deny) -> None:
        super().__init__(verdict.failure.reason.value)
        self.verdict = verdict


class NotRevocableError(Refused):
    """No revocation entry can revoke the token (RFC 7009 section 2.2.1)."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.REQUEST_INVALID, message=message)


@dataclass(frozen=True, slots=True)
class SubmittedVerdict:
    """The result for a submitted token: its signature and claims count, not the request that contained it.

    ``token``: the token as the revocation list identifies it; None: it has expired, or no known issuer signed it.
    ``failure``: why it is not accepted now; None: it identifies ``caller``. ``jwt``: the parsed token, if it is a JWT.
    ``reason_not_revocable``: why no entry can revoke it; empty: one can.
    """

    token: SubmittedToken | None
    failure: Failed | None
    caller: Caller | None = None
    jwt: Unverified | None = None
    reason_not_revocable: str = ""

    @property
    def is_for_others(self) -> bool:
        """Whether it was made for another audience: its bearer then has no right to write an entry here."""
        return self.failure is not None and self.failure.cause in _FOR_OTHERS

    def revocable_token(self) -> SubmittedToken | None:
        """The token to revoke. Raises NotRevocableError if no entry can revoke it."""
        if self.reason_not_revocable:
            raise NotRevocableError(self.reason_not_revocable)
        return self.token


class CallerAuthentication:
    """Authenticates callers of the API."""

    def __init__(self, decider: Decider, tokens: TokenService, max_token_bytes: int) -> None:
        self._decider = decider
        self._tokens = tokens
        self._max_token_bytes = max_token_bytes

    async def authenticate(self, request: web.BaseRequest, *, takes_cookie: bool = False) -> Caller:
        """The caller. ``takes_cookie``: a session cookie is a credential, for operations that change nothing and for
        forms of the sidecar's own pages.

        Raises AuthenticationFailed, and Unavailable if the record of its token cannot be read.
        """
        # rules apply to the upstream, not here
        view = replace(own_context(request), target=None, preflight=False, takes_cookie=takes_cookie)
        verdict: Verdict = await settled(self._decider.decide(view))
        if isinstance(verdict, Deny):
            raise AuthenticationFailed(verdict)
        accepted = verdict.accepted
        if accepted is None:
            raise Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT)
        if self._decider.is_authenticated(accepted):
            connection_of(request).mark_authenticated()
        return await self._caller(accepted)

    async def authenticate_if_presented(self, request: web.BaseRequest) -> Caller | None:
        """The caller; None without a credential. Raises as :meth:`authenticate`."""
        if read_credential(request.headers).scheme is Scheme.NOTHING:
            return None
        return await self.authenticate(request)

    async def verify_submitted(self, token: str) -> SubmittedVerdict:
        """Verify ``token``. Raises Unavailable if its keys or its record are not available."""
        judged = await self._decider.apply_rules(token)
        accepted, failure = judged.accepted, judged.failure
        if isinstance(failure, Unavailable):
            raise failure
        jwt = self._parse(token)
        if accepted is not None:
            genuine = submitted_from_actor(accepted.actor, hash_token(token) if jwt is None else jwt.digest)
            bearer = await self._caller(accepted) if failure is None else None
            return SubmittedVerdict(genuine, failure, bearer, jwt, "" if _is_looked_up(genuine, accepted) else _NO_ID)
        assert failure is not None  # noqa: S101 - there is a failure if it was not accepted
        return await self._rejected_token(token, jwt, failure)

    async def _rejected_token(self, token: str, jwt: Unverified | None, failure: Failed) -> SubmittedVerdict:
        """A rejected token. If its issuer signed it, time, a setting or a removed entry may make it valid again."""
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
        if accepted.is_session:
            # not with the record: a session is no token, and has no right to the records of others like it
            return Caller(accepted.actor, session_id=accepted.record_id or "")
        return await self._tokens.caller(accepted.actor, is_own=accepted.is_own, record_id=accepted.record_id)

    def _parse(self, token: str) -> Unverified | None:
        with suppress(Refused):
            return parse(token, self._max_token_bytes)
        return None


def _is_looked_up(genuine: SubmittedToken, accepted: Accepted) -> bool:
    """Whether the gates look up an entry for this token; otherwise the entry would have no effect."""
    keys = accepted.revocation_keys or revocation_keys(accepted.actor)
    return (genuine.scope, genuine.issuer, genuine.name) in keys.references
