"""Connections of both listeners: aiohttp's low-level server with safe defaults.

aiohttp itself answers what its parser rejects, and quotes the bytes of the request in answer and log. Here such
requests get the same JSON as every other refusal, and no part of them is logged.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from sidecar.budget import Budget
from sidecar.config.settings import Limits
from sidecar.errors import Cause, Failed, Reason, Refused
from sidecar.identity.actor import Actor
from sidecar.identity.client_certificate import thumbprint
from sidecar.identity.request import RequestContext
from sidecar.web.response import Response

_log = logging.getLogger("sidecar.http")

ParseFailure = Callable[[Failed], Response]
_HEAD_END = b"\r\n\r\n"
# As many requests as aiohttp takes before it stops reading, and their bodies.
_MAX_PIECES = 64
MAX_HEAD_LINES = 4
"""How many of its longest lines a whole head may be long."""

HeadFunction = Callable[[RawRequestMessage, "Connection"], bytes | None]


class AnonymousBudget(Protocol):
    """The part of a configuration that limits requests without a credential."""

    @property
    def anonymous(self) -> Budget:
        """Limits requests that may pass without a credential."""


class InFlight(Protocol):
    """A request in progress; see :class:`sidecar.web.in_flight.InFlightRequest`."""

    active_config: Any
    route: str
    started: float
    work: Any

    def promote_to_task(self) -> None:
        """Let the task of the connection go on with it."""

    def cancel(self) -> None:
        """End it without an answer."""


class RequestSpan(Protocol):
    """The trace span of a request."""

    def observe(self, step: str, value: object) -> None:
        """See :class:`sidecar.identity.request.Observer`."""

    def forward(self, method: str) -> bytes:
        """The request is forwarded: start the client span. Returns header lines for the upstream."""

    def answered(self, status: int) -> None:
        """The upstream has answered."""

    def end(self, status: int | None, error: str = "") -> None:
        """The request has ended; without a status because of ``error``."""


class TrustedPeers:
    """The peers whose forwarding headers are used (``server.trustedProxies``)."""

    def __init__(self, networks: Iterable[str]) -> None:
        texts = tuple(networks)
        self._unix = "unix" in texts
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in texts if text != "unix")

    def trusts(self, peername: object) -> bool:
        """Whether the peer at a socket's ``peername`` is one of them."""
        if not isinstance(peername, tuple):
            # None: the peer has closed the connection already, but what it sent can still be read.
            return self._unix and peername is not None
        try:
            address = ipaddress.ip_address(str(peername[0]).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network or address in network for network in self._networks)


