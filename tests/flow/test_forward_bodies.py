"""Forward mode: bodies are streamed in both directions, complete or visibly aborted, and responses are not mixed up."""

import asyncio
import hashlib
import random
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import Scene, Start, bearer, refuses_connections
from tests.support import forge
from tests.support.certificates import certificate
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection, answering
from tests.support.wire import TIMEOUT, Wire, read_body

BIG = random.Random(7).randbytes(5 * 2**20)
POST = "POST /upload HTTP/1.1\r\nHost: api.example.com\r\n"
AUTHORIZED = POST + ": ".join(bearer()) + "\r\n"
# More than the kernel (at most 36 MiB on each of the two connections, by Linux's usual settings) and we hold between
# two ends; half of what is sent.
FULL_SOCKETS = 80 * 2**20
LARGE = 2 * FULL_SOCKETS


async def upload_digest(connection: UpstreamConnection) -> None:
    """Answers with the digest of what was uploaded, read as it comes."""
    while True:
        request = await connection.request()
        digest = hashlib.sha256(request.body).hexdigest().encode()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(digest) + digest)


async def after(scene: Scene, upstream: ScriptedUpstream) -> None:
    """The pool is in step: the next callers get their own answers."""
    upstream.script = by_target
    async with await scene.connect() as wire:
        for number in range(3):
            assert (await wire.ask(f"/{number}", [bearer()])).body == f"/{number}".encode()


async def by_target(connection: UpstreamConnection) -> None:
    """Answers each request with its own target."""
    while True:
        target = (await connection.request()).target.encode()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(target) + target)


async def test_uploads_arrive_whole_with_their_length(start: Start) -> None:
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for body in (BIG, b"x", BIG[:70_000]):
                answer = await wire.ask("/upload", [bearer()], method="PUT", body=body)
                assert answer.body.decode() == hashlib.sha256(body).hexdigest()
    assert [request.all("Content-Length") for request in upstream.requests] == [[str(2**20 * 5)], ["1"], ["70000"]]


async def test_chunked_uploads_arrive_whole_without_trailers(start: Start) -> None:
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Transfer-Encoding: chunked\r\n\r\n".encode())
            for begin in range(0, len(BIG), 100_001):
                piece = BIG[begin : begin + 100_001]
                await wire.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
            await wire.send(b"0\r\nX-Auth-Request-User: forged\r\n\r\n")
            assert (await wire.answer()).body.decode() == hashlib.sha256(BIG).hexdigest()
            assert (await wire.ask("/", [bearer()])).status == 200
    assert upstream.requests[0].all("Transfer-Encoding") == ["chunked"]
    assert b"forged" not in upstream.requests[0].raw + upstream.requests[1].raw


async def test_an_upload_reaches_the_service_while_it_is_sent(start: Start) -> None:
    first = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        assert await connection.reader.readexactly(3) == b"one"
        first.set()
        assert await connection.reader.readexactly(3) == b"two"
        await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Content-Length: 6\r\n\r\none".encode())
            async with asyncio.timeout(TIMEOUT):
                await first.wait()
            await wire.send(b"two")
            assert (await wire.answer()).body == b"ok"


async def test_downloads_arrive_whole_however_they_are_framed(start: Start) -> None:
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BIG[:99], BIG[99:70_000], BIG[70_000:]))
    by_length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\nX-Trailer: 1\r\n\r\n"

    async def script(connection: UpstreamConnection) -> None:
        while (await connection.request()).target != "/until-end":
            await connection.send(by_length if upstream.requests[-1].target == "/length" else chunked)
        await connection.send(b"HTTP/1.0 200 OK\r\n\r\n" + BIG)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for target in ("/length", "/chunked", "/until-end", "/length"):
                assert (await wire.ask(target, [bearer()])).body == BIG


