"""A reload replaces the whole configuration or nothing, and no request is lost."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession, WSMsgType, web

from sidecar.errors import Misconfigured
from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.http_client import request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.jwks_server import eventually
from tests.support.scripted_upstream import ScriptedUpstream, UpstreamConnection, answering
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.steady_load import Load
from tests.support.wire import Answer

PUBLIC = {"rules": [{"path": "/flag", "access": "public"}]}


def naming(name: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode())


def audiences(scene: Scene, *names: str) -> dict[str, Any]:
    """``authenticationConfiguration`` as it was, with other audiences."""
    block: dict[str, Any] = yaml.safe_load(scene.config.read_text(encoding="utf-8"))["authenticationConfiguration"]
    return {"providers": [{**block["providers"][0], "audiences": list(names)}]}


async def test_in_flight_requests_finish_with_their_configuration(start: Start) -> None:
    """The old service answers it, and only then its connections are closed; meanwhile others are at the new one."""
    go = asyncio.Event()

    async def slow(connection: UpstreamConnection) -> None:
        await connection.request()
        await go.wait()
        await connection.send(naming("old"))
        await connection.ended()
        closed.set()

    closed = asyncio.Event()
    async with ScriptedUpstream(slow) as old, ScriptedUpstream(answering(naming("new"))) as new:
        scene = await start(old.url)
        async with await scene.connect() as first, await scene.connect() as second:
            await first.request("/x", [bearer()])
            await eventually(lambda: bool(old.requests))
            await scene.reload(upstream={"url": new.url})
            assert (await second.ask("/x", [bearer()])).body == b"new"
            assert await scene.metric("sidecar_http_requests_in_flight") == 1
            assert not closed.is_set()
            go.set()
            assert (await first.answer()).body == b"old"
            async with asyncio.timeout(10):
                await closed.wait()
            assert (await first.ask("/x", [bearer()])).body == b"new"


async def test_draining_waits_for_what_an_earlier_configuration_is_at(start: Start) -> None:
    """And for no longer; the parts of that one are closed all the same."""
    go, closed = asyncio.Event(), asyncio.Event()

    async def slow(connection: UpstreamConnection) -> None:
        await connection.request()
        await go.wait()
        await connection.send(naming("old"))
        await connection.ended()
        closed.set()

    async with ScriptedUpstream(slow) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await wire.request("/x", [bearer()])
            await eventually(lambda: bool(upstream.requests))
            await scene.reload(server={"realm": "other"})
            draining = asyncio.create_task(scene.sidecar.drain(0, 60))
            await asyncio.wait({draining}, timeout=0.1)
            assert not draining.done()
            go.set()
            assert (await wire.answer()).body == b"old"
            async with asyncio.timeout(5):
                await draining
                await closed.wait()


async def test_keys_outlast_a_reload_while_their_issuer_is_away(start: Start) -> None:
    """Without a copy on disk: whatever changes of a provider but where its keys come from."""
    scene = await start(keys={"cacheDir": "/dev/null/nowhere"})
    await scene.keys.__aexit__()
    async with await scene.connect() as wire:
        assert (await wire.ask("/oauth2/userinfo", [bearer()])).status == 200
        await scene.reload(authenticationConfiguration=audiences(scene, "other"))
        assert (await wire.ask("/oauth2/userinfo", [bearer()])).status == 401
        assert (await wire.ask("/oauth2/userinfo", [bearer(aud="other")])).status == 200
    assert await scene.metric('sidecar_jwks_keys{provider="corp"}') == 1


async def test_a_provider_that_is_gone_leaves_nothing(start: Start) -> None:
    scene = await start(jwtTokenConfiguration={})
    block = audiences(scene, "meta")
    block["providers"].append({**block["providers"][0], "name": "second", "issuer": "https://second.example.com"})
    await scene.reload(authenticationConfiguration=block)
    assert await scene.metric('sidecar_jwks_keys{provider="second"}') == 1
    await scene.reload()
    text = (await scene.operations("/metrics")).body.decode()
    assert 'sidecar_jwks_keys{provider="corp"} 1.0' in text
    assert 'sidecar_jwks_keys{provider="second"}' not in text
    async with await scene.connect() as wire:
        refused = await wire.ask("/oauth2/userinfo", [bearer(iss="https://second.example.com")])
    assert refused.status == 401


async def test_trust_in_a_peer_ends_on_connections_that_are_open(start: Start) -> None:
    """The same connection, the same header: what a trusted proxy said no longer counts."""
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, server={"trustedProxies": ["127.0.0.0/8"]})
        forwarded = ("X-Forwarded-For", "192.0.2.1")
        async with await scene.connect() as wire:
            for _ in range(2):
                assert (await wire.ask("/x", [bearer(), forwarded])).status == 200
                await scene.reload(server={"trustedProxies": ["192.0.2.0/24"]})
    seen = [request.all("X-Forwarded-For") for request in upstream.requests]
    assert seen == [["192.0.2.1, 127.0.0.1"], ["127.0.0.1"]]


async def test_open_connections_come_under_other_limits_after_their_next_answer(start: Start) -> None:
    scene = await start()
    async with await scene.connect() as old:
        assert (await old.ask("/oauth2/auth", [bearer()])).status == 200
        await scene.reload(server={"limits": {"maxHeaders": 16}})
        many = [bearer(), *((f"X-{number}", "1") for number in range(40))]
        last = await old.ask("/oauth2/auth", many)
        assert (last.status, last.all("Connection")) == (200, ["close"])
    async with await scene.connect() as new:
        assert (await new.ask("/oauth2/auth", many)).status == 431


async def test_unchanged_limits_cost_no_connection(start: Start) -> None:
    scene = await start()
    async with await scene.connect() as wire:
        for _ in range(3):
            answer = await wire.ask("/oauth2/auth", [bearer()])
            assert (answer.status, answer.all("Connection")) == (200, [])
            await scene.reload(server={"realm": "other"})
        assert 'realm="other"' in (await wire.ask("/oauth2/auth")).all("WWW-Authenticate")[0]


async def test_the_key_of_assertions_stays(start: Start) -> None:
    """The upstream goes on verifying with the key set that it has."""
    scene = await start(identityHeaders={"assertion": True})
    async with await scene.connect() as wire:
        before = (await wire.ask("/oauth2/assertion/jwks")).body
        await scene.reload(identityHeaders={"assertionAudience": "elsewhere"})
        assert (await wire.ask("/oauth2/assertion/jwks")).body == before


async def test_revocations_stay_and_reach_what_began_before(start: Start, tmp_path: Path) -> None:
    """A token stays revoked, and a WebSocket of an earlier configuration ends with its token."""
    blocks = {"authorizerConfiguration": {"adminPrincipals": ["corp/root"]}}
    async with _echo_service() as service, ClientSession() as session:
        scene = await start(service, **blocks)
        async with await scene.connect() as wire:

            async def revoke(token_id: str) -> int:
                body = json.dumps({"issuer": forge.ISSUER, "jti": token_id}).encode()
                kind = ("Content-Type", "application/json")
                answer = await wire.ask("/oauth2/revocations", [bearer(sub="root"), kind], method="POST", body=body)
                return answer.status

            assert await revoke("one") == 201
            name, value = bearer(jti="two")
            async with session.ws_connect(f"http://{scene.address}/ws", headers={name: value}) as socket:
                await scene.reload(server={"realm": "other"})
                assert (await wire.ask("/oauth2/auth", [bearer(jti="one")])).status == 401
                await socket.send_str("hello")
                assert (await socket.receive(timeout=10)).data == "hello"
                assert await revoke("two") == 201
                assert (await socket.receive(timeout=10)).type is WSMsgType.CLOSE
                assert socket.close_code == 1008


async def test_what_another_store_denies_ends_what_began_before(start: Start, tmp_path: Path) -> None:
    """Stores of earlier configurations receive no writes."""
    blocks = {"authorizerConfiguration": {"adminPrincipals": ["corp/root"]}}
    async with _echo_service() as service, ClientSession() as session:
        scene = await start(service, **blocks)
        name, value = bearer(jti="one")
        async with (
            await scene.connect() as wire,
            session.ws_connect(f"http://{scene.address}/ws", headers={name: value}) as socket,
        ):
            for number in (1, 2):
                await scene.reload(store={"url": f"sqlite:///{tmp_path}/other{number}.db"})
            await socket.send_str("hello")
            assert (await socket.receive(timeout=10)).data == "hello"
            body = json.dumps({"issuer": forge.ISSUER, "jti": "one"}).encode()
            kind = ("Content-Type", "application/json")
            answer = await wire.ask("/oauth2/revocations", [bearer(sub="root"), kind], method="POST", body=body)
            assert answer.status == 201
            assert (await socket.receive(timeout=10)).type is WSMsgType.CLOSE
            assert socket.close_code == 1008


async def test_an_issuer_that_a_reload_has_removed_can_still_be_denied(start: Start) -> None:
    """Its provider was removed in an emergency; to come back some day, its tokens have to be refused then."""
    other = "https://other.example.com"
    scene = await start(authorizerConfiguration={"adminPrincipals": ["corp/root"]})
    (corp,) = audiences(scene, "meta")["providers"]
    removed = {"name": "other", "issuer": other, "audiences": ["meta"], "publicKeyUrls": [scene.keys.url("/other")]}
    async with await scene.connect() as wire:

        async def deny(issuer: str) -> int:
            body = json.dumps({"issuer": issuer, "subject": "eve"}).encode()
            kind = ("Content-Type", "application/json")
            answer = await wire.ask("/oauth2/revocations", [bearer(sub="root"), kind], method="POST", body=body)
            return answer.status

        assert await deny(other) == 400
        await scene.reload(authenticationConfiguration={"providers": [corp, removed]})
        await scene.reload(authenticationConfiguration={"providers": [corp]})
        scene.clock.advance(6)  # what was known is remembered for a moment
        assert await deny(other) == 201
        assert await deny("https://never.example.com") == 400


@asynccontextmanager
async def _echo_service() -> AsyncIterator[str]:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(str(message.data))
        return socket

    runner = web.ServerRunner(web.Server(echo), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site.port}"
    await runner.cleanup()


async def test_another_store_is_read_before_it_counts(start: Start, tmp_path: Path) -> None:
    scene = await start()
    await scene.reload(store={"url": f"sqlite:///{tmp_path}/other.db"})
    async with await scene.connect() as wire:
        assert (await wire.ask("/oauth2/auth", [bearer()])).status == 200
    assert (tmp_path / "other.db").exists()
    assert await scene.metric("sidecar_revocation_mirror_age_seconds") < 60


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param({"store": {"url": "redis://127.0.0.1:1"}}, id="store"),
        pytest.param({"upstream": {"url": "http://127.0.0.1:1", "credentials": "openmetadata"}}, id="no-key"),
        pytest.param({"keys": {"caFile": "/nowhere"}}, id="file"),
        pytest.param({"authenticationConfiguration": {"providers": [
            {"name": "corp", "issuer": forge.ISSUER, "publicKeyUrls": ["http://127.0.0.1:1/jwks"]}
        ]}}, id="not-ready"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_changes_nothing(start: Start, blocks: dict[str, Any]) -> None:
    """Not even in the metrics."""
    scene = await start()
    async with await scene.connect() as wire:
        assert (await wire.ask("/oauth2/auth", [bearer()])).status == 200
        with pytest.raises(Misconfigured):
            await scene.reload(**blocks)
        assert (await wire.ask("/oauth2/auth", [bearer()])).status == 200
    assert (await scene.operations("/readyz")).status == 200
    assert await scene.metric('sidecar_jwks_keys{provider="corp"}') == 1
    assert await scene.metric("sidecar_token_cache_entries") == 1


async def test_own_keys_are_read_anew(start: Start, tmp_path: Path) -> None:
    keys = own_keys(tmp_path)
    scene = await start(jwtTokenConfiguration=keys)
    async with await scene.connect() as wire:
        before = (await wire.ask("/oauth2/jwks")).body
        await scene.reload(jwtTokenConfiguration={**keys, "keyId": "own2"})
        assert json.loads(before)["keys"][0]["kid"] == "own1"
        assert (await wire.ask("/oauth2/jwks")).json()["keys"][0]["kid"] == "own2"


# --- the program, by its signal


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


def outcome(sidecar: Sidecar, name: str) -> float:
    """How often a reload has ended so."""
    text = request(f"{sidecar.admin_url}/metrics").body.decode()
    sample = f'sidecar_config_reloads_total{{outcome="{name}"}}'
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample))


def reload(sidecar: Sidecar, name: str) -> dict[str, Any]:
    """SIGHUP, and the audit line once the reload has ended as ``name``."""
    before = outcome(sidecar, name)
    sidecar.process.popen.send_signal(signal.SIGHUP)
    sidecar.process.wait_until(lambda: outcome(sidecar, name) > before, within=20, what=f"reload {name}")
    text = request(f"{sidecar.admin_url}/metrics").body.decode()
    assert f"sidecar_config_last_reload_successful {float(name == 'applied')}" in text
    return lines(sidecar, "configuration_reload")[-1]


def lines(sidecar: Sidecar, event: str) -> list[dict[str, Any]]:
    """The log lines with that event; the last line of the log may still be being written."""
    whole = sidecar.process.output.rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole if f'"event":"{event}"' in line]


def rewrite(sidecar: Sidecar, change: Callable[[dict[str, Any]], object]) -> None:
    document = yaml.safe_load(sidecar.config.read_text(encoding="utf-8"))
    change(document)
    sidecar.config.write_text(yaml.safe_dump(document), encoding="utf-8")


def usual(idp: IdentityProvider, **blocks: Any) -> dict[str, Any]:
    provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]}
    return {"authenticationConfiguration": {"providers": [provider]}, **blocks}


@pytest.mark.parametrize("workers", [1, 2])
async def test_under_load_every_answer_is_of_one_configuration(
    tmp_path: Path, idp: IdentityProvider, workers: int
) -> None:
    """Rule, service and realm change together, again and again; no request is lost, none judged by a mix."""
    async with ScriptedUpstream(answering(naming("one"))) as one, ScriptedUpstream(answering(naming("two"))) as two:
        opened = usual(idp, **PUBLIC, upstream={"url": one.url}, server={"realm": "one", "workers": workers})
        closed = {"rules": [], "upstream": {"url": two.url}}

        def kind(answer: Answer) -> str:
            if answer.status == 200:
                return answer.body.decode()
            assert answer.status == 401
            return answer.all("WWW-Authenticate")[0]

        with running_sidecar(tmp_path, opened) as sidecar:

            def close(document: dict[str, Any]) -> None:
                document.update(closed)
                document["server"]["realm"] = "two"

            def open_again(document: dict[str, Any]) -> None:
                document.update({name: opened[name] for name in closed})
                document["server"]["realm"] = "one"

            async with Load(sidecar.address, "/flag") as load:
                for change, after in [(close, 'Bearer realm="two"'), (open_again, "one")] * 3:
                    await load.some()
                    rewrite(sidecar, change)
                    line = await asyncio.to_thread(reload, sidecar, "applied")
                    assert (line["logger"], line["outcome"]) == ("sidecar.audit", "applied")
                    begun = 8  # what was asked before the reload ended may still be answered the old way
                    assert {kind(answer) for answer in (await load.some())[begun:]} == {after}
            assert {kind(answer) for answer in load.answers} == {'Bearer realm="two"', "one"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_configuration_that_cannot_be_used_is_refused_in_words(
    tmp_path: Path, idp: IdentityProvider, workers: int
) -> None:
    with running_sidecar(tmp_path, usual(idp, **PUBLIC, server={"workers": workers})) as sidecar:
        good = sidecar.config.read_text(encoding="utf-8")

        def refused(change: Callable[[dict[str, Any]], object]) -> str:
            rewrite(sidecar, change)
            line = reload(sidecar, "refused")
            sidecar.config.write_text(good, encoding="utf-8")
            assert (line["outcome"], line["level"]) == ("refused", "error")
            return str(line["problems"])

        assert "did you mean" in refused(lambda document: document["server"].update(realmm="x"))
        text = refused(lambda document: document["server"].update(listen="127.0.0.1:1", workers=7))
        assert "server.listen: cannot be changed by a reload; restart to change it" in text
        assert "server.workers: cannot" in text
        assert "openmetadata needs an own RSA key" in refused(
            lambda document: document.update(upstream={"url": "http://127.0.0.1:1", "credentials": "openmetadata"})
        )
        sidecar.config.write_text("server: {realm: [", encoding="utf-8")
        reload(sidecar, "refused")
        sidecar.config.unlink()
        assert "cannot be read" in str(reload(sidecar, "refused")["problems"])
        assert request(f"{sidecar.admin_url}/readyz").status == 200
        assert request(f"{sidecar.admin_url}/config").json()["settings"]["rules"][0]["path"] == "/flag"
        assert "Traceback" not in sidecar.process.output


def test_a_file_that_cannot_be_read_to_its_end_holds_up_no_exit(tmp_path: Path, idp: IdentityProvider) -> None:
    with running_sidecar(tmp_path, usual(idp)) as sidecar:
        sidecar.config.unlink()
        os.mkfifo(sidecar.config)
        sidecar.process.popen.send_signal(signal.SIGHUP)
        writing: list[int] = []

        def is_being_read() -> bool:
            with suppress(OSError):
                writing.append(os.open(sidecar.config, os.O_WRONLY | os.O_NONBLOCK))
            return bool(writing)

        try:
            sidecar.process.wait_until(is_being_read, within=10, what="reading")
            sidecar.process.popen.terminate()
            assert sidecar.process.popen.wait(10) == 0
        finally:
            for number in writing:
                os.close(number)


def test_a_swapped_link_and_a_secret_in_a_file_are_taken_up(tmp_path: Path, idp: IdentityProvider) -> None:
    """As Kubernetes changes a mounted ConfigMap or Secret."""
    with running_sidecar(tmp_path, usual(idp, server={"realm": "one"})) as sidecar:
        text = sidecar.config.read_text(encoding="utf-8")
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "sidecar.yaml").write_text(text.replace("realm: one", f"realm: {name}"))
        (tmp_path / "data").symlink_to("one")
        sidecar.config.unlink()
        sidecar.config.symlink_to("data/sidecar.yaml")
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "data")
        reload(sidecar, "applied")
        assert 'realm="two"' in request(f"{sidecar.url}/oauth2/auth").all("WWW-Authenticate")[0]
        shown = request(f"{sidecar.admin_url}/config").json()
        assert shown["settings"]["server"]["realm"] == "two"


def test_a_changed_file_is_enough_where_that_is_wanted(tmp_path: Path, idp: IdentityProvider) -> None:
    """A bad one is refused once, and the next change is looked at again."""
    with running_sidecar(tmp_path, usual(idp, server={"reloadOnChange": True})) as sidecar:
        good = sidecar.config.read_text(encoding="utf-8")
        sidecar.config.write_text("server: [", encoding="utf-8")
        sidecar.process.wait_until(lambda: outcome(sidecar, "refused") == 1, within=20, what="refused")
        sidecar.config.write_text(good.replace("reloadOnChange: true", "realm: two"), encoding="utf-8")
        sidecar.process.wait_until(lambda: outcome(sidecar, "applied") == 1, within=20, what="applied")
        assert 'realm="two"' in request(f"{sidecar.url}/oauth2/auth").all("WWW-Authenticate")[0]
        assert outcome(sidecar, "refused") == 1


def test_the_level_of_the_log_changes_too(tmp_path: Path, idp: IdentityProvider) -> None:
    with running_sidecar(tmp_path, usual(idp)) as sidecar:
        rewrite(sidecar, lambda document: document.update(logging={"level": "error"}))
        reload(sidecar, "applied")
        before = sidecar.process.output
        assert request(f"{sidecar.url}/oauth2/auth").status == 401
        assert sidecar.process.output == before
