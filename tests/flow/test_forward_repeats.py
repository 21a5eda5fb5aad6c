"""An upstream may close an idle connection while a request is on its way: when that request is sent once more."""

from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

import pytest

from sidecar.dataplane.proxy.pool import UpstreamPool
from tests.flow.conftest import Scene, Start, bearer, plainly
from tests.flow.test_stream_ends import LIFE, Revoke, revoke  # noqa: F401 - a fixture
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection
from tests.support.wire import Answer, Wire

HEAD_OF_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
PUBLIC = {"rules": [{"path": "/open/**", "access": "public"}, {"path": "/guests", "access": "guest"}]}


async def nothing() -> None:
    """Nothing happens while the request is on its way."""


class Closing:
    """Answers the first request of its first connection and ends that on the second one, having sent ``last``.

    ``meanwhile`` happens before that. Further connections are ``then``, which answers everything unless it is given.
    """

    def __init__(
        self,
        *,
        last: bytes = b"",
        meanwhile: Callable[[], Awaitable[None]] = nothing,
        then: Callable[[UpstreamConnection], Awaitable[None]] | None = None,
    ) -> None:
        self.last = last
        self.meanwhile = meanwhile
        self.then = then or self.answer_all
        self.connections = 0

    async def __call__(self, connection: UpstreamConnection) -> None:
        self.connections += 1
        if self.connections > 1:
            await self.then(connection)
            return
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await self.meanwhile()
        await connection.send(self.last)

    @staticmethod
    async def answer_all(connection: UpstreamConnection) -> None:
        while True:
            request = await connection.request()
            await connection.send(HEAD_OF_OK if request.head.start.startswith("HEAD") else OK)


WAYS = pytest.mark.parametrize("way", ["with a task", "without a task"])


async def second_answer(scene: Scene, way: str, ask: Callable[[Wire], Awaitable[Answer]]) -> Answer:
    """The response to the request that is in flight when its upstream connection ends."""
    async with plainly(scene) as plain, await scene.connect() as wire:
        assert (await plain.ask("/first", [bearer()])).status == 200
        return await ask(plain if way == "with a task" else wire)


@WAYS
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_get_that_an_idle_connection_took_along_is_sent_once_more(start: Start, way: str, method: str) -> None:
    """The same bytes, on a new connection; the caller sees one answer."""
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url)
        answer = await second_answer(scene, way, lambda wire: wire.ask("/second?a=1", [bearer()], method=method))
        assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"ok")
        assert await scene.metric("sidecar_upstream_repeats_total") == 1
        assert await scene.metric('sidecar_upstream_requests_total{code="200"}') == 2
        assert await scene.metric('sidecar_upstream_requests_total{code="502"}') == 0
    assert upstream.accepted == 2
    first, repeated = upstream.requests[1:]
    assert first.raw == repeated.raw


@WAYS
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])
async def test_what_may_have_changed_something_is_sent_once_only(start: Start, way: str, method: str) -> None:
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url)
        assert (await second_answer(scene, way, lambda wire: wire.ask("/x", [bearer()], method=method))).status == 502
    assert len(upstream.requests) == 2


@WAYS
async def test_a_get_with_a_body_is_sent_once_only(start: Start, way: str) -> None:
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url)
        answer = await second_answer(scene, way, lambda wire: wire.ask("/x", [bearer()], method="GET", body=b"x"))
        assert answer.status == 502
    assert len(upstream.requests) == 2


@WAYS
@pytest.mark.parametrize("headers", [[], [bearer()]], ids=["anonymous", "known caller"])
async def test_on_public_paths_nothing_is_sent_twice(start: Start, way: str, headers: list[tuple[str, str]]) -> None:
    """Logins by GET stand there: the second use of a one-time code ends the person's sessions."""
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url, **PUBLIC)
        answer = await second_answer(scene, way, lambda wire: wire.ask("/open/callback?code=1", headers))
        assert (answer.status, answer.json()["reason"]) == (502, "upstream_unreachable")
        assert await scene.metric('sidecar_upstream_requests_total{code="502"}') == 1
    assert len(upstream.requests) == 2


async def test_on_guest_paths_a_get_without_credentials_is_retried(start: Start) -> None:
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url, **PUBLIC)
        assert (await second_answer(scene, "with a task", lambda wire: wire.ask("/guests", []))).status == 200
    assert len(upstream.requests) == 3


