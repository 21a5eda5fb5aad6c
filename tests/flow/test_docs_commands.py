"""Every shell block of the README and the guides is run as it is printed, page by page, in order.

Only names differ: the hosts and folders of the examples stand for a sidecar, two identity providers and a service on
loopback, and for folders of the test. The README's own are those of ``sidecar demo``, which runs meanwhile. A block
that begins with ``# sidecar.yaml`` is the page's configuration; a page without one has the README's. ``$TOKEN`` is an
admin's token. A line that announces a 4xx has to get it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import answers
from tests.support.identity_provider import IdentityProvider
from tests.support.ports import free_port, free_ports
from tests.support.process import Process, running
from tests.support.tools import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guides").glob("*.md"))]
# What these programs do in the pages is done by tests of their own.
ELSEWHERE = {
    "make": ROOT / ".ci" / "run",
    "pip": ROOT / "tests" / "interop" / "test_image.py",
    "systemctl": ROOT / "tests" / "interop" / "test_host.py",
    "systemd-run": ROOT / "tests" / "interop" / "test_host.py",
    "/opt/auth-sidecar/bin/sidecar": ROOT / "tests" / "interop" / "test_host.py",
    "sqlite3": ROOT / "tests" / "interop" / "test_backup.py",
    "docker": ROOT / "tests" / "interop" / "test_compose.py",
    "helm": ROOT / "tests" / "interop" / "helm",
    "az": ROOT / "tests" / "flow" / "test_secrets.py",
    "bao": ROOT / "tests" / "contract" / "test_vaults.py",
    "kubectl": ROOT / "tests" / "interop" / "test_kubernetes.py",
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANNOUNCES_REFUSAL = re.compile(r"^(.*?)\s+# (4\d\d)\b.*$")
PRELUDE = """
set -euo pipefail
curl() { command curl --silent --fail-with-body --max-time 20 "$@"; }
test -e .variables && . ./.variables
IN="" CONFIG=sidecar.yaml LOG=journal  # the runbook's names for where the sidecar runs, its configuration and its log
journal() { cat journal.jsonl; }
set -a
trap 'declare -px | grep -E "^declare -x (ID|KID|TOKEN)=" > .variables || true' EXIT
"""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def runnable(page: Path) -> list[str]:
    """The shell blocks that are run here."""
    return [block for block in blocks(page, "sh") if not any(f"{name} " in block for name in ELSEWHERE)]


def configuration_of(page: Path) -> str:
    """What the page calls ``sidecar.yaml``, else what the README calls so."""
    for source in (page, ROOT / "README.md"):
        for block in blocks(source, "yaml"):
            if block.startswith("# sidecar.yaml\n"):
                return block
    raise AssertionError("the README has no configuration")


@dataclass
class Desk:
    """Runs the commands of a page. ``names`` maps names in the examples to their replacement here."""

    folder: Path
    names: dict[str, str]
    public: str
    admin: str
    token: str
    served: list[Process] = field(default_factory=list)

    def translate(self, text: str) -> str:
        """``text`` with the names of this desk."""
        for shown, here in self.names.items():
            text = text.replace(shown, here)
        return text

    def write_configuration(self, text: str) -> None:
        """Put it where the commands look; the listeners are the desk's own."""
        document: dict[str, Any] = yaml.safe_load(self.translate(text))
        server = document.setdefault("server", {})
        server.update(listen=self.public, adminListen=self.admin, drainDelay="0s")
        document.setdefault("store", {"url": f"sqlite:///{self.folder}/sidecar.db"})
        (self.folder / "sidecar.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def run(self, block: str) -> None:
        """Run the lines of a shell block; every one of them has to succeed."""
        script = PRELUDE + "\n".join(expecting(line) for line in self.translate(block).splitlines())
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("SIDECAR")},
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "TOKEN": self.token,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def expecting(line: str) -> str:
    """``line``; one that announces a refusal has to meet it."""
    refusal = ANNOUNCES_REFUSAL.match(line)
    return f"if {refusal[1]}; then echo 'not refused: {refusal[2]}' >&2; exit 9; fi" if refusal else line


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Two identity providers, a service, and folders for keys and data."""
    public, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    for name in ("etc", "lib", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "oauth2-proxy.cfg").write_text(
        'oidc_issuer_url = "https://idp.example.com"\nclient_id = "x"\nupstreams = ["http://127.0.0.1:8080"]\n',
        encoding="utf-8",
    )
    logs = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Logs\n")[2]
    events = [name for row in re.findall(r"^\| (`.*?) \|", logs, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    rest = '"route":"token","cause":"audience","detail":"aud is x"'
    lines = [f'{{"event":"{event}",{rest}}}\n' for event in events]
    (tmp_path / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    with IdentityProvider() as corp, IdentityProvider() as partner, echo_upstream() as upstream:
        names = {
            "https://idp.example.com/realms/corp": corp.issuer,
            "https://metadata.example.com": f"http://{public}",
            "http://127.0.0.1:4180": f"http://{public}",
            "http://127.0.0.1:4181": f"http://{admin}",
            "http://127.0.0.1:4190": f"http://{public}",
            "http://127.0.0.1:4191": f"http://{admin}",
            "http://127.0.0.1:4182/acme": corp.issuer,
            "http://127.0.0.1:4182/globex": partner.issuer,
            "http://127.0.0.1:4183": upstream.url,
            "http://127.0.0.1:8585": upstream.url,
            "${PWD:-/var/lib/sidecar}": str(tmp_path / "lib"),
            "/var/lib/sidecar": str(tmp_path / "lib"),
            "/etc/sidecar": str(tmp_path / "etc"),
            "/etc/oauth2-proxy.cfg": str(tmp_path / "oauth2-proxy.cfg"),
            "127.0.0.1:4181": admin,
        }
        token = corp.mint(aud=["openmetadata", "demo"])
        (tmp_path / "denied.jsonl").write_text(f'{{"issuer": "{corp.issuer}", "jti": "0d1f"}}\n', encoding="utf-8")
        yield Desk(tmp_path, names, public, admin, token)


@pytest.fixture
def demonstration(tmp_path: Path) -> Iterator[dict[str, str]]:
    """``sidecar demo``; what the README's addresses stand for then."""
    port = free_ports(4)
    with running(
        [sys.executable, "-m", "sidecar", "demo", "--port", str(port)],
        log=tmp_path / "demo.log",
        ready=lambda: answers(f"http://127.0.0.1:{port + 1}/readyz", 200),
        within=60.0,
    ):
        yield {f"http://127.0.0.1:{4180 + number}": f"http://127.0.0.1:{port + number}" for number in (2, 3)}


