"""Dispatches each request of the public listener: capacity, metrics, log, and answers to what handlers raise.

Requests arrive in two places. :meth:`Dispatcher.handle_head` gets the head of a request without a body, on a connection
that is idle; it writes the answer at once, or begins the work. :meth:`Dispatcher.__call__` is the handler that aiohttp
calls in the task of a connection, for all other requests and for work that needs a task. Both call the same handlers.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage

from sidecar.budget import Budget
from sidecar.counters import Counter, Histogram
from sidecar.errors import Cause, Failed, MethodNotAllowed, Unavailable
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
from sidecar.web.client_address import client_address
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import Handler, HandlerAnswer, InFlightRequest, PreparedResponse, Work
from sidecar.web.request import (
    MAX_LOGGED_PATH,
    RequestHead,
    check_framing,
    connection_of,
    identifier_of,
    original_of,
    target_of,
)
from sidecar.web.response import Response, date_line, request_id_line, status_line
from sidecar.web.server import Connection, RequestSpan, TrustedPeers

_log = logging.getLogger("sidecar.http")
_access_log = logging.getLogger("sidecar.access")

_OK = status_line(200)
_NO_BODY = b"Content-Length: 0\r\n"
_IN_PROGRESS = b""
_CHECK = "check"


class RouteTable(Protocol):
    """Finds the handler of a raw request target."""

    def find(self, target: str) -> tuple[str, Handler, str]:
        """The name of the route (from a small fixed set), its handler, and the text that the handler gets."""


class SpanFactory(Protocol):
    """Starts trace spans."""

    def start(self, asked: RequestHead, route: str, connection: Connection) -> RequestSpan:
        """The span of a request."""


class ActiveConfig:
    """What one configuration handles requests with, and the number of its requests in flight.

    Of ``max_in_flight`` requests, ``undecided`` limits those that wait for a verdict, ``undecided_bodies`` those of
    them whose body has to be read for it, and half is the limit for requests without a credential: the rest is for
    callers with a valid one.
    """

    def __init__(
        self,
        routes: RouteTable,
        refusals: ErrorResponses,
        peers: TrustedPeers,
        *,
        max_in_flight: int,
        undecided: Budget,
        undecided_bodies: Budget,
        log_access: bool,
        spans: SpanFactory | None = None,
    ) -> None:
        self.routes = routes
        self.refusals = refusals
        self.peers = peers
        self.max_in_flight = max_in_flight
        self.undecided = undecided
        self.undecided_bodies = undecided_bodies
        self.anonymous = Budget(max(1, max_in_flight // 2))
        self.log_access = log_access
        self.spans = spans
        self.in_flight = 0
        self._idle: asyncio.Event | None = None

    def request_ended(self) -> None:
        """One request less."""
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            await self._idle.wait()


class Dispatcher:
    """Handles each request of the public listener, from head to end with the same :class:`ActiveConfig`."""

    def __init__(self, serving: ActiveConfig, metrics: Metrics) -> None:
        self._active = serving
        self._all = [serving]
        self._requests = metrics.http_requests
        self._durations = metrics.http_request_duration
        self._counted: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        metrics.http_in_flight.set_function(lambda: self.in_flight)
        metrics.http_undecided.set_function(lambda: sum([serving.undecided.taken for serving in self._all]))

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        if len(self._all) == 1:
            return self._active.in_flight
        return sum([serving.in_flight for serving in self._all])

    def activate(self, serving: ActiveConfig) -> None:
        """Use ``serving`` from the next request on."""
        self._active = serving
        self._all.append(serving)

    async def wait_drained(self, serving: ActiveConfig) -> None:
        """Return when the last request of ``serving``, which was replaced, has ended."""
        await serving.wait_idle()
        self._all.remove(serving)

    async def wait_idle(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:
            for serving in tuple(self._all):
                await serving.wait_idle()

    def handle_head(self, message: RawRequestMessage, connection: Connection) -> bytes | None:
        """Answer ``message``, a request without a body: the whole answer; empty if the request is in progress now.

        None: aiohttp has to make a request of it, because the answer may end the connection.
        """
        if message.should_close or message.version is not HttpVersion11 or connection.is_last:
            return None
        started = perf_counter()
        try:
            if check_framing(message, message.path):
                return None
        except Failed:
            return None
        serving = self._config_for(connection)
        connection.request_id = ""
        connection.original = connection.caller = None
        route, answer = self._begin(serving, message, message.path, connection)
        if isinstance(answer, bytes):
            status = 200
            identifier = request_id_line(identifier_of(message, connection))
            data = b"".join((_OK, answer, identifier, _NO_BODY, date_line(), b"\r\n"))
        else:
            if type(answer) is not Response:  # isinstance takes long for an abstract base class
                failure = self._start(serving, message, connection, route, answer, started)
                if failure is None:
                    return _IN_PROGRESS
                answer = failure
            if answer.ends_connection:
                self._start(serving, message, connection, route, PreparedResponse(answer), started)
                return _IN_PROGRESS
            status = answer.status
            answer.add_request_id(identifier_of(message, connection))
            data = answer.encoded(message.method)
        self._record(serving, message, connection, route, status, started)
        return data

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, also to what a handler raises. A connection that was cancelled or cut gets none."""
        connection = connection_of(request)
        begun = connection.take_in_flight()
        if begun is None:
            started = perf_counter()
            connection.request_id = ""
            connection.original = connection.caller = None
            serving = self._config_for(connection)
            route, begin = self._begin_checked(serving, request, connection)
            serving.in_flight += 1
        else:
            serving, route, started, begin = begun.active_config, begun.route, begun.started, begun.work
        answer: HandlerAnswer
        try:
            answer = begin if isinstance(begin, bytes | Response) else await begin.run(request)
        except Failed as failure:
            answer = self._refusal(serving, request, connection, failure, route)
        except (ConnectionError, asyncio.CancelledError) as error:
            _end_span(connection, error)
            raise
        except Exception as error:  # a fault in a handler must not let the request pass
            if request.writer.output_size > 0:
                _end_span(connection, error)
                raise ConnectionError("the answer has begun; it can only be cut off") from error
            answer = self._internal_error(serving, request, connection, error, route)
        finally:
            connection.leave()
            serving.request_ended()
        if isinstance(answer, bytes):
            answer = Response(200, answer)
        if isinstance(answer, Response):
            answer.add_request_id(identifier_of(request, connection))
        if connection.is_last and not answer.prepared:
            answer.force_close()
        self._record(serving, request, connection, route, answer.status, started)
        return answer

    def refuse_unparsed(self, failure: Failed) -> Response:
        """The answer to what the HTTP parser rejected."""
        answer = self._active.refusals.refuse_unparsed(failure)
        self._requests.child("public", "none", str(answer.status)).inc()
        return answer

    def _config_for(self, connection: Connection) -> ActiveConfig:
        """The configuration for the next request on ``connection``, which then knows whether its peer is trusted."""
        serving = self._active
        if connection.active_config is not serving:
            connection.bind_config(serving, serving.peers)
        return serving

    def _begin_checked(
        self, serving: ActiveConfig, request: web.BaseRequest, connection: Connection
    ) -> tuple[str, bytes | Response | Work]:
        """As :meth:`_begin`, after the framing was checked."""
        try:
            check_framing(request, request.raw_path)
        except Failed as failure:
            return "none", self._refusal(serving, request, connection, failure, "none")
        return self._begin(serving, request, request.raw_path, connection)

    def _begin(
        self, serving: ActiveConfig, asked: RequestHead, target: str, connection: Connection
    ) -> tuple[str, bytes | Response | Work]:
        """The name of the route, and what its handler returns, or the answer to what it raises."""
        route = "none"
        try:
            route, handler, rest = serving.routes.find(target)
            if serving.spans is not None:
                connection.span = serving.spans.start(asked, route, connection)
            # checks wait for verdicts only, which have a limit of their own
            if route != _CHECK and self.in_flight >= serving.max_in_flight:
                raise Unavailable(Cause.OVERLOAD, retry_after=1)
            return route, handler(asked, rest, connection)
        except Failed as failure:
            return route, self._refusal(serving, asked, connection, failure, route)
        except Exception as error:  # noqa: BLE001 - as in __call__
            return route, self._internal_error(serving, asked, connection, error, route)

    def _start(
        self,
        serving: ActiveConfig,
        message: RawRequestMessage,
        connection: Connection,
        route: str,
        work: Work,
        started: float,
    ) -> Response | None:
        """Let ``work`` go on, in a task if it needs one. Returns the answer if it fails."""
        begun = InFlightRequest(message, connection, serving, route, work, started, self._ended)
        try:
            goes_on = work.start(begun)
        except Failed as failure:
            connection.leave()
            return self._refusal(serving, message, connection, failure, route)
        except Exception as error:  # noqa: BLE001 - as in __call__
            connection.leave()
            return self._internal_error(serving, message, connection, error, route)
        connection.in_flight = begun
        serving.in_flight += 1
        if not goes_on:
            begun.promote_to_task()
        return None

    def _ended(self, begun: InFlightRequest, status: int | None) -> None:
        connection, serving = begun.connection, begun.active_config
        connection.leave()
        serving.request_ended()
        if status is None:
            _end_span(connection, ConnectionError())
        else:
            self._record(serving, begun.message, connection, begun.route, status, begun.started)

    def _record(
        self,
        serving: ActiveConfig,
        asked: RequestHead,
        connection: Connection,
        route: str,
        status: int,
        started: float,
    ) -> None:
        """Count an answer, and end its span."""
        count, duration = self._counted.get((route, status)) or self._children(route, status)
        count.value += 1
        seconds = perf_counter() - started
        duration.observe(seconds)
        if serving.log_access:
            _log_access(serving, asked, connection, route, status, seconds)
        if connection.span is not None:
            connection.span.end(status)
            connection.span = None

    def _children(self, route: str, status: int) -> tuple[Counter, Histogram]:
        children = self._requests.child("public", route, str(status)), self._durations.child(route)
        self._counted[route, status] = children
        return children

    def _refusal(
        self, serving: ActiveConfig, asked: RequestHead, connection: Connection, failure: Failed, route: str
    ) -> Response:
        if failure.status == 405 and not isinstance(failure, MethodNotAllowed):
            failure = MethodNotAllowed(*_methods(serving.routes, target_of(asked)), ends_connection=True)
        if connection.span is not None:
            connection.span.end(failure.status)
            connection.span = None
        return serving.refusals.refuse(asked, connection, failure, route=route)

    @staticmethod
    def _internal_error(
        serving: ActiveConfig, asked: RequestHead, connection: Connection, error: Exception, route: str
    ) -> Response:
        _end_span(connection, error)
        _log.error(
            "unhandled error",
            extra={
                "event": "unhandled_error",
                "requestId": identifier_of(asked, connection),
                "error": type(error).__name__,
                "places": traceback_locations(error),
                "route": route,
            },
        )
        return serving.refusals.refuse(
            asked, connection, Unavailable(Cause.INTERNAL, type(error).__name__), route=route
        )


def _end_span(connection: Connection, error: BaseException) -> None:
    """End the span of a request without an answer."""
    if connection.span is not None:
        connection.span.end(None, type(error).__name__)
        connection.span = None


def _log_access(
    serving: ActiveConfig, asked: RequestHead, connection: Connection, route: str, status: int, seconds: float
) -> None:
    forwarded = asked.headers.getall("X-Forwarded-For", ())
    _access_log.info(
        "request answered",
        extra={
            "event": "request_answered",
            "requestId": identifier_of(asked, connection),
            "method": asked.method[:16],
            "path": target_of(asked).partition("?")[0][:MAX_LOGGED_PATH],
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
            "client": client_address(connection.peer, forwarded, serving.peers, trusted=connection.trusted),
            **original_of(connection),
        },
    )


def _methods(routes: RouteTable, target: str) -> Sequence[str]:
    """The methods of the resource at ``target``, for ``Allow``; none if there is no such resource."""
    try:
        return getattr(routes.find(target)[1], "methods", ())
    except Failed:
        return ()
