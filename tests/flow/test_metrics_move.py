"""Every metric that is declared really moves, in a running sidecar, by what its description says."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.flow.test_websocket import SWITCHED, UPGRADE
from tests.support import forge
from tests.support.declared_metrics import declared_metrics
from tests.support.jwks_server import jwk
from tests.support.redis_servers import RedisServer, running
from tests.support.scripted_upstream import OK, ScriptedUpstream, UpstreamConnection
from tests.support.wire import Answer, Wire

PATIENCE = 15.0


@dataclass(slots=True)
class World:
    """A sidecar with own keys over Redis, before a service of which some paths are never answered."""

    scene: Scene
    redis: RedisServer
    kept: AsyncExitStack

    async def ask(self, path: str, *headers: tuple[str, str], method: str = "GET", body: object = None) -> Answer:
        """One request on a connection of its own."""
        sent = b"" if body is None else json.dumps(body).encode()
        lines = [*headers, ("Content-Type", "application/json")] if sent else [*headers]
        async with await self.scene.connect() as wire:
            return await wire.ask(path, lines, method=method, body=sent)

    async def as_admin(self, path: str, body: object) -> Answer:
        """A call of the API that changes something."""
        return await self.ask(path, bearer(sub="root"), method="POST", body=body)

    async def begin(self, path: str, *headers: tuple[str, str]) -> Wire:
        """A request whose connection stays open to the end."""
        wire = await self.kept.enter_async_context(await self.scene.connect())
        await wire.request(path, headers)
        return wire

    async def samples(self) -> dict[str, float]:
        """Every sample of this moment by name and labels, as they are written in PromQL."""
        text = (await self.scene.operations("/metrics")).body.decode()
        return {
            _written(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def _written(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


Action = Callable[[World], Awaitable[object]]


async def serve(connection: UpstreamConnection) -> None:
    """Answers, switches to WebSocket, hangs up, or waits, by what the path begins with."""
    while True:
        request = await connection.request()
        match request.target:
            case "/socket":
                await connection.send(SWITCHED)
                await connection.ended()
                return
            case "/hang-up":
                return
            case "/wait":
                await connection.ended()
                return
        await connection.send(OK)


async def check(world: World) -> None:
    assert (await world.ask("/oauth2/auth", bearer())).status == 200


async def asked_by_a_stranger(world: World) -> None:
    """No proxy is trusted, and for a moment a rule requires something."""
    await world.scene.reload(rules=[{"path": "/x", "require": {"admin": True}}])
    assert (await world.ask("/oauth2/auth", bearer())).status == 403
    await world.scene.reload(rules=[])


async def challenged(world: World) -> None:
    """For a moment there is a protected resource."""
    await world.scene.reload(server={"publicUrl": "https://metadata.example.com"}, resources=[{"path": "/mcp"}])
    assert (await world.ask("/mcp")).status == 401
    await world.scene.reload(resources=[])


async def failed_login(world: World) -> None:
    """From now on people can log in at the provider."""
    written = yaml.safe_load(world.scene.config.read_text(encoding="utf-8"))
    (provider,) = written["authenticationConfiguration"]["providers"]
    await world.scene.reload(
        server={"publicUrl": "http://127.0.0.1"},
        login={"secrets": ["s" * 32]},
        authenticationConfiguration={"providers": [{**provider, "login": {"clientId": "web"}}]},
    )
    assert (await world.ask("/oauth2/callback/corp")).status == 400


async def false_logout(world: World) -> None:
    async with await world.scene.connect() as wire:
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        answer = await wire.ask("/oauth2/backchannel_logout", form, method="POST", body=b"logout_token=x")
    assert answer.status == 400
    await world.scene.reload()


async def security_event(world: World) -> None:
    """For a moment the provider is a transmitter."""
    transmitter = {"provider": "corp", "authorization": "s" * 32, "audience": "receiver"}
    await world.scene.reload(signals={"transmitters": [transmitter]})
    event = "https://schemas.openid.net/secevent/ssf/event-type/verification"
    claims = {
        "iss": forge.ISSUER,
        "aud": "receiver",
        "jti": "e1",
        "iat": int(forge.NOW),
        "sub_id": {"format": "opaque"},
    }
    text = forge.token({**claims, "events": {event: {}}}, forge.header(typ="secevent+jwt"))
    async with await world.scene.connect() as wire:
        lines = [("Content-Type", "application/secevent+jwt"), ("Authorization", "s" * 32)]
        answer = await wire.ask("/oauth2/events/corp", lines, method="POST", body=text.encode())
    assert answer.status == 202
    await world.scene.reload()


async def garbled(world: World) -> None:
    async with await world.scene.connect() as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        assert (await wire.answer()).status == 400


async def alive(world: World) -> None:
    assert (await world.scene.operations("/livez")).status == 200


async def tampered(world: World) -> None:
    """One key of the issuer has signed, another one is named."""
    token = forge.token(forge.claims(), key=forge.OTHER_RSA)
    assert (await world.ask("/oauth2/auth", ("Authorization", f"Bearer {token}"))).status == 401


async def forwarded(world: World) -> None:
    assert (await world.ask("/x", bearer())).status == 200


async def hung_up(world: World) -> None:
    assert (await world.ask("/hang-up", bearer())).status == 502


async def waiting(world: World) -> None:
    await world.begin("/wait", bearer())


async def stalled_body(world: World) -> None:
    """It is waited for before anything is known of its caller."""
    head = b"POST /oauth2/revoke HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    wire = await world.kept.enter_async_context(await world.scene.connect())
    await wire.send(head + b"Content-Length: 9\r\n\r\n")


async def flood(world: World) -> None:
    """More refusals than lines are written about."""
    async with await world.scene.connect() as wire:
        for _ in range(3):
            await wire.send(b"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n\r\n" * 60)
            for _ in range(60):
                assert (await wire.answer()).status == 401


async def in_a_socket(world: World) -> None:
    wire = await world.begin("/socket", bearer(), *UPGRADE)
    assert (await wire.head()).start.split()[1] == "101"


async def many_groups(world: World) -> None:
    answer = await world.ask("/oauth2/auth", bearer(sub="joiner", groups=[f"group-{number}" for number in range(200)]))
    assert answer.all("X-Auth-Request-Groups") == [""]


async def unknown_key(world: World) -> None:
    """A second key appears; the token that it has signed causes the fetch."""
    world.scene.keys.publish(jwk(forge.RSA, "k1"), jwk(forge.OTHER_RSA, "k2"))
    world.scene.clock.advance(11)
    token = forge.token(forge.claims(), forge.header(kid="k2"), key=forge.OTHER_RSA)
    assert (await world.ask("/oauth2/auth", ("Authorization", f"Bearer {token}"))).status == 200


async def away(world: World) -> None:
    """Keys can no longer be fetched, and a token has an unknown key id."""
    world.scene.keys.answers.clear()
    world.scene.clock.advance(11)
    token = forge.token(forge.claims(), forge.header(kid="k9"))
    assert (await world.ask("/oauth2/auth", ("Authorization", f"Bearer {token}"))).status == 401


async def mint_and_revoke(world: World) -> None:
    made = (await world.as_admin("/oauth2/tokens", {"name": "laptop"})).json()
    path = f"/oauth2/tokens/{made['id']}"
    assert (await world.ask(path, bearer(sub="root"), method="DELETE")).status == 204


async def ask_for_a_token(world: World) -> None:
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    async with await world.scene.connect() as wire:
        answer = await wire.ask("/oauth2/token", form, method="POST", body=b"grant_type=client_credentials")
    assert answer.status == 401


async def deny(world: World) -> None:
    """For ever: nothing says how long this issuer's tokens live."""
    entry = {"issuer": forge.ISSUER, "subject": "eve"}
    assert (await world.as_admin("/oauth2/revocations", entry)).status == 201


