"""Several worker processes are one service: they share everything that a caller or an operator can see."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests.flow.conftest import own_keys
from tests.flow.test_operations import Pending, SlowService
from tests.flow.test_reload import lines, reload, rewrite, usual
from tests.support.http_client import request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.jwks_server import eventually
from tests.support.ports import free_port
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.steady_load import Load
from tests.support.wire import Wire

COUNTED = re.compile(r"^(\w+_(?:total|count|sum|bucket)(?:\{[^}]*\})?) (\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


def workers_of(sidecar: Sidecar) -> list[dict[str, Any]]:
    """What the health report says of each worker that is there."""
    workers: list[Any] = request(f"{sidecar.admin_url}/readyz").json()["workers"]
    return [worker for worker in workers if worker is not None]


def metric(sidecar: Sidecar, sample: str) -> float:
    """The value of one sample; 0 while there is none."""
    lines = request(f"{sidecar.admin_url}/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample)


def counters(sidecar: Sidecar) -> dict[str, float]:
    """Everything that may only grow."""
    text = request(f"{sidecar.admin_url}/metrics").body.decode()
    return {name: float(value) for name, value in COUNTED.findall(text)}


def is_alive(pid: int) -> bool:
    """Whether such a process runs; one that has ended and waits to be asked about does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@asynccontextmanager
async def a_connection_to_each(sidecar: Sidecar) -> AsyncIterator[dict[str, Wire]]:
    """A connection to each of two workers, by the part of request ids that names the process."""
    wires: list[Wire] = []
    found: dict[str, Wire] = {}
    try:
        while len(found) < 2:
            assert len(wires) < 500, "every connection leads to the same worker"
            wires.append(await Wire.to(sidecar.address))
            answer = await wires[-1].ask("/oauth2/auth")
            found.setdefault(answer.all("X-Request-Id")[0][:12], wires[-1])
        yield found
    finally:
        for wire in wires:
            wire.writer.transport.abort()


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


class Scrapes(threading.Thread):
    """Reads the counters over and over; ``fallen`` are those that were less than before."""

    def __init__(self, sidecar: Sidecar) -> None:
        super().__init__(daemon=True)
        self.fallen: list[str] = []
        self._sidecar = sidecar
        self._over = threading.Event()

    def run(self) -> None:
        before: dict[str, float] = {}
        while not self._over.is_set():
            now = counters(self._sidecar)
            self.fallen += [name for name, value in before.items() if now.get(name, 0.0) < value]
            before = now

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(20)
        assert not self.is_alive()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, idp: IdentityProvider) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("workers")
    blocks = {
        "server": {"workers": 2, "realm": "one"},
        "jwtTokenConfiguration": own_keys(folder),
        "identityHeaders": {"assertion": True},
        "authorizerConfiguration": {"adminPrincipals": ["corp/root"]},
    }
    configuration = usual(idp, **blocks)
    configuration["authenticationConfiguration"]["providers"][0]["jwtPrincipalClaims"] = ["preferred_username"]
    with running_sidecar(folder, configuration) as running:
        yield running


@pytest.fixture
def sidecar(two_workers: Sidecar) -> Sidecar:
    """Two workers, both there; their configuration is left as it is found."""
    two_workers.process.wait_until(lambda: len(workers_of(two_workers)) == 2, within=60, what="whole")
    return two_workers