class Connection(web.RequestHandler):
    """One client connection. ``peer``: its address, or ``unix``.

    ``active_config`` is the configuration for its current request, and ``trusted`` whether the peer is one of its
    trusted proxies.

    ``request_id`` and ``span`` belong to the current request; the id is empty until it is needed. ``original`` is the
    request that a check is about, and ``caller`` who was accepted. ``body`` is a body
    that is read in pieces: reading it fails if its framing is broken. ``is_last``: no request after this one.
    ``in_flight`` is a request in progress that no task has taken. ``is_known``: a request on the connection had a valid
    credential. ``certificate`` is the ``x5t#S256`` of the certificate from the handshake, or empty.
    """

    __slots__ = (
        "_given_up", "_handle_head", "_head_size", "_head_timer", "_heads", "_last_body", "_lingers", "_longest_head",
        "_parse_failure", "_peername", "_place", "active_config", "body", "caller", "certificate", "in_flight",
        "is_known", "is_last", "is_tls", "original", "peer", "request_id", "server", "span", "trusted",
    )  # fmt: skip

    def __init__(self, server: "HttpServer", **options: Any) -> None:
        super().__init__(server, **options)
        self._parse_failure = server.parse_failure
        self._handle_head = server.handle_head
        self.server = server
        self.is_last = server.draining
        self.active_config: AnonymousBudget | None = None
        self.trusted = False
        self.is_known = False
        self._lingers = False
        self._place: Budget | None = None
        self.peer = "unix"
        self.certificate = ""
        self.is_tls = False
        self._peername: object = None
        self.request_id = ""
        self.body: StreamReader | None = None
        self.in_flight: InFlight | None = None
        self.span: RequestSpan | None = None
        self.original: RequestContext | None = None
        self.caller: Actor | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_size = 0
        self._longest_head = MAX_HEAD_LINES * self.max_line_size
        self._given_up = False
        self._heads = 0
        self._last_body: StreamReader = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read the peer's address and certificate; over the limit, close one connection."""
        server = self.server
        self._peername = peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.peer = str(peername[0])
        handshake = transport.get_extra_info("ssl_object")
        if handshake is not None:
            self.is_tls = True
            presented = handshake.getpeercert(binary_form=True)
            self.certificate = thumbprint(sha256(presented).digest()) if presented else ""
        super().connection_made(transport)
        server.make_room(self)

    def mark_authenticated(self) -> None:
        """A request on this connection had a valid credential: it is not closed to make room for others."""
        if not self.is_known:
            self.is_known = True
            self.server.strangers.pop(self, None)

    def admit(self, *, identified: bool) -> None:
        """The request may pass. Without a credential it takes a slot of ``anonymous`` until :meth:`leave`.

        Raises Unavailable if no slot is free.
        """
        if identified:
            if not self.is_known:
                self.mark_authenticated()
        elif self.active_config is not None:
            self.active_config.anonymous.take()
            self._place = self.active_config.anonymous

    def leave(self) -> None:
        """The request has ended: release its slot."""
        place, self._place = self._place, None
        if place is not None:
            place.give_back()

    @property
    def is_idle(self) -> bool:
        """Whether no request is in flight, so that it may be closed."""
        waiter = self._waiter
        return self._lingers or (waiter is not None and not waiter.done() and self.in_flight is None)

    def end_sending(self) -> None:
        """After the last answer to an incomplete request: close one direction (RFC 9112 section 9.6).

        aiohttp reads and drops what the client still sends for some seconds: a reset, which unread bytes would cause,
        could destroy the answer.
        """
        self._lingers = True
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def bind_config(self, serving: "AnonymousBudget", peers: TrustedPeers) -> None:
        """Use the configuration ``serving``, whose trusted proxies are ``peers``, from the next request on."""
        self.active_config = serving
        self.trusted = peers.trusts(self._peername)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel what is in progress for this client."""
        self._head_ends()
        self.server.strangers.pop(self, None)
        if self.in_flight is not None:
            self.in_flight.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the only request on an idle connection, without a body, to ``handle_head``.

        aiohttp makes requests of all others, which costs a request object and two more iterations of the event loop.
        """
        if self.in_flight is not None:
            self.in_flight.promote_to_task()  # answers are written in the order of their requests
        waiter, parser = self._waiter, self._parser
        if waiter is None or parser is None or self._messages or waiter.done() or self._is_occupied():
            # an earlier request is in progress, or the first bytes arrived before aiohttp waits for them
            if self._ends_inside_head(data):
                self._head_goes_on(len(data))
            else:
                self._head_ends()
            return
        parsed = messages, upgraded, _ = _parse(parser, data)
        if not messages:
            self._head_goes_on(len(data))
            return
        is_short = self._head_timer is None and len(data) <= self._longest_head
        if not is_short:
            self._head_ends()
        if (
            len(messages) == 1
            and not upgraded
            and messages[0][1] is EMPTY_PAYLOAD
            and not isinstance(messages[0][0], _ErrInfo)
            and (is_short or not self._is_too_long(messages[0][0]))
        ):
            answer = self._handle_head(messages[0][0], self)
            if answer:
                self.write_response(answer)
                return
            if answer is not None:  # in progress
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                return
        self._replay(parsed, data)

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        transport = self.transport
        return self._close or self._force_close or transport is None or transport.is_closing()

    def write_response(self, answer: bytes) -> None:
        """Write the whole answer to the one request that the parser returned."""
        if self._parser is not None and self.transport is not None:
            self._parser.message_consumed()
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self.transport.write(answer)

    def requeue(self, message: RawRequestMessage) -> bool:
        """Let aiohttp make a request of ``message``. False: the connection is about to end."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self.is_closing:
            return False
        self._request_count += 1
        self._messages.append((message, EMPTY_PAYLOAD))
        waiter.set_result(None)
        return True

    def take_in_flight(self) -> InFlight | None:
        """The request in progress, which the caller goes on with."""
        begun, self.in_flight = self.in_flight, None
        return begun

    def _process_keepalive(self) -> None:
        """Without a task, aiohttp would treat the connection as idle."""
        if self.in_flight is not None:
            self.in_flight.promote_to_task()
        super()._process_keepalive()

    def _ends_inside_head(self, data: bytes) -> bool:
        """Pass ``data`` to aiohttp. Returns whether it ends inside the head of a request."""
        heads = self._heads
        # aiohttp passes no data when it goes on reading after a pause
        inside = self._last_body.is_eof() and (bool(data) or self._head_timer is not None)
        self._take(data)
        if heads != self._heads:
            # after a body that ends in the same piece nothing of the next head is counted
            inside = self._last_body is EMPTY_PAYLOAD and not data.endswith(_HEAD_END)
        return inside and not (self._given_up or self._upgraded or self._close or self._force_close)

    def _head_goes_on(self, received: int) -> None:
        """The head is incomplete after ``received`` more bytes: limit its time and its size.

        The parser limits lines and their number only.
        """
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self.server.limits.header_timeout, self._head_is_late)
            self._head_size = 0
        self._head_size += received
        if self._head_size > self._longest_head:
            self._head_ends()
            self._refuse_head(431, _HeadTooLarge())

    def _head_ends(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self._refuse_head(408, _HeadTooLate())

    def _refuse_head(self, status: int, why: Exception) -> None:
        """Answer as if the parser had rejected it, after the requests before it. Nothing more is parsed."""
        if self._force_close or self._close or self._given_up:
            return
        if self.in_flight is not None:
            self.in_flight.promote_to_task()
        self._given_up = True
        self._messages.append((_ErrInfo(status=status, exc=why, message=""), EMPTY_PAYLOAD))
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _is_occupied(self) -> bool:
        return (
            self._upgraded
            or self._payload_parser is not None
            or self._buffer_paused
            or self._close
            or self._force_close
            or self._paused  # aiohttp's, behind its property writing_paused
        )

    def _take(self, data: bytes) -> None:
        """Pass ``data`` to aiohttp."""
        if self._given_up:
            return
        parser = self._parser
        if parser is None or self._upgraded or self._payload_parser is not None or self._close or self._force_close:
            web.RequestHandler.data_received(self, data)
        else:
            self._replay(_parse(parser, data), data)

    def _replay(self, parsed: "_Outcome", data: bytes) -> None:
        """Pass ``data`` to aiohttp together with the result of the parser.

        aiohttp forgets the body that it was reading if the parser fails; its reader gets an exception. Nothing after
        that can be parsed, and aiohttp would store an error for each piece.
        """
        parser = self._parser
        if parsed[0]:
            self._heads += 1
            self._last_body = parsed[0][-1][1]
        known = len(self._messages)
        self._parser = _Parsed(parsed)  # type: ignore[assignment] # asked for feed_data only while this call lasts
        try:
            web.RequestHandler.data_received(self, data)
        finally:
            self._parser = parser
        self._refuse_long_heads(known)
        self._given_up = bool(self._messages) and isinstance(self._messages[-1][0], _ErrInfo)
        body = self.body
        # a message after a body that has not ended can only be an error of the parser
        if body is not None and self._messages and not body.is_eof():
            body.set_exception(web.RequestPayloadError("broken framing"))
            self.body = None

    def _refuse_long_heads(self, known: int) -> None:
        """Replace the first too long head after the ``known`` ones, and all after it, by an error."""
        messages = self._messages
        for position in range(known, len(messages)):
            if self._is_too_long(messages[position][0]):
                while len(messages) > position:
                    messages.pop()
                messages.append((_ErrInfo(status=431, exc=_HeadTooLarge(), message=""), EMPTY_PAYLOAD))
                return

    def _is_too_long(self, message: RawRequestMessage | _ErrInfo) -> bool:
        if isinstance(message, _ErrInfo):
            return False
        return sum([len(name) + len(value) for name, value in message.raw_headers]) > self._longest_head

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log the type of an error outside the handler: its text may contain parts of the request."""
        error = type(kw.get("exc_info")).__name__
        _log.error("unhandled error on a connection", extra={"event": "connection_error", "error": error})

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the HTTP parser rejected. Neither answer nor log contain parts of the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; it can only be cut off")
        failure = _parser_failure(exc, self.max_line_size)
        return self._parse_failure(failure)


