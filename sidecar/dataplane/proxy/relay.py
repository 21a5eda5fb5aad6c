"""Forwarding without a task: for what is asked without a body, is let in at once and is answered in one piece.

Most requests are. For whatever turns out to be more, an answer that comes in pieces or late, a fault, a caller that
leaves, aiohttp's way takes over where this one stands.
"""

import asyncio
from time import perf_counter

from aiohttp.hdrs import CONTENT_LENGTH, EXPECT, UPGRADE

from sidecar.access.decide import Decider
from sidecar.authn.base import Accepted
from sidecar.dataplane.proxy.heads import BODILESS, RequestHeads, ResponseHeads, framed_body
from sidecar.dataplane.proxy.pool import UpstreamConnection, UpstreamPool
from sidecar.errors import UpstreamFailed
from sidecar.metrics import Metrics
from sidecar.web.in_flight import InFlightRequest
from sidecar.web.request import context_from_request

SLOW_RESPONSE_DELAY = 0.5
"""How long an answer may take, in seconds, before somebody waits for it who has a timer of his own."""


class PendingExchange:
    """One request of ``accepted`` whose ``head`` was sent on ``connection``; ``pool`` is where that belongs."""

    __slots__ = ("_begun", "_relays", "accepted", "connection", "head", "pool")

    def __init__(
        self,
        relays: "ExchangeTable",
        begun: InFlightRequest,
        head: bytes,
        accepted: Accepted,
        connection: UpstreamConnection,
        pool: UpstreamPool,
    ) -> None:
        self._relays = relays
        self._begun = begun
        self.head = head
        self.accepted = accepted
        self.connection = connection
        self.pool = pool

    @property
    def started(self) -> float:
        """When it was sent, by perf_counter."""
        return self._begun.started

    def receive(self, data: bytes) -> None:
        """Pass the answer on, or let the usual way read it."""
        try:
            passed = self._relays.forward_response(self, self._begun, data)
        except Exception:  # noqa: BLE001 - a fault of ours is found, answered and logged on the usual way
            passed = False
        if not passed:
            self._begun.promote_to_task()
            if self.connection.is_connected():
                self.connection.data_received(data)

    def connection_lost(self) -> None:
        """Let the usual way find out what is left of the connection."""
        self._begun.promote_to_task()

    def on_slow_response(self) -> None:
        """Let the usual way wait for it."""
        self._begun.promote_to_task()

    def promote_to_task(self) -> None:
        """Leave :attr:`connection` to who goes on: its answer is still to be read."""
        self._relays.remove(self)
        self.connection.expect_response(is_head=False)

    def cancel(self) -> None:
        """Whatever may still come must not become the answer to somebody else's request."""
        self._relays.remove(self)
        self.connection.terminate()
        self.pool.release(self.connection)


class ExchangeTable:
    """Begins relays and ends them."""

    def __init__(
        self,
        decider: Decider,
        pool: UpstreamPool,
        request_heads: RequestHeads,
        answer_heads: ResponseHeads,
        metrics: Metrics,
    ) -> None:
        self._decider = decider
        self._pool = pool
        self._request_heads = request_heads
        self._answer_heads = answer_heads
        self._answers = metrics.upstream_requests
        self._duration = metrics.upstream_duration.child()
        self._under_way: set[PendingExchange] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, begun: InFlightRequest) -> PendingExchange | None:
        """Send the request on; None: nothing was sent. Raises Refused for what must not be read (400)."""
        message, client = begun.message, begun.connection
        headers = message.headers
        if message.method == "HEAD" or CONTENT_LENGTH in headers or EXPECT in headers or UPGRADE in headers:
            return None
        connection = self._pool.take_idle()
        if connection is None:
            return None
        try:
            view = context_from_request(message, message.path, client)
            view.takes_cookie = True
            accepted = self._decider.accepted_at_once(view)
            if accepted is None:
                return None
            head = self._request_heads.make(message, message.path, client, accepted, b"")
            relay = PendingExchange(self, begun, head, accepted, connection, self._pool)
            connection.send(head)
            connection.reader = relay
        finally:
            if connection.reader is None:
                self._pool.return_unused(connection)
        self._under_way.add(relay)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SLOW_RESPONSE_DELAY, self._promote_slow)
        return relay

    def forward_response(self, relay: PendingExchange, begun: InFlightRequest, data: bytes) -> bool:
        """Pass on ``data`` if it is a whole and plain answer. False: it is not, nothing was done."""
        connection = relay.connection
        answer = connection.whole_response(data) if begun.is_plain else None
        if answer is None:
            return False
        message, body = answer
        try:
            head = self._answer_heads.make(message, begun.message, begun.connection, may_stay=True)
        except UpstreamFailed:
            return False
        if not head.keep_alive or not 200 <= message.code <= 599:
            return False
        self.remove(relay)
        if message.code in BODILESS:
            # A body that a service sends, however late, where none belongs would be read as the next caller's answer.
            connection.terminate()
        relay.pool.release(connection)
        self._duration.observe(perf_counter() - begun.started)
        self._answers.child(str(message.code)).inc()
        octets = head.data + framed_body(body, chunked=head.chunked) if head.has_body else head.data
        begun.respond(message.code, octets)
        return True

    def remove(self, relay: PendingExchange) -> None:
        """``relay`` hears of nothing any more."""
        relay.connection.reader = None
        self._under_way.discard(relay)

    def _promote_slow(self) -> None:
        """Have those waited for that have waited long; look again later while there are others."""
        self._timer = None
        latest = perf_counter() - SLOW_RESPONSE_DELAY
        for relay in [relay for relay in self._under_way if relay.started <= latest]:
            relay.on_slow_response()
        if self._under_way:
            self._timer = asyncio.get_running_loop().call_later(SLOW_RESPONSE_DELAY, self._promote_slow)
