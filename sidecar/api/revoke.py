"""``POST {prefix}/revoke`` (RFC 7009): the bearer of a token may revoke it."""

from aiohttp import web

from sidecar.api.body import BodyReader, bad_request
from sidecar.api.caller import CallerAuthentication, NotRevocableError
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.request import read_credential
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.error_responses import json_answer


class RevokeEndpoint:
    """Revokes the token in the form. Without another credential, that token authenticates its bearer."""

    def __init__(
        self,
        authentication: CallerAuthentication,
        tokens: TokenService,
        revocations: RevocationService,
        bodies: BodyReader,
    ) -> None:
        self._authentication = authentication
        self._tokens = tokens
        self._revocations = revocations
        self._bodies = bodies

    async def __call__(self, request: web.BaseRequest, caller: Caller | None, rest: str) -> web.StreamResponse:
        """200 if the token is revoked, and for tokens that no known issuer signed (RFC 7009 section 2.2)."""
        form = await self._bodies.read_form(request, is_decided=caller is not None)
        if not form.get("token"):
            raise bad_request("token is missing")
        found = await self._authentication.verify_submitted(form["token"])
        token = found.revocable_token()
        if token is None:
            return json_answer(200, {})
        is_bearer = caller is not None and read_credential(request.headers).value == form["token"]
        if caller is None and found.is_for_others:
            raise NotRevocableError(
                "The token is for another audience; revoking it requires a credential that is accepted here"
            )
        if caller is not None and not is_bearer and not await self._tokens.may_manage(caller, token):
            raise Refused(Reason.FORBIDDEN, Cause.RULE, message="Forbidden: the token belongs to another caller")
        await self._revocations.revoke_token(token, by=_name(caller or found.caller))
        return json_answer(200, {})


def _name(caller: Caller | None) -> str:
    return "bearer" if caller is None else caller.name
