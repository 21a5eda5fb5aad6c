"""An upstream that does on each connection exactly what a test tells it to, well-behaved or not."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from tests.support.wire import TIMEOUT, Head, read_body

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived; ``raw`` are those of its head."""

    head: Head
    raw: bytes
    body: bytes = b""

    @property
    def target(self) -> str:
        """The raw request target."""
        return self.head.start.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return self.head.all(name)


class UpstreamConnection:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: list[Request]) -> None:
        self.reader = reader
        self.writer = writer
        self._log = log

    async def head(self) -> Request:
        """The head of the next request. Raises IncompleteReadError at the end of the connection."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        request = Request(Head.of(raw), raw)
        self._log.append(request)
        return request

    async def request(self) -> Request:
        """The next request with its body."""
        request = await self.head()
        body = await read_body(self.reader, request.head, until_eof=False)
        self._log[-1] = request = Request(request.head, request.raw, body)
        return request

    async def send(self, raw: bytes) -> None:
        """Send exactly this."""
        self.writer.write(raw)
        await self.writer.drain()

    async def ended(self) -> bytes:
        """What still comes until the other side ends the connection, orderly or not."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


Script = Callable[[UpstreamConnection], Awaitable[None]]


def answering(*answers: bytes) -> Script:
    """Answer request after request with these bytes, the last one again and again."""

    remaining = list(answers)

    async def script(connection: UpstreamConnection) -> None:
        while True:
            await connection.request()
            await connection.send(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return script


class ScriptedUpstream:
    """Runs ``script`` on every connection and closes it afterwards. An async context manager."""

    def __init__(self, script: Script | None = None, *, tls: ssl.SSLContext | None = None, path: str = "") -> None:
        """``path``: listen on this unix socket instead of a port of 127.0.0.1."""
        self.script = script or answering(OK)
        self._tls = tls
        self._path = path
        self.requests: list[Request] = []
        self.accepted = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        if self._path:
            self._server = await asyncio.start_unix_server(self._accept, self._path)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        faults = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert not faults, faults

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._path:
            return f"unix:{self._path}"
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._tasks.append(asyncio.create_task(self._run(UpstreamConnection(reader, writer, self.requests))))

    async def _run(self, connection: UpstreamConnection) -> None:
        try:
            await self.script(connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connection.writer.close()
