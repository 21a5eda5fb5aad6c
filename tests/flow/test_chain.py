"""The configured chain in a real process: members of every kind, an installed plugin, and what each may not do."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.members import basic
from tests.support.ports import free_port
from tests.support.sidecar_process import Sidecar, running_sidecar

ROOT = Path(__file__).resolve().parents[2]
FAULTY = """
import asyncio
from sidecar.authn.base import ABSTAINED, Member

class Faulty(Member):
    credential_headers = ("X-Fault",)
    async def authenticate(self, view):
        fault = view.headers.getall("X-Fault", [""])[0]
        if fault == "raise":
            raise RuntimeError("opensesame")
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "exit":
            raise SystemExit(3)
        return ABSTAINED
"""
LIVELY = """
from pathlib import Path
from sidecar.authn.base import ABSTAINED, Member
from sidecar.config.settings import Model

class LivelyOptions(Model):
    diary: Path
    fails: bool = False

class Lively(Member):
    Options = LivelyOptions
    def note(self, what):
        with self.options.diary.open("a") as diary:
            print(self.name, what, file=diary)
        if self.options.fails:
            raise RuntimeError("opensesame")
    async def check(self):
        self.note("checked")
        return []
    async def start(self):
        self.note("started")
    async def authenticate(self, view):
        return ABSTAINED
    async def stop(self):
        self.note("stopped")
"""


@pytest.fixture(name="plugins", scope="module")
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package as pip installs it, and a module that misbehaves."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "examples" / "api_key_plugin", source)
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*install, "--target", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (target / "faulty.py").write_text(FAULTY)
    (target / "lively.py").write_text(LIVELY)
    return target


@pytest.fixture(name="idp", scope="module")
def _idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as idp:
        yield idp


@pytest.fixture(name="sidecar", scope="module")
def _sidecar(plugins: Path, idp: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("sidecar")
    users = folder / "htpasswd"
    users.write_text(f"alice:{bcrypt.hashpw(b'opensesame', bcrypt.gensalt(4)).decode()}\n")
    chain: list[dict[str, Any]] = [
        {"type": "faulty:Faulty", "name": "faulty", "timeout": "200ms"},
        {"type": "api-keys", "configs": {"keys": {"ingest": "env:INGEST_KEY"}}},
        {"type": "basic", "configs": {"htpasswd": str(users)}},
        {"type": "jwt"},
        {"type": "guest", "configs": {"paths": ["/lobby/**"], "methods": ["GET"]}},
    ]
    provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE], "jwtPrincipalClaims": ["sub"]}
    with pytest.MonkeyPatch.context() as patch, echo_upstream() as upstream:
        patch.setenv("PYTHONPATH", f"{plugins}:{ROOT}")
        patch.setenv("INGEST_KEY", "k3y")
        configuration = {
            "upstream": {"url": upstream.url, "credentials": "none"},
            "authenticationConfiguration": {"providers": [provider]},
            "authentication": {"authenticators": chain},
        }
        with running_sidecar(folder, configuration) as running:
            yield running


def ask(sidecar: Sidecar, path: str = "/api", method: str = "GET", **headers: str) -> Reply:
    lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return request(sidecar.url + path, method, headers=lines)


def user(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.body
    return Received.of(reply.json()).all("X-Auth-Request-User")


def test_each_kind_of_caller_gets_an_actor(sidecar: Sidecar, idp: IdentityProvider) -> None:
    assert user(ask(sidecar, X_Api_Key="k3y")) == ["ingest"]
    assert user(ask(sidecar, Authorization=basic("alice", "opensesame"))) == ["alice"]
    assert user(ask(sidecar, Authorization=f"Bearer {idp.mint(sub='sam')}")) == ["sam"]
    assert user(ask(sidecar, "/lobby/x")) == ["guest"]


def test_the_plugins_actor_is_a_service_and_its_header_goes_no_further(sidecar: Sidecar) -> None:
    """With ``credentials: none`` no credential reaches the service, whichever header it came in."""
    received = Received.of(ask(sidecar, x_api_key="k3y").json())
    assert received.all("X-Auth-Actor-Type") == ["SERVICE"]
    assert received.all("X-Api-Key") == []


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"X_Api_Key": "wrong"}, 401, "credentials_invalid"),
        ({"Authorization": basic("alice", "wrong")}, 401, "credentials_invalid"),
        ({"Authorization": basic("unknown", "x")}, 401, "credentials_invalid"),
        ({"Authorization": "Basic alice:opensesame"}, 401, "credentials_invalid"),
        ({"Authorization": "Bearer opaque"}, 401, "token_malformed"),
        ({"X_Api_Key": "k3y", "Authorization": basic("alice", "opensesame")}, 400, "credentials_ambiguous"),
        ({"X_Fault": "raise"}, 503, "unavailable"),
        ({"X_Fault": "hang"}, 503, "unavailable"),
        ({"X_Fault": "exit"}, 503, "unavailable"),
    ],
)
def test_what_does_not_pass_is_never_the_guest(
    sidecar: Sidecar, headers: dict[str, str], status: int, reason: str
) -> None:
    for path in ("/api", "/lobby/x"):
        reply = ask(sidecar, path, **headers)
        assert (reply.status, reply.json()["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("mode", "offered"), [(None, True), ("navigate", True), ("cors", False), ("same-origin", False)]
)
def test_basic_is_challenged_where_passwords_are_accepted(sidecar: Sidecar, mode: str | None, offered: bool) -> None:
    """A challenge of its own line each (RFC 9110 11.6.1); a browser would ask its user in the midst of a page."""
    sent = {} if mode is None else {"Sec_Fetch_Mode": mode}
    for credential in ({}, {"Authorization": "Bearer opaque"}, {"Authorization": basic("alice", "wrong")}):
        reply = ask(sidecar, **sent, **credential)
        first, *others = reply.all("WWW-Authenticate")
        assert reply.status == 401
        assert first.startswith("Bearer realm=")
        assert others == (['Basic realm="auth-sidecar"'] if offered else [])
    assert len(ask(sidecar, X_Fault="raise").all("WWW-Authenticate")) == 0


def test_the_guest_is_limited_to_its_paths_and_methods(sidecar: Sidecar) -> None:
    assert ask(sidecar).status == 401
    assert ask(sidecar, "/lobby/x", "POST").status == 401
    assert ask(sidecar, "/lobby%2fx").status == 401


def test_a_broken_plugin_hurts_only_what_it_had_to_decide(sidecar: Sidecar) -> None:
    """It is counted under its name, what it raised is not repeated, and others pass as before."""
    ask(sidecar, X_Fault="raise")
    assert user(ask(sidecar, X_Api_Key="k3y")) == ["ingest"]
    metrics = request(f"{sidecar.admin_url}/metrics").body.decode()
    assert 'authenticator="faulty",outcome="broken",provider="",reason="member_broken"' in metrics.replace(
        ", ", ","
    ) or ('authenticator="faulty",provider="",outcome="broken",reason="member_broken"' in metrics)
    assert "RuntimeError" in sidecar.process.output
    assert "opensesame" not in sidecar.process.output


def test_a_plugin_is_started_once_and_stopped_at_the_end(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``sidecar check`` asks it and starts nothing."""
    monkeypatch.setenv("PYTHONPATH", f"{plugins}:{ROOT}")
    diary = tmp_path / "diary"
    chain = [{"type": "lively:Lively", "name": name, "configs": {"diary": str(diary)}} for name in ("one", "two")]
    with running_sidecar(tmp_path, {"authentication": {"authenticators": chain}}) as sidecar:
        assert diary.read_text().split() == ["one", "started", "two", "started"]
        sidecar.process.popen.terminate()
        assert sidecar.process.popen.wait(20) == 0
    assert sorted(diary.read_text().splitlines()[2:]) == ["one stopped", "two stopped"]
    diary.unlink()
    subprocess.run([sys.executable, "-m", "sidecar", "check", "--config", sidecar.config], check=True)
    assert sorted(diary.read_text().splitlines()) == ["one checked", "two checked"]