async def test_http_1_0_callers_get_bodies_without_chunks(start: Start) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    async with ScriptedUpstream(answering(OK, chunked)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            ask = f"GET / HTTP/1.0\r\nConnection: keep-alive\r\n{': '.join(bearer())}\r\n\r\n".encode()
            await wire.send(ask)
            first = await wire.answer()
            assert (first.body, first.all("Connection")) == (b"ok", ["keep-alive"])
            await wire.send(ask)
            second = await wire.answer()
            assert (second.body, second.all("Connection")) == (b"hello", ["close"])
            assert second.all("Transfer-Encoding") == []
    assert upstream.requests[0].head.start == "GET / HTTP/1.1"
    assert upstream.requests[0].all("Host") == [f"127.0.0.1:{upstream.port}"]


async def test_http_1_0_services_are_understood(start: Start) -> None:
    kept = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    async with ScriptedUpstream(answering(kept)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for _ in range(3):
                assert (await wire.ask("/", [bearer()])).body == b"ok"
        assert upstream.accepted == 1


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"Content-Length: 100\r\n\r\nhalf", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"zz\r\n"),
    ],
    ids=["length", "chunked", "bad chunk"],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_broken_answer_is_never_ended_normally(start: Start, head: bytes, rest: bytes, version: str) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + head)
        await begun.wait()
        await connection.send(rest)

    begun = asyncio.Event()
    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"GET / HTTP/{version}\r\nHost: a\r\n{': '.join(bearer())}\r\n\r\n".encode())
            answer_head = await wire.head()
            begun.set()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                async with asyncio.timeout(TIMEOUT):
                    await read_body(wire.reader, answer_head, until_eof=True)
        await after(scene, upstream)


async def test_a_reset_is_not_taken_for_the_end_of_a_body(start: Start) -> None:
    """Where only the end of the connection ends a body, ending it with a reset is no end."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await reached.wait()
        connection.writer.transport.abort()  # with the upload unread, the kernel resets

    reached = asyncio.Event()
    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Content-Length: {len(BIG)}\r\n\r\n".encode() + BIG[:300_000])
            head = await wire.head()
            assert head.all("Connection") == ["close"]
            assert await wire.exactly(9) == b"4\r\nhalf\r\n"
            reached.set()
            assert not (await wire.ended()).endswith(b"0\r\n\r\n")


async def test_an_early_refusal_of_an_upload_reaches_the_caller(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/upload", [bearer()], method="POST", body=BIG)
            assert (answer.status, answer.body, answer.all("Connection")) == (413, b"big", ["close"])
        await after(scene, upstream)


async def test_a_refused_upload_is_not_sent_on(start: Start) -> None:
    received = 0

    async def script(connection: UpstreamConnection) -> None:
        nonlocal received
        await connection.head()
        await connection.send(b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\n")
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.5):
                    received += len(await connection.reader.read(2**20)) or 2**40
        await connection.send(b"no!")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            upload = b"x" * LARGE
            sending = asyncio.create_task(wire.request("/", [bearer()], method="POST", body=upload))
            assert (await wire.answer()).body == b"no!"
            sending.cancel()
    assert received < FULL_SOCKETS


async def test_an_answer_is_broken_off_with_the_upload_that_it_answers(start: Start) -> None:
    ended = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        await connection.ended()
        ended.set()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n".encode())
            await wire.head()
            assert await wire.exactly(3) == b"one"
            await wire.send(b"zz\r\n")
            assert await wire.ended() == b""
            async with asyncio.timeout(TIMEOUT):
                await ended.wait()
        await after(scene, upstream)


async def test_a_service_may_answer_while_it_still_reads(start: Start) -> None:
    """An echo: what is sent after the answer has begun still arrives, and comes back."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(2):
            await connection.send(await connection.reader.readexactly(3))
        await connection.ended()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Content-Length: 6\r\n\r\none".encode())
            await wire.head()
            assert await wire.exactly(3) == b"one"
            await wire.send(b"two")
            assert await wire.exactly(3) == b"two"
        await after(scene, upstream)


async def test_expect_continue_is_answered_once_the_caller_may_pass(start: Start) -> None:
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
            assert (await wire.head()).start == "HTTP/1.1 100 Continue"
            await wire.send(b"body")
            assert (await wire.answer()).body.decode() == hashlib.sha256(b"body").hexdigest()
            assert (await wire.ask("/", [bearer()])).status == 200
    assert upstream.requests[0].all("Expect") == []


