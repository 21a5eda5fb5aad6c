"""Who calls the API, by the credential of this very request, and what a handed-over token is worth."""

from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from sidecar.access.decide import Decider, Deny
from sidecar.authn.base import Accepted
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.store.replica.revocation_list import facts_of
from sidecar.store.revocation_entry import denial_key
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.submitted import Genuine, genuine_jwt, genuine_of, jwt_digest, token_digest
from sidecar.web.request import connection_of, own_view

# Signed, but by a key that speaks for another issuer, or not the text that is on record under its id: it must not end
# the token that it names.
_NOT_ITS_OWN = frozenset({Cause.ISSUER, Cause.RECORD_MISMATCH})
# Signed, and meant for another audience: an issuer that many share makes such tokens for anybody.
_FOR_OTHERS = frozenset({Cause.AUDIENCE, Cause.REQUIRED_CLAIM})
# Signed, and accepted under no settings: no entry could end it anywhere else.
_NO_ACCESS_TOKEN = frozenset({Cause.CLAIM_TYPE, Cause.TOKEN_TYPE, Cause.UPSTREAM_ONLY})
_NO_ID = "The token has no id that the deny list could know it by; deny its Actor, or end it where it was issued"
_OPAQUE = "The token is active at its issuer but refused here, and no entry was written; end it where it was issued"
_NO_CALLERS = "The token is not one that callers may present, and no entry was written; end it where it was issued"


class NotAdmittedError(Exception):
    """The caller's credential was refused; carries the verdict for answer and log."""

    def __init__(self, verdict: Deny) -> None:
        super().__init__(verdict.failure.reason.value)
        self.verdict = verdict


class NotRevocableError(Refused):
    """No entry of the deny list could end the token (RFC 7009 section 2.2.1)."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.REQUEST_INVALID, message=message)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What a handed-over token is worth: its signature and its claims count, the request that brought it does not.

    ``genuine``: the token as the deny list knows it; None: it has ended, or no issuer known here has made it.
    ``failure``: why it does not pass now; None: it identifies ``bearer``. ``jwt``: what it says, where it
    can be read. ``obstacle``: why no entry could end it; empty: one can.
    """

    genuine: Genuine | None
    failure: Failed | None
    bearer: Caller | None = None
    jwt: Unverified | None = None
    obstacle: str = ""

    @property
    def is_for_others(self) -> bool:
        """Whether it was made for another audience, so that to hold it gives no right to write an entry here."""
        return self.failure is not None and self.failure.cause in _FOR_OTHERS

    def to_end(self) -> Genuine | None:
        """The token, which an entry will end. Raises NotRevocableError where none can."""
        if self.obstacle:
            raise NotRevocableError(self.obstacle)
        return self.genuine


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
        return await self._caller(accepted)

    async def judge(self, token: str) -> HandedOver:
        """What ``token`` is worth. Raises Unavailable while that cannot be told: its keys or its record are away."""
        judged = await self._decider.judge(token)
        accepted, failure = judged.accepted, judged.failure
        if isinstance(failure, Unavailable):
            raise failure
        jwt = self._read(token)
        if accepted is not None:
            genuine = genuine_of(accepted.actor, token_digest(token) if jwt is None else jwt_digest(jwt))
            bearer = await self._caller(accepted) if failure is None else None
            return HandedOver(genuine, failure, bearer, jwt, "" if _concerns(genuine, accepted) else _NO_ID)
        assert failure is not None  # noqa: S101 - there is one where nobody is accepted
        return await self._refused(token, jwt, failure)

    async def _refused(self, token: str, jwt: Unverified | None, failure: Failed) -> HandedOver:
        """A refused token. If it is genuine, time, a setting or a removed entry may make it acceptable again."""
        if not failure.is_signed or failure.cause in _NOT_ITS_OWN or failure.cause is Cause.EXPIRED:
            return HandedOver(None, failure, jwt=jwt)
        if jwt is None:
            return HandedOver(None, failure, obstacle=_OPAQUE)
        if failure.cause in _NO_ACCESS_TOKEN:
            return HandedOver(None, failure, jwt=jwt, obstacle=_NO_CALLERS)
        genuine = genuine_jwt(jwt)
        if await self._tokens.is_another(genuine, token):
            return HandedOver(None, failure, jwt=jwt)
        return HandedOver(genuine, failure, jwt=jwt)

    async def _caller(self, accepted: Accepted) -> Caller:
        return await self._tokens.caller(accepted.actor, is_own=accepted.is_own, record_id=accepted.record_id)

    def _read(self, token: str) -> Unverified | None:
        with suppress(Refused):
            return parse(token, self._max_token_bytes)
        return None


def _concerns(genuine: Genuine, accepted: Accepted) -> bool:
    """Whether the deny list looks for ``genuine`` when ``accepted`` is presented: else an entry would end nothing."""
    facts = accepted.facts or facts_of(accepted.actor)
    return (genuine.scope, denial_key(genuine.scope, genuine.issuer, genuine.name)) in facts.probes
