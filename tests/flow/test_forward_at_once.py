"""Most requests are forwarded without a task for each. Client and upstream may notice no difference but the time."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.dataplane.proxy import relay
from sidecar.web.in_flight import InFlightRequest
from sidecar.web.server import Connection
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, plainly
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection, answering
from tests.support.wire import Answer, Wire

CUT = b""
ANSWERS = {
    "plain": OK,
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x\r\ncde\r\n0\r\nTrailer: t\r\n\r\n",
    "chunked and empty": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nwhatever comes",
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "old and kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "204": b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "204 with length": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\nETag: x\r\n\r\n",
    "own reason": b"HTTP/1.1 299 Fine \xe9\x01\r\nContent-Length: 2\r\n\r\nok",
    "refused": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nno",
    "broken": b"HTTP/1.1 599 X\r\nContent-Length: 2\r\n\r\nno",
    "cookies": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b\r\nX-Request-Id: t\r\nContent-Length: 2\r\n\r\nok",
    "hop headers": b"HTTP/1.1 200 OK\r\nConnection: X-A, keep-alive\r\nX-A: 1\r\nTE: x\r\nContent-Length: 2\r\n\r\nok",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "events": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: 1\n\n",
    "two at once": OK + OK,
    "more than asked for": OK + b"HTTP/1.1 2",
    "unasked upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "low status": b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok",
    "high status": b"HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok",
    "control character": b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "folded header": b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "endless length": b"HTTP/1.1 200 OK\r\nContent-Length: 0000000000000000000000002\r\n\r\nok",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok",
    "cut in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "garbage": b"\x16\x03\x01 what\r\n\r\n",
    "nothing": CUT,
}  # fmt: skip


ENDED = [ANSWERS[kind] for kind in ("until the end", "closing", "old", "cut in the body", "cut in the head", "nothing")]
"""After these the service closes the connection."""


class Begins:
    """How requests that were begun without a task ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answered = self.handed_over = self.abandoned = 0
        answer, hand_over, abandon = InFlightRequest.respond, InFlightRequest.promote_to_task, InFlightRequest.cancel

        def answering_(begun: InFlightRequest, status: int, data: bytes) -> None:
            self.answered += 1
            answer(begun, status, data)

        def handing_over(begun: InFlightRequest) -> None:
            self.handed_over += 1
            hand_over(begun)

        def abandoning(begun: InFlightRequest) -> None:
            self.abandoned += 1
            abandon(begun)

        monkeypatch.setattr(InFlightRequest, "respond", answering_)
        monkeypatch.setattr(InFlightRequest, "promote_to_task", handing_over)
        monkeypatch.setattr(InFlightRequest, "cancel", abandoning)


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> Begins:
    return Begins(monkeypatch)


@asynccontextmanager
async def both_ways(scene: Scene) -> AsyncIterator[tuple[Wire, Wire]]:
    """A connection on which requests run in a task, and one on which they start without a task."""
    async with plainly(scene) as plain, await scene.connect() as wire:
        yield plain, wire


async def make_ready(scene: Scene) -> None:
    """Have a token known, and a connection to the service idle."""
    async with plainly(scene) as wire:
        assert (await wire.ask("/ready", [bearer()])).status == 200


async def outcome(wire: Wire, data: bytes) -> tuple[Any, ...]:
    """What comes back for ``data``, as far as it is the same every time, and whether the connection stays."""
    await wire.send(data)
    try:
        answer = await wire.answer()
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return ("broken off", getattr(error, "partial", b""))
    again: tuple[Any, ...] | str | None = None
    if "close" not in answer.all("Connection"):
        await wire.send(data.replace(b" /", b" /again", 1))
        try:
            again = comparable(await wire.answer())
        except (asyncio.IncompleteReadError, ConnectionError):
            again = "ended"
    return comparable(answer), again


def comparable(answer: Answer) -> tuple[Any, ...]:
    """An answer without what differs from one to the next."""
    headers = [line for line in answer.head.headers if line[0] not in ("Date", "X-Request-Id")]
    lines = len(answer.head.headers)
    body = answer.json() | {"requestId": ""} if b'"requestId"' in answer.body else answer.body
    return answer.head.start, headers, lines, body


