"""What the API has to offer, and the guard that each call stands behind."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from aiohttp import web

from sidecar.api.body import BodyReader
from sidecar.api.bots import BotHandlers
from sidecar.api.caller import AuthenticationFailed, CallerAuthentication, NotRevocableError
from sidecar.api.introspect import IntrospectEndpoint
from sidecar.api.revocations import RevocationHandlers
from sidecar.api.revoke import RevokeEndpoint
from sidecar.api.tokens import TokenHandlers
from sidecar.errors import Cause, Failed, MethodNotAllowed, Reason, Refused
from sidecar.logs import current_request
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.request import request_id

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
OperationHandler = Callable[[web.BaseRequest, Caller, str], Awaitable[web.StreamResponse]]

_OAUTH_ERRORS = {401: "invalid_client", 403: "access_denied", 503: "temporarily_unavailable"}


class Access(Enum):
    """Who may call."""

    CALLER = auto()
    """Whoever has a good credential; the call looks closer."""
    ADMIN = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a path."""

    access: Access
    handler: OperationHandler


class ApiEndpoint:
    """One path: its calls by method."""

    def __init__(
        self,
        name: str,
        authentication: CallerAuthentication,
        error_responses: ErrorResponses,
        operations: Mapping[str, Operation],
    ) -> None:
        self._name = name
        self._authentication = authentication
        self._error_responses = error_responses
        self._operations = {**operations, **({"HEAD": operations["GET"]} if "GET" in operations else {})}
        self.methods = tuple(self._operations)

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The answer of the call, or the refusal."""
        current_request.set(request_id(request))
        call = self._operations.get(request.method)
        if call is None:
            raise MethodNotAllowed(*self.methods)
        try:
            caller = await self._authentication.authenticate(request)
        except AuthenticationFailed as refused:
            return self._error_responses.refuse(request, refused.verdict, route=self._name)
        if call.access is Access.ADMIN and not caller.actor.is_admin:
            raise Refused(Reason.FORBIDDEN, Cause.RULE, message="Forbidden: this requires an admin")
        return await call.handler(request, caller, rest)


class OAuthEndpoint:
    """A call of OAuth's: POST only, and refusals also say what RFC 6749 calls them."""

    methods = ("POST",)

    def __init__(
        self,
        name: str,
        error_responses: ErrorResponses,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> None:
        self._name = name
        self._error_responses = error_responses
        self._answer = answer

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The answer, or the refusal."""
        current_request.set(request_id(request))
        try:
            if request.method not in self.methods:
                raise MethodNotAllowed(*self.methods)
            return await self._answer(request)
        except AuthenticationFailed as refused:
            verdict = refused.verdict
            error = _oauth_error(verdict.failure.status)
            return self._error_responses.refuse(request, verdict, route=self._name, oauth_error=error)
        except NotRevocableError as refused:
            return self._error_responses.refuse(
                request, refused, route=self._name, oauth_error="unsupported_token_type"
            )
        except Failed as failure:
            return self._error_responses.refuse(
                request, failure, route=self._name, oauth_error=_oauth_error(failure.status)
            )


def api_routes(
    prefix: str,
    authentication: CallerAuthentication,
    error_responses: ErrorResponses,
    tokens: TokenService,
    revocations: RevocationService,
    bots: BotRegistry,
    bodies: BodyReader,
) -> tuple[dict[str, tuple[str, Handler]], dict[str, tuple[str, Handler]]]:
    """Handlers by exact path, and handlers by the path above the last segment, which is an id."""
    token_handlers, revocation_handlers = (
        TokenHandlers(tokens, bodies),
        RevocationHandlers(revocations, authentication, bodies),
    )
    bot_handlers = BotHandlers(bots, bodies)

    def endpoint(name: str, calls: Mapping[str, Operation]) -> tuple[str, Handler]:
        return name, ApiEndpoint(name, authentication, error_responses, calls)

    def oauth(name: str, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> tuple[str, Handler]:
        return name, OAuthEndpoint(name, error_responses, answer)

    exact = {
        f"{prefix}/tokens": endpoint(
            "tokens",
            {
                "GET": Operation(Access.CALLER, token_handlers.list_records),
                "POST": Operation(Access.CALLER, token_handlers.mint),
            },
        ),
        f"{prefix}/revocations": endpoint(
            "revocations",
            {
                "GET": Operation(Access.ADMIN, revocation_handlers.list_entries),
                "POST": Operation(Access.ADMIN, revocation_handlers.add),
            },
        ),
        f"{prefix}/bots": endpoint(
            "bots",
            {
                "GET": Operation(Access.ADMIN, bot_handlers.list_names),
                "POST": Operation(Access.ADMIN, bot_handlers.register),
            },
        ),
        f"{prefix}/revoke": oauth("revoke", RevokeEndpoint(authentication, tokens, revocations, bodies)),
        f"{prefix}/introspect": oauth("introspect", IntrospectEndpoint(authentication, tokens, bodies)),
    }
    below = {
        f"{prefix}/tokens": endpoint(
            "tokens",
            {
                "GET": Operation(Access.CALLER, token_handlers.show),
                "DELETE": Operation(Access.CALLER, token_handlers.revoke),
            },
        ),
        f"{prefix}/revocations": endpoint(
            "revocations", {"DELETE": Operation(Access.ADMIN, revocation_handlers.remove)}
        ),
        f"{prefix}/bots": endpoint("bots", {"DELETE": Operation(Access.ADMIN, bot_handlers.release)}),
    }
    return exact, below


def _oauth_error(status: int) -> str:
    return _OAUTH_ERRORS.get(status, "invalid_request")
