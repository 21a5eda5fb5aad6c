"""Forward mode: authenticate, then stream the request to the service behind and its answer back."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from sidecar.access.decide import Decider, Deny
from sidecar.authn.base import Accepted
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.dataplane.login import LoginChallenge
from sidecar.dataplane.proxy.exchange import Exchange, RequestBody, UpstreamResponse
from sidecar.dataplane.proxy.heads import (
    BODILESS,
    LAST_CHUNK,
    MAX_LENGTH_DIGITS,
    RequestHeads,
    ResponseHeads,
    framed_body,
    framed_piece,
)
from sidecar.dataplane.proxy.hop_headers import RequestHeaders
from sidecar.dataplane.proxy.pool import UpstreamConnection, UpstreamPool
from sidecar.dataplane.proxy.relay import ExchangeTable, PendingExchange
from sidecar.dataplane.proxy.stream_watch import StreamWatch
from sidecar.dataplane.proxy.tunnel import tunnel
from sidecar.errors import Cause, Reason, Refused, UpstreamFailed
from sidecar.identity.cookies import OwnCookies
from sidecar.metrics import Metrics
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import InFlightRequest, StreamedWork
from sidecar.web.request import connection_of, own_context
from sidecar.web.response import AlreadySent, close_soon, is_whole, reset

_NO_ORIGIN: list[str] = []
_REPEATABLE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Bounds of forwarding: times in seconds, size in bytes (None: unbounded)."""

    response_timeout: float
    body_timeout: float
    max_body_bytes: int | None


@dataclass(slots=True)  # not frozen: made for every request
class _Sending:
    """A request of ``accepted``, on its way since ``started`` (perf_counter). ``pool`` has connections for it."""

    request: web.BaseRequest
    head: bytes
    body: RequestBody | None
    accepted: Accepted | None
    pool: UpstreamPool
    upgrade: bool
    started: float


class ForwardSpans(Protocol):
    """Tells others about the request that is being forwarded."""

    def forward(self, method: str) -> bytes:
        """It is about to be; header lines that go with it."""

    def answered(self, status: int) -> None:
        """The service behind has answered it."""


