"""The outermost step of every public request: bounds, metrics, and the net under everything that raises."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
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
from sidecar.web.in_flight import InFlightRequest, StreamedWork
from sidecar.web.request import (
    MAX_LOGGED_PATH,
    RequestHead,
    check_framing,
    connection_of,
    id_for,
    original_of,
    request_id,
)
from sidecar.web.response import Response, date_line, request_id_line, status_line
from sidecar.web.server import Connection, TrustedPeers

_log = logging.getLogger("sidecar.http")
_access_log = logging.getLogger("sidecar.access")

_OK = status_line(200)
_CHECK = "check"

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class CheckHandler(Protocol):
    """A check endpoint, which may know its answer without waiting."""

    def at_once(self, asked: RequestHead, rest: str, *, trusted: bool) -> bytes | None:
        """The header block of its 200, or None."""


class StreamingHandler(Protocol):
    """Handles requests, of which it may begin some without a task."""

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The answer, also to one that was begun and handed over."""

    def start(self, begun: InFlightRequest) -> StreamedWork | None:
        """Begin; None: it cannot be done without waiting."""


class RouteTable(Protocol):
    """Finds who answers a raw request target."""

    def find(self, target: str) -> tuple[str, Handler, str]:
        """The route's name (from a small fixed set), its handler, and what the handler needs of the target."""

    def find_check(self, target: str) -> tuple[CheckHandler, str] | None:
        """The same for check endpoints only."""

    def find_streaming_handler(self, target: str) -> StreamingHandler | None:
        """The same for those that begin requests without a task. Its route is ``forward``."""


class ActiveConfig:
    """What one configuration answers with, and how many requests it is at.

    Of ``max_in_flight`` places those that wait for a verdict may take ``undecided``, of which those whose body is
    needed for it may take ``undecided_bodies``, and those that were let through without a credential half: what is left
    is for callers with a good one.
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
    ) -> None:
        self.routes = routes
        self.refusals = refusals
        self.peers = peers
        self.max_in_flight = max_in_flight
        self.undecided = undecided
        self.undecided_bodies = undecided_bodies
        self.anonymous = Budget(max(1, max_in_flight // 2))
        self.log_access = log_access
        self.in_flight = 0
        self._idle: asyncio.Event | None = None

    def request_ended(self) -> None:
        """One request less."""
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return once no request is being answered."""
        while self.in_flight:
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            await self._idle.wait()