def follow(page: Path, desk: Desk) -> None:
    """From the first block to the last, each building on those before it."""
    desk.write_configuration(configuration_of(page))
    remaining = runnable(page)
    # commands before the first that needs a running sidecar prepare it
    while remaining and not re.search("curl |sidecar health ", remaining[0]):
        desk.run("\n".join(line for line in remaining.pop(0).splitlines() if not line.startswith("sidecar serve")))
    if not remaining:
        return
    with running(
        [sys.executable, "-m", "sidecar", "serve", "--config", "sidecar.yaml"],
        log=desk.folder / "sidecar.log",
        ready=lambda: answers(f"http://{desk.admin}/readyz", 200),
        directory=desk.folder,
    ):
        for block in remaining:
            desk.run("\n".join(line for line in block.splitlines() if not line.startswith("sidecar serve")))


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if runnable(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_it_says(page: Path, desk: Desk) -> None:
    """From the first block to the last, each building on those before it."""
    follow(page, desk)


def test_the_quick_start_of_the_readme_works_as_printed(desk: Desk, demonstration: dict[str, str]) -> None:
    """With the issuers and the upstream of ``sidecar demo``, as the README says."""
    others = {shown: here for shown, here in desk.names.items() if not shown.startswith(tuple(demonstration))}
    desk.names = {**others, **demonstration}
    follow(ROOT / "README.md", desk)


def test_what_is_not_run_here_is_run_elsewhere() -> None:
    """Each shell block is run above, or by the test that stands for its program."""
    for page in PAGES:
        for block in set(blocks(page, "sh")) - set(runnable(page)):
            names = [name for name in ELSEWHERE if f"{name} " in block]
            assert all(ELSEWHERE[name].exists() for name in names), (page.name, names)


def test_the_pages_have_commands() -> None:
    """The tests above would pass on an empty list."""
    assert len([block for page in PAGES for block in runnable(page)]) >= 12