async def test_expect_continue_without_a_good_credential_gets_401_before_the_body(start: Start) -> None:
    """And the end of the connection: whether the body still comes is the caller's choice."""
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{POST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
            answer = await wire.answer()
            assert (answer.status, answer.all("Connection")) == (401, ["close"])
    assert upstream.accepted == 0


async def test_a_refused_upload_is_read_to_its_end_so_that_the_caller_sees_why(start: Start) -> None:
    """OpenMetadata's and DataHub's clients send everything first: the answer still reaches them, then the end."""
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/upload", method="POST", body=BIG)
            assert (answer.status, answer.json()["reason"]) == (401, "token_missing")
            assert answer.all("Connection") == ["close"]
            assert await wire.ended() == b""
    assert upstream.accepted == 0


async def test_a_stalled_upload_ends_with_408(start: Start) -> None:
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url, server={"limits": {"bodyTimeout": "50ms"}})
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Content-Length: 10\r\n\r\nhalf".encode())
            answer = await wire.answer()
            assert (answer.status, answer.json()["reason"]) == (408, "request_invalid")
            assert answer.all("Connection") == ["close"]
        await after(scene, upstream)


@pytest.mark.parametrize("broken", [b"zz\r\nabc\r\n", b"3\r\nabcdef\r\n", b"-1\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n"])
async def test_a_broken_chunk_ends_with_400_at_once(start: Start, broken: bytes) -> None:
    """Neither waits for the rest nor passes as the end of the upload."""
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n".encode())
            await eventually(lambda: upstream.requests)
            await wire.send(broken)
            answer = await wire.answer()
            assert (answer.status, answer.json()["reason"]) == (400, "request_invalid")
            assert answer.all("Connection") == ["close"]
            await wire.ended()
        assert upstream.requests[0].body == b""
        await after(scene, upstream)


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: 101\r\n\r\n" + b"a" * 101,
        b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"a" * 101 + b"\r\n0\r\n\r\n",
    ],
    ids=["declared", "chunked"],
)
async def test_too_large_a_body_gets_413(start: Start, framed: bytes) -> None:
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url, server={"limits": {"maxBodyBytes": 100}})
        async with await scene.connect() as wire:
            await wire.send(AUTHORIZED.encode() + framed)
            answer = await wire.answer()
            assert (answer.status, answer.json()["reason"]) == (413, "too_large")
            assert answer.all("Connection") == ["close"]
        assert all(request.body == b"" for request in upstream.requests)
        async with await scene.connect() as wire:
            assert (await wire.ask("/", [bearer()], method="POST", body=b"a" * 100)).status == 200


@pytest.mark.parametrize("length", ["18446744073709551615", "99999999999999999999"])
async def test_an_absurd_length_is_refused(start: Start, length: str) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}Content-Length: {length}\r\n\r\n".encode())
            assert (await wire.answer()).status in (400, 413)
    assert upstream.accepted == 0


async def test_an_unreachable_service_is_502(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        url = upstream.url
    scene = await start(url)
    async with await scene.connect() as wire:
        answer = await wire.ask("/", [bearer()])
        assert (answer.status, answer.json()["reason"]) == (502, "upstream_unreachable")
        assert (await wire.ask("/", [bearer()], method="POST", body=BIG)).status == 502


async def test_a_service_that_resets_or_closes_is_502(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        request = await connection.request()
        if request.target == "/reset":
            connection.writer.transport.abort()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for target in ("/reset", "/close"):
                assert (await wire.ask(target, [bearer()])).status == 502
                assert (await wire.ask(target, [bearer()], method="POST", body=BIG)).status == 502
    assert len(upstream.requests) == 4, "no request is sent twice"


async def test_a_silent_upstream_is_504_and_its_late_response_is_discarded(start: Start) -> None:
    late = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await late.wait()
        await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "50ms"})
        async with await scene.connect() as wire:
            for body in (b"", BIG):
                answer = await wire.ask("/slow", [bearer()], method="POST", body=body)
                assert (answer.status, answer.json()["reason"]) == (504, "upstream_timeout")
            late.set()
        await after(scene, upstream)