async def garbage(world: World) -> None:
    """Another process writes to the log of the store."""
    world.redis.ask("XADD", "{sidecar}:log", "*", "what", "ever")


async def come_back_empty(world: World) -> None:
    """The store forgets; that is looked at once a second."""
    world.redis.ask("FLUSHALL")
    world.scene.clock.advance(1.1)


async def lose_the_store(world: World) -> None:
    """The first call learns it, those after it are not even tried for a while."""
    world.redis.kill()
    for _ in range(2):
        assert (await world.as_admin("/oauth2/tokens", {"name": "never"})).status == 503


async def unknown_token(world: World) -> None:
    """Of an own token that this process has not heard of only the store knows whether it is on record."""
    name = "00000000-0000-4000-8000-000000000000"
    own = forge.claims(iss="meta.example.com", aud=..., jti=name, tokenType="PERSONAL_ACCESS")
    token = forge.token(own, forge.header(kid="own1"), key=forge.OTHER_RSA)
    assert (await world.ask("/oauth2/auth", ("Authorization", f"Bearer {token}"))).status == 503


async def grow_old(world: World) -> None:
    world.scene.clock.advance(700)


# In this order, for what is broken stays broken: each sample changes after its action.
MOVES: tuple[tuple[Action, tuple[str, ...]], ...] = (
    (check, (
        'sidecar_http_requests_total{code="200",listener="public",route="check"}',
        'sidecar_http_request_duration_seconds_count{route="check"}',
        'sidecar_authentications_total{authenticator="jwt",outcome="accepted",provider="corp",reason="none"}',
        'sidecar_token_cache_lookups_total{result="miss"}',
        "sidecar_token_cache_entries",
        "sidecar_token_cache_bytes",
    )),
    (check, ('sidecar_token_cache_lookups_total{result="hit"}',)),
    (garbled, ('sidecar_http_requests_total{code="400",listener="public",route="none"}',)),
    (alive, ('sidecar_http_requests_total{code="200",listener="admin",route="livez"}',)),
    (tampered, (
        'sidecar_authentications_total{authenticator="jwt",outcome="rejected",provider="corp",reason="signature"}',
    )),
    (forwarded, ('sidecar_upstream_requests_total{code="200"}', "sidecar_upstream_duration_seconds_count")),
    (hung_up, ('sidecar_upstream_requests_total{code="502"}', "sidecar_upstream_repeats_total")),
    (flood, ("sidecar_log_lines_left_out_total",)),
    (stalled_body, ("sidecar_http_requests_undecided",)),
    (waiting, ("sidecar_http_requests_in_flight",)),
    (in_a_socket, ("sidecar_websockets_open",)),
    (many_groups, ("sidecar_identity_headers_blanked_total",)),
    (asked_by_a_stranger, ("sidecar_untrusted_checks_total",)),
    (challenged, ('sidecar_challenges_total{reason="token_missing",resource="/mcp"}',)),
    (failed_login, ('sidecar_logins_total{outcome="refused",provider="corp",reason="state_invalid"}',)),
    (false_logout, ('sidecar_backchannel_logouts_total{outcome="refused",provider="none"}',)),
    (
        security_event,
        (
            'sidecar_signals_total{event="verification",outcome="applied",provider="corp"}',
            'sidecar_stream_enabled{provider="corp"}',
            'sidecar_signal_last_timestamp_seconds{provider="corp"}',
        ),
    ),
    (unknown_key, ('sidecar_jwks_fetches_total{outcome="ok",provider="corp"}', 'sidecar_jwks_keys{provider="corp"}')),
    (away, (
        'sidecar_jwks_fetches_total{outcome="status",provider="corp"}',
        'sidecar_jwks_age_seconds{provider="corp"}',
    )),
    (mint_and_revoke, (
        'sidecar_tokens_issued_total{kind="personal"}',
        'sidecar_tokens_revoked_total{kind="personal"}',
        'sidecar_store_operations_total{operation="write",outcome="done"}',
        "sidecar_revocation_propagation_seconds_count",
    )),
    (ask_for_a_token, (
        'sidecar_token_requests_total{client_or_rule="unknown",grant="client_credentials",outcome="invalid_client"}',
    )),
    (deny, (
        'sidecar_tokens_revoked_total{kind="subject"}',
        "sidecar_revocation_entries",
        "sidecar_revocation_endless_entries",
    )),
    (garbage, ("sidecar_revocation_skipped_entries_total",)),
    (come_back_empty, ("sidecar_store_reseeds_total",)),
    (lose_the_store, (
        "sidecar_store_up",
        'sidecar_store_operations_total{operation="write",outcome="failed"}',
        'sidecar_store_operations_total{operation="write",outcome="refused"}',
    )),
    (unknown_token, (
        'sidecar_authentications_total{authenticator="jwt",outcome="broken",provider="",reason="store_unavailable"}',
    )),
    (grow_old, ("sidecar_revocation_mirror_age_seconds", "sidecar_ready")),
)  # fmt: skip
# of the clock: test_clock.py; two processes of one machine do not differ
CONSTANT = {"sidecar_build_info", "sidecar_clock_offset_seconds"}
# by a signal to the program: test_reload.py; of its workers: test_workers.py
OF_THE_PROGRAM = {
    # of sessions that a provider confirms: test_login_refresh.py
    "sidecar_session_refreshes_total",
    "sidecar_config_reloads_total",
    "sidecar_config_last_reload_successful",
    "sidecar_workers",
    "sidecar_worker_deaths_total",
    "sidecar_worker_resident_memory_bytes",
    # by a secrets manager that the program reads: test_secrets.py
    "sidecar_secrets_requests_total",
    "sidecar_secrets_request_duration_seconds",
    "sidecar_secrets_up",
    "sidecar_secrets_references",
    "sidecar_secrets_age_seconds",
    "sidecar_secrets_expires_seconds",
    "sidecar_secrets_refreshes_total",
    "sidecar_secrets_untidied",
    # of gates, which are processes of their own: test_kafka_gate.py
    "sidecar_kafka_records_total",
    "sidecar_kafka_transactions_total",
    "sidecar_kafka_transaction_duration_seconds",
    "sidecar_kafka_lag_records",
    "sidecar_kafka_lag_seconds",
    "sidecar_kafka_assigned_partitions",
    "sidecar_kafka_paused",
    "sidecar_kafka_unreadable_total",
}


