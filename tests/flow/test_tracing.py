"""Traces: passed through where tracing is off, continued and told to a collector where it is on."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from sidecar.errors import Misconfigured
from sidecar.web.in_flight import InFlightRequest
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, own_keys
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import OK, Request, ScriptedUpstream, answering
from tests.support.span_collector import SentSpan, SpanCollector
from tests.support.wire import Wire

SERVER, CLIENT = 2, 3
OKAY, ERROR = 0, 2
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-00")
TRUSTED = {"server": {"trustedProxies": [LOOPBACK]}}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[SpanCollector]:
    """Spans reach it at once; usually they wait for others."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with SpanCollector() as listening:
        yield listening


def traced(collector: SpanCollector, **settings: Any) -> dict[str, Any]:
    return {"tracing": {"endpoint": collector.url, "sampleRatio": 1, **settings}}


async def told(collector: SpanCollector, number: int) -> list[SentSpan]:
    """The first ``number`` spans, the server's before the client's of the same trace."""
    await eventually(lambda: len(collector.spans) >= number, 10)
    return sorted(collector.spans[:number], key=lambda span: (span.trace_id, span.kind))


async def ask(scene: Scene, path: str, *headers: tuple[str, str], method: str = "GET") -> int:
    async with await scene.connect() as wire:
        return (await wire.ask(path, headers, method=method)).status


def parent_sent(request: Request) -> list[str]:
    (value,) = request.all("traceparent")
    return value.split("-")


async def test_without_tracing_a_sound_context_is_passed_on(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        assert await ask(scene, "/x", bearer(), SAMPLED, ("tracestate", "a=1")) == 200
        assert await ask(scene, "/x", bearer(), ("traceparent", "00-x"), ("tracestate", "a=1")) == 200
        assert await ask(scene, "/x", bearer()) == 200
    sent = [(request.all("traceparent"), request.all("tracestate")) for request in upstream.requests]
    assert sent == [([SAMPLED[1]], ["a=1"]), ([], []), ([], [])]


async def test_a_forwarded_request_has_two_spans(
    start: Start, collector: SpanCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=let-me-in")
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, **traced(collector, serviceName="door"), **TRUSTED)
        headers = [bearer(), SAMPLED, ("tracestate", "a=1, b=2"), ("X-Request-Id", "follow-me")]
        assert await ask(scene, "/secret/path?token=hidden", *headers) == 200
        server, client = await told(collector, 2)
    assert (server.name, server.kind, server.trace_id, server.parent_id) == ("GET forward", SERVER, TRACE, PARENT)
    assert server.attributes == {
        "http.request.method": "GET",
        "http.route": "forward",
        "http.response.status_code": 200,
        "sidecar.request_id": "follow-me",
        "sidecar.outcome": "accepted",
        "sidecar.authenticator": "jwt",
        "sidecar.provider": "corp",
    }
    assert (client.name, client.kind, client.trace_id, client.parent_id) == ("GET", CLIENT, TRACE, server.span_id)
    assert client.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
    }
    assert server.status == client.status == OKAY
    assert parent_sent(upstream.requests[0]) == ["00", TRACE, client.span_id, "01"]
    assert upstream.requests[0].all("tracestate") == ["a=1,b=2"]
    path, sent = collector.heads[0]
    assert (path, sent["api-key"]) == ("/v1/traces", "let-me-in")
    assert collector.resources[0]["service.name"] == "door"
    everything = b"".join(collector.requests)
    for private in (bearer()[1][7:], "sam", "secret", "hidden", "meta", "idp.example.com"):
        assert private.encode() not in everything