async def test_a_head_that_never_ends_is_504(start: Start) -> None:
    """Byte by byte, and with interim responses: the time limit covers the whole head."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        with suppress(ConnectionError):
            while True:
                await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await asyncio.sleep(0.01)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "100ms"})
        async with await scene.connect() as wire:
            answer = await wire.ask("/slow", [bearer()])
            assert (answer.status, answer.json()["reason"]) == (504, "upstream_timeout")


EXTRA = {
    "a second answer": OK + OK,
    "a second answer's head": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "half a head": OK + b"HTTP/1.1 20",
}


@pytest.mark.parametrize("raw", EXTRA.values(), ids=EXTRA)
async def test_bytes_after_a_response_are_no_response(start: Start, raw: bytes) -> None:
    async with ScriptedUpstream(answering(raw)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/first", [bearer()])).body == b"ok"
        if raw.endswith(b" 20"):
            return  # nothing to see before the next request; it gets 502 or its own answer
        await after(scene, upstream)


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"HTTP/1.1 20", b"\r\n"])
async def test_unrequested_bytes_are_no_response(start: Start, raw: bytes) -> None:
    sent = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(OK)
        await answered.wait()
        await connection.send(raw)
        sent.set()
        await connection.ended()

    answered = asyncio.Event()
    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/first", [bearer()])).body == b"ok"
        answered.set()
        await sent.wait()
        async with await scene.connect() as wire:
            assert (await wire.ask("/oauth2/none")).status == 404, "time has passed for the sidecar, too"
        await after(scene, upstream)


async def test_a_body_after_a_response_to_head_is_no_response(start: Start) -> None:
    """However late it comes."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n")
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/", [bearer()], method="HEAD")).all("Content-Length") == ["43"]
        await after(scene, upstream)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("announced", [b"", b"Content-Length: 43\r\n"])
async def test_a_body_where_none_is_allowed_is_no_response(start: Start, status: bytes, announced: bytes) -> None:
    """However late it comes, and whether it was announced or not."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 " + status + b"\r\n" + announced + b"\r\n")
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/", [bearer()])).status in (204, 304)
            upstream.script = by_target
            assert (await wire.ask("/second", [bearer()])).body == b"/second"
        await after(scene, upstream)


async def test_idle_connections_that_the_service_closes_are_not_used(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for number in range(1, 6):
                assert (await wire.ask("/", [bearer()], method="POST", body=b"x")).body == b"ok"
                assert upstream.accepted == number


async def test_many_callers_at_once_each_get_their_own_answer(start: Start) -> None:
    async with ScriptedUpstream(by_target) as upstream:
        scene = await start(upstream.url)
        auth = bearer()

        async def caller(number: int) -> None:
            async with await scene.connect() as wire:
                for turn in range(5):
                    target = f"/{number}/{turn}"
                    assert (await wire.ask(target, [auth])).body == target.encode()

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(caller(number))


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    async with ScriptedUpstream(by_target) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            lines = f"Host: a\r\n{': '.join(bearer())}\r\n\r\n"
            await wire.send("".join(f"GET /{n} HTTP/1.1\r\n{lines}" for n in range(40)).encode())
            assert [(await wire.answer()).body for _ in range(40)] == [f"/{n}".encode() for n in range(40)]


async def held(connection: UpstreamConnection, ended: asyncio.Event, begin: bytes) -> None:
    await connection.head()
    if begin:
        await connection.send(begin)
    await connection.ended()
    ended.set()


@pytest.mark.parametrize(
    ("begin", "upload"),
    [
        (b"", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", ""),
        (b"", "Content-Length: 9999999\r\n\r\nhalf"),
        (b"", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "Content-Length: 9999999\r\n\r\nhalf"),
    ],
    ids=["before the answer", "in the answer", "in the upload", "in the chunked upload", "in both"],
)
async def test_a_caller_that_leaves_takes_the_upstream_request_along(start: Start, begin: bytes, upload: str) -> None:
    """Also on an idle stream; data that is left over is discarded."""
    ended = asyncio.Event()
    async with ScriptedUpstream(lambda connection: held(connection, ended, begin)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.send(f"{AUTHORIZED}{upload or chr(13) + chr(10)}".encode())
            await eventually(lambda: upstream.requests)
            if begin:
                await wire.head()
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()
        await after(scene, upstream)
        await eventually(lambda: scene.in_flight == 0)


async def test_a_caller_that_leaves_while_connecting_leaves_nothing_behind(start: Start) -> None:
    """The service's queue of connections is full, so that connecting hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        with socket.create_connection(address):
            scene = await start(f"http://127.0.0.1:{address[1]}", upstream={"connectTimeout": "30s"})
            wires = [await scene.connect() for _ in range(4)]
            for wire in wires:
                await wire.request("/", [bearer()])
            await eventually(lambda: scene.in_flight == 4)
            for wire in wires:
                wire.writer.transport.abort()
            await eventually(lambda: scene.in_flight == 0)