def test_a_plugin_that_cannot_be_started_is_one_sentence(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kind of the error and never its text."""
    monkeypatch.setenv("PYTHONPATH", f"{plugins}:{ROOT}")
    member = {"type": "lively:Lively", "configs": {"diary": str(tmp_path / "diary"), "fails": True}}
    config = tmp_path / "sidecar.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "server": {"listen": f"127.0.0.1:{free_port()}", "adminListen": f"127.0.0.1:{free_port()}"},
                "store": {"url": f"sqlite:///{tmp_path}/sidecar.db"},
                "authentication": {"authenticators": [member]},
            }
        )
    )
    command = [sys.executable, "-m", "sidecar", "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "authenticators[0]: Lively cannot be started: RuntimeError" in done.stderr
    assert "opensesame" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_check_prints_the_chain_in_order(sidecar: Sidecar, plugins: Path) -> None:
    environment = {"PYTHONPATH": f"{plugins}:{ROOT}", "INGEST_KEY": "k3y", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "sidecar", "check", "--offline", "--config", str(sidecar.config)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()[:1].isdigit()]
    assert [line.split(":")[0] for line in lines] == [
        "1. faulty (faulty",
        "2. api-keys",
        "3. basic",
        "4. jwt",
        "5. guest",
    ]
    assert "X-Api-Key of ingest" in lines[1]
    assert "k3y" not in done.stdout + done.stderr


def test_the_check_asks_the_members_and_finds_names_that_collide(sidecar: Sidecar, tmp_path: Path) -> None:
    """The authenticator's own check runs, and no Actor gets a name that makes an admin of a provider."""
    command = [sys.executable, "-m", "sidecar", "check", "--config", str(tmp_path / "c.yaml")]
    store = f"store: {{url: 'sqlite:///{tmp_path}/s.db'}}\n"
    member = "{type: basic, NAME configs: {htpasswd: /does/not/exist}}"
    for name, code, text in (
        ("", 1, "authenticator basic: /does/not/exist cannot be read: No such file or directory"),
        ("name: own,", 2, "has the name of a provider, own"),
    ):
        authenticators = member.replace("NAME", name)
        (tmp_path / "c.yaml").write_text(f"{store}authentication: {{authenticators: [{authenticators}]}}\n")
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == code
        assert text in done.stderr
