"""``GET {prefix}/userinfo``: the caller's own Actor."""

from dataclasses import replace

from aiohttp import web

from sidecar.access.decide import Decider, Deny, Verdict
from sidecar.concurrency import settled
from sidecar.errors import MethodNotAllowed, Reason, Refused
from sidecar.identity.actor import Actor
from sidecar.store.timestamps import format_rfc3339
from sidecar.web.error_responses import ErrorResponses, json_answer
from sidecar.web.request import connection_of, own_context


class UserInfoEndpoint:
    """Returns the caller's identity as the upstream would receive it."""

    methods = ("GET", "HEAD")

    def __init__(self, decider: Decider, error_responses: ErrorResponses) -> None:
        self._decider = decider
        self._error_responses = error_responses

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """200 with the Actor, or an error response."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        # rules apply to the upstream, not here; of these endpoints only this one, which changes nothing, takes a cookie
        view = replace(own_context(request), target=None, takes_cookie=True)
        verdict: Verdict = await settled(self._decider.decide(view))
        if isinstance(verdict, Deny):
            return self._error_responses.refuse(request, connection_of(request), verdict, route="userinfo")
        if verdict.accepted is None:
            raise Refused(Reason.TOKEN_MISSING)
        if self._decider.is_authenticated(verdict.accepted):
            connection_of(request).mark_authenticated()
        return json_answer(200, describe_actor(verdict.accepted.actor))


def describe_actor(actor: Actor) -> dict[str, object]:
    """The Actor as JSON; times in RFC 3339, UTC."""
    expires = actor.expires_at
    return {
        "actor": {"type": actor.type.value, "id": actor.id, "urn": actor.urn},
        "issuer": actor.issuer,
        "provider": actor.provider,
        "email": actor.email,
        "groups": list(actor.groups),
        "roles": list(actor.roles),
        "authenticator": actor.authenticator,
        "tokenId": actor.token_id,
        "expiresAt": None if expires is None else format_rfc3339(expires, "seconds"),
        "isBot": actor.is_bot,
        "client": actor.client,
        "scopes": list(actor.scopes),
        "acting": actor.acting,
    }