async def test_connecting_is_bounded(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        with socket.create_connection(address):
            scene = await start(f"http://127.0.0.1:{address[1]}", upstream={"connectTimeout": "50ms"})
            async with await scene.connect() as wire:
                assert (await wire.ask("/", [bearer()])).json()["reason"] == "upstream_timeout"


async def test_events_arrive_one_by_one(start: Start) -> None:
    go = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(3):
            await connection.send(b"9\r\ndata: %d\n\n\r\n" % number)
            await go.wait()
            go.clear()
        await connection.send(b"0\r\n\r\n")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "50ms"})
        async with await scene.connect() as wire:
            await wire.request("/events", [bearer()])
            assert (await wire.head()).all("Content-Type") == ["text/event-stream"]
            for number in range(3):
                async with asyncio.timeout(TIMEOUT):
                    assert await wire.exactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
                go.set()
            assert await wire.exactly(5) == b"0\r\n\r\n"


def transports(scene: Scene) -> list[Any]:
    """The sidecar's side of its client connections."""
    return [connection.transport for connection in scene.connections if connection.transport is not None]


async def test_a_slow_reader_holds_the_service_back(start: Start) -> None:
    """Bounded memory: a download larger than every buffer on the way waits in the service."""
    sent = 0

    async def script(connection: UpstreamConnection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // 2**16):
            await connection.send(b"x" * 2**16)
            sent += 2**16

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/download", [bearer()])
            await wire.head()
            await settled(lambda: sent)
            assert sent < FULL_SOCKETS
            assert max(transport.get_write_buffer_size() for transport in transports(scene)) < 2**20
            async with asyncio.timeout(TIMEOUT):
                assert len(await wire.exactly(LARGE)) == LARGE


async def test_a_slow_service_holds_the_caller_back(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        await go.wait()
        assert len(await read_body(connection.reader, upstream.requests[0].head, until_eof=False)) == LARGE
        await connection.send(OK)

    go = asyncio.Event()
    sent = 0

    async def pour(wire: Wire) -> None:
        nonlocal sent
        for _ in range(LARGE // 2**16):
            wire.writer.write(b"x" * 2**16)
            await wire.writer.drain()
            sent += 2**16

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire, asyncio.TaskGroup() as group:
            await wire.send(f"{AUTHORIZED}Content-Length: {LARGE}\r\n\r\n".encode())
            group.create_task(pour(wire))
            await settled(lambda: sent)
            assert sent < FULL_SOCKETS
            go.set()
            assert (await wire.answer()).body == b"ok"


async def settled(read: Callable[[], int]) -> None:
    """Wait until a growing number has stopped growing."""
    readings = [read()]
    while len(readings) < 10 or any(a != b for a, b in pairwise(readings[-10:])):
        await asyncio.sleep(0.02)
        readings.append(read())
        assert len(readings) < 500


async def test_a_service_that_stops_reading_is_504(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.head()
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport can
        await asyncio.Event().wait()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, server={"limits": {"bodyTimeout": "300ms"}})
        async with await scene.connect() as wire:
            sending = asyncio.create_task(wire.request("/", [bearer()], method="POST", body=b"x" * LARGE))
            assert (await wire.answer()).json()["reason"] == "upstream_timeout"
            sending.cancel()


async def test_a_caller_that_stops_reading_is_cut_off(start: Start) -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * FULL_SOCKETS))
        await connection.send(b"x" * LARGE)

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, server={"limits": {"bodyTimeout": "100ms"}})
        async with await scene.connect() as wire:
            await wire.request("/", [bearer()])
            await wire.head()
            await eventually(lambda: scene.in_flight == 0)


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_an_answer_that_stalls_is_broken_off(start: Start, framing: bytes) -> None:
    """Visibly, and the late rest is discarded. Event streams may pause for any time."""
    seen = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        request = await connection.request()
        kind = b"text/event-stream" if request.target == "/events" else b"text/plain"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n" + framing + b"\r\n\r\n"
        await connection.send(head + (b"4\r\nhalf\r\n" if b"chunked" in framing else b"half"))
        await seen.wait()
        await connection.send(b"5\r\nwhole\r\n0\r\n\r\n" if b"chunked" in framing else b"whole")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "200ms"})
        async with await scene.connect() as events, await scene.connect() as wire:
            await events.request("/events", [bearer()])
            head = await events.head()
            await wire.request("/stalls", [bearer()])
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                async with asyncio.timeout(TIMEOUT):
                    await read_body(wire.reader, await wire.head(), until_eof=True)
            seen.set()
            async with asyncio.timeout(TIMEOUT):
                assert await read_body(events.reader, head, until_eof=True) == b"halfwhole"
        await after(scene, upstream)