class Forwarder:
    """Handles every request that is not the sidecar's own."""

    def __init__(
        self,
        *,
        decider: Decider,
        identity_headers: IdentityHeaders,
        request_headers: RequestHeaders,
        pool: UpstreamPool,
        refusals: ErrorResponses,
        metrics: Metrics,
        limits: ForwardLimits,
        public_url: str,
        websocket_origins: tuple[str, ...] | None,
        watch: StreamWatch,
        spans: ForwardSpans | None = None,
        login: LoginChallenge | None = None,
        cookies: OwnCookies | None = None,
    ) -> None:
        """``public_url``: see :class:`RequestHeads`.

        ``websocket_origins``: whose pages may open WebSockets; None: everybody's.
        """
        self._decider = decider
        self._request_heads = RequestHeads(
            request_headers,
            identity_headers,
            authority=pool.endpoint.authority,
            public_url=public_url,
            base_path=pool.endpoint.base_path,
        )
        self._answer_heads = ResponseHeads(cookies)
        self._login = login
        self._pool = pool
        self._relays = ExchangeTable(decider, pool, self._request_heads, self._answer_heads, metrics)
        self._refusals = refusals
        self._answers = metrics.upstream_requests
        self._repeats = metrics.upstream_repeats
        self._duration = metrics.upstream_duration.child()
        self._tunnels = metrics.websockets_open
        self._limits = limits
        self._origins = websocket_origins
        self._watch = watch
        self._spans = spans

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """Judge, then forward. Raises Refused and UpstreamFailed while the answer has not begun."""
        client = connection_of(request)
        begun = None if client.in_flight is None else client.in_flight.detach()
        if isinstance(begun, PendingExchange):
            sending = _Sending(
                request, begun.head, None, begun.accepted, begun.pool, upgrade=False, started=begun.started
            )
            return await self._send(sending, begun.connection, self._resume(sending, begun.connection))
        view = own_context(request)
        view.takes_cookie = True
        verdict = await self._decider.decide(view)
        if isinstance(verdict, Deny):
            answer = None if self._login is None else await self._login.answer(request, view, verdict)
            if answer is not None:
                return answer
            return self._refusals.refuse(request, verdict, route="forward")
        client.admit(identified=self._decider.is_authenticated(verdict.accepted))
        body = self._body(request)
        upgrade = "Upgrade" in request.headers and _wants_websocket(request)
        if upgrade:
            self._check_origin(request)
        framing = _framing(request, body, upgrade=upgrade)
        if self._spans is not None:
            framing += self._spans.forward(request.method)
        head = self._request_heads.make(
            request,
            request.raw_path,
            client,
            verdict.accepted,
            framing,
            withholds_credentials=verdict.withholds_credentials,
        )
        connection = await self._pool.acquire()
        sending = _Sending(request, head, body, verdict.accepted, self._pool, upgrade, perf_counter())
        return await self._send(sending, connection, self._exchange(sending, connection))

    def start(self, begun: InFlightRequest) -> StreamedWork | None:
        """Forward without a task; None: it has to be done by a call. Raises as a call does."""
        return self._relays.start(begun)

    async def _send(
        self, sending: _Sending, connection: UpstreamConnection, exchanging: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """The outcome of ``exchanging``, which sends on ``connection``; or that of sending once more, on a new one."""
        try:
            try:
                return await self._keeping(sending.pool, connection, exchanging)
            except UpstreamFailed as failure:
                if not self._may_repeat(sending, connection, failure):
                    raise
            self._repeats.inc()
            fresh = await sending.pool.connect(within=self._time_left(sending))
            return await self._keeping(sending.pool, fresh, self._exchange(sending, fresh))
        except UpstreamFailed as failure:
            self._answers.child(str(failure.status)).inc()
            raise

    def _may_repeat(self, sending: _Sending, connection: UpstreamConnection, failure: UpstreamFailed) -> bool:
        """Whether a request may be sent once more, whose answer ``connection`` owes (RFC 9110 section 9.2.2).

        An upstream closes idle connections when it likes, often just as a request is on its way. It may have acted on
        the request all the same: on public paths a GET can be a login that works once. And the caller may have lost
        his rights since.
        """
        request = sending.request
        return (
            request.method in _REPEATABLE
            and sending.body is None
            and not sending.upgrade
            and failure.reason is Reason.UPSTREAM_UNREACHABLE
            and connection.left_unanswered
            and self._time_left(sending) > 0
            and self._decider.may_repeat(own_context(request), sending.accepted)
        )

    def _time_left(self, sending: _Sending) -> float:
        return self._limits.response_timeout - (perf_counter() - sending.started)

    async def _keeping(
        self, pool: UpstreamPool, connection: UpstreamConnection, exchanging: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """The outcome of ``exchanging``, after which ``connection`` is back in ``pool``, or cut."""
        try:
            return await exchanging
        except BaseException:
            # Whatever was left unread on it must not become the answer to somebody else's request.
            connection.terminate()
            raise
        finally:
            pool.release(connection)

    async def _resume(self, sending: _Sending, connection: UpstreamConnection) -> web.StreamResponse:
        """Answer what was begun without a task."""
        exchange = Exchange(connection, response_timeout=max(0.0, self._time_left(sending)))
        answer = await exchange.resume()
        sent = await self._answer(sending, connection, answer)
        if answer.message.code in BODILESS:
            connection.terminate()
        return sent

    async def _exchange(self, sending: _Sending, connection: UpstreamConnection) -> web.StreamResponse:
        request, head, body = sending.request, sending.head, sending.body
        exchange = Exchange(connection, response_timeout=self._time_left(sending))
        is_head = request.method == "HEAD"
        try:
            if body is None or body.is_buffered:
                answer = await exchange.run(head, body, is_head=is_head)
            else:
                with self._watch.watching(sending.accepted, partial(reset, request), ends_with_token=False):
                    answer = await exchange.run(head, body, is_head=is_head)
            sent = await self._answer(sending, connection, answer)
        finally:
            await exchange.finish()
        # A body that a service sends, however late, where none belongs would be read as the next caller's answer.
        if is_head or answer.message.code in BODILESS or not answer.request_sent:
            connection.terminate()
        return sent

    async def _answer(
        self, sending: _Sending, connection: UpstreamConnection, answer: UpstreamResponse
    ) -> web.StreamResponse:
        self._duration.observe(perf_counter() - sending.started)
        code = answer.message.code
        if self._spans is not None:
            self._spans.answered(code)
        if code == 101:
            sent = await self._switch(sending, connection, answer)
        elif 200 <= code <= 599:
            sent = await self._relay(sending.request, answer, sending.accepted)
        else:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "status")
        self._answers.child(str(code)).inc()
        return sent

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Keep pages of others from opening WebSockets with what a browser sends by itself (RFC 6455 10.2)."""
        if self._origins is None:
            return
        given = request.headers.getall("Origin", _NO_ORIGIN)
        if given and (len(given) > 1 or given[0] not in self._origins):
            raise Refused(Reason.FORBIDDEN, Cause.RULE, "origin", message="Forbidden: this requires another origin")

    def _body(self, request: web.BaseRequest) -> RequestBody | None:
        length = request.headers.get("Content-Length")
        if length is not None and len(length) > MAX_LENGTH_DIGITS:
            raise Refused(Reason.TOO_LARGE, ends_connection=True)
        if not request.body_exists:
            return None
        limit = self._limits.max_body_bytes
        if length is not None and limit is not None and int(length) > limit:
            raise Refused(Reason.TOO_LARGE, ends_connection=True)
        return RequestBody(
            request,
            None if length is None else int(length),
            self._limits.body_timeout,
            limit,
            awaits_continue="Expect" in request.headers and request.version == HttpVersion11,
        )

    async def _relay(
        self, request: web.BaseRequest, answer: UpstreamResponse, accepted: Accepted | None
    ) -> web.StreamResponse:
        message, payload = answer.message, answer.payload
        may_stay = request.keep_alive and answer.request_sent and is_whole(request)
        head = self._answer_heads.make(message, request, connection_of(request), may_stay=may_stay)
        if not head.has_body:
            await request.writer.write(head.data)
        elif payload.is_eof() and payload.exception() is None:
            await request.writer.write(head.data + framed_body(payload.read_nowait(), chunked=head.chunked))
        else:
            is_events = message.headers.get("Content-Type", "").lower().startswith("text/event-stream")
            # Events end properly; half of anything else must not look like the whole.
            end = partial(close_soon, request.transport) if is_events else partial(reset, request)
            with self._watch.watching(accepted, end, ends_with_token=is_events):
                # Events come when they do, and a service may still be waiting for the rest of the request.
                pause = None if is_events or not answer.request_sent else self._limits.response_timeout
                await self._stream(request, head.data, payload, chunked=head.chunked, pause=pause)
        return AlreadySent(message.code, keep_alive=head.keep_alive)

    async def _stream(
        self,
        request: web.BaseRequest,
        head: bytes,
        payload: StreamReader,
        *,
        chunked: bool,
        pause: float | None,
    ) -> None:
        """Write the answer as it comes. A body that breaks off is never ended normally: the connection is reset.

        So does one of which nothing comes for ``pause`` seconds; None: it may stay silent.
        """
        try:
            await self._write(request, head)
            while chunk := await _next_piece(payload, pause):
                await self._write(request, framed_piece(chunk, chunked=chunked))
        except (ClientError, HttpProcessingError, TimeoutError) as error:
            reset(request)
            raise ConnectionError("the answer broke off") from error
        if chunked:
            await request.writer.write(LAST_CHUNK)

    async def _write(self, request: web.BaseRequest, data: bytes) -> None:
        """Write to a caller that may be slow, but not stand still: raises TimeoutError."""
        writer: StreamWriter = request.writer  # type: ignore[assignment] # the server makes no other
        await writer.write(data, drain=False)
        if writer.protocol.writing_paused:
            async with asyncio.timeout(self._limits.body_timeout):
                await writer.drain()

    async def _switch(
        self, sending: _Sending, connection: UpstreamConnection, answer: UpstreamResponse
    ) -> web.StreamResponse:
        request = sending.request
        if not sending.upgrade or answer.message.headers.get("Upgrade", "").lower() != "websocket":
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "unasked upgrade")
        head = self._answer_heads.unframed(answer.message, request, connection_of(request))
        await request.writer.write(head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        client, over = connection_of(request), asyncio.Event()
        self._tunnels.inc()
        try:
            with self._watch.watching(sending.accepted, over.set, ends_with_token=True):
                await tunnel(client, connection, client.server.shutting_down, over)
        finally:
            self._tunnels.dec()
        return AlreadySent(101, keep_alive=False)


async def _next_piece(payload: StreamReader, pause: float | None) -> bytes:
    async with asyncio.timeout(pause):
        return await payload.readany()


def _framing(request: web.BaseRequest, body: RequestBody | None, *, upgrade: bool) -> bytes:
    """The lines that frame a request and say what becomes of the connection."""
    if body is None:
        length = b"Content-Length: 0\r\n" if "Content-Length" in request.headers else b""
    elif body.length is None:
        length = b"Transfer-Encoding: chunked\r\n"
    else:
        length = b"Content-Length: %d\r\n" % body.length
    return length + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if upgrade else length


def _wants_websocket(request: web.BaseRequest) -> bool:
    """Whether a request to upgrade is one that is passed on; any other is answered as if it had not asked."""
    headers = request.headers
    if headers["Upgrade"].lower() != "websocket":
        # The parser may have dropped what came behind it.
        connection_of(request).is_last = True
        return False
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and not request.body_exists
        and "upgrade" in headers.get("Connection", "").lower()
    )
