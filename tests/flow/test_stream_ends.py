"""WebSockets and events end when their token is revoked or expires, other bodies by revocation only."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.revocation_entry import Scope, make_entry
from sidecar.store.sqlite.database import Database
from sidecar.store.sqlite.store import SqliteStore
from tests.flow.conftest import Scene, Start, bearer
from tests.flow.test_forward_bodies import transports
from tests.flow.test_websocket import SWITCHED, UPGRADE
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import ScriptedUpstream, UpstreamConnection
from tests.support.wire import Wire

BOUND = 1.0
"""Seconds within which everything ends."""
LIFE = 3600.0
"""More seconds than a token lives."""
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n"
DOWNLOAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"


Revoke = Callable[[], Awaitable[None]]


@pytest.fixture
def revoke(tmp_path: Path) -> Revoke:
    """Revokes what sam's tokens allow, as another process on the same store would."""

    async def write() -> None:
        clock = HandClock(forge.NOW)
        store = SqliteStore(await Database.open(tmp_path / "sidecar.db", Metrics()), clock)
        entry = make_entry(Scope.SUBJECT, forge.ISSUER, "sam", clock.now(), issued_before=clock.now() + 1)
        await store.write(Batch(add_entries=[entry]))
        await store.aclose()

    return write


async def happen(what: str, scene: Scene, revoke: Revoke) -> None:
    if what == "revoked":
        await revoke()
    else:
        scene.clock.advance(LIFE)


BOTH = pytest.mark.parametrize("what", ["revoked", "expired"])


class Open:
    """A scene with one answer under way that does not end by itself."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.left: asyncio.Event = asyncio.Event()
        self.received = b""

    async def script(self, connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(self.answer)
        self.received = await connection.ended()
        self.left.set()


async def ended_in_time(wire: Wire) -> bytes:
    async with asyncio.timeout(BOUND):
        return await wire.ended()


@BOTH
async def test_websocket_ends_with_1008_and_the_service_is_left(start: Start, revoke: Revoke, what: str) -> None:
    behind = Open(SWITCHED + b"\x81\x02hi")
    async with ScriptedUpstream(behind.script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            assert await wire.reader.readexactly(4) == b"\x81\x02hi"
            await happen(what, scene, revoke)
            assert await ended_in_time(wire) == b"\x88\x02\x03\xf0"
            async with asyncio.timeout(BOUND):
                await behind.left.wait()
    assert await scene.metric("sidecar_websockets_open") == 0


async def test_websocket_in_the_middle_of_a_frame_is_cut(start: Start, revoke: Revoke) -> None:
    """A close frame there would be read as part of a message."""
    behind = Open(SWITCHED + b"\x81\x7dhalf of it")
    async with ScriptedUpstream(behind.script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            assert await wire.reader.readexactly(12) == b"\x81\x7dhalf of it"
            await revoke()
            assert await ended_in_time(wire) == b""


async def test_websocket_of_a_client_that_does_not_read_is_cut(start: Start, revoke: Revoke) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(SWITCHED)
        try:
            while True:
                await connection.send(b"\x82\x7e\xff\xff" + b"x" * 0xFFFF)
        except ConnectionError:
            left.set()

    left = asyncio.Event()
    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            await eventually(lambda: any(held.get_write_buffer_size() for held in transports(scene)))
            await revoke()
            async with asyncio.timeout(BOUND):
                await left.wait()
            await eventually(lambda: not scene.connections, within=BOUND)


async def test_nothing_more_that_a_revoked_caller_sends_reaches_the_service(start: Start, revoke: Revoke) -> None:
    behind = Open(SWITCHED + b"\x81\x7dhalf of it")
    async with ScriptedUpstream(behind.script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/ws", [bearer(), *UPGRADE])
            await wire.head()
            await revoke()
            await asyncio.sleep(0.1)
            await wire.send(b"\x81\x82\0\0\0\0no")
            await ended_in_time(wire)
            await behind.left.wait()
    assert behind.received == b""


@BOTH
async def test_events_end(start: Start, revoke: Revoke, what: str) -> None:
    behind = Open(EVENTS)
    async with ScriptedUpstream(behind.script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/events", [bearer()])
            await wire.head()
            assert await wire.reader.readexactly(14) == b"9\r\ndata: 1\n\n\r\n"
            await happen(what, scene, revoke)
            assert await ended_in_time(wire) == b""
            async with asyncio.timeout(BOUND):
                await behind.left.wait()


async def test_other_bodies_are_cut_by_revocation(start: Start, revoke: Revoke) -> None:
    behind = Open(DOWNLOAD)
    async with ScriptedUpstream(behind.script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/download", [bearer()])
            await wire.head()
            assert await wire.reader.readexactly(5) == b"begin"
            await revoke()
            await ended_in_time(wire)
            async with asyncio.timeout(BOUND):
                await behind.left.wait()


async def test_other_bodies_do_not_end_with_their_token(start: Start) -> None:
    go_on = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(DOWNLOAD)
        await go_on.wait()
        await connection.send(b"x" * 95)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/download", [bearer()])
            await wire.head()
            scene.clock.advance(LIFE)
            await asyncio.sleep(1.2)  # more than two rounds: what must not happen has no event
            go_on.set()
            assert await wire.reader.readexactly(100) == b"begin" + b"x" * 95


async def test_upload_is_cut_by_revocation(start: Start, revoke: Revoke) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        assert await connection.reader.readexactly(4) == b"half"
        arrived.set()
        assert await connection.ended() == b""
        left.set()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            name, value = bearer()
            await wire.send(
                f"POST /upload HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\nContent-Length: 8\r\n\r\nhalf".encode()
            )
            async with asyncio.timeout(BOUND):
                await arrived.wait()
            await revoke()
            await ended_in_time(wire)
            async with asyncio.timeout(BOUND):
                await left.wait()


async def test_anonymous_and_other_peoples_streams_go_on(start: Start, revoke: Revoke) -> None:
    behind = Open(EVENTS)
    async with ScriptedUpstream(behind.script) as upstream:
        scene = await start(upstream.url, rules=[{"path": "/public", "access": "public"}])
        async with await scene.connect() as wire, await scene.connect() as anonymous:
            await wire.request("/events", [bearer(sub="kim")])
            await anonymous.request("/public")
            for one in (wire, anonymous):
                await one.head()
                await one.reader.readexactly(14)
            await revoke()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asyncio.wait(
                        [asyncio.ensure_future(one.ended()) for one in (wire, anonymous)],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