def scripted(answer: bytes, *, cuts: tuple[int, ...] = ()) -> Any:
    """``/ready`` and ``/again`` are answered well; what else is asked with ``answer``, in pieces."""

    async def script(connection: UpstreamConnection) -> None:
        while True:
            request = await connection.request()
            if request.target.startswith(("/ready", "/again")):
                await connection.send(OK)
                continue
            for start, end in zip((0, *cuts), (*cuts, len(answer)), strict=True):
                await connection.send(answer[start:end])
                await asyncio.sleep(0.01 if cuts else 0)
            if answer in ENDED:
                return

    return script


def get(target: str, *lines: str, method: str = "GET") -> bytes:
    name, value = bearer()
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", f"{name}: {value}", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
async def test_every_answer_is_what_it_would_have_been(start: Start, begins: Begins, answer: bytes) -> None:
    async with ScriptedUpstream(scripted(answer)) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "2s"})
        await make_ready(scene)
        async with both_ways(scene) as (plain, wire):
            expected = await outcome(plain, get("/x"))
            assert begins.answered + begins.handed_over == 0
            await make_ready(scene)
            assert await outcome(wire, get("/x")) == expected
    assert begins.answered + begins.handed_over >= 1
    assert begins.abandoned == 0


@pytest.mark.parametrize("kind", ["plain", "chunked", "304", "continue", "until the end", "refused", "closing"])
async def test_answers_in_pieces_are_what_they_would_have_been(start: Start, begins: Begins, kind: str) -> None:
    answer = ANSWERS[kind]
    upstream = ScriptedUpstream()
    async with upstream:
        scene = await start(upstream.url)
        for cut in (1, 12, answer.index(b"\r\n\r\n") + 2, answer.index(b"\r\n\r\n") + 4, len(answer) - 1):
            upstream.script = scripted(answer, cuts=(min(cut, len(answer) - 1),))
            async with both_ways(scene) as (plain, wire):
                await make_ready(scene)
                expected = await outcome(plain, get("/x"))
                await make_ready(scene)
                assert await outcome(wire, get("/x")) == expected
    assert begins.handed_over >= 5


BEHIND = b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nX-Rest: "


@pytest.mark.parametrize("kind", ["plain", "no body", "chunked", "chunked and empty"])
async def test_what_came_behind_an_answer_is_part_of_no_other(start: Start, begins: Begins, kind: str) -> None:
    """A service that can be made to send more than it says would let one caller write into another's answer."""
    async with ScriptedUpstream(scripted(ANSWERS[kind] + BEHIND)) as upstream:
        scene = await start(upstream.url)
        async with both_ways(scene) as ways:
            for wire in ways:
                await make_ready(scene)
                accepted = upstream.accepted
                assert (await wire.ask("/x", [bearer()])).status == 200
                async with await scene.connect() as other:
                    answer = await other.ask("/again", [bearer()])
                assert (answer.body, answer.all("X-Evil")) == (b"ok", [])
                assert upstream.accepted == accepted + 1, "what had more to say is asked nothing again"
    assert begins.answered >= 1


