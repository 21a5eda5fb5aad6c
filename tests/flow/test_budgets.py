"""What callers without a good credential can take up: places, time and connections of their own, never all of them."""

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

import sidecar.api.body
from sidecar.logs import JsonFormatter
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection
from tests.support.wire import TIMEOUT, Answer, Wire

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
STALLED = f"POST /oauth2/revoke HTTP/1.1\r\nHost: a\r\n{FORM}Content-Length: 500\r\n\r\nt".encode()
PUBLIC = [{"path": "/public/**", "access": "public"}]


async def serve(connection: UpstreamConnection) -> None:
    """Answers, except requests below /public/wait and requests of the user ``waits``."""
    while True:
        request = await connection.request()
        if request.target.startswith(("/public/wait", "/wait")):
            await asyncio.Event().wait()
        await connection.send(OK)


async def capacity(scene: Scene) -> tuple[int, str]:
    """The status of /readyz, and what it says of the places that are left."""
    reply = await scene.operations("/readyz")
    return reply.status, reply.json()["parts"]["capacity"]["state"]


async def reaches(scene: Scene, state: str) -> None:
    """Return once readiness says so of the places that are left."""
    async with asyncio.timeout(TIMEOUT):
        while (await capacity(scene))[1] != state:
            await asyncio.sleep(0.01)


async def connected(scene: Scene, stack: AsyncExitStack) -> Wire:
    return await stack.enter_async_context(await scene.connect())


async def asked(scene: Scene, target: str, *headers: tuple[str, str]) -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, headers)


async def test_bodies_before_a_verdict_keep_no_good_caller_out(start: Start) -> None:
    """An eighth of the places is theirs; one more is refused without waiting, and its connection ends."""
    async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as stack:
        scene = await start(upstream.url, server={"limits": {"maxInFlight": 16}})
        for _ in range(2):
            await (await connected(scene, stack)).send(STALLED)
        await eventually(lambda: scene.undecided == 2)
        for _ in range(20):
            wire = await connected(scene, stack)
            await wire.send(STALLED)
            answer = await wire.answer()
            assert (answer.status, answer.all("Connection")) == (503, ["close"])
            assert answer.all("Retry-After") == ["1"]
            assert await wire.ended() == b""
        assert (await asked(scene, "/x", bearer())).status == 200
        assert (await asked(scene, "/oauth2/auth", bearer())).status == 200
        assert (await asked(scene, "/oauth2/auth", bearer(sub="bob"))).status == 200, "verified without waiting"
        assert (await asked(scene, "/oauth2/userinfo", bearer())).status == 200
        assert (await asked(scene, "/oauth2/auth", bearer(exp=1))).status == 401, "refused without waiting"
        assert await capacity(scene) == (200, "degraded")
        whole = b"token=x"
        async with await scene.connect() as wire:
            head = f"POST /oauth2/revoke HTTP/1.1\r\nHost: a\r\n{FORM}Content-Length: {len(whole)}\r\n\r\n"
            await wire.send(head.encode() + whole)
            assert (await wire.answer()).status != 408, "a body that is there needs no place to wait for it"
    await eventually(lambda: scene.undecided == 0)


@pytest.mark.parametrize(("ours", "configured"), [(0.1, "60s"), (60.0, "100ms")])
async def test_a_body_before_a_verdict_has_less_time(
    start: Start, monkeypatch: pytest.MonkeyPatch, ours: float, configured: str
) -> None:
    """The shorter of the two time limits applies, and the caller gets a response."""
    monkeypatch.setattr(sidecar.api.body, "_UNDECIDED_BODY_TIMEOUT", ours)
    scene = await start(server={"limits": {"bodyTimeout": configured}})
    async with await scene.connect() as wire:
        await wire.send(STALLED)
        answer = await wire.answer()
        assert (answer.status, answer.all("Connection")) == (408, ["close"])
        assert await wire.ended() == b""


def test_that_time_is_ten_seconds() -> None:
    assert sidecar.api.body._UNDECIDED_BODY_TIMEOUT == 10.0


async def test_a_body_after_the_verdict_takes_no_such_place(start: Start) -> None:
    scene = await start(server={"limits": {"maxInFlight": 8}})
    async with AsyncExitStack() as stack:
        for _ in range(5):
            head = f"POST /oauth2/introspect HTTP/1.1\r\nHost: a\r\n{FORM}" + "{}: {}\r\n".format(*bearer())
            wire = await connected(scene, stack)
            await wire.send(f"{head}Content-Length: 500\r\n\r\nt".encode())
        await eventually(lambda: scene.in_flight == 5)
        assert scene.undecided == 0


