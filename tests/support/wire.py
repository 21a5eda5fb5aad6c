"""A connection on which every byte is the test's own, and answers read strictly."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT = 10.0
Lines = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Head:
    """Start line and header lines of a message, as received."""

    start: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """Read from the bytes up to and including the empty line."""
        start, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        headers = (line.partition(":") for line in lines)
        return cls(start, tuple((name, value.strip(" ")) for name, _, value in headers))

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    head: Head
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return self.head.all(name)

    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


async def read_body(reader: asyncio.StreamReader, head: Head, *, until_eof: bool) -> bytes:
    """The body that ``head`` announces. Raises IncompleteReadError when the connection ends before it does."""
    if head.all("Transfer-Encoding") == ["chunked"]:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
        return body
    lengths = head.all("Content-Length")
    if lengths:
        assert len(lengths) == 1, lengths
        return await reader.readexactly(int(lengths[0]))
    return await reader.read() if until_eof else b""


class Wire:
    """A client connection; an async context manager made by :meth:`to`. Everything it waits for is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: str, *, buffer: int = 2**16) -> Self:
        """Connect to ``host:port``."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=buffer))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, raw: bytes) -> None:
        """Send exactly this."""
        self.writer.write(raw)
        async with asyncio.timeout(TIMEOUT):
            await self.writer.drain()

    async def request(self, target: str = "/", headers: Lines = (), *, method: str = "GET", body: bytes = b"") -> None:
        """Send a whole HTTP/1.1 request with ``Host: api.example.com``; a body gets its ``Content-Length``."""
        length = [("Content-Length", str(len(body)))] if body else []
        lines = [f"{name}: {value}" for name, value in [("Host", "api.example.com"), *headers, *length]]
        await self.send("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body)

    async def head(self) -> Head:
        """The head of the next answer, 1xx included."""
        async with asyncio.timeout(TIMEOUT):
            return Head.of(await self.reader.readuntil(b"\r\n\r\n"))

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, whole."""
        head = await self.head()
        status = int(head.start.split(" ")[1])
        if method == "HEAD" or status in (204, 304) or status < 200:
            return Answer(status, head, b"")
        async with asyncio.timeout(TIMEOUT):
            return Answer(status, head, await read_body(self.reader, head, until_eof=True))

    async def ask(self, target: str = "/", headers: Lines = (), *, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request and read its answer."""
        await self.request(target, headers, method=method, body=body)
        return await self.answer(method)

    async def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.readexactly(size)

    async def ended(self) -> bytes:
        """What still comes until the other side ends the connection, orderly or not."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""
