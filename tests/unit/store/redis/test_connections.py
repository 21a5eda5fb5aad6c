"""No connection to Redis outlives its client, whenever that is dropped, closed or cancelled."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings, StoreTls
from sidecar.errors import Unavailable
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.redis.client import RedisClient
from tests.support.certificates import certificate
from tests.support.jwks_server import eventually


class Stub:
    """A server whose TLS handshakes and answers wait to be let go, so that a command can be stopped at any point.

    It answers every command with ``answer``. ``open``: how many connections the other side has not closed.
    """

    def __init__(self) -> None:
        self.answer = b":1\r\n"
        self.connected, self.asked = asyncio.Event(), asyncio.Event()
        self.handshake, self.answering = asyncio.Event(), asyncio.Event()
        self.connections = 0
        self.open = 0

    @asynccontextmanager
    async def listening(self, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serve, and yield the port; with ``context`` TLS, before whose handshake connections wait."""
        async with AsyncExitStack() as stack:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            if context is not None:
                server = await asyncio.start_server(partial(self._gate, port), "127.0.0.1", 0)
                stack.callback(server.close)
                port = server.sockets[0].getsockname()[1]
            yield port

    async def _gate(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count(1)
        await self.handshake.wait()
        inward, outward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, outward), _pump(inward, writer))
        self._count(-1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_gated = writer.get_extra_info("ssl_object") is not None
        self._count(not is_gated)
        with suppress(OSError):
            while data := await reader.read(65536):
                self.asked.set()
                await self.answering.wait()
                writer.write(self.answer * data.count(b"*"))
        writer.close()
        self._count(-(not is_gated))

    def _count(self, change: int) -> None:
        self.connections += max(change, 0)
        self.open += change
        self.connected.set()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pems")
    chain, key = folder / "chain.pem", folder / "key.pem"
    for path, pem in zip((chain, key), certificate(), strict=True):
        path.write_bytes(pem)
    return chain, key


@pytest.fixture
async def tls(pems: tuple[Path, Path]) -> AsyncIterator[tuple[Stub, RedisClient]]:
    """A server, and the client under test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pems)
    stub = Stub()
    async with stub.listening(context) as port:
        names = StoreTls(ca_file=str(pems[0]), server_name="127.0.0.1")
        settings = StoreSettings(url=Secret(f"rediss://127.0.0.1:{port}"), tls=names)
        client = RedisClient(settings, Metrics(), SystemClock())
        yield stub, client
        await client.aclose()


def ask(kv: RedisClient) -> "asyncio.Task[list[Any]]":
    return asyncio.create_task(kv.read("status", ("INCR", "x")))


async def test_client_that_is_dropped_while_connecting_leaves_no_connection(
    tls: tuple[Stub, RedisClient],
) -> None:
    stub, kv = tls
    stub.answering.set()
    asking = ask(kv)
    await stub.connected.wait()
    dropped = kv._quick._client  # kept here: the garbage collector is not to close it
    kv._quick.mark_suspect()
    await asyncio.sleep(0.05)
    stub.handshake.set()
    assert await asking == [1]
    await eventually(lambda: stub.open == 0)
    assert dropped is not None
    assert kv._quick._client is None


async def test_closing_waits_for_a_command_that_connects(tls: tuple[Stub, RedisClient]) -> None:
    stub, kv = tls
    stub.answering.set()
    asking = ask(kv)
    await stub.connected.wait()
    client = kv._quick._client
    closing = asyncio.create_task(kv.aclose())
    await asyncio.sleep(0.05)
    assert not closing.done()
    stub.handshake.set()
    await closing
    assert asking.done()
    await eventually(lambda: stub.open == 0)
    assert client is not None


async def test_command_that_fails_because_of_closing_does_not_connect_again(tls: tuple[Stub, RedisClient]) -> None:
    stub, kv = tls
    stub.handshake.set()
    asking = ask(kv)
    await stub.asked.wait()
    closing = asyncio.create_task(kv.aclose())
    with pytest.raises(Unavailable):
        await asking
    await closing
    with pytest.raises(Unavailable):
        await kv.follow("status", ("INCR", "x"))
    stub.answering.set()
    await eventually(lambda: stub.open == 0)
    assert stub.connections == 1


@pytest.mark.parametrize("point", ["connected", "asked"])
async def test_command_that_is_cancelled_leaves_no_connection(tls: tuple[Stub, RedisClient], point: str) -> None:
    stub, kv = tls
    if point == "asked":
        stub.handshake.set()
    asking = ask(kv)
    await getattr(stub, point).wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await kv.aclose()
    stub.handshake.set()
    stub.answering.set()
    await eventually(lambda: stub.open == 0)


async def test_sentinel_that_was_asked_is_left_whatever_happens() -> None:
    """At whatever point the command is cancelled, also in the middle of closing."""
    stub = Stub()
    stub.answering.set()
    async with stub.listening() as port:
        settings = StoreSettings(url=Secret(f"redis+sentinel://127.0.0.1:{port}/main/0"))
        made: list[Any] = []
        for turns in range(60):
            kv = RedisClient(settings, Metrics(), SystemClock())
            dial, client_of = kv._quick._dial, kv._quick._dial._client

            def remember(*some: Any, client_of: Any = client_of) -> Any:
                made.append(client_of(*some))  # kept here: the garbage collector is not to close it
                return made[-1]

            dial._client = remember  # type: ignore[method-assign, assignment]
            asking = ask(kv)
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await eventually(lambda: stub.open == 0)
            await kv.aclose()
        assert stub.asked.is_set()
