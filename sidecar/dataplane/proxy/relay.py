"""Forwards requests without a body, and without a task, whose response arrives in one piece.

Most requests are of this kind. All others are finished in the task of their connection: requests with a body, responses
in pieces or late, failures.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH, UPGRADE

from sidecar.access.decide import Allow, Verdict
from sidecar.concurrency import drop
from sidecar.dataplane.proxy.heads import BODILESS, RequestHeads, ResponseHeads, framed_body
from sidecar.dataplane.proxy.pool import UpstreamConnection, UpstreamPool
from sidecar.errors import UpstreamFailed
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from sidecar.web.in_flight import HandlerAnswer, InFlightRequest

SLOW_RESPONSE_DELAY = 0.5
"""Time for a response, in seconds, after which a task with a timer waits for it."""

ExchangeFunction = Callable[[web.BaseRequest, "PendingExchange"], Awaitable[web.StreamResponse]]


class PendingExchange:
    """The work of forwarding a request: a :class:`sidecar.web.in_flight.Work`.

    ``verdict`` on ``view`` allows the request, or has to be awaited. ``head`` was sent on ``connection``; None: nothing
    was sent.
    """

    __slots__ = ("_exchanges", "_in_flight", "connection", "head", "verdict", "view")

    def __init__(self, exchanges: "ExchangeTable", verdict: Allow | Awaitable[Verdict], view: RequestContext) -> None:
        self._exchanges = exchanges
        self.verdict = verdict
        self.view = view
        self.head = b""
        self.connection: UpstreamConnection | None = None

    def start(self, in_flight: InFlightRequest) -> bool:
        """Send the request, if it has no body and a connection is idle. Raises Refused."""
        verdict = self.verdict
        if not isinstance(verdict, Allow):
            return False
        self._in_flight = in_flight
        return self._exchanges.send(self, verdict, in_flight)

    async def run(self, request: web.BaseRequest) -> HandlerAnswer:
        """Forward the request, or wait for the response if it was sent."""
        return await self._exchanges.finish(request, self)

    def promote_to_task(self) -> None:
        """Let aiohttp's protocol read the response."""
        if self.connection is not None:
            self._exchanges.remove(self, self.connection)
            self.connection.expect_response(is_head=False)

    def cancel(self) -> None:
        """Close the connection: what may still arrive must not become the response to another request."""
        if self.connection is not None:
            self._exchanges.abandon(self, self.connection)
        elif not isinstance(self.verdict, Allow):
            drop(self.verdict)

    @property
    def started(self) -> float:
        """When the request arrived, by perf_counter."""
        return self._in_flight.started

    def receive(self, data: bytes) -> None:
        """Forward the response if ``data`` is all of it; otherwise let the task read it."""
        connection = self.connection
        assert connection is not None  # noqa: S101 - it calls this
        try:
            forwarded = self._exchanges.forward_response(self, connection, self._in_flight, data)
        except Exception:  # noqa: BLE001 - the task finds the error too, and answers and logs it
            forwarded = False
        if not forwarded:
            self._in_flight.promote_to_task()
            if connection.is_connected():
                connection.data_received(data)

    def connection_lost(self) -> None:
        """Let the task find out what is left of the connection."""
        self._in_flight.promote_to_task()

    def on_slow_response(self) -> None:
        """Let the task wait for the response."""
        self._in_flight.promote_to_task()


class ExchangeTable:
    """The exchanges without a task. ``finish`` does in a task what is left of one."""

    def __init__(
        self,
        pool: UpstreamPool,
        request_heads: RequestHeads,
        response_heads: ResponseHeads,
        metrics: Metrics,
        finish: ExchangeFunction,
    ) -> None:
        self.finish = finish
        self._pool = pool
        self._request_heads = request_heads
        self._response_heads = response_heads
        self._answers = metrics.upstream_requests
        self._duration = metrics.upstream_duration.child()
        self._pending: set[PendingExchange] = set()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, exchange: PendingExchange, verdict: Allow, in_flight: InFlightRequest) -> bool:
        """Send the request of ``exchange``. False: it needs a task, and nothing was sent. Raises Refused."""
        message, client = in_flight.message, in_flight.connection
        headers = message.headers
        if message.method == "HEAD" or CONTENT_LENGTH in headers or UPGRADE in headers:
            return False
        connection = self._pool.take_idle()
        if connection is None:
            return False
        try:
            framing = b"" if client.span is None else client.span.forward(message.method)
            exchange.head = head = self._request_heads.make(
                message,
                message.path,
                client,
                verdict.accepted,
                framing,
                withholds_credentials=verdict.withholds_credentials,
            )
            connection.send(head)
            connection.reader = exchange
        except ConnectionResetError:
            return False
        finally:
            if connection.reader is None:
                self._pool.return_unused(connection)
        exchange.connection = connection
        self._pending.add(exchange)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SLOW_RESPONSE_DELAY, self._promote_slow)
        return True

    def forward_response(
        self, exchange: PendingExchange, connection: UpstreamConnection, in_flight: InFlightRequest, data: bytes
    ) -> bool:
        """Forward ``data`` if it is one complete final response. False: it is not, and nothing was done."""
        response = connection.whole_response(data) if in_flight.may_respond else None
        if response is None:
            return False
        message, body = response
        client = in_flight.connection
        try:
            head = self._response_heads.make(message, in_flight.message, client, may_stay=True)
        except UpstreamFailed:
            return False
        if not head.keep_alive or not 200 <= message.code <= 599:
            return False
        self._duration.observe(perf_counter() - in_flight.started)
        self._answers.child(str(message.code)).inc()
        if client.span is not None:
            client.span.answered(message.code)
        data = head.data + framed_body(body, chunked=head.chunked) if head.has_body else head.data
        self.remove(exchange, connection)
        in_flight.respond(message.code, data)
        # last: after an error the task reads from this connection, which no other request may have then
        if message.code in BODILESS:
            # a body where none belongs, however late, would be read as the response to the next request
            connection.terminate()
        self._pool.release(connection)
        return True

    def remove(self, exchange: PendingExchange, connection: UpstreamConnection) -> None:
        """Stop passing what arrives on ``connection`` to ``exchange``."""
        connection.reader = None
        self._pending.discard(exchange)

    def abandon(self, exchange: PendingExchange, connection: UpstreamConnection) -> None:
        """Close the connection of ``exchange``."""
        self.remove(exchange, connection)
        connection.terminate()
        self._pool.release(connection)

    def _promote_slow(self) -> None:
        """Promote the exchanges that have waited for too long; look again later if there are others."""
        self._timer = None
        latest = perf_counter() - SLOW_RESPONSE_DELAY
        for exchange in [exchange for exchange in self._pending if exchange.started <= latest]:
            exchange.on_slow_response()
        if self._pending:
            self._timer = asyncio.get_running_loop().call_later(SLOW_RESPONSE_DELAY, self._promote_slow)
