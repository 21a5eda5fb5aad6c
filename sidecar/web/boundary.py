"""The outermost step of every public request: bounds, metrics, and the net under everything that raises."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Protocol

from aiohttp import HttpVersion11, web
from aiohttp.http_parser import RawRequestMessage

from sidecar.config.settings import Limits
from sidecar.errors import Cause, Failed, Unavailable
from sidecar.logs import places
from sidecar.metrics import Metrics
from sidecar.tally import Tally, TimeTally
from sidecar.web.answer import Answer, date_line, request_id_line, status_line
from sidecar.web.begun import Begun, Work
from sidecar.web.respond import Refusals
from sidecar.web.server import Connection
from sidecar.web.view import Asked, check_framing, connection_of, id_for, request_id

_log = logging.getLogger("sidecar.http")
_access_log = logging.getLogger("sidecar.access")

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class Check(Protocol):
    """A check endpoint, which may know its answer without waiting."""

    def at_once(self, asked: Asked, rest: str, *, trusted: bool) -> bytes | None:
        """The header block of its 200, or None."""


class Beginner(Protocol):
    """Handles requests, of which it may begin some without a task."""

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The answer, also to one that was begun and handed over."""

    def begin(self, begun: Begun) -> Work | None:
        """Begin; None: it cannot be done without waiting."""


class Routes(Protocol):
    """Finds who answers a raw request target."""

    def find(self, target: str) -> tuple[str, Handler, str]:
        """The route's name (from a small fixed set), its handler, and what the handler needs of the target."""

    def find_check(self, target: str) -> tuple[Check, str] | None:
        """The same for check endpoints only."""

    def find_beginner(self, target: str) -> Beginner | None:
        """The same for those that begin requests without a task. Its route is ``forward``."""


class Boundary:
    """Handles one request of the public listener."""

    def __init__(
        self, routes: Routes, refusals: Refusals, metrics: Metrics, limits: Limits, *, log_access: bool
    ) -> None:
        self._routes = routes
        self._refusals = refusals
        self._requests = metrics.http_requests
        self._durations = metrics.http_request_duration
        self._counted: dict[tuple[str, int], tuple[Tally, TimeTally]] = {}
        self._max_in_flight = limits.max_in_flight
        self._log_access = log_access
        self.in_flight = 0
        self._idle: asyncio.Event | None = None
        metrics.http_in_flight.set_function(lambda: self.in_flight)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, whatever happens on the way. Only a cancelled or cut connection gets none."""
        started = perf_counter()
        route = "none"
        connection = connection_of(request)
        begun = connection.begun
        if begun is None:
            connection.request_id = ""
            self.in_flight += 1
        try:
            check_framing(request, request.raw_path)
            if begun is None and self.in_flight > self._max_in_flight:
                raise Unavailable(Cause.OVERLOAD, retry_after=1)
            route, handler, rest = self._routes.find(request.raw_path)
            answer = await handler(request, rest)
        except Failed as failure:
            answer = self._refusals.refuse(request, failure, route=route)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the net under our own faults; nobody may pass because of one
            answer = self._fault(request, error, route)
        finally:
            if connection.begun is None:
                self._leave()
            else:  # nobody took it
                connection.begun.abandon()
        if isinstance(answer, Answer):
            answer.identify(request_id(request))
        if connection.ends and not answer.prepared:
            answer.force_close()
        count, duration = self._counted.get((route, answer.status)) or self._learn(route, answer.status)
        count.inc()
        duration.observe(perf_counter() - started)
        if self._log_access:
            self._log_answer(request, route, answer.status, perf_counter() - started)
        return answer

    def refuse_unparsed(self, failure: Failed) -> Answer:
        """The answer to what the HTTP parser refused before it was a request."""
        answer = self._refusals.refuse_unparsed(failure)
        self._requests.child("public", "none", str(answer.status)).inc()
        return answer

    async def idle(self) -> None:
        """Return once no request is being answered."""
        while self.in_flight:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def answer_at_once(self, message: RawRequestMessage, connection: Connection) -> bytes | None:
        """The whole answer to a check whose credential is known and stands; None: it takes the usual way.

        Most requests of a check endpoint end here, before aiohttp makes a request object and a task for them. Nothing
        but a 200 is decided here, by the same parts as there; whatever is unusual is left to :meth:`__call__`.
        """
        if message.should_close or message.version != HttpVersion11 or connection.ends or self._log_access:
            return None
        started = perf_counter()
        found = self._routes.find_check(message.path)
        if found is None:
            self._begin(message, connection)
            return None
        try:
            check_framing(message, message.path)
            block = found[0].at_once(message, found[1], trusted=connection.trusted)
        except Failed:
            return None
        except Exception:  # noqa: BLE001 - a fault of ours is found, answered and logged on the usual way
            return None
        if block is None:
            return None
        identifier = request_id_line(id_for(message, trusted=connection.trusted))
        answer = b"".join((status_line(200), block, identifier, b"Content-Length: 0\r\n", date_line(), b"\r\n"))
        count, duration = self._counted.get(("check", 200)) or self._learn("check", 200)
        count.inc()
        duration.observe(perf_counter() - started)
        return answer

    def _begin(self, message: RawRequestMessage, connection: Connection) -> None:
        """Begin what :attr:`Connection.begun` then names, if it can be begun without a task."""
        beginner = self._routes.find_beginner(message.path)
        if beginner is None or self.in_flight >= self._max_in_flight:
            return
        connection.request_id = ""
        begun = Begun(message, connection, self._ended)
        try:
            check_framing(message, message.path)
            begun.work = beginner.begin(begun)
        except Failed:
            return
        except Exception:  # noqa: BLE001 - a fault of ours is found, answered and logged on the usual way
            return
        if begun.work is not None:
            connection.begun = begun
            self.in_flight += 1

    def _ended(self, begun: Begun, status: int | None) -> None:
        self._leave()
        if status is not None:
            count, duration = self._counted.get(("forward", status)) or self._learn("forward", status)
            count.inc()
            duration.observe(perf_counter() - begun.started)

    def _leave(self) -> None:
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()

    def _learn(self, route: str, status: int) -> tuple[Tally, TimeTally]:
        children = self._requests.child("public", route, str(status)), self._durations.child(route)
        self._counted[route, status] = children
        return children

    def _fault(self, request: web.BaseRequest, error: Exception, route: str) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; it can only be cut off") from error
        seen = {"error": type(error).__name__, "places": places(error), "route": route}
        _log.error("fault while answering", extra={"requestId": request_id(request), **seen})
        return self._refusals.refuse(request, Unavailable(Cause.INTERNAL, type(error).__name__), route=route)

    @staticmethod
    def _log_answer(request: web.BaseRequest, route: str, status: int, seconds: float) -> None:
        _access_log.info(
            "answered",
            extra={
                "requestId": request_id(request),
                "method": request.method[:16],
                "path": request.raw_path.partition("?")[0][:512],
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 3),
            },
        )
