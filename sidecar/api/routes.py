"""Paths of the API, their methods and handlers, and the authorization of each operation."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from aiohttp import web

from sidecar.access.decide import Deny
from sidecar.api.body import BodyReader, parse_query
from sidecar.api.bots import BotHandlers
from sidecar.api.browser_sessions import BrowserSessions
from sidecar.api.caller import AuthenticationFailed, CallerAuthentication, NotRevocableError
from sidecar.api.introspect import IntrospectEndpoint
from sidecar.api.revocations import RevocationHandlers
from sidecar.api.revoke import RevokeEndpoint
from sidecar.api.sessions import SessionHandlers
from sidecar.api.tokens import TokenHandlers
from sidecar.errors import Cause, Failed, MethodNotAllowed, Reason, Refused
from sidecar.logs import current_request
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import TaskFunction
from sidecar.web.request import connection_of, request_id

OperationHandler = Callable[[web.BaseRequest, Caller, str], Awaitable[web.StreamResponse]]

C = TypeVar("C")

_OAUTH_ERRORS = {401: "invalid_client", 403: "access_denied", 503: "temporarily_unavailable"}


class Permission(Enum):
    """Required of the caller of an operation."""

    CALLER = auto()
    """Any authenticated caller; the operation checks further permissions."""
    ADMIN = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """The operation of one method on a path."""

    permission: Permission
    handler: OperationHandler
    takes_cookie: bool = False
    """Whether a session cookie is a credential: never for what changes something."""


class ApiEndpoint:
    """One path: its operations by method."""

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
        """The response of the operation, or an error response."""
        current_request.set(request_id(request))
        call = self._operations.get(request.method)
        if call is None:
            raise MethodNotAllowed(*self.methods)
        try:
            caller = await self._authentication.authenticate(request, takes_cookie=call.takes_cookie)
        except AuthenticationFailed as refused:
            return self._error_responses.refuse(request, connection_of(request), refused.verdict, route=self._name)
        if call.permission is Permission.ADMIN and not caller.actor.is_admin:
            raise Refused(Reason.FORBIDDEN, Cause.RULE, message="Forbidden: this requires an admin")
        return await call.handler(request, caller, rest)


class OAuthEndpoint(Generic[C]):
    """An OAuth 2.0 endpoint: POST only, and error responses include the error codes of RFC 6749."""

    methods = ("POST",)

    def __init__(
        self,
        name: str,
        error_responses: ErrorResponses,
        authenticate: Callable[[web.BaseRequest], Awaitable[C]],
        handler: Callable[[web.BaseRequest, C, str], Awaitable[web.StreamResponse]],
    ) -> None:
        self._name = name
        self._error_responses = error_responses
        self._authenticate = authenticate
        self._handler = handler

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The response, or an error response."""
        current_request.set(request_id(request))
        try:
            if request.method not in self.methods:
                raise MethodNotAllowed(*self.methods)
            parse_query(request, ())
            return await self._handler(request, await self._authenticate(request), rest)
        except AuthenticationFailed as failed:
            return self._refuse(request, failed.verdict, _oauth_error(failed.verdict.failure.status))
        except NotRevocableError as failure:
            return self._refuse(request, failure, "unsupported_token_type")
        except Failed as failure:
            return self._refuse(request, failure, _oauth_error(failure.status))

    def _refuse(self, request: web.BaseRequest, failure: Deny | Failed, oauth_error: str) -> web.StreamResponse:
        connection = connection_of(request)
        return self._error_responses.refuse(request, connection, failure, route=self._name, oauth_error=oauth_error)


def api_routes(
    prefix: str,
    authentication: CallerAuthentication,
    error_responses: ErrorResponses,
    tokens: TokenService,
    revocations: RevocationService,
    bots: BotRegistry,
    bodies: BodyReader,
    sessions: BrowserSessions | None,
) -> tuple[dict[str, tuple[str, TaskFunction]], dict[str, tuple[str, TaskFunction]]]:
    """Handlers by exact path, and handlers by the path without its last segment, which is an id.

    ``sessions`` None: there is no browser login.
    """
    token_handlers = TokenHandlers(tokens, bodies)
    revocation_handlers = RevocationHandlers(revocations, authentication, bodies)
    bot_handlers = BotHandlers(bots, bodies)

    def endpoint(name: str, permission: Permission, **handlers: OperationHandler) -> tuple[str, TaskFunction]:
        operations = {method: Operation(permission, handler) for method, handler in handlers.items()}
        return name, ApiEndpoint(name, authentication, error_responses, operations)

    introspect = IntrospectEndpoint(authentication, tokens, bodies)
    revoke = RevokeEndpoint(authentication, tokens, revocations, bodies)
    exact: dict[str, tuple[str, TaskFunction]] = {
        f"{prefix}/tokens": endpoint(
            "tokens", Permission.CALLER, GET=token_handlers.list_records, POST=token_handlers.mint
        ),
        f"{prefix}/revocations": endpoint(
            "revocations", Permission.ADMIN, GET=revocation_handlers.list_entries, POST=revocation_handlers.add
        ),
        f"{prefix}/bots": endpoint("bots", Permission.ADMIN, GET=bot_handlers.list_names, POST=bot_handlers.register),
        f"{prefix}/revoke": (
            "revoke",
            OAuthEndpoint("revoke", error_responses, authentication.authenticate_if_presented, revoke),
        ),
        f"{prefix}/introspect": (
            "introspect",
            OAuthEndpoint("introspect", error_responses, authentication.authenticate, introspect),
        ),
    }
    below = {
        f"{prefix}/tokens": endpoint(
            "tokens", Permission.CALLER, GET=token_handlers.show, DELETE=token_handlers.revoke
        ),
        f"{prefix}/revocations": endpoint("revocations", Permission.ADMIN, DELETE=revocation_handlers.remove),
        f"{prefix}/bots": endpoint("bots", Permission.ADMIN, DELETE=bot_handlers.release),
    }
    if sessions is not None:
        handlers = SessionHandlers(sessions)
        listed = {"GET": Operation(Permission.CALLER, handlers.list_sessions, takes_cookie=True)}
        one = {"GET": Operation(Permission.CALLER, handlers.show, takes_cookie=True)}
        listed["DELETE"] = Operation(Permission.CALLER, handlers.end_others)
        one["DELETE"] = Operation(Permission.CALLER, handlers.end)
        exact[f"{prefix}/sessions"] = "sessions", ApiEndpoint("sessions", authentication, error_responses, listed)
        below[f"{prefix}/sessions"] = "sessions", ApiEndpoint("sessions", authentication, error_responses, one)
    return exact, below


def _oauth_error(status: int) -> str:
    return _OAUTH_ERRORS.get(status, "invalid_request")