class Dispatcher:
    """Handles one request of the public listener, from its head to its end with the same :class:`ActiveConfig`."""

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
        """How many requests are being answered."""
        return sum([serving.in_flight for serving in self._all])

    def activate(self, serving: ActiveConfig) -> None:
        """Answer with ``serving`` from the next request on."""
        self._active = serving
        self._all.append(serving)

    async def wait_drained(self, serving: ActiveConfig) -> None:
        """Return once ``serving``, whose place another has taken, has given its last answer."""
        await serving.wait_idle()
        self._all.remove(serving)

    def _config_for(self, connection: Connection) -> ActiveConfig:
        """What answers the next request on ``connection``; who its peer is to that is settled here."""
        serving = self._active
        if connection.active_config is not serving:
            connection.bind_config(serving, serving.peers)
        return serving

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, whatever happens on the way. Only a cancelled or cut connection gets none."""
        started = perf_counter()
        route = "none"
        connection = connection_of(request)
        begun = connection.in_flight
        if begun is None:
            connection.request_id = ""
            serving = self._config_for(connection)
            serving.in_flight += 1
        else:
            serving = begun.active_config
        try:
            check_framing(request, request.raw_path)
            route, handler, rest = serving.routes.find(request.raw_path)
            # A check waits for nothing but a verdict, which has its own budget.
            if begun is None and self.in_flight > serving.max_in_flight and route != _CHECK:
                raise Unavailable(Cause.OVERLOAD, retry_after=1)
            answer = await handler(request, rest)
        except Failed as failure:
            failure = _with_methods(failure, serving.routes, request.raw_path)
            answer = serving.refusals.refuse(request, failure, route=route)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the net under our own faults; nobody may pass because of one
            answer = _unhandled(request, error, route, serving.refusals)
        finally:
            connection.leave()
            if connection.in_flight is None:
                serving.request_ended()
            else:  # nobody took it
                connection.in_flight.cancel()
        if isinstance(answer, Response):
            answer.add_request_id(request_id(request))
        if connection.is_last and not answer.prepared:
            answer.force_close()
        count, duration = self._counted.get((route, answer.status)) or self._children(route, answer.status)
        count.inc()
        duration.observe(perf_counter() - started)
        if serving.log_access:
            self._log_answer(serving, request, route, answer.status, perf_counter() - started)
        return answer

    def refuse_unparsed(self, failure: Failed) -> Response:
        """The answer to what the HTTP parser refused before it was a request."""
        answer = self._active.refusals.refuse_unparsed(failure)
        self._requests.child("public", "none", str(answer.status)).inc()
        return answer

    async def wait_idle(self) -> None:
        """Return once no request is being answered."""
        while self.in_flight:
            for serving in tuple(self._all):
                await serving.wait_idle()

    def answer_at_once(self, message: RawRequestMessage, connection: Connection) -> bytes | None:
        """The whole answer to a check whose credential is known and stands; None: it takes the usual way.

        Most requests of a check endpoint end here, before aiohttp makes a request object and a task for them. Nothing
        but a 200 is decided here, by the same parts as there; whatever is unusual is left to :meth:`__call__`.
        """
        serving = self._config_for(connection)
        if message.should_close or message.version != HttpVersion11 or connection.is_last or serving.log_access:
            return None
        started = perf_counter()
        found = serving.routes.find_check(message.path)
        if found is None:
            self._start_streaming(serving, message, connection)
            return None
        try:
            awaits_continue = check_framing(message, message.path)
            block = None if awaits_continue else found[0].at_once(message, found[1], trusted=connection.trusted)
        except Failed:
            return None
        except Exception:  # noqa: BLE001 - a fault of ours is found, answered and logged on the usual way
            return None
        if block is None:
            return None
        if not connection.is_known:
            connection.mark_authenticated()
        identifier = request_id_line(id_for(message, trusted=connection.trusted))
        answer = b"".join((_OK, block, identifier, b"Content-Length: 0\r\n", date_line(), b"\r\n"))
        count, duration = self._counted.get((_CHECK, 200)) or self._children(_CHECK, 200)
        count.inc()
        duration.observe(perf_counter() - started)
        return answer

    def _start_streaming(self, serving: ActiveConfig, message: RawRequestMessage, connection: Connection) -> None:
        """Begin what :attr:`Connection.in_flight` then names, if it can be begun without a task."""
        beginner = serving.routes.find_streaming_handler(message.path)
        if beginner is None or self.in_flight >= serving.max_in_flight:
            return
        connection.request_id = ""
        begun = InFlightRequest(message, connection, serving, self._ended)
        try:
            if not check_framing(message, message.path):
                begun.work = beginner.start(begun)
        except Failed:
            return
        except Exception:  # noqa: BLE001 - a fault of ours is found, answered and logged on the usual way
            return
        if begun.work is not None:
            connection.mark_authenticated()
            connection.in_flight = begun
            serving.in_flight += 1

    def _ended(self, begun: InFlightRequest, status: int | None) -> None:
        begun.active_config.request_ended()
        if status is not None:
            count, duration = self._counted.get(("forward", status)) or self._children("forward", status)
            count.inc()
            duration.observe(perf_counter() - begun.started)

    def _children(self, route: str, status: int) -> tuple[Counter, Histogram]:
        children = self._requests.child("public", route, str(status)), self._durations.child(route)
        self._counted[route, status] = children
        return children

    @staticmethod
    def _log_answer(serving: ActiveConfig, request: web.BaseRequest, route: str, status: int, seconds: float) -> None:
        connection = connection_of(request)
        forwarded = request.headers.getall("X-Forwarded-For", ())
        client = client_address(connection.peer, forwarded, serving.peers, trusted=connection.trusted)
        _access_log.info(
            "request answered",
            extra={
                "event": "request_answered",
                "requestId": request_id(request),
                "method": request.method[:16],
                "path": request.raw_path.partition("?")[0][:MAX_LOGGED_PATH],
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 3),
                "client": client,
                **original_of(request),
            },
        )


def _with_methods(failure: Failed, routes: RouteTable, target: str) -> Failed:
    """``failure``; where it is about a method that no resource takes, with those that ``target`` does."""
    if failure.status != 405 or isinstance(failure, MethodNotAllowed):
        return failure
    try:
        methods: Sequence[str] = getattr(routes.find(target)[1], "methods", ())
    except Failed:
        methods = ()
    return MethodNotAllowed(*methods, ends_connection=True)


def _unhandled(request: web.BaseRequest, error: Exception, route: str, refusals: ErrorResponses) -> web.StreamResponse:
    if request.writer.output_size > 0:
        raise ConnectionError("the answer has begun; it can only be cut off") from error
    seen = {"error": type(error).__name__, "places": traceback_locations(error), "route": route}
    _log.error("unhandled error", extra={"event": "unhandled_error", "requestId": request_id(request), **seen})
    return refusals.refuse(request, Unavailable(Cause.INTERNAL, type(error).__name__), route=route)
