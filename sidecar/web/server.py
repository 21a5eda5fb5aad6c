"""The connections of both listeners: aiohttp's low-level server with its defaults made safe.

aiohttp answers what its parser refuses without asking anybody, quoting the request's bytes to client and log. Here
such requests get the same JSON as every other refusal, and nothing of what they carried is kept.
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
from sidecar.identity.client_certificate import thumbprint
from sidecar.web.response import Response

_log = logging.getLogger("sidecar.http")

ParseFailure = Callable[[Failed], Response]
_HEAD_END = b"\r\n\r\n"
# As many requests as aiohttp takes before it stops reading, and their bodies.
_MAX_PIECES = 64
MAX_HEAD_LINES = 4
"""How many of its longest lines a whole head may be long."""

AnswerAtOnce = Callable[[RawRequestMessage, "Connection"], bytes | None]


class AnonymousBudget(Protocol):
    """What answers a connection's requests, as far as it counts them."""

    @property
    def anonymous(self) -> Budget:
        """Places for requests that were let through without a credential."""


class InFlight(Protocol):
    """A request that was begun without a task; see :class:`sidecar.web.in_flight.InFlightRequest`."""

    active_config: Any

    def promote_to_task(self) -> None:
        """Let aiohttp's way go on with it."""

    def cancel(self) -> None:
        """The caller is gone."""

    def detach(self) -> Any:
        """What has been done so far."""


class TrustedPeers:
    """Which peers may speak for others (``server.trustedProxies``)."""

    def __init__(self, networks: Iterable[str]) -> None:
        texts = tuple(networks)
        self._unix = "unix" in texts
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in texts if text != "unix")

    def trusts(self, peername: object) -> bool:
        """Whether the peer at a socket's ``peername`` is one of them."""
        if not isinstance(peername, tuple):
            # None: the peer was gone before anybody asked, though what it sent can still be read.
            return self._unix and peername is not None
        try:
            address = ipaddress.ip_address(str(peername[0]).partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network or address in network for network in self._networks)