async def test_spans_need_no_task(start: Start, collector: SpanCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that awaits nothing, and a request whose response arrives in one piece, are handled without one."""
    promoted: list[InFlightRequest] = []
    promote = InFlightRequest.promote_to_task

    def counting(begun: InFlightRequest) -> None:
        promoted.append(begun)
        promote(begun)

    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, **traced(collector), **TRUSTED)
        assert await ask(scene, "/x", bearer()) == 200
        await told(collector, 2)
        monkeypatch.setattr(InFlightRequest, "promote_to_task", counting)
        for path, status, headers in (
            ("/oauth2/auth", 200, [bearer()]),
            ("/oauth2/auth", 401, [bearer(exp=1)]),
            ("/x", 200, [bearer()]),
            ("/x", 401, [bearer(exp=1)]),
        ):
            assert await ask(scene, path, *headers) == status
        await told(collector, 7)
    assert not promoted
    seen = [(span.name, span.attributes["http.response.status_code"]) for span in collector.spans[2:]]
    assert sorted(seen) == sorted(
        [("GET check", 200), ("GET check", 401), ("GET", 200), ("GET forward", 200), ("GET forward", 401)]
    )


@pytest.mark.parametrize("parent", [(), (("traceparent", "00-x"),), (SAMPLED, SAMPLED)], ids=["none", "bad", "two"])
async def test_without_a_sound_context_a_trace_begins(start: Start, collector: SpanCollector, parent: Any) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, **traced(collector))
        assert await ask(scene, "/x", bearer(), ("tracestate", "a=1"), *parent) == 200
        server, client = await told(collector, 2)
    assert server.parent_id == ""
    assert server.trace_id != TRACE
    version, trace, span, flags = parent_sent(upstream.requests[0])
    assert (version, trace, span) == ("00", server.trace_id, client.span_id)
    assert int(flags, 16) & 1
    assert upstream.requests[0].all("tracestate") == []


async def test_what_is_answered_here_has_one_span(start: Start, collector: SpanCollector, tmp_path: Path) -> None:
    scene = await start(**traced(collector), jwtTokenConfiguration=own_keys(tmp_path))
    for _ in range(2):  # the second token is known
        assert await ask(scene, "/oauth2/auth", bearer()) == 200
    assert await ask(scene, "/oauth2/auth", bearer(aud="other")) == 401
    assert await ask(scene, "/oauth2/userinfo", method="DELETE") == 405
    spans = await told(collector, 4)
    seen = {
        (span.name, span.attributes["http.response.status_code"], span.attributes.get("sidecar.reason"), span.status)
        for span in spans
    }
    assert seen == {
        ("GET check", 200, None, OKAY),
        ("GET check", 401, "audience", OKAY),
        ("DELETE userinfo", 405, None, OKAY),
    }


async def test_upstream_failures_are_recorded(start: Start, collector: SpanCollector) -> None:
    async with ScriptedUpstream(answering(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", b"garbage\r\n\r\n")) as up:
        scene = await start(up.url, **traced(collector))
        assert await ask(scene, "/x", bearer()) == 500
        assert await ask(scene, "/x", bearer()) == 502
        spans = await told(collector, 4)
    kinds = {(span.kind, span.status, span.attributes["error.type"]) for span in spans}
    assert kinds == {(SERVER, ERROR, "500"), (CLIENT, ERROR, "500"), (SERVER, ERROR, "502"), (CLIENT, ERROR, "502")}
    clients = [span.attributes.get("http.response.status_code") for span in spans if span.kind == CLIENT]
    assert sorted(clients, key=str) == [500, None]


@pytest.mark.parametrize(("ratio", "parent"), [(1, UNSAMPLED), (0, SAMPLED)], ids=["all", "none"])
@pytest.mark.parametrize("trusted", [True, False])
async def test_only_a_trusted_proxy_decides_for_us(
    start: Start, collector: SpanCollector, ratio: float, parent: tuple[str, str], trusted: bool
) -> None:
    """Other callers continue the trace, but do not control whether it is sampled."""
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, **traced(collector, sampleRatio=ratio), **(TRUSTED if trusted else {}))
        assert await ask(scene, "/x", bearer(), parent) == 200
        sampled = (parent is SAMPLED) if trusted else bool(ratio)
        _, trace, span, flags = parent_sent(upstream.requests[0])
        assert (trace, flags) == (TRACE, "01" if sampled else "00")
        assert span != PARENT
        if sampled:
            assert {span.trace_id for span in await told(collector, 2)} == {TRACE}
    assert sampled or not collector.spans


@pytest.mark.parametrize("answer", [503, None], ids=["busy", "hanging"])
async def test_a_failing_collector_affects_no_request(
    start: Start, collector: SpanCollector, answer: int | None
) -> None:
    collector.answer = answer
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, **traced(collector))
        for _ in range(50):
            assert await ask(scene, "/x", bearer()) == 200
        await eventually(lambda: collector.requests, 10)
        assert await ask(scene, "/x", bearer()) == 200


async def test_an_absent_collector_affects_no_request(start: Start) -> None:
    scene = await start(tracing={"endpoint": "http://127.0.0.1:1", "sampleRatio": 1})
    assert await ask(scene, "/oauth2/auth", bearer()) == 200


async def test_what_is_left_is_sent_at_the_end(tmp_path: Path) -> None:
    """Neither the size nor the interval of the batch was reached."""
    with SpanCollector() as collector:
        config = tmp_path / "sidecar.yaml"
        provider = {"name": "a", "issuer": "https://a.example.com", "publicKeyUrls": ["http://127.0.0.1:1/"]}
        document = {
            "server": {"listen": "127.0.0.1:0", "adminListen": "127.0.0.1:0"},
            "store": {"url": f"sqlite:///{tmp_path}/s.db"},
            "authenticationConfiguration": {"providers": [provider]},
            **traced(collector),
        }
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        async with run_sidecar(load([str(config)], {})) as sidecar:
            ((host, port),) = sidecar.public_addresses
            async with await Wire.to(f"{host}:{port}") as wire:
                assert (await wire.ask("/oauth2/auth")).status == 401
            assert not collector.spans
        assert [span.attributes["http.response.status_code"] for span in collector.spans] == [401]


def test_its_library_is_not_imported_unless_it_is_used() -> None:
    """Who does without tracing does not need it installed."""
    script = "import sys; sys.modules['opentelemetry'] = None; import sidecar.app.running, sidecar.cli.serve"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


async def test_without_its_library_it_says_what_to_install(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sidecar.web.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(Misconfigured, match=r"tracing: needs the extra otel: pip install auth-sidecar\[otel\]"):
        await start(tracing={"endpoint": "http://127.0.0.1:4318"})


@pytest.mark.parametrize(
    "block",
    [
        {"endpoint": "collector:4318"}, {"endpoint": ""}, {}, {"endpoint": "http://u:p@collector"},
        {"endpoint": "http://collector?key=k"}, {"endpoint": "http://collector", "sampleRatio": 1.1},
        {"endpoint": "http://collector", "sampleRatio": "nan"}, {"endpoint": "grpc://collector"},
    ],
)  # fmt: skip
async def test_settings_that_cannot_be_meant_are_refused(start: Start, block: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="tracing"):
        await start(tracing=block)