async def test_every_request_is_sent_on_as_it_would_have_been(start: Start, begins: Begins) -> None:
    """Random requests, valid and hostile: the upstream receives the same bytes, the caller the same response."""
    chance = random.Random(20)
    lines = [
        "Connection: keep-alive", "Connection: X-A, close", "Connection: X-Auth-Request-User", "X-A: 1", "X_A: 2",
        "X-Auth-Request-User: eve", "x_auth_request_user: e", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: gopher",
        "X-Forwarded-Host: evil", "X-Request-Id: mine", "X-Impersonate-User: ann", "Cookie: a=1", "Cookie: b=2",
        "TE: trailers", "Upgrade: h2c", "Upgrade: websocket", "Expect: 100-continue", "Expect: more", "Range: bytes=1-",
        "Content-Length: 0", "Transfer-Encoding: gzip", "Proxy-Authorization: x", "Authorization: Basic x", "X-E: \xe9",
        "HTTP2-Settings: x", "Forwarded: for=x", "Accept: */*", "Keep-Alive: 5", "Origin: x", "Host: two",
        "Access-Control-Request-Method: GET", "X-Long: " + "x" * 500, "X-Tab: a\tb", "Trailer: x", "Content-Length: 00",
    ]  # fmt: skip
    targets = [
        "/x",
        "/x?y=%2F",
        "/a%2Fb",
        "/a//b",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a;b",
        "/a\\b",
        "*",
        "http://h/x",
        "/%zz",
    ]
    methods = ["GET", "GET", "GET", "HEAD", "OPTIONS", "POST", "DELETE", "PROPFIND", "TRACE", "CONNECT"]
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(
            upstream.url,
            server={"trustedProxies": [LOOPBACK]},
            rules=[{"path": "/x", "methods": ["POST"], "require": {"groups": ["no-such-group"]}}],
        )
        for _ in range(150):
            asked = get(
                chance.choice(targets) if chance.random() < 0.4 else "/x",
                *chance.sample(lines, chance.choice((0, 1, 1, 2, 5))),
                method=chance.choice(methods) if chance.random() < 0.4 else "GET",
            )
            seen = []
            for connect in (plainly(scene), await scene.connect()):
                await make_ready(scene)
                del upstream.requests[:]
                async with connect as wire:
                    await wire.send(asked)
                    answer = await wire.answer(asked.partition(b" ")[0].decode())
                seen.append((comparable(answer), [unnumbered(request.raw) for request in upstream.requests]))
            assert seen[0] == seen[1], asked
    assert begins.answered > 30


def unnumbered(data: bytes) -> list[bytes]:
    """A head without the id that each request has for itself."""
    return [line for line in data.split(b"\r\n") if not line.startswith(b"X-Request-Id: ") or line.endswith(b"mine")]


async def test_it_is_counted_as_it_would_have_been(start: Start, begins: Begins) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url)
        await make_ready(scene)
        async with await scene.connect() as wire:
            for _ in range(3):
                answer = await wire.ask("/x", [bearer()])
                assert upstream.requests[-1].all("X-Request-Id") == answer.all("X-Request-Id")
    assert begins.answered == 3
    samples = {
        'sidecar_http_requests_total{code="200",listener="public",route="forward"}': 4,
        'sidecar_http_request_duration_seconds_count{route="forward"}': 4,
        'sidecar_upstream_requests_total{code="200"}': 4,
        "sidecar_upstream_duration_seconds_count": 4,
        "sidecar_http_requests_in_flight": 0,
        'sidecar_token_cache_lookups_total{result="hit"}': 3,
    }
    assert {name: await scene.metric(name) for name in samples} == samples


