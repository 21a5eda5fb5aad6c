"""The image: clean to the linter, and when built and run by a real engine what the Dockerfile says of it."""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.containers import Containers
from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import free_port
from tests.support.redis_servers import wait_for
from tests.support.tools import ROOT

IMAGE = "localhost/auth-sidecar"
NAME = "auth-sidecar-under-test"
WRITABLE = """
import os
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    if os.access(folder, os.W_OK):
        print(folder)
"""
INSTALLED = """
from importlib.metadata import distributions
for distribution in distributions():
    print(distribution.name.lower().replace("_", "-") + "==" + distribution.version)
"""


def test_the_dockerfile_is_clean_under_hadolint(require_tool: Callable[[str], Path]) -> None:
    """Every rule of the linter, warnings too."""
    done = subprocess.run(
        [require_tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@dataclass(frozen=True, slots=True)
class Running:
    """The image as a container that serves. ``url``: its public listener."""

    containers: Containers
    provider: IdentityProvider
    url: str

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return self.containers.call("exec", NAME, *command)


@pytest.fixture(scope="module")
def containers(require_tool: Callable[[str], Path]) -> Iterator[Containers]:
    """An engine that has built the image."""
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("containers cannot be created on this machine: run the tests as root with CAP_SYS_ADMIN")
    podman, base = require_tool("podman"), require_tool("container-base")
    # podman takes no path of more than 50 characters
    engine = Containers(podman, Path(tempfile.mkdtemp(prefix="podman-")))
    try:
        engine.build(ROOT, base, IMAGE)
        yield engine
    finally:
        engine.remove_all()


@pytest.fixture(scope="module")
def running(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """It serves one identity provider's callers, on a root filesystem that cannot be written."""
    folder = tmp_path_factory.mktemp("configuration")
    folder.chmod(0o755)
    address = f"127.0.0.1:{free_port()}"
    with IdentityProvider() as provider:
        corp = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}
        configuration = {
            "server": {"listen": address, "drainDelay": "0s"},
            "authenticationConfiguration": {"providers": [corp]},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        with containers.running(IMAGE, NAME, mounts={folder: "/etc/sidecar"}):
            url = f"http://{address}"
            wait_for(lambda: answers(f"{url}/oauth2/auth", 401), "the container answers", 30.0)
            yield Running(containers, provider, url)


@pytest.mark.heavy
def test_a_caller_is_known_and_a_stranger_is_not(running: Running) -> None:
    """The main job, done by the image."""
    known = request(f"{running.url}/oauth2/auth", headers=[("Authorization", f"Bearer {running.provider.mint()}")])
    assert (known.status, known.all("X-Auth-Request-User")) == (200, ["alice"])
    assert request(f"{running.url}/oauth2/auth").status == 401


@pytest.mark.heavy
def test_it_is_healthy_by_its_own_health_check(running: Running) -> None:
    """The command that the Dockerfile names finds the operations listener, and tells alive from dead."""
    assert running.containers.call("healthcheck", "run", NAME).returncode == 0
    dead = running.execute("sidecar", "health", f"127.0.0.1:{free_port()}")
    assert dead.returncode == 1
    assert "does not answer" in dead.stderr


@pytest.mark.heavy
def test_it_runs_without_privileges_and_writes_to_its_data_only(running: Running) -> None:
    """A numeric user without a name, and one folder for the store and the cached keys."""
    assert (
        running.execute("python3", "-c", "import os; print(os.getuid(), os.getgid())").stdout.split() == ["65532"] * 2
    )
    written = running.execute("python3", "-c", WRITABLE).stdout.split()
    assert "/var/lib/sidecar" in written
    assert [folder for folder in written if not folder.startswith("/var/lib/sidecar")] == []


@pytest.mark.heavy
def test_it_holds_what_is_locked_and_no_more(running: Running) -> None:
    """What is installed is what the lock says, at its versions, and the project; a bill of materials can be read."""
    installed = set(running.execute("/opt/sidecar/bin/python", "-I", "-c", INSTALLED).stdout.split())
    lock = (ROOT / "requirements-image.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9.-]+==[^ \\]+)", lock, re.MULTILINE))
    ours = {name for name in installed if name.startswith("auth-sidecar==")}
    assert len(ours) == 1
    assert installed - ours <= locked
    # those that are left out are for other systems
    assert len(installed) >= len(locked) - 4


@pytest.mark.heavy
def test_its_command_line_works_on_its_store(running: Running) -> None:
    """Commands in the container find the configuration and the store by themselves."""
    listed = running.execute("sidecar", "revocations", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    shown = running.execute("sidecar", "config", "show")
    assert "/etc/sidecar/config.yaml" in shown.stdout


@pytest.mark.heavy
def test_its_labels_and_its_user_are_in_its_configuration(containers: Containers) -> None:
    """What Kubernetes and registries read: a numeric user, the labels, the ports, the signal to stop it."""
    described = json.loads(containers.must("image", "inspect", IMAGE))[0]
    assert described["User"] == "65532:65532"
    assert {"title", "description", "licenses", "version", "revision"} <= {
        name.removeprefix("org.opencontainers.image.") for name in described["Labels"]
    }
    assert set(described["Config"]["ExposedPorts"]) == {"4180/tcp", "4181/tcp"}
    assert described["Config"]["Entrypoint"] == ["sidecar"]


@pytest.mark.heavy
def test_it_exits_cleanly_on_sigterm(containers: Containers, tmp_path: Path) -> None:
    """The process is the container's first, so that the signal reaches it; it drains and exits with 0."""
    tmp_path.chmod(0o755)
    admin = f"127.0.0.1:{free_port()}"
    server = {"listen": f"127.0.0.1:{free_port()}", "adminListen": admin, "drainDelay": "0s"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"server": server}), encoding="utf-8")
    with containers.running(IMAGE, f"{NAME}-ending", mounts={tmp_path: "/etc/sidecar"}):
        wait_for(lambda: answers(f"http://{admin}/livez", 200), "the container answers", 30.0)
        containers.must("stop", "--time", "20", f"{NAME}-ending")
        assert containers.must("inspect", "--format", "{{.State.ExitCode}}", f"{NAME}-ending") == "0"


@pytest.mark.heavy
def test_without_a_configuration_it_says_what_is_missing(containers: Containers) -> None:
    """The sentence names the file; no traceback."""
    done = containers.run(IMAGE, mounts={})
    assert done.returncode == 2
    assert "/etc/sidecar/config.yaml" in done.stderr
    assert "Traceback" not in done.stderr