async def test_an_upload_in_progress_completes_while_draining(start: Start) -> None:
    async with ScriptedUpstream(upload_digest) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire, await scene.connect() as idle:
            assert (await idle.ask("/", [bearer()])).status == 200
            await wire.send(f"{AUTHORIZED}Content-Length: {len(BIG)}\r\n\r\n".encode())
            await eventually(lambda: len(upstream.requests) == 2)
            draining = asyncio.create_task(scene.sidecar.drain(0, TIMEOUT))
            await refuses_connections(scene)
            await wire.send(BIG)
            answer = await wire.answer()
            assert answer.body.decode() == hashlib.sha256(BIG).hexdigest()
            assert answer.all("Connection") == ["close"]
            async with asyncio.timeout(TIMEOUT):
                await draining
            assert await idle.ended() == b""


async def test_the_service_may_listen_on_a_unix_socket(start: Start, tmp_path: Path) -> None:
    async with ScriptedUpstream(upload_digest, path=str(tmp_path / "service.sock")) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/", [bearer()], method="POST", body=BIG)
            assert answer.body.decode() == hashlib.sha256(BIG).hexdigest()
    assert upstream.requests[0].all("Host") == ["api.example.com"]


async def test_the_service_may_speak_tls_if_its_certificate_is_good(start: Start, tmp_path: Path) -> None:
    public, private = certificate()
    (tmp_path / "ca.pem").write_bytes(public)
    (tmp_path / "key.pem").write_bytes(private)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    async with ScriptedUpstream(upload_digest, tls=tls) as upstream:
        scene = await start(upstream.url, upstream={"caFile": str(tmp_path / "ca.pem")})
        async with await scene.connect() as wire:
            answer = await wire.ask("/", [bearer()], method="POST", body=BIG)
            assert answer.body.decode() == hashlib.sha256(BIG).hexdigest()
        stranger = await start(upstream.url)
        async with await stranger.connect() as wire:
            assert (await wire.ask("/", [bearer()])).status == 502
    assert len(upstream.requests) == 1


async def test_tokens_are_asked_for_on_every_request_of_a_connection(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            auth = bearer(exp=int(forge.NOW) + 100)
            assert (await wire.ask("/", [auth])).status == 200
            assert (await wire.ask("/")).status == 401
            scene.clock.advance(200)
            assert (await wire.ask("/", [auth])).json()["reason"] == "token_expired"
            assert (await wire.ask("/", [bearer()])).status == 200
