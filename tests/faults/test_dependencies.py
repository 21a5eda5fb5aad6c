"""The identity provider, the store or name resolution is away: what is known goes on, what is not is 503, never 200."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, run
from typing import Any

import pytest

from sidecar.keys.key_files import generate, write_pair
from tests.faults.conftest import ask, configuration
from tests.support.http_client import Reply, request
from tests.support.identity_provider import IdentityProvider
from tests.support.redis_servers import RedisServer
from tests.support.redis_servers import running as running_redis
from tests.support.service_process import ServiceProcess
from tests.support.sidecar_process import Sidecar, running_sidecar

PATIENCE = 20.0
AUTH = "/oauth2/userinfo"


def status(sidecar: Sidecar, token: str) -> int:
    return ask(sidecar, token, AUTH).status


def eventually(sidecar: Sidecar, condition: Callable[[], bool], what: str) -> None:
    sidecar.process.wait_until(condition, within=PATIENCE, what=what)


def test_without_its_provider_known_keys_go_on_also_after_a_restart(tmp_path: Path) -> None:
    """A token with an unknown key is neither accepted nor rejected."""
    blocks: dict[str, Any] = {"keys": {"cacheDir": str(tmp_path / "keys"), "timeout": "1s", "unknownKidCooldown": "1s"}}
    with IdentityProvider() as idp:
        good, settings = idp.mint(), configuration(idp, **blocks)
        with running_sidecar(tmp_path, settings) as sidecar:
            eventually(sidecar, lambda: status(sidecar, good) == 200, "keys fetched")
            idp.published = False
            idp.rotate()
            unknown = idp.mint()
            assert status(sidecar, unknown) in (401, 503)
            assert status(sidecar, good) == 200
    with running_sidecar(tmp_path, settings, wait_for="/livez") as sidecar:
        eventually(sidecar, lambda: status(sidecar, good) == 200, "keys read from disk")
        assert status(sidecar, unknown) in (401, 503)
        forged = IdentityProvider()
        with forged:
            assert status(sidecar, forged.mint(iss=idp.issuer)) in (401, 503)
        assert request(f"{sidecar.admin_url}/readyz").status == 200


class Store:
    """A Redis, and a sidecar of an admin over it."""

    def __init__(self, sidecar: Sidecar, redis: RedisServer, idp: IdentityProvider, settings: dict[str, Any]) -> None:
        self.sidecar, self.redis, self._idp, self.settings = sidecar, redis, idp, settings
        self.root = self.token("root")

    def token(self, name: str) -> str:
        return self._idp.mint(sub=f"s-{name}", preferred_username=name, email=None)

    def revoke(self, token: str) -> Reply:
        return request(
            f"{self.sidecar.url}/oauth2/revocations",
            "POST",
            headers=[("Authorization", f"Bearer {self.root}"), ("Content-Type", "application/json")],
            body=f'{{"token": "{token}"}}'.encode(),
        )

    def ready(self) -> int:
        return request(f"{self.sidecar.admin_url}/readyz").status


def redis_configuration(
    folder: Path, idp: IdentityProvider, redis: RedisServer, staleness: str, on_stale: str = "deny"
) -> dict[str, Any]:
    keys = folder / "own"
    if not keys.exists():
        write_pair(keys, generate("ES256"))
    return configuration(
        idp,
        store={"url": f"redis://127.0.0.1:{redis.port}/0"},
        revocation={"maxStaleness": staleness, "onStale": on_stale},
        authorizerConfiguration={"adminPrincipals": ["corp/root"]},
        jwtTokenConfiguration={
            "rsaprivateKeyFilePath": str(keys / "private_key.der"),
            "rsapublicKeyFilePath": str(keys / "public_key.der"),
            "jwtissuer": "meta.example.com",
        },
    )


@contextmanager
def stored(
    folder: Path, program: Path, idp: IdentityProvider, staleness: str = "10m", on_stale: str = "deny"
) -> Iterator[Store]:
    with running_redis(RedisServer(program, folder / "redis", ['save ""'])) as redis:
        settings = redis_configuration(folder, idp, redis, staleness, on_stale)
        with running_sidecar(folder, settings) as sidecar:
            store = Store(sidecar, redis, idp, settings)
            eventually(sidecar, lambda: status(sidecar, store.root) == 200, "keys fetched")
            yield store


@pytest.mark.parametrize("fault", ["stalled", "killed"])
def test_without_its_store_verdicts_stand_and_revoking_is_no_success(
    tmp_path: Path, idp: IdentityProvider, require_tool: Callable[[str], Path], fault: str
) -> None:
    """Back again, empty or not, nothing that was revoked is accepted, here or by a newcomer."""
    with stored(tmp_path, require_tool("redis-server"), idp) as store:
        sidecar = store.sidecar
        revoked, kept, later = (store.token(name) for name in ("revoked", "kept", "later"))
        assert store.revoke(revoked).status == 201
        assert [status(sidecar, token) for token in (revoked, kept)] == [401, 200]
        if fault == "stalled":
            store.redis.signal(signal.SIGSTOP)
        else:
            store.redis.kill()
        try:
            assert store.revoke(later).status == 503
            with ThreadPoolExecutor(8) as callers:
                fresh = [store.token(f"fresh{number}") for number in range(40)]
                verdicts = callers.map(lambda token: status(sidecar, token), [revoked, kept, *fresh])
            assert list(verdicts) == [401, 200, *[200] * len(fresh)]
        finally:
            if fault == "stalled":
                store.redis.signal(signal.SIGCONT)
            else:
                store.redis.start()
        eventually(sidecar, lambda: store.revoke(later).status == 201, "revoking again")
        assert [status(sidecar, token) for token in (revoked, kept, later)] == [401, 200, 401]
        (tmp_path / "newcomer").mkdir()
        with running_sidecar(tmp_path / "newcomer", store.settings) as newcomer:
            eventually(newcomer, lambda: status(newcomer, kept) == 200, "keys fetched")
            eventually(newcomer, lambda: status(newcomer, revoked) == 401, "told what was revoked before the loss")
            assert status(newcomer, later) == 401


def test_a_store_away_for_too_long_is_503_until_it_is_back(
    tmp_path: Path, idp: IdentityProvider, require_tool: Callable[[str], Path]
) -> None:
    with stored(tmp_path, require_tool("redis-server"), idp, staleness="1s") as store:
        kept = store.token("kept")
        assert status(store.sidecar, kept) == 200
        store.redis.signal(signal.SIGSTOP)
        try:
            eventually(store.sidecar, lambda: store.ready() == 503, "not ready")
            refused = ask(store.sidecar, kept, AUTH)
            assert (refused.status, refused.json()["reason"]) == (503, "unavailable")
            assert ask(store.sidecar, "no.token.atall", AUTH).status == 401
        finally:
            store.redis.signal(signal.SIGCONT)
        eventually(store.sidecar, lambda: status(store.sidecar, kept) == 200, "fresh again")
        assert store.ready() == 200


def test_a_store_away_for_too_long_is_only_reported_if_configured(
    tmp_path: Path, idp: IdentityProvider, require_tool: Callable[[str], Path]
) -> None:
    """With ``onStale: allow``: ready, with the degradation named, and what was known as revoked stays so."""
    with stored(tmp_path, require_tool("redis-server"), idp, staleness="1s", on_stale="allow") as store:
        revoked, kept = store.token("revoked"), store.token("kept")
        assert store.revoke(revoked).status == 201

        def condition() -> str:
            parts = request(f"{store.sidecar.admin_url}/readyz").json()["parts"]
            return str(parts["revocation state"]["state"])

        assert condition() == "usable"
        store.redis.signal(signal.SIGSTOP)
        try:
            eventually(store.sidecar, lambda: condition() == "degraded", "degraded")
            assert store.ready() == 200
            assert [status(store.sidecar, token) for token in (revoked, kept)] == [401, 200]
        finally:
            store.redis.signal(signal.SIGCONT)
        eventually(store.sidecar, lambda: condition() == "usable", "fresh again")


def test_a_start_without_the_store_is_not_ready_and_accepts_no_token_until_it_is_there(
    tmp_path: Path, idp: IdentityProvider, require_tool: Callable[[str], Path]
) -> None:
    """Free paths stay free."""
    redis = RedisServer(require_tool("redis-server"), tmp_path / "redis")
    settings = redis_configuration(tmp_path, idp, redis, "10m")
    settings["rules"] = [{"path": "/free", "access": "public"}]
    with running_sidecar(tmp_path, settings, wait_for="/livez") as sidecar:
        token = idp.mint()
        eventually(sidecar, lambda: status(sidecar, token) == 503, "refusing")
        report = request(f"{sidecar.admin_url}/readyz")
        assert (report.status, report.json()["failing"]) == (503, ["revocation state"])
        public = [("X-Original-URI", "/free"), ("X-Original-Method", "GET")]
        assert request(f"{sidecar.url}/oauth2/auth", headers=public).status == 200
        with running_redis(redis):
            eventually(sidecar, lambda: status(sidecar, token) == 200, "told what is revoked")
            assert request(f"{sidecar.admin_url}/readyz").status == 200


class NameServer:
    """On port 53 of an address of its own: receives every query, and answers 127.0.0.1 only when it is set to."""

    def __init__(self) -> None:
        self.address = f"127.53.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF}"
        self.answers = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self._socket.bind((self.address, 53))
        except PermissionError:
            pytest.skip("port 53 needs root")
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._socket.sendto(b"", (self.address, 53))  # the end
            thread.join(10)
            self._socket.close()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(2048)
            if not question:
                return
            if self.answers:
                self._socket.sendto(_answer_to(question), asker)


def _answer_to(question: bytes) -> bytes:
    """127.0.0.1 where an address of version 4 is asked for, else no such record (RFC 1035 section 4.1)."""
    end = question.index(b"\0", 12) + 5
    asks_v4 = question[end - 4 : end - 2] == b"\0\1"
    header = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if asks_v4 else b"\0\0") + b"\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if asks_v4 else b""
    return header + question[12:end] + record


def test_without_name_resolution_only_forwarding_fails(
    tmp_path: Path, idp: IdentityProvider, service: ServiceProcess
) -> None:
    """In bounded time, and only as long as it lasts."""
    names = NameServer()
    (tmp_path / "resolv.conf").write_text(f"nameserver {names.address}\n", encoding="utf-8")
    under = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"',
        "sh",
    )
    if run([*under, "true"], stdin=DEVNULL, stderr=DEVNULL, check=False).returncode:
        pytest.skip("only who may mount can give one process a name server of its own")
    settings = configuration(idp, f"http://service.example:{service.port}", upstream={"connectTimeout": "300ms"})
    with names.running(), service.up(), running_sidecar(tmp_path, settings, under=under) as sidecar:
        token = idp.mint()
        with ThreadPoolExecutor(20) as callers:
            forwarded = callers.map(lambda _: ask(sidecar, token), range(40))
            assert [status(sidecar, token) for _ in range(20)] == [200] * 20
            assert {reply.status for reply in forwarded} <= {502, 504}
        names.answers = True
        eventually(sidecar, lambda: ask(sidecar, token).status == 200, "resolved again")
