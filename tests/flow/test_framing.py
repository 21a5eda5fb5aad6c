"""Hostile requests: every answer is a refusal in our shape, and none of their bytes is in answer or log."""

import asyncio
import json
import logging
import socket
from contextlib import suppress

import pytest

from sidecar.logs import JsonFormatter
from tests.flow.conftest import Start, bearer
from tests.support.echo_upstream import echo_upstream
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection
from tests.support.wire import Answer, Wire

AUTH = ": ".join(bearer())
LINES = f"{AUTH}\r\nCookie: session=marker-cookie\r\n"
GET = f"GET /marker-path?marker=query HTTP/1.1\r\nHost: a\r\n{LINES}"
POST = f"POST /marker-path HTTP/1.1\r\nHost: a\r\n{LINES}"
CHUNKS = "3\r\nabc\r\n0\r\n\r\n"

UNSURE = {
    "length and chunked": (f"{POST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}", 400),
    "chunked and length": (f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n{CHUNKS}", 400),
    "gzip, chunked": (f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n{CHUNKS}", 501),
    "gzip": (f"{POST}Transfer-Encoding: gzip\r\n\r\n{CHUNKS}", 400),
    "chunked twice": (f"{POST}Transfer-Encoding: chunked, chunked\r\n\r\n{CHUNKS}", (400, 501)),
    "chunked on two lines": (f"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}", 400),
    "chunked and identity": (f"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{CHUNKS}", 400),
    "chunked, vertical tab": (f"{POST}Transfer-Encoding: chunked\x0b\r\n\r\n{CHUNKS}", 400),
    "chunked, quoted": (f'{POST}Transfer-Encoding: "chunked"\r\n\r\n{CHUNKS}', 400),
    "xchunked": (f"{POST}Transfer-Encoding: xchunked\r\n\r\n{CHUNKS}", 400),
    "coding in 1.0": (
        f"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{LINES}Transfer-Encoding: chunked\r\n\r\n{CHUNKS}",
        400,
    ),
    "two lengths": (f"{POST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "equal lengths": (f"{POST}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "list of lengths": (f"{POST}Content-Length: 3, 3\r\n\r\nabc", 400),
    "signed length": (f"{POST}Content-Length: +3\r\n\r\nabc", 400),
    "negative length": (f"{POST}Content-Length: -3\r\n\r\nabc", 400),
    "hexadecimal length": (f"{POST}Content-Length: 0x3\r\n\r\nabc", 400),
    "length with underscore": (f"{POST}Content-Length: 1_0\r\n\r\n0123456789", 400),
    "empty length": (f"{POST}Content-Length:\r\n\r\n", 400),
    "absurd length": (f"{POST}Content-Length: {'9' * 40}\r\n\r\nabc", 400),
    "two hosts": (f"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{LINES}\r\n", 400),
    "no host": (f"GET / HTTP/1.1\r\n{LINES}\r\n", 400),
    "space before colon": (f"{GET}X-A : 1\r\n\r\n", 400),
    "folded line": (f"{GET}X-A: 1\r\n 2\r\n\r\n", 400),
    "line without colon": (f"{GET}X-A\r\n\r\n", 400),
    "empty name": (f"{GET}: 1\r\n\r\n", 400),
    "NUL in value": (f"{GET}X-A: 1\x002\r\n\r\n", 400),
    "NUL in name": (f"{GET}X\x00A: 1\r\n\r\n", 400),
    "bare CR in value": (f"{GET}X-A: 1\r2\r\n\r\n", 400),
    "bare LF line": (f"{GET}X-A: 1\nX-B: 2\r\n\r\n", 400),
    "control byte in value": (f"{GET}X-A: \x01\r\n\r\n", 400),
    "control byte in target": (f"GET /\x01 HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "tab in target": (f"GET /a\tb HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "space in target": (f"GET /a b HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "raw bytes in target": (f"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "non-ASCII name": (f"{GET}X-\xe9: 1\r\n\r\n", 400),
    "CONNECT": (f"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 405),
    "TRACE": (f"TRACE / HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 405),
    "no version": ("GET /marker-path\r\n\r\n", (400, 505)),
    "HTTP/0.9": (f"GET / HTTP/0.9\r\nHost: a\r\n{LINES}\r\n", (400, 505)),
    "HTTP/2.0": (f"GET / HTTP/2.0\r\nHost: a\r\n{LINES}\r\n", 505),
    "HTTP/1.2": (f"GET / HTTP/1.2\r\nHost: a\r\n{LINES}\r\n", (400, 505)),
    "HTTP/3.0": (f"GET / HTTP/3.0\r\nHost: a\r\n{LINES}\r\n", (400, 505)),
    "preface of HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    "lower-case method": (f"get / HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "unknown method": (f"STEAL / HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "TLS": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03marker", 400),
    "other expectation": (f"{POST}Expect: 200-maybe\r\nContent-Length: 3\r\n\r\nabc", 417),
    "long target": (f"GET /{'a' * 20_000} HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 414),
    "long line": (f"{GET}X-A: {'a' * 20_000}\r\n\r\n", 431),
    "long name": (f"{GET}{'a' * 20_000}: 1\r\n\r\n", 431),
    "many lines": (f"{GET}{('X-B: 2' + chr(13) + chr(10)) * 200}\r\n", 431),
}  # fmt: skip
SURE = {
    "absolute form": (f"GET http://b:99/x HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "asterisk": (f"OPTIONS * HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "host with user": (f"GET / HTTP/1.1\r\nHost: u:p@h\r\n{LINES}\r\n", 400),
    "host with path": (f"GET / HTTP/1.1\r\nHost: h/x?\r\n{LINES}\r\n", 400),
    "host with space": (f"GET / HTTP/1.1\r\nHost: a b[c\r\n{LINES}\r\n", 400),
    "host with comma": (f"GET / HTTP/1.1\r\nHost: a, b\r\n{LINES}\r\n", 400),
    "empty host": (f"GET / HTTP/1.1\r\nHost:\r\n{LINES}\r\n", 400),
    "non-ASCII host": (f"GET / HTTP/1.1\r\nHost: caf\xe9\r\n{LINES}\r\n", 400),
    "dot segment": (f"GET /a/../b HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "encoded dot segment": (f"GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "backslash": (f"GET /a\\b HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "encoded NUL": (f"GET /a%00b HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "fragment": (f"GET /a#b HTTP/1.1\r\nHost: a\r\n{LINES}\r\n", 400),
    "two credentials": (f"{GET}{AUTH}\r\n\r\n", 400),
    "non-UTF-8 credential": ("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfemarker\r\n\r\n", 401),
}  # fmt: skip


def assert_refusal(answer: Answer, status: int | tuple[int, ...]) -> None:
    assert answer.status in (status if isinstance(status, tuple) else (status,)), answer
    document = answer.json()
    assert set(document) == {"code", "message", "reason", "requestId"}
    assert document["code"] == answer.status
    assert document["requestId"] == answer.all("X-Request-Id")[0]
    assert answer.all("Content-Type") == ["application/json; charset=utf-8"]
    assert b"marker" not in answer.body
    assert "marker" not in str(answer.head)
    assert "code" not in document["message"]


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(JsonFormatter().format(record) for record in caplog.records)


@pytest.mark.parametrize(("raw", "status"), UNSURE.values(), ids=UNSURE)
async def test_unsure_framing_is_refused_and_ends_the_connection(
    start: Start, caplog: pytest.LogCaptureFixture, raw: str, status: int | tuple[int, ...]
) -> None:
    """What follows on the connection is never read as a request."""
    caplog.set_level(logging.DEBUG)
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(raw.encode("latin-1"))
            answer = await wire.answer()
            assert_refusal(answer, status)
            assert answer.all("Connection") == ["close"]
            wire.writer.write(f"{GET}\r\n".encode())
            assert await wire.ended() == b""
    assert upstream.accepted == 0
    assert "marker-cookie" not in logged(caplog)
    assert AUTH.removeprefix("Authorization: Bearer ") not in logged(caplog)
    assert "marker=query" not in logged(caplog)


@pytest.mark.parametrize(("raw", "status"), SURE.values(), ids=SURE)
async def test_other_bad_requests_are_refused(
    start: Start, caplog: pytest.LogCaptureFixture, raw: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(raw.encode("latin-1"))
            assert_refusal(await wire.answer(), status)
            assert (await wire.ask("/", [bearer()])).status == 200, "the connection goes on"
    assert len(upstream.requests) == 1
    assert "marker-cookie" not in logged(caplog)
    assert "eyJ" not in logged(caplog)


async def test_a_request_behind_a_body_is_judged_by_itself(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{POST}Content-Length: 3\r\n\r\nabcGET /second HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert (await wire.answer()).status == 200
            assert (await wire.answer()).status == 401
    assert [request.target for request in upstream.requests] == ["/marker-path"]


async def test_bytes_that_are_not_utf_8_in_headers_are_forwarded_unchanged(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{GET}X-Latin: \xe9\xff\r\n\r\n".encode("latin-1"))
            assert (await wire.answer()).status == 200
    assert b"X-Latin: \xe9\xff\r\n" in upstream.requests[0].raw


async def test_large_but_honest_heads_pass(start: Start) -> None:
    """Tokens of 7 kB and queries of 6 kB are what real clients send."""
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            long_token = bearer(padding="x" * 6000)
            assert (await wire.ask(f"/?q={'a' * 6000}", [long_token])).status == 200


async def test_a_refused_request_is_one_log_line_with_the_same_id(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidecar")
    scene = await start()
    async with await scene.connect() as wire:
        await wire.send(f"{POST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc".encode())
        identifier = (await wire.answer()).json()["requestId"]
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [line["requestId"] for line in lines if "requestId" in line] == [identifier]


async def test_a_connection_that_says_nothing_is_closed(start: Start) -> None:
    scene = await start(server={"limits": {"idleTimeout": "100ms"}})
    async with await scene.connect() as wire:
        assert await wire.ended() == b""
    async with await scene.connect() as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHo")
        assert await wire.ended() == b""


async def test_a_head_that_trickles_in_gets_408(start: Start) -> None:
    """The time for a head is one time, however many pieces it comes in; one that is in time is none too late later."""
    scene = await start(server={"limits": {"headerTimeout": "400ms"}})
    async with await scene.connect() as prompt, await scene.connect() as wire:
        await prompt.send(b"GET / HTTP/1.1\r\nHo")
        await prompt.send(b"st: a\r\n\r\n")
        assert (await prompt.answer()).status == 404
        sending = asyncio.create_task(trickle(wire))
        answer = await wire.answer()
        sending.cancel()
        assert_refusal(answer, 408)
        assert answer.all("Connection") == ["close"]
        assert await wire.ended() == b""
        assert (await prompt.ask("/")).status == 404


async def test_a_head_that_comes_with_its_connection_is_bounded_too(start: Start) -> None:
    """Its bytes arrive before they are read. A complete request that arrives in this way is answered."""
    scene = await start(server={"limits": {"headerTimeout": "400ms"}})
    host, port = scene.address.split(":")
    with socket.create_connection((host, int(port))) as half, socket.create_connection((host, int(port))) as whole:
        # the loop has had no turn since they connected
        half.send(b"GET / HTTP/1.1\r\nHo")
        whole.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wires = [Wire(*await asyncio.open_connection(sock=each.dup())) for each in (half, whole)]
        async with wires[0], wires[1]:
            assert_refusal(await wires[0].answer(), 408)
            assert (await wires[1].answer()).status == 404
            assert (await wires[1].ask("/")).status == 404


async def test_a_head_of_many_long_lines_is_refused_before_it_is_whole(start: Start) -> None:
    """The maximum number of lines of maximum length would be megabytes for each connection of any client."""
    scene = await start()
    async with await scene.connect() as wire:
        assert (await wire.ask("/")).status == 404
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        for _ in range(5):
            await wire.send(b"X-A: %b\r\n" % (b"a" * 15_000))
        answer = await wire.answer()
        assert_refusal(answer, 431)
        assert answer.all("Connection") == ["close"]
        assert await wire.ended() == b""
    async with await scene.connect() as wire:
        whole = [("X-A", "a" * 15_000)] * 3
        assert (await wire.ask("/", whole)).status == 404
        assert (await wire.ask("/", whole)).status == 404


@pytest.mark.parametrize(("more", "status"), [(b"X-A: %b\r\n" % (b"a" * 15_000) * 5, 431), (b"X-A: 1", 408)])
async def test_a_head_behind_a_request_in_progress_is_bounded_too(start: Start, more: bytes, status: int) -> None:
    """In size and in time; the answers come in order."""
    answer_now = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer_now.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(upstream, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        scene = await start(url, server={"limits": {"headerTimeout": "400ms"}})
        async with await scene.connect() as wire:
            await wire.send(f"GET /x HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n\r\n".encode())
            await asyncio.sleep(0.2)
            await wire.send(b"GET /y HTTP/1.1\r\nHost: a\r\n")
            await wire.send(more)
            await asyncio.sleep(0.6)
            answer_now.set()
            assert (await wire.answer()).status == 204
            answer = await wire.answer()
            assert_refusal(answer, status)
            assert answer.all("Connection") == ["close"]
            assert await wire.ended() == b""


async def test_a_body_behind_a_request_in_progress_is_no_head(start: Start) -> None:
    """Neither its time nor its size is that of a head, and an idle connection after it has no limit for heads."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, server={"limits": {"headerTimeout": "300ms"}})
        async with await scene.connect() as wire:
            first = f"GET /x HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n\r\n"
            second = f"POST /y HTTP/1.1\r\nHost: a\r\n{AUTH}\r\nContent-Length: 90000\r\n\r\n"
            await wire.send((first + second).encode() + b"b" * 10_000)
            assert (await wire.answer()).status == 200
            for _ in range(4):
                await asyncio.sleep(0.15)
                await wire.send(b"b" * 20_000)
            assert (await wire.answer()).status == 200
            await asyncio.sleep(0.5)
            assert (await wire.ask("/z", [bearer()])).status == 200


@pytest.mark.parametrize("in_turn", [True, False])
async def test_a_whole_head_of_many_long_lines_is_refused_too(start: Start, *, in_turn: bool) -> None:
    """However it comes, also while an earlier one is still being answered."""
    raw = b"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"X-A: %b\r\n" % (b"a" * 15_000) * 5)
    first = f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n\r\n".encode()
    scene = await start()
    async with await scene.connect() as wire:
        await wire.send(first if in_turn else first + raw)
        assert (await wire.answer()).status == 200
        if in_turn:
            await wire.send(raw)
        answer = await wire.answer()
        assert_refusal(answer, 431)
        assert answer.all("Connection") == ["close"]
        assert await wire.ended() == b""


async def test_what_comes_behind_broken_framing_is_not_kept(start: Start) -> None:
    """Otherwise a client could fill the memory while its own request is being answered."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        asked.set()
        await answer.wait()
        await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/x", [bearer()])
            await asked.wait()
            for _ in range(100):  # far more than the sockets hold, so all of it is read
                await wire.send(b"?" * 1_000_000)
            (connection,) = scene.sidecar._server.connections
            assert len(connection._messages) <= 1  # aiohttp's: there is no public way to see what it keeps
            answer.set()
            assert (await wire.answer()).status == 200
            assert_refusal(await wire.answer(), 400)


async def trickle(wire: Wire) -> None:
    await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ")
    while True:
        await wire.send(b"a")
        await asyncio.sleep(0.01)


async def test_requests_over_the_limit_get_503(start: Start) -> None:
    begun = asyncio.Event()

    async def script(connection: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, server={"limits": {"maxInFlight": 1}})
        async with await scene.connect() as one, await scene.connect() as two:
            await one.request("/", [bearer()])
            await begun.wait()
            answer = await two.ask("/", [bearer()])
            assert (answer.status, answer.json()["reason"]) == (503, "unavailable")
            assert answer.all("Retry-After") == ["1"]
