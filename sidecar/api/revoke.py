"""``POST {prefix}/revoke`` (RFC 7009): whoever holds a token may end it."""

from aiohttp import web

from sidecar.api.body import Bodies, bad_request, query
from sidecar.api.door import Door
from sidecar.errors import Cause, Failed, Reason, Refused
from sidecar.identity.request import Scheme, read_credential
from sidecar.tokens.compact import Unverified
from sidecar.tokens.revocations import Revocations
from sidecar.tokens.service import Caller, TokenService
from sidecar.web.respond import json_answer


class Revoke:
    """Ends the form's ``token``. Without another credential that token is its bearer's credential for this."""

    def __init__(self, door: Door, tokens: TokenService, revocations: Revocations, bodies: Bodies) -> None:
        self._door = door
        self._tokens = tokens
        self._revocations = revocations
        self._bodies = bodies

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """200 when the token has ended, and for what is no valid token (section 2.2)."""
        query(request, ())
        credential = read_credential(request.headers)
        caller = None if credential.scheme is Scheme.NOTHING else await self._door.enter(request)
        form = await self._bodies.form(request, is_decided=caller is not None)
        if not form.get("token"):
            raise bad_request("token is missing")
        found = await self._door.accepted(form["token"])
        if isinstance(found, Failed):
            token = self._door.genuine(form["token"], found)
            if token is not None and await self._may_end(caller, token):
                await self._revocations.end(token, by=_name(caller))
            return json_answer(200, {})
        token = found[0]
        is_bearer = caller is not None and credential.value == token.text
        if not is_bearer and not await self._may_end(caller, token, found[1].actor.provider):
            raise Refused(Reason.FORBIDDEN, Cause.RULE, message="Forbidden: the token is another's")
        await self._revocations.end(token, by=_name(caller or found[1]))
        return json_answer(200, {})

    async def _may_end(self, caller: Caller | None, token: Unverified, provider: str = "") -> bool:
        return caller is None or await self._tokens.may_manage(caller, token, provider)


def _name(caller: Caller | None) -> str:
    return "bearer" if caller is None else caller.name
