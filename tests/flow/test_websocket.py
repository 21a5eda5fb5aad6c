"""WebSockets through the forwarding proxy: judged before the upgrade, then passed through untouched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError, web

from tests.flow.conftest import Scene, Start, bearer, refuses_connections
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection, answering
from tests.support.wire import TIMEOUT

UPGRADE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX-Kept: 1\r\n\r\n"


class EchoService:
    """Repeats messages; says which headers it got; ``close <code>`` closes so. An async context manager."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.closes: list[int | None] = []
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        socket = web.WebSocketResponse(protocols=("chat",), autoping=False, max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            elif message.data.startswith("close "):
                await socket.close(code=int(message.data[6:]), message=b"because")
            else:
                await socket.send_str(message.data)
        self.closes.append(socket.close_code)
        return socket


@asynccontextmanager
async def joined(scene: Scene, **options: Any) -> AsyncIterator[ClientWebSocketResponse]:
    name, value = bearer()
    async with (
        ClientSession() as session,
        session.ws_connect(f"http://{scene.address}/ws", headers={name: value}, max_msg_size=0, **options) as socket,
    ):
        yield socket


async def test_messages_pass_both_ways_whatever_their_size(start: Start) -> None:
    async with EchoService() as service:
        scene = await start(service.url)
        async with joined(scene, protocols=("other", "chat")) as socket, asyncio.timeout(2 * TIMEOUT):
            assert socket.protocol == "chat"
            for text in ("", "hello", "x" * 200, "y" * 70_000):
                await socket.send_str(text)
                assert (await socket.receive()).data == text
            big = b"z" * 5 * 2**20
            await socket.send_bytes(big)
            assert (await socket.receive()).data == big
            assert await scene.metric("sidecar_websockets_open") == 1
        await eventually(lambda: service.closes)
        assert service.requests[0].headers["X-Auth-Request-User"] == "sam"
        await eventually(lambda: scene.in_flight == 0)
        assert await scene.metric("sidecar_websockets_open") == 0
    assert service.closes == [1000]


async def test_pings_and_compression_are_the_ends_business(start: Start) -> None:
    async with EchoService() as service:
        scene = await start(service.url)
        async with joined(scene, autoping=False, compress=15) as socket, asyncio.timeout(TIMEOUT):
            assert socket.compress == 15
            await socket.ping(b"there?")
            pong = await socket.receive()
            assert (pong.type, pong.data) == (WSMsgType.PONG, b"there?")
            await socket.send_str("same " * 1000)
            assert (await socket.receive()).data == "same " * 1000


async def test_close_codes_of_either_side_reach_the_other(start: Start) -> None:
    async with EchoService() as service:
        scene = await start(service.url)
        async with joined(scene) as socket, asyncio.timeout(TIMEOUT):
            await socket.send_str("close 4321")
            message = await socket.receive()
            assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4321, "because")
        async with joined(scene) as socket, asyncio.timeout(TIMEOUT):
            await socket.close(code=4001)
        await eventually(lambda: len(service.closes) == 2)
    assert service.closes[1] == 4001


async def test_a_refused_upgrade_never_reaches_the_service(start: Start) -> None:
    async with EchoService() as service:
        scene = await start(service.url)
        async with ClientSession() as session:
            with pytest.raises(WSServerHandshakeError) as refused:
                await session.ws_connect(f"http://{scene.address}/ws")
        assert refused.value.status == 401
    assert service.requests == []


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        (["https://data.example.com"], 101),
        ([], 101),
        (["https://data.example.com.evil.example"], 403),
        (["https://data.example.com:8443"], 403),
        (["http://data.example.com"], 403),
        (["null"], 403),
        ([""], 403),
        (["https://data.example.com", "https://evil.example"], 403),
    ],
)
async def test_pages_of_other_origins_may_not_open_websockets(start: Start, origins: list[str], status: int) -> None:
    """Who sends no ``Origin`` is no browser; an ordinary request is never asked for one."""
    async with ScriptedUpstream(answering(SWITCHED)) as upstream:
        scene = await start(upstream.url, server={"websocketOrigins": ["HTTPS://data.example.com:443"]})
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE, *(("Origin", origin) for origin in origins)])
            assert (await wire.head()).start.split(" ")[1] == str(status)
        assert upstream.accepted == (status == 101)
        upstream.script = answering(OK)
        async with await scene.connect() as wire:
            assert (await wire.ask("/", [bearer(), ("Origin", "https://evil.example")])).status == 200


