"""An HTTP proxy for CONNECT in the test's own loop: it notes what it is asked, and leads every name to one port."""

import asyncio
import base64
from contextlib import suppress
from typing import Self


class ConnectProxy:
    """Answers CONNECT on a port of 127.0.0.1; an async context manager. ``target`` is the port that tunnels lead to.

    With ``credentials`` (``user:password``) others get 407. ``asked`` are the first lines of all requests, ``heads``
    their whole heads.
    """

    def __init__(self, target: int = 0, *, credentials: str = "", status: int = 200) -> None:
        self.target = target
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.port = 0
        self._credentials = credentials
        self._status = status

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        self.asked.append(head.partition("\r\n")[0])
        basic = base64.b64encode(self._credentials.encode()).decode()
        allowed = not self._credentials or f"proxy-authorization: basic {basic}".lower() in head.lower()
        status = self._status if allowed else 407
        if status != 200 or not head.startswith("CONNECT "):
            writer.write(f"HTTP/1.1 {status if status != 200 else 405} No\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