class Connection(web.RequestHandler):
    """One client connection. ``peer``: its address, or ``unix``.

    ``active_config`` is the configuration that answers its request, and ``trusted`` whether to that the peer is a
    trusted proxy.

    ``request_id`` is that of the request being answered, empty until somebody needs it. ``body`` is the body that
    somebody reads piece by piece: where its framing breaks, reading it fails. ``is_last``: no request after this one.
    ``in_flight`` is the request that is under way without a task, or was until a moment ago. ``is_known``: a request on
    it carried a good credential. ``certificate`` is the ``x5t#S256`` of the one from the handshake, or empty.
    """

    __slots__ = (
        "_answer_at_once", "_given_up", "_head_octets", "_head_timer", "_lingers", "_longest_head", "_parse_failure",
        "_peername", "_place", "active_config", "body", "certificate", "in_flight", "is_known", "is_last", "is_tls",
        "peer", "request_id", "server", "trusted",
    )  # fmt: skip

    def __init__(self, server: "HttpServer", **options: Any) -> None:
        super().__init__(server, **options)
        self._parse_failure = server.parse_failure
        self._answer_at_once = server.answer_at_once
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
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_octets = 0
        self._longest_head = MAX_HEAD_LINES * self.max_line_size
        self._given_up = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who is there before the first request; over the limit, one connection has to go."""
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
        """A request on this connection carried a good credential: it is not cut to make room for others."""
        if not self.is_known:
            self.is_known = True
            self.server.strangers.pop(self, None)

    def admit(self, *, identified: bool) -> None:
        """The request may pass. A caller without a credential takes a place of its own kind until :meth:`leave`.

        Raises Unavailable when none is left.
        """
        if identified:
            self.mark_authenticated()
        elif self.active_config is not None:
            self.active_config.anonymous.take()
            self._place = self.active_config.anonymous

    def leave(self) -> None:
        """The request has been answered."""
        place, self._place = self._place, None
        if place is not None:
            place.give_back()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered: it may be cut."""
        waiter = self._waiter
        return self._lingers or (waiter is not None and not waiter.done() and self.in_flight is None)

    def end_sending(self) -> None:
        """After the last answer, where the request is not whole: close one direction (RFC 9112 section 9.6).

        The caller sees the end. aiohttp reads and drops what it still sends for some seconds: a reset, which unread
        bytes would cause, could destroy the answer on its way.
        """
        self._lingers = True
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def bind_config(self, serving: "AnonymousBudget", peers: TrustedPeers) -> None:
        """From the next request on ``active_config`` answers, and ``peers`` are its trusted proxies."""
        self.active_config = serving
        self.trusted = peers.trusts(self._peername)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait for nothing any more, and tell who works for this caller."""
        self._head_ends()
        self.server.strangers.pop(self, None)
        if self.in_flight is not None:
            self.in_flight.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer at once what needs no waiting: the only request on an idle connection, without a body.

        Everything else goes aiohttp's way, which costs a request object, a task and two more turns of the loop.
        """
        if self.in_flight is not None:
            self.in_flight.promote_to_task()  # answers go out in the order of their requests
        waiter, parser = self._waiter, self._parser
        if waiter is None or parser is None or self._messages or waiter.done() or self._is_occupied():
            self._take(data)
            # The first octets may come before aiohttp waits for them.
            if self._request_count:
                self._head_ends()
            else:
                self._head_goes_on(len(data))
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
            answer = self._answer_at_once(messages[0][0], self)
            if answer is not None:
                self.write_response(answer)
                return
            if self.in_flight is not None:
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                return
        self._replay(parsed, data)

    @property
    def is_closing(self) -> bool:
        """Whether nothing may be written any more."""
        transport = self.transport
        return self._close or self._force_close or transport is None or transport.is_closing()

    def write_response(self, answer: bytes) -> None:
        """Write the whole answer to the one request that the parser has given out."""
        if self._parser is not None and self.transport is not None:
            self._parser.message_consumed()
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            self.transport.write(answer)

    def requeue(self, message: RawRequestMessage) -> bool:
        """Let aiohttp make a request of ``message`` now. False: the connection is about to end."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self.is_closing:
            return False
        self._request_count += 1
        self._messages.append((message, EMPTY_PAYLOAD))
        waiter.set_result(None)
        return True

    def _process_keepalive(self) -> None:
        """aiohttp takes a connection without a task for an idle one."""
        if self.in_flight is not None:
            self.in_flight.promote_to_task()
        super()._process_keepalive()

    def _head_goes_on(self, octets: int) -> None:
        """The parser wants more: it may wait for the rest of the head, but not for ever, however it trickles in.

        Nor may it keep as many lines as it takes, each as long as it takes: ``octets`` more have come.
        """
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self.server.limits.header_timeout, self._head_is_late)
            self._head_octets = 0
        self._head_octets += octets
        if self._head_octets > self._longest_head:
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
        """Answer as what the parser refuses is answered."""
        waiter = self._waiter
        if waiter is not None and not waiter.done() and not self._force_close and not self._close:
            self._messages.append((_ErrInfo(status=status, exc=why, message=""), EMPTY_PAYLOAD))
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
        """aiohttp's way."""
        if self._given_up:
            return
        parser = self._parser
        if parser is None or self._upgraded or self._payload_parser is not None or self._close or self._force_close:
            web.RequestHandler.data_received(self, data)
        else:
            self._replay(_parse(parser, data), data)

    def _replay(self, parsed: "_Outcome", data: bytes) -> None:
        """Let aiohttp take ``data`` as it would have, with what the parser made of it already.

        It forgets the body it was reading when the parser gives up; the reader of that body gets an exception. Nothing
        behind that can be read, and aiohttp would keep every piece as an error of its own.
        """
        parser = self._parser
        known = len(self._messages)
        self._parser = _Parsed(parsed)  # type: ignore[assignment] # asked for feed_data only while this call lasts
        try:
            web.RequestHandler.data_received(self, data)
        finally:
            self._parser = parser
        self._refuse_long_heads(known)
        self._given_up = bool(self._messages) and isinstance(self._messages[-1][0], _ErrInfo)
        body = self.body
        # Whatever was found behind a body that has not ended is the parser's complaint.
        if body is not None and self._messages and not body.is_eof():
            body.set_exception(web.RequestPayloadError("broken framing"))
            self.body = None

    def _refuse_long_heads(self, known: int) -> None:
        """Have the first of the messages after ``known`` ones that is too long be the last one, and refused."""
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
        """A fault outside the handler, by its kind alone: its text may hold what the request carried."""
        error = type(kw.get("exc_info")).__name__
        _log.error("unhandled error on a connection", extra={"event": "connection_error", "error": error})

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the HTTP parser refused. Neither the answer nor the log carries anything of the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; it can only be cut off")
        failure = _parser_failure(exc, self.max_line_size)
        return self._parse_failure(failure)


class _HeadTooLate(Exception):
    """The head of a request has not come in time."""