async def test_every_origin_may_where_none_is_named(start: Start) -> None:
    async with ScriptedUpstream(answering(SWITCHED)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE, ("Origin", "https://evil.example")])
            assert (await wire.head()).start.startswith("HTTP/1.1 101")


async def test_the_service_may_decline_and_both_connections_go_on(start: Start) -> None:
    async with ScriptedUpstream(answering(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", OK)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/ws", [bearer(), *UPGRADE])).status == 404
            assert (await wire.ask("/", [bearer()])).body == b"ok"
        assert upstream.accepted == 1
    assert upstream.requests[0].all("Upgrade") == ["websocket"]
    assert upstream.requests[0].all("Connection") == ["Upgrade"]


async def test_bytes_after_a_declined_upgrade_are_a_separate_request(start: Start) -> None:
    """Nothing that was sent before the service agreed reaches it without being judged."""
    no = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
    async with ScriptedUpstream(answering(no)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            lines = [("Host", "a"), bearer(), *UPGRADE]
            head = "GET /ws HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines) + "\r\n"
            await wire.send(f"{head}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert (await wire.answer()).status == 404
            assert (await wire.answer()).status == 401
    assert [request.target for request in upstream.requests] == ["/ws"]


async def test_frames_sent_together_with_the_handshake_arrive(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(SWITCHED + b"\x81\x02hi")
        assert await connection.reader.readexactly(8) == b"\x81\x82\0\0\0\0yo"

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.send(b"\x81\x82\0\0\0\0yo")
            head = await wire.head()
            assert (head.all("X-Kept"), head.all("Upgrade")) == (["1"], ["websocket"])
            assert await wire.ended() == b"\x81\x02hi"
        await eventually(lambda: scene.in_flight == 0)


async def test_what_was_sent_last_arrives_although_its_sender_is_gone(start: Start) -> None:
    last = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(SWITCHED)
        assert await connection.ended() == b"\x88\x80\0\0\0\0"
        last.set()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            wire.writer.write(b"\x88\x80\0\0\0\0")
            wire.writer.close()
            async with asyncio.timeout(TIMEOUT):
                await last.wait()


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "websocket2"])
async def test_no_other_protocol_is_switched_to(start: Start, protocol: str) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", protocol), ("HTTP2-Settings", "AA")]
            answer = await wire.ask("/", [bearer(), *upgrade])
            assert (answer.status, answer.all("Connection")) == (200, ["close"])
    (request,) = upstream.requests
    assert request.all("Upgrade") == request.all("Connection") == request.all("HTTP2-Settings") == []


async def test_an_upgrade_with_a_body_is_an_ordinary_request(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/ws", [bearer(), *UPGRADE], body=b"first")).body == b"ok"
    (request,) = upstream.requests
    assert (request.all("Upgrade"), request.body) == ([], b"first")


async def test_a_service_that_switches_to_something_else_is_502(start: Start) -> None:
    other = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with ScriptedUpstream(answering(other)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/ws", [bearer(), *UPGRADE])).status == 502


async def test_a_slow_end_holds_the_other_back(start: Start) -> None:
    sent = 0

    async def script(connection: UpstreamConnection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(SWITCHED)
        for _ in range(1024):
            await connection.send(b"x" * 2**16)
            sent += 2**16

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            last = -1
            while last != sent:
                last = sent
                await asyncio.sleep(0.2)
            assert 0 < sent < 32 * 2**20
            async with asyncio.timeout(TIMEOUT):
                assert len(await wire.exactly(2**26)) == 2**26


async def test_draining_tells_callers_1001_at_the_end_of_a_frame(start: Start) -> None:
    """Not in the middle of one; and the caller's own close frame still reaches the service."""
    rest, told = asyncio.Event(), asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(SWITCHED + b"\x82\x04ab")
        await rest.wait()
        await connection.send(b"cd\x81\x02no")
        await told.wait()
        await connection.send(b"\x81\x05never")
        assert await connection.ended() == b"\x88\x82\0\0\0\0\x03\xe9"

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            assert await wire.exactly(4) == b"\x82\x04ab"
            draining = asyncio.create_task(scene.sidecar.drain(0, 20))
            await refuses_connections(scene)
            rest.set()
            assert await wire.exactly(6) == b"cd\x88\x02\x03\xe9"
            told.set()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await wire.reader.read(1)
            await wire.send(b"\x88\x82\0\0\0\0\x03\xe9")
            wire.writer.write_eof()
            assert await wire.ended() == b""
            async with asyncio.timeout(TIMEOUT):
                await draining
