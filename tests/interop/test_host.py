"""An installation on a host: the wheel in an environment of its own, and the systemd unit."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.tools import ROOT

UNIT = ROOT / "deploy" / "systemd" / "auth-sidecar.service"
# Exposure by `systemd-analyze security`, in tenths: 0 is the best value, 10 the worst.
MOST_EXPOSURE = 15
Tool = Callable[[str], Path]


def filtered_calls(analyze: Path) -> set[str]:
    """The system calls that the unit's SystemCallFilter allows, as systemd expands its groups."""

    def members(group: str) -> set[str]:
        done = subprocess.run(
            [analyze, "syscall-filter", group], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        names = {line.strip() for line in done.splitlines()[1:] if line.strip() and not line.strip().startswith("#")}
        inner = {name for name in names if name.startswith("@")}
        return (names - inner).union(*map(members, inner))

    allowed: set[str] = members("@default")
    for value in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE):
        removes = value.startswith("~")
        groups = [members(group) for group in value.removeprefix("~").split()]
        assert all(groups)
        allowed = allowed.difference(*groups) if removes else allowed.union(*groups)
    return allowed


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The shipped unit; only the program is that of this environment."""
    program = Path(sys.executable).with_name("sidecar")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/auth-sidecar/bin/sidecar", str(program))
    assert text.count(str(program)) == 2
    path = tmp_path / UNIT.name
    path.write_text(text, encoding="utf-8")
    return path


def test_systemd_accepts_the_unit(require_tool: Tool, unit: Path) -> None:
    """``systemd-analyze verify`` finds nothing: no unknown directive, no missing program."""
    done = subprocess.run(
        [require_tool("systemd-analyze"), "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_unit = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_unit) == (0, [])


def test_the_unit_is_hardened(require_tool: Tool, unit: Path) -> None:
    """``systemd-analyze security`` judges it by what it still allows."""
    done = subprocess.run(
        [
            *(require_tool("systemd-analyze"), "security", "--offline=true", "--no-pager"),
            f"--threshold={MOST_EXPOSURE}",
            unit,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-600:]
    assert "Overall exposure level" in done.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sidecar_needs_no_system_call_that_the_unit_denies(
    require_tool: Tool, tmp_path: Path, workers: int
) -> None:
    """Every call of a start, a request and a stop is in the filter, and no memory is writable and executable."""
    allowed = filtered_calls(require_tool("systemd-analyze"))
    calls = tmp_path / "calls"
    public, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with IdentityProvider() as idp:
        config = tmp_path / "sidecar.yaml"
        document = {
            "server": {"listen": public, "adminListen": admin, "drainDelay": "0s", "workers": workers},
            "store": {"url": "sqlite:///${STATE_DIRECTORY}/sidecar.db"},
            "authenticationConfiguration": {
                "providers": [{"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]}]
            },
            "authentication": {"tokenService": {"signingKey": "file:${CREDENTIALS_DIRECTORY}/key"}},
        }
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        (tmp_path / "key").write_text("WnEdIeTG/VVCLQqGwC/BAkqyY0k+H8NEAtWGejrBI94=\n", encoding="utf-8")
        with running(
            [
                *(require_tool("strace"), "-f", "-qq", "--seccomp-bpf", "-o", calls),
                *(sys.executable, "-m", "sidecar", "serve", "--config", config),
            ],
            log=tmp_path / "log",
            ready=lambda: answers(f"http://{admin}/readyz", 200),
            within=120.0,
            environment={**os.environ, "STATE_DIRECTORY": str(tmp_path), "CREDENTIALS_DIRECTORY": str(tmp_path)},
        ):
            token = idp.mint()
            reply = request(f"http://{public}/oauth2/auth", headers=[("Authorization", f"Bearer {token}")])
            assert reply.status == 200
    used = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", calls.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    assert {"accept4", "execve"} & used
    assert used - allowed == set()
    assert not re.search(r"PROT_WRITE\|PROT_EXEC", calls.read_text(encoding="utf-8", errors="replace"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment of its own; the libraries are those of this environment."""
    folder = tmp_path_factory.mktemp("host")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = folder / "source"
    copied = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "sidecar", "deploy", "*.toml"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in [*copied, "README.md", "LICENSE"]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, "-w", folder, source], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel),
        ],
        check=True,
        timeout=120,
    )
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "env"


def test_the_wheel_has_what_a_host_needs(installed: Path, tmp_path: Path) -> None:
    """The program, the unit, and the proxies' files; ``init`` finds them without the source tree. Completion works."""
    share = installed / "share" / "auth-sidecar"
    assert (share / "systemd" / UNIT.name).read_bytes() == UNIT.read_bytes()
    command = ["init", "--issuer", "https://idp.example.com", "--audience", "x", "--offline"]
    done = subprocess.run(
        [installed / "bin" / "sidecar", *command, "--upstream", "http://127.0.0.1:8585", "--proxy", "nginx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    script = subprocess.run(
        [installed / "bin" / "sidecar", "completion", "bash"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "revocations" in script
    shipped = (ROOT / "deploy" / "nginx" / "auth_request.conf").read_text(encoding="utf-8")
    assert (tmp_path / "auth-sidecar.nginx.conf").read_text(encoding="utf-8") == shipped
    located = subprocess.run(
        [installed / "bin" / "python", "-c", "import sidecar; print(sidecar.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert located.startswith(str(installed)), located
