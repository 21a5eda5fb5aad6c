"""``POST {prefix}/introspect`` (RFC 7662): whether a token is accepted, and its claims."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sidecar.api.body import BodyReader, bad_request
from sidecar.api.caller import CallerAuthentication
from sidecar.identity.actor import Actor, ActorType
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.jwt.compact import Unverified
from sidecar.web.error_responses import json_answer

# cnf: the token is valid only together with the certificate that it names (RFC 8705 section 3.2)
_SHOWN = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "cnf", "act")
# The types of these claims are not verified.
_SHOWN_AS_TEXT = ("scope", "client_id")
_INACTIVE = {"active": False}


class IntrospectEndpoint:
    """Admins and services may introspect any token, other callers and bearers of exchanged tokens their own."""

    def __init__(self, authentication: CallerAuthentication, tokens: TokenService, bodies: BodyReader) -> None:
        self._authentication = authentication
        self._tokens = tokens
        self._bodies = bodies

    async def __call__(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with the claims that the caller may see; for every other token only ``active`` false."""
        form = await self._bodies.read_form(request)
        if not form.get("token"):
            raise bad_request("token is missing")
        found = await self._authentication.verify_submitted(form["token"])
        if found.caller is None or found.token is None:
            return json_answer(200, _INACTIVE)
        is_service = caller.actor.type is ActorType.SERVICE and not caller.is_exchanged
        may_know = caller.actor.is_admin or is_service
        if not may_know and not await self._tokens.may_manage(caller, found.token):
            return json_answer(200, _INACTIVE)
        return json_answer(200, _describe(found.jwt, found.caller.actor))


def _describe(token: Unverified | None, actor: Actor) -> dict[str, Any]:
    """The claims of a JWT; of an opaque token the claims that its issuer reported."""
    claims: Mapping[str, Any] = _claims_of(actor) if token is None else token.claims
    return {
        "active": True,
        "token_type": "Bearer",
        "username": actor.id,
        **{name: claims[name] for name in _SHOWN if claims.get(name) is not None},
        **{name: claims[name] for name in _SHOWN_AS_TEXT if isinstance(claims.get(name), str)},
    }


def _claims_of(actor: Actor) -> dict[str, Any]:
    said = {"iss": actor.issuer, "sub": actor.subject, "jti": actor.token_id}
    times = {"exp": actor.expires_at, "iat": actor.issued_at}
    return {name: value for name, value in (*said.items(), *times.items()) if value not in (None, "")}
