"""Connections to the upstream, kept open between requests.

Parser, flow control and errors are those of aiohttp's client protocol. What its session adds (cookies, redirects, a
pool for many hosts, URLs) is useless with one upstream and costs more than the rest of the proxy.
"""

import asyncio
import select
import ssl
from collections import deque
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any, Protocol
from urllib.parse import urlsplit

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpParser, HttpResponseParser, RawResponseMessage

from sidecar.errors import Cause, Reason, UpstreamFailed, system_text
from sidecar.tls import client_context

_CONNECT_ERRORS = (OSError, ssl.SSLError, ssl.CertificateError)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of the upstream: a host and port, or the path of a unix socket.

    ``base_path`` is put in front of the target of every request.
    """

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    base_path: str = ""

    @property
    def authority(self) -> bytes:
        """For ``Host`` when the caller sent none."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode("ascii") if self.host else b"localhost"


def endpoint_of(url: str, ca_file: str = "") -> Endpoint:
    """Read ``upstream.url``. Raises ValueError for another form than http, https or unix, or with a query."""
    if url.startswith("unix:/"):
        return Endpoint("", 0, url.removeprefix("unix:"), None)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be http://host:port/path, https://host:port/path or unix:/path")
    tls = client_context(ca_file) if parts.scheme == "https" else None
    return Endpoint(parts.hostname, parts.port or (443 if tls else 80), "", tls, parts.path.rstrip("/"))


MAX_HEAD_BYTES = 64 * 1024
READ_BUFFER = 256 * 1024


class ResponseListener(Protocol):
    """Reads a response without a task."""

    def receive(self, data: bytes) -> None:
        """Data has arrived."""

    def connection_lost(self) -> None:
        """The connection has ended."""


class _NullFlowControl:
    """In place of the connection where a parser asks for one: nothing needs to be held back of what is there whole."""

    _reading_paused = False

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing."""


class UpstreamConnection(ResponseHandler):
    """A connection to the upstream. ``reader`` gets the data that arrives; None: aiohttp's protocol does.

    ``idle_since`` is a moment of :func:`time.monotonic`, 0 before the first exchange on it is over. ``heard``: bytes
    have come on it since the last :meth:`send`.
    """

    reader: ResponseListener | None = None
    idle_since = 0.0
    heard = False
    _whole: HttpResponseParser | None = None

    def data_received(self, data: bytes) -> None:
        """To the reader, else to aiohttp's parser."""
        self.heard = True
        if self.reader is None:
            super().data_received(data)
        else:
            self.reader.receive(data)

    def expect_response(self, *, is_head: bool) -> None:
        """Let aiohttp's protocol read the answer to what is sent next; ``is_head``: it has no body (RFC 9110 9.3.2)."""
        self.set_response_params(
            skip_payload=is_head,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
        )

    def whole_response(self, data: bytes) -> tuple[RawResponseMessage, bytes] | None:
        """Head and body, where ``data`` is one whole answer to another request than HEAD; None: it is anything else.

        Nothing of ``data`` is kept: what is not whole is read again by :meth:`data_received`. Whatever this takes for
        an answer, that would, for it is the same parser.
        """
        parser, self._whole = self._whole, None
        if parser is None:
            parser = HttpResponseParser(
                _NullFlowControl(),  # type: ignore[arg-type] # asked for these methods only
                self._loop,
                READ_BUFFER,
                payload_exception=ClientPayloadError,
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=MAX_HEAD_BYTES,
                max_field_size=MAX_HEAD_BYTES,
            )
        try:
            messages, upgraded, _ = parser.feed_data(data)
        except HttpProcessingError:
            return None
        if len(messages) != 1 or upgraded:
            return None
        message, payload = messages[0]
        if not payload.is_eof() or payload.exception() is not None:
            return None
        if message.should_close or not _is_between_responses(parser):
            self.force_close()
        else:
            self._whole = parser  # it can read the next one
        return message, payload.read_nowait()

    def send(self, data: bytes) -> None:
        """Send without waiting. Raises ConnectionResetError when nothing can be sent."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("closed before the request was sent")
        self.heard = False
        transport.write(data)

    @property
    def left_unanswered(self) -> bool:
        """Whether it was used before, and nothing came on it for the last request. To be asked once it has ended."""
        return self.idle_since > 0 and not self.heard

    _arrivals: "select.poll | None" = None

    @property
    def is_clean(self) -> bool:
        """Whether it is open and no unexpected data or end has arrived, also if the event loop has not read it yet.

        A request that is sent after the upstream has closed the connection is lost.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or self.should_close:
            return False
        if self._arrivals is None:
            self._arrivals = select.poll()
            self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._arrivals.poll(0)

    def terminate(self) -> None:
        """Close it immediately. A reader of an incomplete body gets an exception."""
        self._break_off()
        super().abort()

    def make_idle(self) -> bool:
        """Expect nothing from now on: data that arrives without a request makes it unclean.

        False: data has arrived after the response. It must not be read as another response.
        """
        parser, self._parser = self._parser, None
        return parser is None or _is_between_responses(parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        """A reset breaks a body off, also one that only the end of the connection ends (RFC 9112 section 8)."""
        if self.reader is not None:
            self.reader.connection_lost()
        payload = self._payload
        if exc is not None:
            self._break_off()
        super().connection_lost(exc)
        # The parser forgets a body in which it found a fault, without telling its reader.
        self._payload = payload
        self._break_off()
        self._payload = None

    def _break_off(self) -> None:
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(ClientPayloadError("the connection ended early"))


def _is_between_responses(parser: HttpParser[Any]) -> bool:
    """Whether nothing but a whole answer was read; the beginning of another would become part of the next caller's."""
    try:
        return parser.feed_eof() is None
    except Exception:  # noqa: BLE001 - whatever it makes of half a head
        return False


class UpstreamPool:
    """Provides connections, the most recently used first. Times are in seconds."""

    def __init__(self, endpoint: Endpoint, *, connect_timeout: float, keepalive_timeout: float) -> None:
        self.endpoint = endpoint
        self._connect_timeout = connect_timeout
        self._keepalive_timeout = keepalive_timeout
        self._closed = False
        self._idle: deque[UpstreamConnection] = deque()

    def take_idle(self) -> UpstreamConnection | None:
        """An idle connection that is open and clean; None: there is none."""
        now = monotonic()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._keepalive_timeout and connection.is_clean:
                return connection
            connection.close()
        return None

    def return_unused(self, connection: UpstreamConnection) -> None:
        """Return a connection of :meth:`take_idle` that was not used: it stays idle."""
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """Give back a connection whose exchange is over; one that is not clean is closed."""
        now = monotonic()
        if self._closed or connection.should_close or not connection.is_connected() or not connection.make_idle():
            connection.close()
        else:
            connection.idle_since = now
            self._idle.append(connection)
        while self._idle and now - self._idle[0].idle_since >= self._keepalive_timeout:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def connect(self, within: float = inf) -> UpstreamConnection:
        """A new connection, ready after at most ``within`` seconds. Raises UpstreamFailed (502, 504)."""
        loop = asyncio.get_running_loop()
        endpoint = self.endpoint
        try:
            async with asyncio.timeout(min(self._connect_timeout, within)):
                if endpoint.path:
                    _, connection = await loop.create_unix_connection(lambda: UpstreamConnection(loop), endpoint.path)
                else:
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(loop), endpoint.host, endpoint.port, ssl=endpoint.tls
                    )
        except TimeoutError as error:
            raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, Cause.DEADLINE, "connect") from error
        except _CONNECT_ERRORS as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.NONE, system_text(error)) from error
        return connection
