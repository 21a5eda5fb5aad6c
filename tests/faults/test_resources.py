"""Files, memory and connections run out: health still answers, no request is accepted for it, and it recovers."""

import http.client
import resource
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import ask, configuration
from tests.support.http_client import TIMEOUT, request
from tests.support.identity_provider import IdentityProvider
from tests.support.service_process import ServiceProcess
from tests.support.sidecar_process import Sidecar, running_sidecar

FILES = 128
# Less than the uploads want together. Without any, orjson crashes the process instead of raising MemoryError.
HEADROOM = 4 * 2**20
TICKS = 100  # of /proc/<pid>/stat, each second


def cpu_seconds(sidecar: Sidecar) -> float:
    fields = Path(f"/proc/{sidecar.process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def open_files(sidecar: Sidecar) -> int:
    return sum(1 for _ in Path(f"/proc/{sidecar.process.popen.pid}/fd").iterdir())


def connect(sidecar: Sidecar) -> socket.socket:
    return connect_to(sidecar.address)


def connect_to(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), TIMEOUT)


@contextmanager
def crowd(sidecar: Sidecar, size: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(sidecar)) for _ in range(size)]


def requests_are_answered(sidecar: Sidecar, token: str) -> bool:
    """Whether fifty callers, eight at a time, all get through."""
    try:
        with ThreadPoolExecutor(8) as callers:
            return all(reply.status == 200 for reply in callers.map(lambda _: ask(sidecar, token), range(50)))
    except (OSError, http.client.HTTPException):
        return False


def test_connections_never_take_the_files_that_health_and_service_need(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    """A process that may open few files accepts fewer connections than configured."""
    under = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh")
    settings = configuration(idp, service.url, server={"limits": {"idleTimeout": "60s"}})
    with service.up(), running_sidecar(tmp_path, settings, under=under) as sidecar:
        assert '"max_connections_reduced"' in sidecar.process.output
        token = idp.mint()
        with crowd(sidecar, 2 * FILES) as held:
            for connection in held[-10:]:  # the oldest, which say nothing, made room for them
                connection.sendall(f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            for connection in held[-10:]:
                connection.settimeout(TIMEOUT)
                assert connection.recv(12) == b"HTTP/1.1 200"
            assert requests_are_answered(sidecar, token), "while the crowd is there"
            assert request(f"{sidecar.admin_url}/readyz").status == 200
            assert open_files(sidecar) < FILES
        # those of the crowd who were still waiting to be let in are met, and counted, only now
        sidecar.process.wait_until(lambda: requests_are_answered(sidecar, token), within=20, what="rid of the crowd")


def test_connections_to_the_operations_listener_take_nothing_from_callers(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    """Left open and silent, as many as there may be files: the oldest have to go."""
    under = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh")
    with service.up(), running_sidecar(tmp_path, configuration(idp, service.url), under=under) as sidecar:
        token = idp.mint()
        with ExitStack() as held:
            for _ in range(2 * FILES):
                held.enter_context(connect_to(sidecar.admin_address))
            sidecar.process.wait_until(lambda: open_files(sidecar) < FILES / 2, within=10, what="rid of most")
            assert request(f"{sidecar.admin_url}/readyz").status == 200
            assert ask(sidecar, token).status == 200


def test_without_files_left_it_waits_and_recovers(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    """However they were lost: what is connected goes on being judged, and nothing spins meanwhile."""
    with service.up(), running_sidecar(tmp_path, configuration(idp, service.url)) as sidecar:
        pid, token = sidecar.process.popen.pid, idp.mint()
        with connect(sidecar) as early:
            sidecar.process.wait_until(lambda: ask(sidecar, token).status == 200, within=10, what="serving")
            usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(sidecar), usual[1]))
            with crowd(sidecar, 50):
                before = cpu_seconds(sidecar)
                early.sendall(b"GET /oauth2/userinfo HTTP/1.1\r\nHost: a\r\n\r\n")
                early.settimeout(TIMEOUT)
                assert early.recv(12) == b"HTTP/1.1 401"
                with pytest.raises(subprocess.TimeoutExpired):  # it lives on
                    sidecar.process.popen.wait(1)
                assert cpu_seconds(sidecar) - before < 0.5, "a second without work costs next to nothing"
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        sidecar.process.wait_until(lambda: status_or_none(sidecar, token) == 200, within=10, what="serving again")
        assert request(f"{sidecar.admin_url}/readyz").status == 200


def status_or_none(sidecar: Sidecar, token: str, body: bytes | None = None) -> int | None:
    """None: there was no whole answer."""
    try:
        return ask(sidecar, token, "/x", "GET" if body is None else "POST", body).status
    except (OSError, http.client.HTTPException):
        return None


def test_without_memory_left_no_request_is_accepted_and_it_recovers(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    """Answers may fail while it lasts; a wrong one is never given."""
    with service.up(), running_sidecar(tmp_path, configuration(idp, service.url)) as sidecar:
        pid, good, bad = sidecar.process.popen.pid, idp.mint(), idp.mint(aud="another")
        assert (ask(sidecar, good).status, ask(sidecar, bad).status) == (200, 401)
        usual = resource.prlimit(pid, resource.RLIMIT_AS)
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (size + HEADROOM, usual[1]))
        try:
            with ThreadPoolExecutor(16) as callers:
                tokens = [idp.mint(padding="x" * 6000, aud=None if number % 2 else "another") for number in range(200)]
                refused = list(callers.map(lambda token: status_or_none(sidecar, token), [bad, *tokens]))
                body = bytes(2**20)
                uploads = list(callers.map(lambda _: status_or_none(sidecar, good, body), range(64)))
        finally:
            resource.prlimit(pid, resource.RLIMIT_AS, usual)
        assert set(refused) <= {401, 503, None}
        assert set(uploads) <= {200, 502, 503, None}
        assert {503, None} & set(uploads), "the limit was felt"
        sidecar.process.wait_until(lambda: status_or_none(sidecar, good) == 200, within=10, what="serving again")
        assert (ask(sidecar, good).status, ask(sidecar, bad).status) == (200, 401)
        assert request(f"{sidecar.admin_url}/readyz").status == 200
