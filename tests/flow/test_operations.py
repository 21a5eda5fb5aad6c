"""The real program as an operator meets it: start, health, logs, and the ways it ends."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flow.conftest import Start, bearer
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.jwks_server import eventually
from tests.support.ports import free_port
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.wire import Wire

DEAD = "http://127.0.0.1:1/jwks"


def provider(idp: IdentityProvider) -> dict[str, Any]:
    return {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE], "jwtPrincipalClaims": ["preferred_username"]}


def authentication(*providers: dict[str, Any]) -> dict[str, Any]:
    return {"authenticationConfiguration": {"providers": list(providers)}}


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


class SlowService:
    """Answers each request when the test releases it."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator["SlowService"]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        yield self
        self.go.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                received = b""
                while b"\r\n\r\n" not in received:
                    received += connection.recv(65536)
                self.begun.release()
                self.go.wait(20)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")


class Pending(threading.Thread):
    """A request whose answer is waited for elsewhere."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self.reply: Reply | None = None
        self._ask = partial(request, url, headers=[("Authorization", f"Bearer {token}")])
        self.start()

    def run(self) -> None:
        with suppress(http.client.HTTPException, OSError):
            self.reply = self._ask()


def ready(sidecar: Sidecar) -> int:
    return request(f"{sidecar.admin_url}/readyz").status


def logged(sidecar: Sidecar) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sidecar.process.output.splitlines()]


def test_draining_turns_ready_off_first_and_lets_work_end(tmp_path: Path, idp: IdentityProvider) -> None:
    """During the delay it still accepts; what is in flight then still ends; the exit is orderly."""
    with SlowService().running() as service:
        configuration = {**authentication(provider(idp)), "upstream": {"url": service.url}}
        configuration["server"] = {"drainDelay": "1s"}
        with running_sidecar(tmp_path, configuration) as sidecar:
            pending = Pending(f"{sidecar.url}/slow", idp.mint())
            assert service.begun.acquire(timeout=10)
            sidecar.process.popen.send_signal(signal.SIGTERM)
            sidecar.process.wait_until(lambda: ready(sidecar) == 503, within=5, what="not ready")
            report = request(f"{sidecar.admin_url}/readyz").json()
            assert (report["ready"], report["draining"]) == (False, True)
            assert request(f"{sidecar.admin_url}/livez").status == 200
            reply = request(f"{sidecar.url}/x")
            assert (reply.status, reply.all("Connection")) == (401, ["close"])
            deadline = time.monotonic() + 10
            while accepts(sidecar) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not accepts(sidecar)
            assert sidecar.process.popen.poll() is None
            service.go.set()
            pending.join(10)
            assert pending.reply is not None
            assert (pending.reply.status, pending.reply.body) == (200, b"done")
            assert sidecar.process.popen.wait(10) == 0
            assert logged(sidecar)[-1]["event"] == "stopped"


def accepts(sidecar: Sidecar) -> bool:
    host, _, port = sidecar.address.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def test_a_second_signal_ends_it_at_once(tmp_path: Path, idp: IdentityProvider) -> None:
    with SlowService().running() as service:
        configuration = {**authentication(provider(idp)), "upstream": {"url": service.url}}
        with running_sidecar(tmp_path, configuration) as sidecar:
            Pending(f"{sidecar.url}/slow", idp.mint())
            assert service.begun.acquire(timeout=10)
            sidecar.process.popen.send_signal(signal.SIGTERM)
            sidecar.process.wait_until(lambda: not accepts(sidecar), within=5, what="draining")
            assert sidecar.process.popen.poll() is None
            sidecar.process.popen.send_signal(signal.SIGTERM)
            assert sidecar.process.popen.wait(5) == 0


def test_it_starts_without_its_identity_provider(tmp_path: Path, idp: IdentityProvider) -> None:
    """One dead issuer hurts its own tokens only, and readiness names it."""
    dead = {"name": "dead", "issuer": "https://dead.example.com", "publicKeyUrls": [DEAD], "audiences": [AUDIENCE]}
    with running_sidecar(tmp_path, authentication(provider(idp), dead)) as sidecar:
        report = request(f"{sidecar.admin_url}/readyz").json()
        assert report["ready"] is True
        assert report["failing"] == ["provider dead"]
        good = request(f"{sidecar.url}/oauth2/userinfo", headers=[("Authorization", f"Bearer {idp.mint()}")])
        assert (good.status, good.json()["actor"]["id"]) == (200, "alice")
        token = idp.mint(iss="https://dead.example.com")
        unjudged = request(f"{sidecar.url}/oauth2/userinfo", headers=[("Authorization", f"Bearer {token}")])
        assert unjudged.status == 503
        assert token not in sidecar.process.output
        assert all({"time", "level", "message"} <= set(line) for line in logged(sidecar))
    with running_sidecar(tmp_path, authentication(dead), wait_for="/livez") as sidecar:
        sidecar.process.wait_until(lambda: ready(sidecar) == 503, within=10, what="judged")


@pytest.mark.parametrize("workers", [1, 2])
def test_published_secrets_are_warned_of_at_every_start(tmp_path: Path, workers: int) -> None:
    """Once, however many processes there are."""
    configuration = {
        "allowPublishedSecrets": True,
        "server": {"workers": workers},
        "authentication": {"authenticators": [{"type": "guest"}]},
    }
    with running_sidecar(tmp_path, configuration) as sidecar:
        told = [line for line in logged(sidecar) if "allowPublishedSecrets" in line["message"]]
        assert [line["level"] for line in told] == ["warning"]
        assert "do not use this in production" in told[0]["message"]


def test_users_that_were_read_before_are_enough_to_be_ready(tmp_path: Path) -> None:
    """Or one slip in a file that all replicas read ends them all."""
    users = tmp_path / "user.props"
    users.write_text("alice: opensesame\n")
    member = {"type": "basic", "name": "people", "configs": {"userProps": str(users)}}
    with running_sidecar(tmp_path, {"authentication": {"authenticators": [member]}}) as sidecar:

        def part() -> dict[str, str]:
            told: dict[str, str] = request(f"{sidecar.admin_url}/readyz").json()["parts"]["authenticator people"]
            return told

        assert part() == {"state": "usable"}
        users.write_text("alice\n")
        sidecar.process.wait_until(lambda: part()["state"] == "degraded", within=10, what="read")
        assert "line 1" in part()["text"]
        assert ready(sidecar) == 200


@pytest.mark.parametrize("setting", ["listen", "adminListen"])
def test_a_taken_address_is_one_sentence_and_exit_code_2(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = {"listen": f"127.0.0.1:{free_port()}", "adminListen": f"127.0.0.1:{free_port()}"}
        server[setting] = f"127.0.0.1:{taken.getsockname()[1]}"
        config = tmp_path / "sidecar.yaml"
        dead = {"name": "dead", "issuer": "https://dead.example.com", "publicKeyUrls": [DEAD], "audiences": ["a"]}
        document = {"server": server, "store": {"url": f"sqlite:///{tmp_path}/s.db"}, **authentication(dead)}
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", "serve", "--config", config],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert f"server.{setting}: cannot listen on {server[setting]}: " in last
    assert "Traceback" not in done.stderr


async def test_health_config_and_metrics(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for _ in range(3):
                assert (await wire.ask("/secret-path?secret=query", [bearer()])).status == 200
            assert (await wire.ask("/x")).status == 401
        live, readyz, healthz = [await scene.operations(path) for path in ("/livez", "/readyz", "/healthz")]
        assert (live.status, live.json()) == (200, {"alive": True})
        assert readyz.json() == healthz.json()
        states = {name: part["state"] for name, part in readyz.json()["parts"].items()}
        assert states == {
            "provider corp": "usable",
            "revocation state": "usable",
            "clock": "usable",
            "capacity": "usable",
        }
        assert (await scene.operations("/config")).json()
        assert await scene.metric('sidecar_http_requests_total{code="200",listener="public",route="forward"}') == 3
        assert await scene.metric('sidecar_http_requests_total{code="401",listener="public",route="forward"}') == 1
        assert await scene.metric('sidecar_upstream_requests_total{code="200"}') == 3
        assert await scene.metric("sidecar_upstream_duration_seconds_count") == 3
        assert await scene.metric('sidecar_token_cache_lookups_total{result="hit"}') == 2
        assert await scene.metric("sidecar_http_requests_in_flight") == 0
        accepted = 'authenticator="jwt",outcome="accepted",provider="corp",reason="none"'
        assert await scene.metric(f"sidecar_authentications_total{{{accepted}}}") == 3
        text = (await scene.operations("/metrics")).body.decode()
    others = [line for line in text.splitlines() if "sidecar_secrets_" not in line]
    assert len(others) > 100
    assert "secret" not in "\n".join(others)
    assert "sam" not in text.split()


async def test_nothing_a_caller_chooses_becomes_a_label(start: Start) -> None:
    scene = await start(server={"trustedProxies": ["127.0.0.0/8"]})

    async def series() -> int:
        text = (await scene.operations("/metrics")).body.decode()
        return sum(not line.startswith(("#", "sidecar_store_operations")) for line in text.splitlines())

    async def odd(number: int) -> None:
        async with await scene.connect() as wire:
            token = bearer(iss=f"https://{number}.example.com", sub=f"user-{number}")
            await wire.ask(f"/path-{number}", [token], method="PROPFIND" if number % 2 else "LINK")
            await wire.ask(f"/oauth2/ext_authz/{number}", [token, ("X-Request-Id", f"id{number}")])
            await wire.ask(f"/oauth2/ext_authz/{number}", [("Authorization", f"Scheme{number} x")])

    await odd(0)
    await odd(1)
    await series()  # the first scrape is counted itself
    before = await series()
    for number in range(2, 40):
        await odd(number)
    assert await series() == before


async def test_without_keys_it_is_not_ready_and_says_why(start: Start) -> None:
    scene = await start(published=False)

    def state() -> Any:
        parts: Any = scene.sidecar.health.report()[1]["parts"]
        return parts["provider corp"]["state"]

    await eventually(lambda: state() != "pending")
    report = await scene.operations("/readyz")
    assert report.status == 503
    assert report.json()["failing"] == ["provider corp"]
    assert report.json()["parts"]["provider corp"]["state"] == "unusable"


async def test_operations_refuse_in_json(start: Start) -> None:
    scene = await start()
    for path in ("/", "/oauth2/auth", "/metrics/x"):
        reply = await scene.operations(path)
        assert (reply.status, reply.json()["reason"]) == (404, "not_found")
    assert await scene.metric('sidecar_http_requests_total{code="404",listener="admin",route="none"}') == 3


async def test_what_the_operations_parser_refuses_is_not_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    scene = await start()
    async with await Wire.to(scene.admin_address) as wire:
        await wire.send(b"GET /livez HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer marker\r\nX-A : marker\r\n\r\n")
        assert (await wire.answer()).status == 400
    assert "marker" not in caplog.text