async def test_a_killed_worker_costs_its_own_connections_and_is_replaced(
    sidecar: Sidecar, idp: IdentityProvider
) -> None:
    """The others answer on, new callers are never turned away, no counter falls, and the gap is named."""
    token, deaths = idp.mint(), metric(sidecar, "sidecar_worker_deaths_total")
    first, second = (worker["pid"] for worker in workers_of(sidecar))
    assert metric(sidecar, "sidecar_workers") == 2
    assert metric(sidecar, 'sidecar_worker_resident_memory_bytes{worker="1"}') > 1e6
    async with a_connection_to_each(sidecar) as wires:
        with Scrapes(sidecar) as scrapes:
            for wire in wires.values():
                assert (await wire.ask("/oauth2/auth", [bearer(token)])).status == 200
            before = await asyncio.to_thread(counters, sidecar)
            os.kill(first, signal.SIGKILL)
            ends = [asyncio.create_task(wire.reader.read(1)) for wire in wires.values()]
            done, left = await asyncio.wait(ends, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            assert [task.exception() or task.result() for task in done] in ([b""], [ConnectionResetError()])
            (pending,) = left
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            survivor = list(wires.values())[ends.index(pending)]

            async def healed() -> bool:
                """Asks on old and new connections all the while."""
                assert (await survivor.ask("/oauth2/auth", [bearer(token)])).status == 200
                async with await Wire.to(sidecar.address) as wire:
                    assert (await wire.ask("/oauth2/auth", [bearer(token)])).status == 200
                pids = [worker["pid"] for worker in await asyncio.to_thread(workers_of, sidecar)]
                return len(pids) == 2 and first not in pids

            async with asyncio.timeout(60):
                while not await healed():
                    pass
        assert not scrapes.fallen
    now = {worker["pid"] for worker in workers_of(sidecar)}
    assert second in now
    assert first not in now
    assert metric(sidecar, "sidecar_worker_deaths_total") == deaths + 1
    samples = 'sidecar_http_requests_total{code="200",listener="public",route="check"}'
    assert counters(sidecar)[samples] > before[samples]
    assert request(f"{sidecar.admin_url}/readyz").status == 200


def test_a_worker_that_dies_again_and_again_waits_longer(sidecar: Sidecar) -> None:
    """Meanwhile the service is ready, and the gap is named."""

    def pauses() -> list[float]:
        return [line["pause"] for line in lines(sidecar, "worker_exited") if line["of"] == 0]

    before = len(pauses())
    for times in (1, 2):
        os.kill(workers_of(sidecar)[0]["pid"], signal.SIGKILL)
        known = before + times
        sidecar.process.wait_until(lambda known=known: len(pauses()) == known, within=10, what="noticed")  # type: ignore[misc] # defaults bind
        report = request(f"{sidecar.admin_url}/readyz")
        assert (report.status, report.json()["failing"]) == (200, ["worker 0"])
        sidecar.process.wait_until(lambda: len(workers_of(sidecar)) == 2, within=30, what="whole")
    assert pauses()[-1] > pauses()[-2]


async def test_what_one_worker_hears_counts_with_all(sidecar: Sidecar, idp: IdentityProvider) -> None:
    """A revocation, a token that was minted, and one key for assertions."""
    root = bearer(idp.mint(sub="root", preferred_username="root", email="root@example.com"))
    token = idp.mint(jti="one")
    body = json.dumps({"issuer": idp.issuer, "jti": "one"}).encode()
    kind = ("Content-Type", "application/json")
    async with a_connection_to_each(sidecar) as wires:
        one, other = wires.values()
        for wire in (one, other):
            assert (await wire.ask("/oauth2/auth", [bearer(token)])).status == 200
        assert (await one.ask("/oauth2/revocations", [root, kind], method="POST", body=body)).status == 201
        assert (await one.ask("/oauth2/auth", [bearer(token)])).status == 401
        async with asyncio.timeout(10):
            while (await other.ask("/oauth2/auth", [bearer(token)])).status != 401:
                pass
        minted = await one.ask("/oauth2/tokens", [root, kind], method="POST", body=b'{"name": "laptop"}')
        assert minted.status == 201
        assert (await other.ask("/oauth2/auth", [bearer(minted.json()["token"])])).status == 200
        keys = {(await wire.ask("/oauth2/assertion/jwks")).body for wire in (one, other)}
        assert len(keys) == 1


async def test_draining_under_load_loses_no_request(tmp_path: Path, idp: IdentityProvider) -> None:
    """Not ready first; who is being answered is answered, and told to go elsewhere; nothing stays behind."""
    token = idp.mint()
    with SlowService().running() as service:
        blocks = {"upstream": {"url": service.url}, "server": {"workers": 2, "drainDelay": "500ms"}}
        with running_sidecar(tmp_path, usual(idp, **blocks)) as sidecar:
            pids = [worker["pid"] for worker in workers_of(sidecar)]
            slow = [Pending(f"{sidecar.url}/slow", token)]
            assert service.begun.acquire(timeout=10)
            async with Load(sidecar.address, "/oauth2/auth", [bearer(token)], callers=16) as load:
                await load.some()
                sidecar.process.popen.send_signal(signal.SIGTERM)
                await load.closed()
                report = await asyncio.to_thread(request, f"{sidecar.admin_url}/readyz")
                assert (report.status, report.json()["draining"]) == (503, True)
            assert {answer.status for answer in load.answers} == {200}
            host, _, port = sidecar.address.partition(":")

            def refuses() -> bool:
                try:
                    socket.create_connection((host, int(port)), 1).close()
                except OSError:
                    return True
                return False

            await eventually(refuses)
            assert sidecar.process.popen.poll() is None
            service.go.set()
            for pending in slow:
                await asyncio.to_thread(pending.join, 10)
                assert pending.reply is not None
                assert (pending.reply.status, pending.reply.body) == (200, b"done")
            assert await asyncio.to_thread(sidecar.process.popen.wait, 15) == 0
            assert not any(map(is_alive, pids))
            assert '"worker_exited"' not in sidecar.process.output
            assert "Traceback" not in sidecar.process.output


def test_a_second_signal_ends_all_at_once(tmp_path: Path, idp: IdentityProvider) -> None:
    with SlowService().running() as service:
        blocks = {"upstream": {"url": service.url}, "server": {"workers": 2, "drainDelay": "60s"}}
        with running_sidecar(tmp_path, usual(idp, **blocks)) as sidecar:
            pids = [worker["pid"] for worker in workers_of(sidecar)]
            Pending(f"{sidecar.url}/slow", idp.mint())
            assert service.begun.acquire(timeout=10)
            sidecar.process.popen.send_signal(signal.SIGTERM)
            draining = f"{sidecar.admin_url}/readyz"
            sidecar.process.wait_until(lambda: request(draining).json()["draining"], within=10, what="draining")
            sidecar.process.popen.send_signal(signal.SIGTERM)
            assert sidecar.process.popen.wait(10) == 0
            assert not any(map(is_alive, pids))


async def test_no_worker_outlives_its_supervisor(tmp_path: Path, idp: IdentityProvider) -> None:
    """Not even one that stands still: it would keep the address."""
    with running_sidecar(tmp_path, usual(idp, server={"workers": 2})) as sidecar:
        pids = [worker["pid"] for worker in workers_of(sidecar)]
        os.kill(pids[0], signal.SIGSTOP)
        sidecar.process.popen.kill()
        await eventually(lambda: not any(map(is_alive, pids)))


def test_a_worker_that_stands_still_is_named(sidecar: Sidecar) -> None:
    """Its counters still count, and once it goes on all is well."""
    pid = workers_of(sidecar)[0]["pid"]
    before = counters(sidecar)
    os.kill(pid, signal.SIGSTOP)
    try:
        report = request(f"{sidecar.admin_url}/readyz")
        assert (report.status, report.json()["failing"]) == (503, ["does not answer"])
        assert report.json()["workers"][0] == {"pid": pid, "ready": False, "failing": ["does not answer"]}
        after = counters(sidecar)
        assert not [name for name, value in before.items() if after.get(name, 0.0) < value]
        assert metric(sidecar, "sidecar_ready") == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    ready = f"{sidecar.admin_url}/readyz"
    sidecar.process.wait_until(lambda: request(ready).status == 200, within=10, what="ready again")


async def test_a_new_worker_works_by_the_configuration_in_force(sidecar: Sidecar) -> None:
    """Not by what the file says meanwhile."""
    text = sidecar.config.read_text(encoding="utf-8")
    rewrite(sidecar, lambda document: document["server"].update(realm="two"))
    await asyncio.to_thread(reload, sidecar, "applied")
    sidecar.config.write_text("server: [", encoding="utf-8")
    pid = workers_of(sidecar)[0]["pid"]
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = [worker["pid"] for worker in workers_of(sidecar)]
        return len(now) == 2 and pid not in now

    await asyncio.to_thread(sidecar.process.wait_until, replaced, within=60, what="replaced")
    async with a_connection_to_each(sidecar) as wires:
        for wire in wires.values():
            assert 'realm="two"' in (await wire.ask("/oauth2/auth")).all("WWW-Authenticate")[0]
    sidecar.config.write_text(text, encoding="utf-8")
    await asyncio.to_thread(reload, sidecar, "applied")


def test_workers_share_a_unix_socket(tmp_path: Path, idp: IdentityProvider) -> None:
    """Also where an earlier run has left its own behind."""
    path = tmp_path / "public.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    blocks = {"server": {"workers": 2, "listen": f"unix:{path}", "trustedProxies": ["unix"]}}
    with running_sidecar(tmp_path, usual(idp, **blocks)):
        for _ in range(8):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(10)
                caller.connect(str(path))
                head = f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {idp.mint()}\r\n\r\n"
                caller.sendall(head.encode())
                assert caller.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(
            lambda document: document.update(upstream={"url": "http://127.0.0.1:1", "credentials": "openmetadata"}),
            "upstream.credentials: openmetadata needs an own RSA key",
            id="in-a-worker",
        ),
        pytest.param(
            lambda document: document["server"].update(listen="192.0.2.1:1"),
            "server.listen: cannot listen on 192.0.2.1:1: ",
            id="address",
        ),
        pytest.param(
            lambda document: document["server"].update(adminListen="192.0.2.1:1"),
            "server.adminListen: cannot listen on 192.0.2.1:1: ",
            id="operations-address",
        ),
    ],
)
def test_what_cannot_start_is_one_sentence_and_exit_code_2(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    dead = {"name": "dead", "issuer": "https://dead.example.com", "publicKeyUrls": ["http://127.0.0.1:1/jwks"]}
    document: dict[str, Any] = {
        "server": {
            "workers": 2, "listen": f"127.0.0.1:{free_port()}", "adminListen": f"127.0.0.1:{free_port()}",
        },
        "store": {"url": f"sqlite:///{tmp_path}/s.db"},
        "authenticationConfiguration": {"providers": [{**dead, "audiences": [AUDIENCE]}]},
    }  # fmt: skip
    spoil(document)
    config = tmp_path / "sidecar.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "serve", "--config", config],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