class _HeadTooLate(Exception):
    """The head of a request did not arrive in time."""


class _HeadTooLarge(Exception):
    """The head of a request is too large."""


_Message = tuple[RawRequestMessage | _ErrInfo, StreamReader]
_Outcome = tuple[Sequence[_Message], bool, bytes]


class _Parsed:
    """Replaces the parser; returns a result that exists already."""

    def __init__(self, outcome: _Outcome) -> None:
        self._outcome = outcome

    def feed_data(self, data: bytes) -> _Outcome:
        """The result."""
        return self._outcome


def _parse(parser: Any, data: bytes) -> _Outcome:
    """The result of ``parser`` for ``data``: messages, of which the last may be an error; upgraded; the rest.

    When the parser finds an error in a piece, it drops the messages of that piece. So each head is passed as a piece of
    its own, and requests before a malformed one are answered.
    """
    end = data.find(_HEAD_END) + len(_HEAD_END)
    if not len(_HEAD_END) <= end < len(data):  # most data is one head and no more
        try:
            outcome: _Outcome = parser.feed_data(data)
        except HttpProcessingError as error:
            return [_parser_error(error)], False, b""
        return outcome
    found: list[_Message] = []
    taken = 0
    for piece in _pieces(data):
        try:
            messages, upgraded, tail = parser.feed_data(piece)
        except HttpProcessingError as error:
            found.append(_parser_error(error))
            break
        taken += len(piece)
        found += messages
        if upgraded:
            return found, True, tail + data[taken:]
    return found, False, b""


