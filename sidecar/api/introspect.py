"""``POST {prefix}/introspect`` (RFC 7662): is this token accepted here, and what does it say?"""

from typing import Any

from aiohttp import web

from sidecar.api.body import Bodies, bad_request, query
from sidecar.api.door import Door
from sidecar.errors import Failed
from sidecar.identity.actor import ActorType
from sidecar.tokens.compact import Unverified
from sidecar.tokens.service import Caller, TokenService
from sidecar.web.respond import json_answer

_SHOWN = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti")
# No verification has looked at what these are.
_SHOWN_AS_TEXT = ("scope", "client_id")
_INACTIVE = {"active": False}


class Introspect:
    """Admins and services may ask about any token, others about their own."""

    def __init__(self, door: Door, tokens: TokenService, bodies: Bodies) -> None:
        self._door = door
        self._tokens = tokens
        self._bodies = bodies

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """200 with what may be known of the token; ``active`` false, and nothing else, for everything else."""
        query(request, ())
        caller = await self._door.enter(request)
        form = await self._bodies.form(request)
        if not form.get("token"):
            raise bad_request("token is missing")
        found = await self._door.accepted(form["token"])
        if isinstance(found, Failed):
            return json_answer(200, _INACTIVE)
        token, bearer = found
        may_know = caller.actor.is_admin or caller.actor.type is ActorType.SERVICE
        if not may_know and not await self._tokens.may_manage(caller, token, bearer.actor.provider):
            return json_answer(200, _INACTIVE)
        return json_answer(200, _describe(token, bearer))


def _describe(token: Unverified, bearer: Caller) -> dict[str, Any]:
    claims = token.claims
    return {
        "active": True,
        "token_type": "Bearer",
        "username": bearer.actor.id,
        **{name: claims[name] for name in _SHOWN if claims.get(name) is not None},
        **{name: claims[name] for name in _SHOWN_AS_TEXT if isinstance(claims.get(name), str)},
    }