async def test_callers_without_a_credential_leave_half_of_the_places(start: Start) -> None:
    """On public paths too: slow requests, uploads that stall and WebSockets that say nothing."""
    async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as stack:
        scene = await start(upstream.url, rules=PUBLIC, server={"limits": {"maxInFlight": 4}})
        await (await connected(scene, stack)).request("/public/wait")
        await (await connected(scene, stack)).send(
            b"PUT /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"
        )
        await reaches(scene, "degraded")
        for _ in range(5):
            assert (await asked(scene, "/public/x")).status == 503
        assert (await asked(scene, "/public/x", bearer())).status == 200
        assert (await asked(scene, "/x", bearer())).status == 200
        assert await capacity(scene) == (200, "degraded")
    await reaches(scene, "usable")


async def test_checks_are_answered_while_every_place_is_taken(start: Start) -> None:
    """Then nothing else is, and readiness says so."""
    async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as stack:
        scene = await start(upstream.url, server={"limits": {"maxInFlight": 2}})
        assert await capacity(scene) == (200, "usable")
        for _ in range(2):
            await (await connected(scene, stack)).request("/wait", [bearer()])
        await eventually(lambda: scene.in_flight == 2)
        assert (await asked(scene, "/x", bearer())).status == 503
        assert (await asked(scene, "/oauth2/auth", bearer())).status == 200
        assert (await asked(scene, "/oauth2/auth", ("Authorization", "Bearer no"))).status == 401
        assert await capacity(scene) == (503, "unusable")
        assert await scene.metric("sidecar_ready") == 0
    await eventually(lambda: scene.in_flight == 0)
    assert await capacity(scene) == (200, "usable")


async def test_silent_connections_make_room_for_new_ones(start: Start) -> None:
    """The oldest idle connection is closed, also one with half a head or an unread body; a busy one never is."""
    async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as stack:
        scene = await start(upstream.url, server={"trustedProxies": [LOOPBACK], "limits": {"maxConnections": 3}})
        silent, half, over = [await connected(scene, stack) for _ in range(3)]
        await half.send(b"GET / HTTP/1.1\r\nHo")
        await over.send(b"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        assert (await over.answer()).status == 401
        known = []
        for _ in range(3):
            wire = await connected(scene, stack)
            assert (await wire.ask("/x", [bearer()])).status == 200
            known.append(wire)
        for gone in (silent, half, over):
            assert await gone.ended() == b""
        assert await capacity(scene) == (503, "unusable")
        async with await scene.connect() as further:
            assert await further.ended() == b""
        for wire in known:
            assert (await wire.ask("/x", [bearer()])).status == 200


async def test_the_guest_is_a_caller_without_a_credential(start: Start) -> None:
    """It has an Actor, but so has every caller who presents nothing."""
    async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as stack:
        scene = await start(
            upstream.url,
            server={"trustedProxies": [LOOPBACK], "limits": {"maxInFlight": 2}},
            authentication={"authenticators": [{"type": "jwt"}, {"type": "guest", "configs": {"paths": ["/**"]}}]},
        )
        asks = [("X-Original-URI", "/x"), ("X-Original-Method", "GET")]
        for target, headers in (("/oauth2/auth", asks), ("/x", [])):
            wire = await connected(scene, stack)
            assert (await wire.ask(target, headers)).status == 200
        assert [connection.is_known for connection in scene.connections] == [False, False]
        await (await connected(scene, stack)).request("/wait")
        await reaches(scene, "degraded")
        assert (await asked(scene, "/x")).status == 503
        assert (await asked(scene, "/x", bearer())).status == 200


@pytest.mark.parametrize("target", ["/oauth2/auth", "/oauth2/userinfo", "/oauth2/tokens", "/x"])
async def test_a_connection_that_carried_a_good_credential_is_kept(start: Start, target: str) -> None:
    async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as stack:
        scene = await start(upstream.url, server={"limits": {"maxConnections": 2}})
        known, refused = await connected(scene, stack), await connected(scene, stack)
        await known.ask(target, [bearer()])
        assert (await refused.ask(target, [("Authorization", "Bearer no")])).status == 401
        for _ in range(2):
            assert (await asked(scene, "/x", bearer())).status == 200
            await eventually(lambda: len(scene.connections) == 1)
        assert await refused.ended() == b""
        assert (await known.ask(target, [bearer()])).status in (200, 404)


async def test_a_flood_of_refusals_writes_a_bounded_number_of_lines(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """What was left out is one line, and a metric; the answers are the same."""
    caplog.set_level(logging.INFO, "sidecar")
    scene = await start(logging={"refusalsPerSecond": 5})
    async with await scene.connect() as wire:
        for _ in range(40):
            assert (await wire.ask("/oauth2/auth", [("Authorization", "Bearer no")])).status == 401

    def lines(event: str) -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.__dict__.get("event") == event]

    await eventually(lambda: lines("log_lines_suppressed"))
    written = len(lines("request_rejected"))
    assert 5 <= written < 30
    left_out = sum(int(record.__dict__["lines"]) for record in lines("log_lines_suppressed"))
    assert await scene.metric("sidecar_log_lines_left_out_total") == left_out == 40 - written
    assert "requestId" not in JsonFormatter().format(lines("log_lines_suppressed")[0])
