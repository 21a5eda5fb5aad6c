"""Forward mode: authenticate, then stream the request to the service behind and its answer back."""

import asyncio
from dataclasses import dataclass
from functools import lru_cache, partial
from time import perf_counter
from typing import Protocol

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

from sidecar.access.decide import Decider, Deny
from sidecar.authn.base import Accepted
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.dataplane.proxy.exchange import Exchange, RequestBody, ResponseHead
from sidecar.dataplane.proxy.hop_headers import AnswerHeaders, RequestHeaders
from sidecar.dataplane.proxy.pool import UpstreamConnection, UpstreamPool
from sidecar.dataplane.proxy.tunnel import tunnel
from sidecar.dataplane.proxy.watch import StreamWatch
from sidecar.errors import Cause, Reason, Refused, UpstreamFailed
from sidecar.metrics import Metrics
from sidecar.web.answer import Sent, close_soon, connection_line, reset, status_line
from sidecar.web.respond import Refusals
from sidecar.web.server import Connection
from sidecar.web.view import connection_of, own_view, request_id

_BODILESS = frozenset({204, 304})
_NO_ORIGIN: list[str] = []
_LAST_CHUNK = b"0\r\n\r\n"
# What the parser counts with ends at 20 digits.
_MAX_LENGTH_DIGITS = 18


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Bounds of forwarding: times in seconds, size in bytes (None: unbounded)."""

    response_timeout: float
    body_timeout: float
    max_body_bytes: int | None


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
        refusals: Refusals,
        metrics: Metrics,
        limits: ForwardLimits,
        public_scheme: str,
        websocket_origins: tuple[str, ...] | None,
        watch: StreamWatch,
        spans: ForwardSpans | None = None,
    ) -> None:
        """``websocket_origins``: whose pages may open WebSockets; None: everybody's."""
        self._decider = decider
        self._identity_headers = identity_headers
        self._request_headers = request_headers
        self._answer_headers = AnswerHeaders()
        self._pool = pool
        self._refusals = refusals
        self._answers = metrics.upstream_requests
        self._duration = metrics.upstream_duration.child()
        self._tunnels = metrics.websockets_open
        self._limits = limits
        self._origins = websocket_origins
        self._watch = watch
        self._spans = spans
        self._scheme = public_scheme.encode("ascii")

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """Judge, then forward. Raises Refused and UpstreamFailed while the answer has not begun."""
        verdict = await self._decider.decide(own_view(request))
        if isinstance(verdict, Deny):
            return self._refusals.refuse(request, verdict, route="forward")
        body = self._body(request)
        upgrade = "Upgrade" in request.headers and _wants_websocket(request)
        if upgrade:
            self._check_origin(request)
        head = self._head(request, verdict.accepted, body, upgrade=upgrade)
        connection = await self._pool.acquire()
        try:
            return await self._exchange(request, connection, head, body, verdict.accepted, upgrade=upgrade)
        except BaseException as failure:
            # Whatever was left unread on it must not become the answer to somebody else's request.
            connection.cut()
            if isinstance(failure, UpstreamFailed):
                self._answers.child(str(failure.status)).inc()
            raise
        finally:
            self._pool.release(connection)

    async def _exchange(
        self,
        request: web.BaseRequest,
        connection: UpstreamConnection,
        head: bytes,
        body: RequestBody | None,
        accepted: Accepted | None,
        *,
        upgrade: bool,
    ) -> web.StreamResponse:
        started = perf_counter()
        exchange = Exchange(connection, response_timeout=self._limits.response_timeout)
        is_head = request.method == "HEAD"
        try:
            if body is None or body.is_buffered:
                answer = await exchange.run(head, body, is_head=is_head)
            else:
                with self._watch.watching(accepted, partial(reset, request), ends_with_token=False):
                    answer = await exchange.run(head, body, is_head=is_head)
            self._duration.observe(perf_counter() - started)
            code = answer.message.code
            if self._spans is not None:
                self._spans.answered(code)
            if code == 101:
                sent = await self._switch(request, connection, answer, accepted, upgrade=upgrade)
            elif 200 <= code <= 599:
                sent = await self._relay(request, answer, accepted)
            else:
                raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "status")
        finally:
            await exchange.finish()
        self._answers.child(str(code)).inc()
        # A body that a service sends, however late, where none belongs would be read as the next caller's answer.
        if is_head or code in _BODILESS or not answer.request_sent:
            connection.cut()
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
        if length is not None and len(length) > _MAX_LENGTH_DIGITS:
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

    def _head(
        self, request: web.BaseRequest, accepted: Accepted | None, body: RequestBody | None, *, upgrade: bool
    ) -> bytes:
        client = connection_of(request)
        may_impersonate = self._identity_headers.may_pass_impersonation("x-impersonate-user", accepted)
        lines = [f"{request.method} {request.raw_path} HTTP/1.1\r\n".encode("ascii")]
        lines += self._request_headers.select(
            request.raw_headers, trusted=client.trusted, may_impersonate=may_impersonate
        )
        if "Host" not in request.headers:
            lines.append(b"Host: %b\r\n" % self._pool.endpoint.authority)
        lines += self._forwarding_lines(request, client)
        lines.append(self._identity_headers.forward_block(accepted))
        if body is None:
            if "Content-Length" in request.headers:
                lines.append(b"Content-Length: 0\r\n")
        elif body.length is None:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            lines.append(b"Content-Length: %d\r\n" % body.length)
        if upgrade:
            lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        if self._spans is not None:
            lines.append(self._spans.forward(request.method))
        lines.append(b"\r\n")
        return b"".join(lines)

    def _forwarding_lines(self, request: web.BaseRequest, client: Connection) -> list[bytes]:
        headers = request.headers
        peer = client.peer
        host = headers.get("Host", "")
        if not client.trusted:
            text = f"X-Forwarded-For: {peer}\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Proto: "
            return [text.encode("ascii"), self._scheme, b"\r\n", b"X-Request-Id: ", _id_of(request), b"\r\n"]
        chain = ", ".join([*headers.getall("X-Forwarded-For", []), peer])
        lines = [b"X-Forwarded-For: ", chain.encode("latin-1", "replace"), b"\r\nX-Request-Id: ", _id_of(request)]
        if "X-Forwarded-Host" not in headers:
            lines.append(f"\r\nX-Forwarded-Host: {host}".encode("ascii"))
        if "X-Forwarded-Proto" not in headers:
            lines += [b"\r\nX-Forwarded-Proto: ", self._scheme]
        lines.append(b"\r\n")
        return lines

    async def _relay(
        self, request: web.BaseRequest, answer: ResponseHead, accepted: Accepted | None
    ) -> web.StreamResponse:
        message, payload = answer.message, answer.payload
        length = message.headers.get("Content-Length")
        if length is not None and len(length) > _MAX_LENGTH_DIGITS:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "answer length")
        lines = [self._answer_head(request, message)]
        has_body = request.method != "HEAD" and message.code not in _BODILESS
        chunked = has_body and length is None and request.version == HttpVersion11
        framed = chunked or not has_body or length is not None
        keep_alive = request.keep_alive and answer.request_sent and framed and not connection_of(request).ends
        if chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif length is not None and message.code != 204:
            lines.append(b"Content-Length: %b\r\n" % length.encode("ascii"))
        lines.append(connection_line(request, keep_alive))
        lines.append(b"\r\n")
        head = b"".join(lines)
        if not has_body:
            await request.writer.write(head)
        elif payload.is_eof() and payload.exception() is None:
            rest = payload.read_nowait()
            await request.writer.write(head + (_chunk(rest) + _LAST_CHUNK if chunked else rest))
        else:
            is_events = message.headers.get("Content-Type", "").lower().startswith("text/event-stream")
            # Events end properly; half of anything else must not look like the whole.
            end = partial(close_soon, request.transport) if is_events else partial(reset, request)
            with self._watch.watching(accepted, end, ends_with_token=is_events):
                await self._stream(request, head, payload, chunked=chunked)
        return Sent(message.code, keep_alive=keep_alive)

    async def _stream(self, request: web.BaseRequest, head: bytes, payload: StreamReader, *, chunked: bool) -> None:
        """Write the answer as it comes. A body that breaks off is never ended normally: the connection is reset."""
        try:
            await self._write(request, head)
            while chunk := await payload.readany():
                await self._write(request, _chunk(chunk) if chunked else chunk)
        except (ClientError, HttpProcessingError, TimeoutError) as error:
            reset(request)
            raise ConnectionError("the answer broke off") from error
        if chunked:
            await request.writer.write(_LAST_CHUNK)

    async def _write(self, request: web.BaseRequest, data: bytes) -> None:
        """Write to a caller that may be slow, but not stand still: raises TimeoutError."""
        writer: StreamWriter = request.writer  # type: ignore[assignment] # the server makes no other
        await writer.write(data, drain=False)
        if writer.protocol.writing_paused:
            async with asyncio.timeout(self._limits.body_timeout):
                await writer.drain()

    def _answer_head(self, request: web.BaseRequest, message: RawResponseMessage) -> bytes:
        """Status line and header lines, without framing."""
        line = _own_status_line(message.code, message.reason) if message.reason else status_line(message.code)
        try:
            block = self._answer_headers.select(message.raw_headers)
        except ValueError as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "answer headers") from error
        return b"%b%bX-Request-Id: %b\r\n" % (line, block, _id_of(request))

    async def _switch(
        self,
        request: web.BaseRequest,
        connection: UpstreamConnection,
        answer: ResponseHead,
        accepted: Accepted | None,
        *,
        upgrade: bool,
    ) -> web.StreamResponse:
        if not upgrade or answer.message.headers.get("Upgrade", "").lower() != "websocket":
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "unasked upgrade")
        head = self._answer_head(request, answer.message)
        await request.writer.write(head + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        client, over = connection_of(request), asyncio.Event()
        self._tunnels.inc()
        try:
            with self._watch.watching(accepted, over.set, ends_with_token=True):
                await tunnel(client, connection, client.server.leaving, over)
        finally:
            self._tunnels.dec()
        return Sent(101, keep_alive=False)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


@lru_cache(maxsize=128)
def _own_status_line(code: int, reason: str) -> bytes:
    text = "".join(c for c in reason if c == "\t" or " " <= c <= "~")
    return f"HTTP/1.1 {code:03d} {text}\r\n".encode("ascii")


def _id_of(request: web.BaseRequest) -> bytes:
    return request_id(request).encode("ascii")


def _wants_websocket(request: web.BaseRequest) -> bool:
    """Whether a request to upgrade is one that is passed on; any other is answered as if it had not asked."""
    headers = request.headers
    if headers["Upgrade"].lower() != "websocket":
        # The parser may have dropped what came behind it.
        connection_of(request).ends = True
        return False
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and not request.body_exists
        and "upgrade" in headers.get("Connection", "").lower()
    )
