"""Sends one request to the upstream and reads the head of its response, while the body is streamed."""

import asyncio
from dataclasses import dataclass

from aiohttp import ClientError, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

from sidecar.dataplane.proxy.pool import UpstreamConnection
from sidecar.errors import Cause, Reason, Refused, UpstreamFailed, system_text
from sidecar.web.request import connection_of

_UPSTREAM_ERRORS = (ClientError, HttpProcessingError, OSError)


@dataclass(slots=True)
class RequestBody:
    """The body of the request. ``length`` is its announced length; None: chunked. Times in seconds, sizes in bytes."""

    request: web.BaseRequest
    length: int | None
    stall_timeout: float
    limit: int | None
    awaits_continue: bool

    @property
    def is_buffered(self) -> bool:
        """Whether all of it has arrived already."""
        return self.request.content.is_eof()

    async def announce(self) -> None:
        """Send ``100 Continue`` to a client that waits for it (RFC 9110 section 10.1.1), once the request may pass."""
        if self.awaits_continue:
            writer = self.request.writer
            await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            writer.output_size = 0

    async def send(self, writer: StreamWriter) -> None:
        """Stream it on. Raises Refused (400 for broken framing, 408 when it stalls, 413 over the limit).

        Raises UpstreamFailed(UPSTREAM_TIMEOUT) if the upstream does not read it.
        """
        client = connection_of(self.request)
        client.body = self.request.content
        try:
            await self._copy(writer)
        finally:
            client.body = None

    async def _copy(self, writer: StreamWriter) -> None:
        chunked = self.length is None
        total = 0
        while chunk := await self._next():
            total += len(chunk)
            if self.limit is not None and total > self.limit:
                raise Refused(Reason.TOO_LARGE, ends_connection=True)
            await writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk, drain=False)
            if writer.protocol.writing_paused:
                await self._drain(writer)
        if chunked:
            await writer.write(b"0\r\n\r\n")

    async def _drain(self, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(self.stall_timeout):
                await writer.drain()
        except TimeoutError as error:
            raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, Cause.DEADLINE, "request body") from error

    async def _next(self) -> bytes:
        content = self.request.content
        try:
            async with asyncio.timeout(self.stall_timeout):
                return await content.readany()
        except TimeoutError as error:
            message = "The request body stalled"
            raise Refused(
                Reason.REQUEST_INVALID, Cause.DEADLINE, status=408, message=message, ends_connection=True
            ) from error
        except web.RequestPayloadError as error:
            content.feed_eof()  # nothing more can be read, not even to throw it away
            message = "The request body is not valid"
            raise Refused(Reason.REQUEST_INVALID, message=message, ends_connection=True) from error


@dataclass(slots=True)
class UpstreamResponse:
    """The head of the response, and its body to read. ``request_sent``: the request was sent completely."""

    message: RawResponseMessage
    payload: StreamReader
    request_sent: bool


class Exchange:
    """Sends one request on one connection."""

    def __init__(self, connection: UpstreamConnection, *, response_timeout: float) -> None:
        self._connection = connection
        self._response_timeout = response_timeout
        self._sending: asyncio.Task[None] | None = None

    async def run(self, head: bytes, body: RequestBody | None, *, is_head: bool) -> UpstreamResponse:
        """Send ``head`` and ``body``, return the head of the final answer; 1xx answers in between are dropped.

        An upstream may respond before it has read everything: the rest is sent until :meth:`finish`, unless it refuses.
        Raises UpstreamFailed (502, 504), or Refused for a fault in the caller's body; the connection is not
        usable any more then.
        """
        try:
            self._connection.expect_response(is_head=is_head)
            if body is None:
                self._connection.send(head)
                return await self._bounded_head()
            if body.is_buffered and body.length is not None:
                self._connection.send(head + body.request.content.read_nowait())
                return await self._bounded_head()
            await body.announce()
            self._connection.send(head)
            return await self._stream(body)
        except TimeoutError as error:
            raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, Cause.DEADLINE, "response") from error
        except _UPSTREAM_ERRORS as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.NONE, system_text(error)) from error

    async def resume(self) -> UpstreamResponse:
        """The same for a request without a body that was sent already."""
        try:
            return await self._bounded_head()
        except TimeoutError as error:
            raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, Cause.DEADLINE, "response") from error
        except _UPSTREAM_ERRORS as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.NONE, system_text(error)) from error

    async def finish(self) -> None:
        """The response has ended: stop sending the request."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _stream(self, body: RequestBody) -> UpstreamResponse:
        writer = StreamWriter(self._connection, asyncio.get_running_loop())
        self._sending = sending = asyncio.create_task(body.send(writer))
        reading = asyncio.create_task(self._head())
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                failure = sending.exception()
                if failure is not None and not isinstance(failure, _UPSTREAM_ERRORS):
                    raise failure
                # an upstream that refuses an upload may respond and close before it has read everything
                async with asyncio.timeout(self._response_timeout):
                    await asyncio.wait({reading})
            answer = await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        answer.request_sent = sending.done() and sending.exception() is None
        if answer.message.code >= 300:
            # refused: sending more could make the upstream reset the connection before its response is read
            sending.cancel()
        else:
            sending.add_done_callback(self._cut_if_failed)
        return answer

    def _cut_if_failed(self, sending: "asyncio.Task[None]") -> None:
        """An incomplete request cannot be withdrawn: its response is cut off."""
        if not sending.cancelled() and sending.exception() is not None:
            self._connection.terminate()

    async def _bounded_head(self) -> UpstreamResponse:
        # a plain timer: asyncio.timeout costs several times as much
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._response_timeout, self._connection.set_exception, TimeoutError("response"))
        try:
            return await self._head()
        finally:
            timer.cancel()

    async def _head(self) -> UpstreamResponse:
        while True:
            message, payload = await self._connection.read()
            if message.code == 101 or not 100 <= message.code <= 199:
                return UpstreamResponse(message, payload, request_sent=True)