class _HeadTooLarge(Exception):
    """What came of a head is more than a whole one may be."""


_Message = tuple[RawRequestMessage | _ErrInfo, StreamReader]
_Outcome = tuple[Sequence[_Message], bool, bytes]


class _Parsed:
    """Stands for the parser, with the outcome of parsing that has been done already."""

    def __init__(self, outcome: _Outcome) -> None:
        self._outcome = outcome

    def feed_data(self, data: bytes) -> _Outcome:
        """The outcome."""
        return self._outcome


def _parse(parser: Any, data: bytes) -> _Outcome:
    """What ``parser`` makes of ``data``: messages, the last of which may stand for an error; upgraded; the tail.

    The parser forgets the messages that it has found in a piece when it then finds an error in it. So each head is a
    piece of its own, and requests in front of a malformed one are answered. Where pieces end means nothing to it.
    """
    end = data.find(_HEAD_END) + len(_HEAD_END)
    pieces = _pieces(data) if len(_HEAD_END) <= end < len(data) else (data,)  # most data is one head and no more
    found: list[_Message] = []
    taken = 0
    for piece in pieces:
        try:
            messages, upgraded, tail = parser.feed_data(piece)
        except HttpProcessingError as error:
            found.append((_ErrInfo(status=400, exc=error, message=""), EMPTY_PAYLOAD))
            break
        taken += len(piece)
        found += messages
        if upgraded:
            return found, True, tail + data[taken:]
    return found, False, b""


def _pieces(data: bytes) -> Iterator[bytes]:
    """``data`` cut behind the ends of heads, or what looks like one inside a body, at most so many times."""
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
    """Makes a :class:`Connection` for every client. Wrong options fail here, at start, not on the first client.

    ``handler_cancellation``: an answer whose caller has left is given up.
    ``shutting_down`` is set when what has no end of its own, a WebSocket, should end.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        limits: Limits,
        parse_failure: ParseFailure,
        answer_at_once: AnswerAtOnce,
        handler_cancellation: bool = True,
    ) -> None:
        super().__init__(handler, handler_cancellation=handler_cancellation)
        self.parse_failure = parse_failure
        self.answer_at_once = answer_at_once
        self.draining = False
        self.shutting_down = asyncio.Event()
        self.limits = limits
        self.strangers: dict[Connection, None] = {}
        """Connections on which no good credential was seen, the oldest first."""
        self._options = _options(limits)
        self()

    def change_limits(self, limits: Limits) -> None:
        """Hold new connections to ``limits``. Where they are others, those that are open end with their next answer."""
        if limits != self.limits:
            self.limits = limits
            self._options = _options(limits)
            self._end_after_answers()

    def make_room(self, newcomer: Connection) -> None:
        """Count ``newcomer`` in. Over the limit, cut the oldest connection that is idle and not known, else this one.

        Otherwise connections that say nothing would keep every caller out.
        """
        self.strangers[newcomer] = None
        if len(self.connections) <= self.limits.max_connections:
            return
        cut = next((connection for connection in self.strangers if connection.is_idle), newcomer)
        del self.strangers[cut]
        cut.force_close()

    @property
    def is_full(self) -> bool:
        """Whether a new connection would be closed: as many as may be are open, and none of them can be cut."""
        if len(self.connections) < self.limits.max_connections:
            return False
        return not any(connection.is_idle for connection in self.strangers)

    def drain(self) -> None:
        """From now on every answer ends its connection."""
        self.draining = True
        self._end_after_answers()

    def abort_connections(self) -> None:
        """End every connection at once, whatever is under way on it."""
        for connection in self.connections:
            connection.force_close()

    def _end_after_answers(self) -> None:
        """Close each open connection after its next answer."""
        for connection in self.connections:
            assert isinstance(connection, Connection)  # noqa: S101 - __call__ makes nothing else
            connection.is_last = True

    def __call__(self) -> web.RequestHandler:
        """A new connection's protocol. aiohttp's own version drops every option when it does not know one."""
        return Connection(self, loop=self._loop, **self._options)


def _options(limits: Limits) -> dict[str, Any]:
    return {
        "keepalive_timeout": limits.idle_timeout,
        "max_line_size": limits.max_header_bytes,
        # One more than the line's bound, so that the two kinds of LineTooLong can be told apart.
        "max_field_size": limits.max_header_bytes + 1,
        "max_headers": limits.max_headers,
        "auto_decompress": False,
        "access_log": None,
        "logger": _log,
        "lingering_time": 5.0,
    }