@asynccontextmanager
async def waiting(start: Start, **blocks: Any) -> AsyncIterator[tuple[Scene, Wire, asyncio.Event, ScriptedUpstream]]:
    """A request that was begun without a task and is answered when the event is set."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        while True:
            request = await connection.request()
            if request.target == "/slow":
                asked.set()
                await answer.wait()
            await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, **blocks)
        await make_ready(scene)
        async with await scene.connect() as wire:
            await wire.request("/slow", [bearer()])
            async with asyncio.timeout(10):
                await asked.wait()
            yield scene, wire, answer, upstream


async def test_answers_come_in_the_order_of_the_questions(start: Start, begins: Begins) -> None:
    async with waiting(start) as (_, wire, answer, upstream):
        await wire.request("/second", [bearer()])
        await wire.send(b"GET /bad HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n")
        await eventually(lambda: begins.handed_over == 1)
        answer.set()
        assert [(await wire.answer()).status for _ in range(3)] == [200, 200, 401]
        assert [request.target for request in upstream.requests] == ["/ready", "/slow", "/second"]


async def test_a_slow_response_is_awaited_in_a_task(
    start: Start, begins: Begins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SLOW_RESPONSE_DELAY", 0.01)
    async with waiting(start) as (scene, wire, answer, _):
        await eventually(lambda: begins.handed_over == 1)
        assert await scene.metric("sidecar_http_requests_in_flight") == 1
        answer.set()
        assert (await wire.answer()).status == 200
        assert (await wire.ask("/x", [bearer()])).status == 200
        assert await scene.metric("sidecar_http_requests_in_flight") == 0


async def test_what_takes_too_long_ends_as_it_would_have(
    start: Start, begins: Begins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SLOW_RESPONSE_DELAY", 0.01)
    async with waiting(start, upstream={"responseTimeout": "100ms"}) as (scene, wire, _, _):
        assert (await wire.answer()).status == 504
    assert begins.handed_over == 1
    assert await scene.metric('sidecar_upstream_requests_total{code="504"}') == 1


async def test_a_caller_that_disconnects_cancels_its_request(start: Start, begins: Begins) -> None:
    """Its answer must not become that of the next one."""
    async with waiting(start) as (scene, wire, answer, upstream):
        assert await scene.metric("sidecar_http_requests_in_flight") == 1
        wire.writer.transport.abort()
        await eventually(lambda: begins.abandoned == 1)
        answer.set()
        async with await scene.connect() as other:
            assert (await other.ask("/x", [bearer()])).status == 200
        assert upstream.accepted == 2
        assert await scene.metric("sidecar_http_requests_in_flight") == 0


async def test_idle_time_is_not_counted_while_an_answer_is_awaited(start: Start, begins: Begins) -> None:
    """The idle time passes while the service is busy."""
    async with waiting(start, server={"limits": {"idleTimeout": "100ms"}}) as (_, wire, answer, _):
        await eventually(lambda: begins.handed_over == 1)
        answer.set()
        assert (await wire.answer()).status == 200
    assert begins.handed_over == 1


async def test_a_draining_sidecar_still_answers_and_then_closes(start: Start, begins: Begins) -> None:
    async with waiting(start, server={"drainTimeout": "5s"}) as (scene, wire, answer, _):
        draining = asyncio.create_task(scene.sidecar.drain(0, 5))
        await eventually(lambda: scene.sidecar.health.draining)
        assert not draining.done()
        answer.set()
        last = await wire.answer()
        assert (last.status, last.all("Connection")) == (200, ["close"])
        assert await wire.ended() == b""
        await draining
    assert begins.abandoned == 0


async def test_no_more_requests_are_begun_than_may_be_in_flight(start: Start, begins: Begins) -> None:
    async with waiting(start, server={"limits": {"maxInFlight": 1}}) as (scene, wire, answer, _):
        async with await scene.connect() as other:
            assert (await other.ask("/x", [bearer()])).status == 503
        answer.set()
        assert (await wire.answer()).status == 200


async def test_bad_tokens_are_not_sent_on(start: Start, begins: Begins) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url)
        await make_ready(scene)
        async with await scene.connect() as wire:
            assert (await wire.ask("/x", [bearer(exp=1)])).status == 401
            assert (await wire.ask("/x")).status == 401
            assert (await wire.ask("/x", [bearer(), ("Authorization", "Bearer x")])).status == 400
            scene.clock.advance(100_000)
            assert (await wire.ask("/x", [bearer()])).status == 401
        assert [request.target for request in upstream.requests] == ["/ready"]
    assert begins.answered + begins.abandoned == 0
    assert begins.handed_over == 1, "the last one waits for keys, which have become too old"


async def test_an_error_while_a_response_is_written_feeds_no_other_request(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task answers from the same upstream connection, which no other request gets meanwhile or twice afterwards."""
    both = asyncio.Barrier(2)

    async def script(connection: UpstreamConnection) -> None:
        while True:
            request = await connection.request()
            if request.target in ("/third", "/fourth"):
                await both.wait()
            await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        write = Connection.write_response

        def fail_once(connection: Connection, answer: bytes) -> None:
            monkeypatch.setattr(Connection, "write_response", write)
            raise RuntimeError("a fault on purpose")

        async with await scene.connect() as wire, await scene.connect() as other:
            assert (await wire.ask("/first", [bearer()])).status == 200  # opens the connection to the upstream
            monkeypatch.setattr(Connection, "write_response", fail_once)
            assert (await wire.ask("/second", [bearer()])).status == 200
            assert [request.target for request in upstream.requests] == ["/first", "/second"]
            asked = asyncio.gather(wire.ask("/third", [bearer()]), other.ask("/fourth", [bearer()]))
            assert [answer.status for answer in await asked] == [200, 200]
    assert upstream.accepted == 2, "one connection for two requests at the same time"