async def test_every_metric_moves(
    start: Start, tmp_path: Path, require_tool: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidecar.refusals")  # lines that are not written at all are not left out
    redis = RedisServer(require_tool("redis-server"), tmp_path / "redis")
    with running(redis):
        async with ScriptedUpstream(serve) as upstream, AsyncExitStack() as kept:
            scene = await start(
                upstream.url,
                store={"url": f"redis://127.0.0.1:{redis.port}"},
                jwtTokenConfiguration=own_keys(tmp_path),
                authorizerConfiguration={"adminPrincipals": ["corp/root"]},
                identityHeaders={"maxBytes": 1024},
                server={"publicUrl": "https://metadata.example.com"},
                tokenEndpoint={"enabled": True, "audiences": ["meta"], "bots": {}},
            )
            world = World(scene, redis, kept)
            still = [sample for action, samples in MOVES for sample in await unmoved(world, action, samples)]
    assert not still


async def unmoved(world: World, action: Action, samples: tuple[str, ...]) -> list[str]:
    """Those of ``samples`` that ``action`` does not change within patience."""
    before = await world.samples()
    await action(world)
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        after = await world.samples()
        still = [sample for sample in samples if after.get(sample, 0.0) == before.get(sample, 0.0)]
        if not still or asyncio.get_running_loop().time() > deadline:
            return still
        await asyncio.sleep(0.02)


def test_no_metric_is_left_out() -> None:
    """The table above has every metric that is declared."""
    moved = {sample.partition("{")[0].removesuffix("_count") for _, samples in MOVES for sample in samples}
    assert moved | CONSTANT | OF_THE_PROGRAM == set(declared_metrics())
