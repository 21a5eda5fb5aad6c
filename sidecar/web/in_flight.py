"""Requests whose answer is not known yet: the work that is left, and who does it.

A handler gets the head of a request and returns the answer, or a :class:`Work`. Work goes on without a task if it can
(:meth:`Work.start`), otherwise in the task of the connection (:meth:`Work.run`).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from sidecar.concurrency import drop
from sidecar.web.request import RequestHead
from sidecar.web.response import Response
from sidecar.web.server import Connection

HandlerAnswer = bytes | web.StreamResponse
"""An answer. Bytes are the header block of a 200 without a body."""


class Work(Protocol):
    """What is left to do for a request after its head was handled."""

    def start(self, in_flight: "InFlightRequest") -> bool:
        """Begin without a task, and end with :meth:`InFlightRequest.respond`. False: nothing was begun."""

    async def run(self, request: web.BaseRequest) -> HandlerAnswer:
        """Do what is left, in the task of the connection."""

    def promote_to_task(self) -> None:
        """Stop, and leave the rest to :meth:`run`."""

    def cancel(self) -> None:
        """Stop, and release everything. The client is gone, or the connection is about to end."""


Handler = Callable[[RequestHead, str, Connection], bytes | Response | Work]
"""Handles a head. The text is the part of its target that the route table passes to the handler."""
TaskFunction = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class InFlightRequest:
    """A request on ``connection`` whose ``work`` goes on, with the configuration that it began with (an
    :class:`sidecar.web.dispatcher.ActiveConfig`).

    It ends with :meth:`respond` or :meth:`cancel`, or a task goes on with it after :meth:`promote_to_task`. ``started``
    is a perf_counter. ``ended`` is called with the status of the answer, None if there was none; not after a promotion.
    """

    __slots__ = ("_ended", "_promoted", "active_config", "connection", "message", "route", "started", "work")

    def __init__(
        self,
        message: RawRequestMessage,
        connection: Connection,
        active_config: Any,
        route: str,
        work: Work,
        started: float,
        ended: Callable[["InFlightRequest", int | None], None],
    ) -> None:
        self.active_config = active_config
        self.message = message
        self.connection = connection
        self.route = route
        self.started = started
        self.work = work
        self._ended = ended
        self._promoted = False

    @property
    def may_respond(self) -> bool:
        """Whether an answer may be written, and another request may follow it."""
        connection = self.connection
        return not (connection.is_last or connection.is_closing or connection.writing_paused)

    def respond(self, status: int, data: bytes) -> None:
        """Write the whole answer."""
        self.connection.write_response(data)
        self.connection.in_flight = None
        self._ended(self, status)

    def promote_to_task(self) -> None:
        """Let the task of the connection go on: aiohttp makes a request of the message and calls the server's handler.

        That takes the work with :meth:`Connection.take_in_flight`.
        """
        if self._promoted:
            return
        self._promoted = True
        self.work.promote_to_task()
        if not self.connection.requeue(self.message):
            self.cancel()

    def cancel(self) -> None:
        """End it without an answer."""
        self.connection.in_flight = None
        self.work.cancel()
        self._ended(self, None)


class _InTask:
    """Work that only a task can do."""

    __slots__ = ()

    def start(self, _in_flight: InFlightRequest) -> bool:
        """False: it needs a task."""
        return False

    def promote_to_task(self) -> None:
        """Nothing has begun."""

    def cancel(self) -> None:
        """Nothing is held."""


class PreparedResponse(_InTask):
    """A response that aiohttp has to write, because it ends the connection."""

    __slots__ = ("_response",)

    def __init__(self, response: Response) -> None:
        self._response = response

    async def run(self, request: web.BaseRequest) -> HandlerAnswer:
        """The response."""
        return self._response


class AwaitedAnswer(_InTask):
    """An answer that has to be awaited."""

    __slots__ = ("_awaitable",)

    def __init__(self, awaitable: Awaitable[HandlerAnswer]) -> None:
        self._awaitable = awaitable

    async def run(self, request: web.BaseRequest) -> HandlerAnswer:
        """Await it."""
        return await self._awaitable

    def cancel(self) -> None:
        """Drop it."""
        drop(self._awaitable)


class TaskHandler:
    """A :data:`Handler` for a function that needs the whole request, such as its body.

    ``methods`` are those of the function, for ``Allow``.
    """

    def __init__(self, function: TaskFunction) -> None:
        self._function = function
        self.methods: tuple[str, ...] = getattr(function, "methods", ())

    def __call__(self, asked: RequestHead, rest: str, connection: Connection) -> Work:
        """Work that calls the function."""
        return _FunctionCall(self._function, rest)


class _FunctionCall(_InTask):
    __slots__ = ("_function", "_rest")

    def __init__(self, function: TaskFunction, rest: str) -> None:
        self._function = function
        self._rest = rest

    async def run(self, request: web.BaseRequest) -> HandlerAnswer:
        return await self._function(request, self._rest)
