"""Forward mode: decide, then forward the request to the upstream and its response to the client."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from sidecar.access.decide import Allow, Decider, Deny
from sidecar.authn.base import Accepted
from sidecar.concurrency import settled
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
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import AwaitedAnswer, Work
from sidecar.web.request import RequestHead, connection_of, context_from_request, own_context, target_of
from sidecar.web.response import AlreadySent, Response, close_soon, is_whole, reset
from sidecar.web.server import Connection

_NO_ORIGIN: list[str] = []
_REPEATABLE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Limits: times in seconds, size in bytes (None: no limit)."""

    response_timeout: float
    body_timeout: float
    max_body_bytes: int | None


@dataclass(slots=True)  # not frozen: made for every request
class _Sending:
    """A request of ``accepted`` that is forwarded since ``started`` (perf_counter) on a connection of ``pool``."""

    request: web.BaseRequest
    head: bytes
    body: RequestBody | None
    accepted: Accepted | None
    pool: UpstreamPool
    upgrade: bool
    started: float


class Forwarder:
    """Handles all requests for the upstream."""

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
        login: LoginChallenge | None = None,
        cookies: OwnCookies | None = None,
        protects_pages: bool = False,
    ) -> None:
        """``public_url``: see :class:`RequestHeads`.

        ``websocket_origins``: the origins whose pages may open WebSockets; None: all.
        """
        self._decider = decider
        self._request_heads = RequestHeads(
            request_headers,
            identity_headers,
            authority=pool.endpoint.authority,
            public_url=public_url,
            base_path=pool.endpoint.base_path,
        )
        self._answer_heads = ResponseHeads(cookies, protects_pages=protects_pages)
        self._login = login
        self._pool = pool
        self._exchanges = ExchangeTable(pool, self._request_heads, self._answer_heads, metrics, self._finish)
        self._refusals = refusals
        self._answers = metrics.upstream_requests
        self._repeats = metrics.upstream_repeats
        self._duration = metrics.upstream_duration.child()
        self._tunnels = metrics.websockets_open
        self._limits = limits
        self._origins = websocket_origins
        self._watch = watch

    def __call__(self, asked: RequestHead, rest: str, client: Connection) -> Response | Work:
        """Decide. Returns the refusal, or the work of forwarding the request once the verdict allows it."""
        view = context_from_request(asked, target_of(asked), client)
        view.takes_cookie = True
        verdict = self._decider.decide(view)
        if isinstance(verdict, Allow):
            client.admit(identified=self._decider.is_authenticated(verdict.accepted))
        elif isinstance(verdict, Deny):
            refusal = self._refuse(asked, client, view, verdict)
            return refusal if isinstance(refusal, Response) else AwaitedAnswer(refusal)
        return PendingExchange(self._exchanges, verdict, view)

    def _refuse(
        self, asked: RequestHead, client: Connection, view: RequestContext, verdict: Deny
    ) -> Response | Awaitable[Response]:
        login = None if self._login is None else self._login.answer(asked, client, view, verdict)
        return self._refusals.refuse(asked, client, verdict, route="forward") if login is None else login

    async def _finish(self, request: web.BaseRequest, exchange: PendingExchange) -> web.StreamResponse:
        """Forward ``request``, or go on with it. Raises Refused and UpstreamFailed before the response has begun."""
        client = connection_of(request)
        verdict = exchange.verdict
        if exchange.connection is not None:
            assert isinstance(verdict, Allow)  # noqa: S101 - otherwise nothing was sent
            sending = _Sending(
                request, exchange.head, None, verdict.accepted, self._pool, upgrade=False, started=exchange.started
            )
            return await self._send(sending, exchange.connection, self._resume(sending, exchange.connection))
        if not isinstance(verdict, Allow):
            decided = await verdict
            if isinstance(decided, Deny):
                return await settled(self._refuse(request, client, exchange.view, decided))
            client.admit(identified=self._decider.is_authenticated(decided.accepted))
            verdict = decided
        body = self._body(request)
        upgrade = "Upgrade" in request.headers and _wants_websocket(request)
        if upgrade:
            self._check_origin(request)
        framing = _framing(request, body, upgrade=upgrade)
        if client.span is not None:
            framing += client.span.forward(request.method)
        head = self._request_heads.make(
            request,
            request.raw_path,
            client,
            verdict.accepted,
            framing,
            withholds_credentials=verdict.withholds_credentials,
            keeps_basic=verdict.keeps_basic,
        )
        connection = self._pool.take_idle()
        if connection is None:
            connection = await self._connect(request, verdict.accepted)
        sending = _Sending(request, head, body, verdict.accepted, self._pool, upgrade, perf_counter())
        return await self._send(sending, connection, self._exchange(sending, connection))

    async def _connect(
        self, request: web.BaseRequest, accepted: Accepted | None, within: float = inf
    ) -> UpstreamConnection:
        """A new connection, ready after at most ``within`` seconds.

        Raises UpstreamFailed, or Refused if the credential was revoked meanwhile.
        """
        connection = await self._pool.connect(within)
        failure = None if accepted is None else self._decider.failure_now(own_context(request), accepted)
        if failure is not None:
            connection.close()
            raise failure
        return connection

    async def _send(
        self, sending: _Sending, connection: UpstreamConnection, exchanging: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """The result of ``exchanging`` on ``connection``, or of one repetition on a new connection."""
        request = sending.request
        try:
            try:
                return await self._keeping(sending.pool, connection, exchanging)
            except UpstreamFailed as failure:
                if not self._may_repeat(sending, connection, failure):
                    raise
            self._repeats.inc()
            fresh = await self._connect(request, sending.accepted, within=self._time_left(sending))
            return await self._keeping(sending.pool, fresh, self._exchange(sending, fresh))
        except UpstreamFailed as failure:
            self._answers.child(str(failure.status)).inc()
            raise

    def _may_repeat(self, sending: _Sending, connection: UpstreamConnection, failure: UpstreamFailed) -> bool:
        """Whether to repeat a request without a response on ``connection`` (RFC 9110 section 9.2.2).

        An upstream may close an idle connection while a request is on its way. It may have handled the request: on
        public paths a GET can be a login that works once. And the credential may have been revoked since.
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
        """The result of ``exchanging``; afterwards ``connection`` is in ``pool`` again, or closed."""
        try:
            return await exchanging
        except BaseException:
            # unread data must not become the response to another request
            connection.terminate()
            raise
        finally:
            pool.release(connection)

    async def _resume(self, sending: _Sending, connection: UpstreamConnection) -> web.StreamResponse:
        """Go on with an exchange whose request was sent."""
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
        # a body where none belongs, however late, would be read as the response to the next request
        if is_head or answer.message.code in BODILESS or not answer.request_sent:
            connection.terminate()
        return sent

    async def _answer(
        self, sending: _Sending, connection: UpstreamConnection, answer: UpstreamResponse
    ) -> web.StreamResponse:
        self._duration.observe(perf_counter() - sending.started)
        code = answer.message.code
        span = connection_of(sending.request).span
        if span is not None:
            span.answered(code)
        if code == 101:
            sent = await self._switch(sending, connection, answer)
        elif 200 <= code <= 599:
            sent = await self._relay(sending.request, answer, sending.accepted)
        else:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "status")
        self._answers.child(str(code)).inc()
        return sent

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Reject WebSockets of other origins: a browser would add its cookies to them (RFC 6455 section 10.2)."""
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
            # events end normally; part of anything else must not look complete
            end = partial(close_soon, request.transport) if is_events else partial(reset, request)
            with self._watch.watching(accepted, end, ends_with_token=is_events):
                # events may pause, and so may an upstream that waits for the rest of the request
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
        """Write the response as it arrives. If its body is incomplete, the connection is reset.

        So it is if nothing arrives for ``pause`` seconds; None: no limit.
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
        """Write. Raises TimeoutError if the client stops reading."""
        writer: StreamWriter = request.writer  # type: ignore[assignment] # the server creates no other
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
    """The header lines for framing and connection."""
    if body is None:
        length = b"Content-Length: 0\r\n" if "Content-Length" in request.headers else b""
    elif body.length is None:
        length = b"Transfer-Encoding: chunked\r\n"
    else:
        length = b"Content-Length: %d\r\n" % body.length
    return length + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if upgrade else length


def _wants_websocket(request: web.BaseRequest) -> bool:
    """Whether a request with ``Upgrade`` is a WebSocket handshake; otherwise ``Upgrade`` is ignored."""
    headers = request.headers
    if headers["Upgrade"].lower() != "websocket":
        # the parser may have dropped the bytes after it
        connection_of(request).is_last = True
        return False
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and not request.body_exists
        and "upgrade" in headers.get("Connection", "").lower()
    )