async def test_an_upgrade_is_sent_once_only(start: Start) -> None:
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url)
        answer = await second_answer(scene, "with a task", lambda wire: wire.ask("/ws", [bearer(), *upgrade]))
        assert answer.status == 502
    assert len(upstream.requests) == 2


@WAYS
async def test_once_a_byte_of_the_answer_has_come_nothing_is_sent_twice(start: Start, way: str) -> None:
    async with ScriptedUpstream(Closing(last=b"H")) as upstream:
        scene = await start(upstream.url)
        assert (await second_answer(scene, way, lambda wire: wire.ask("/x", [bearer()]))).status == 502
    assert len(upstream.requests) == 2


async def test_a_new_connection_that_ends_is_502(start: Start) -> None:
    """It was not idle: the upstream has seen the request and failed."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.request()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/x", [bearer()])).status == 502
    assert len(upstream.requests) == 1


@WAYS
async def test_a_request_is_repeated_once_only(start: Start, way: str) -> None:
    async def fail(connection: UpstreamConnection) -> None:
        await connection.request()

    async with ScriptedUpstream(Closing(then=fail)) as upstream:
        scene = await start(upstream.url)
        assert (await second_answer(scene, way, lambda wire: wire.ask("/x", [bearer()]))).status == 502
        assert await scene.metric('sidecar_upstream_requests_total{code="502"}') == 1
    assert len(upstream.requests) == 3


@WAYS
@pytest.mark.parametrize("what", ["revoked", "expired"])
async def test_a_caller_who_may_pass_no_more_is_not_repeated(
    start: Start,
    revoke: Revoke,  # noqa: F811
    way: str,
    what: str,
) -> None:
    """Between the two attempts the token was revoked, or has expired."""
    closing = Closing()
    async with ScriptedUpstream(closing) as upstream:
        scene = await start(upstream.url)
        entries = partial(scene.sidecar.metrics.registry.get_sample_value, "sidecar_revocation_entries")

        async def happen() -> None:
            if what == "expired":
                scene.clock.advance(LIFE)
                return
            await revoke()
            await eventually(entries)

        closing.meanwhile = happen
        assert (await second_answer(scene, way, lambda wire: wire.ask("/x", [bearer()]))).status == 502
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("what", ["revoked", "expired"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_token_that_is_revoked_while_a_connection_is_opened_is_not_used(
    start: Start,
    revoke: Revoke,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    method: str,
) -> None:
    """Opening one can take seconds; nothing of the request is sent afterwards."""
    async with ScriptedUpstream(Closing()) as upstream:
        scene = await start(upstream.url)
        entries = partial(scene.sidecar.metrics.registry.get_sample_value, "sidecar_revocation_entries")
        connect = UpstreamPool.connect

        async def slowly(pool: UpstreamPool, within: float = inf) -> Any:
            connection = await connect(pool, within)
            if what == "expired":
                scene.clock.advance(LIFE)
            else:
                await revoke()
                await eventually(entries)
            return connection

        monkeypatch.setattr(UpstreamPool, "connect", slowly)
        async with await scene.connect() as wire:
            answer = await wire.ask("/x", [bearer()], method=method, body=b"a" if method == "POST" else b"")
        assert (answer.status, answer.json()["reason"]) == (401, f"token_{what}")
    assert upstream.requests == []


@WAYS
async def test_both_attempts_together_take_no_longer_than_one_may(start: Start, way: str) -> None:
    async def stay_silent(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.ended()

    async with ScriptedUpstream(Closing(then=stay_silent)) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "1s"})
        assert (await second_answer(scene, way, lambda wire: wire.ask("/x", [bearer()]))).status == 504
    assert len(upstream.requests) == 3


async def test_nothing_is_repeated_when_the_time_is_over(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slowly() -> None:
        now = perf_counter()
        monkeypatch.setattr("sidecar.dataplane.proxy.forward.perf_counter", lambda: now + 60)

    async with ScriptedUpstream(Closing(meanwhile=slowly)) as upstream:
        scene = await start(upstream.url, upstream={"responseTimeout": "30s"})
        assert (await second_answer(scene, "with a task", lambda wire: wire.ask("/x", [bearer()]))).status == 502
    assert len(upstream.requests) == 2