def _parser_error(error: HttpProcessingError) -> _Message:
    return _ErrInfo(status=400, exc=error, message=""), EMPTY_PAYLOAD


def _pieces(data: bytes) -> Iterator[bytes]:
    """``data`` split after the end of each head, or what looks like one in a body, at most ``_MAX_PIECES`` times."""
    start = 0
    for _ in range(_MAX_PIECES):
        end = data.find(_HEAD_END, start) + len(_HEAD_END)
        if end < len(_HEAD_END) or end == len(data):
            break
        yield data[start:end]
        start = end
    yield data[start:]


def _parser_failure(exc: BaseException | None, max_line: int) -> Failed:
    kind = type(exc).__name__
    if isinstance(exc, _HeadTooLate):
        message = "The request did not arrive in time"
        return Refused(Reason.REQUEST_INVALID, Cause.DEADLINE, kind, status=408, message=message)
    if isinstance(exc, _HeadTooLarge):
        return Refused(Reason.TOO_LARGE, detail=kind, status=431, message="The request headers are too large")
    if isinstance(exc, LineTooLong):
        if exc.args[1:2] == (max_line,):
            return Refused(Reason.TOO_LARGE, detail=kind, status=414, message="The request line is too long")
        return Refused(Reason.TOO_LARGE, detail=kind, status=431, message="The request headers are too large")
    if "too many headers" in str(getattr(exc, "message", "")).lower():
        return Refused(Reason.TOO_LARGE, detail=kind, status=431, message="The request has too many headers")
    return Refused(Reason.REQUEST_INVALID, Cause.NONE, detail=kind)


class HttpServer(web.Server):
    """Creates a :class:`Connection` for every client. Wrong options fail at start, not with the first client.

    ``handle_head`` gets the head of a request without a body on an idle connection: it returns the whole answer, empty
    bytes if the request is in progress, or None if ``handler`` has to be called. ``handler_cancellation``: the handler
    is cancelled when the client disconnects. ``shutting_down`` is set when WebSockets should end.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        limits: Limits,
        parse_failure: ParseFailure,
        handle_head: HeadFunction = lambda _message, _connection: None,
        handler_cancellation: bool = True,
    ) -> None:
        super().__init__(handler, handler_cancellation=handler_cancellation)
        self.parse_failure = parse_failure
        self.handle_head = handle_head
        self.draining = False
        self.shutting_down = asyncio.Event()
        self.limits = limits
        self.strangers: dict[Connection, None] = {}
        """Connections without a request with a valid credential, the oldest first."""
        self._options = _options(limits)
        self()

    def change_limits(self, limits: Limits) -> None:
        """Apply ``limits`` to new connections. If they changed, open connections end with their next answer."""
        if limits != self.limits:
            self.limits = limits
            self._options = _options(limits)
            self._end_after_answers()

    def make_room(self, newcomer: Connection) -> None:
        """Add ``newcomer``. Over the limit, close the oldest connection that is idle and not known, else ``newcomer``.

        Otherwise silent connections could keep all callers out.
        """
        self.strangers[newcomer] = None
        if len(self.connections) <= self.limits.max_connections:
            return
        cut = next((connection for connection in self.strangers if connection.is_idle), newcomer)
        del self.strangers[cut]
        cut.force_close()

    @property
    def is_full(self) -> bool:
        """Whether a new connection would be closed, because none of the open ones can be."""
        if len(self.connections) < self.limits.max_connections:
            return False
        return not any(connection.is_idle for connection in self.strangers)

    def drain(self) -> None:
        """Let every answer end its connection."""
        self.draining = True
        self._end_after_answers()

    def abort_connections(self) -> None:
        """Close every connection immediately."""
        for connection in self.connections:
            connection.force_close()

    def _end_after_answers(self) -> None:
        """Close each open connection after its next answer."""
        for connection in self.connections:
            assert isinstance(connection, Connection)  # noqa: S101 - __call__ makes nothing else
            connection.is_last = True

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection. aiohttp's own version ignores all options if one is unknown."""
        return Connection(self, loop=self._loop, **self._options)


def _options(limits: Limits) -> dict[str, Any]:
    return {
        "keepalive_timeout": limits.idle_timeout,
        "max_line_size": limits.max_header_bytes,
        # one more than for the request line, so that the two kinds of LineTooLong can be distinguished
        "max_field_size": limits.max_header_bytes + 1,
        "max_headers": limits.max_headers,
        "auto_decompress": False,
        "access_log": None,
        "logger": _log,
        "lingering_time": 5.0,
    }
