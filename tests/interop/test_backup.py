"""docs/guides/backup.md: real stores are copied while the sidecar runs, lost, and restored by the page's commands."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.http_client import request
from tests.support.identity_provider import IdentityProvider
from tests.support.managed_sidecar import write_configuration
from tests.support.redis_servers import RedisServer, running
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import ROOT

PAGE = (ROOT / "docs" / "guides" / "backup.md").read_text(encoding="utf-8")
Tool = Callable[[str], Path]


def commands(title: str, language: str, number: int = 0) -> str:
    """The block of a section of the page."""
    section = re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return found[number]


def shell(block: str, **names: str) -> None:
    """Run the block with the test's names; every line has to succeed."""
    for shown, here in names.items():
        block = block.replace(shown, here)
    done = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Office:
    """An admin of a running sidecar."""

    def __init__(self, sidecar: Sidecar, idp: IdentityProvider) -> None:
        self._sidecar = sidecar
        self._admin = idp.mint(preferred_username="root", email="root@example.com", sub="sub-root")

    def mint(self, name: str) -> str:
        """A token of its own."""
        return str(self._post("tokens", {"name": name})["token"])

    def revoke(self, token: str) -> None:
        """End it."""
        self._post("revocations", {"token": token})

    def status(self, token: str) -> tuple[int, str]:
        """What a check answers."""
        headers = [("Authorization", f"Bearer {token}")]
        reply = request(f"{self._sidecar.url}/oauth2/auth", headers=headers)
        return reply.status, "" if reply.status == 200 else reply.json()["reason"]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = [("Authorization", f"Bearer {self._admin}"), ("Content-Type", "application/json")]
        reply = request(f"{self._sidecar.url}/oauth2/{path}", "POST", headers=headers, body=json.dumps(body).encode())
        assert reply.status == 201, reply.body
        return reply.json()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[IdentityProvider, dict[str, Any]]]:
    """An identity provider, and a configuration with own keys."""
    with IdentityProvider() as idp:
        document = yaml.safe_load(write_configuration(tmp_path, idp).read_text(encoding="utf-8"))
        document.pop("server")
        yield idp, document


def assert_restored(office: Office, before: str, revoked: str, after: str) -> None:
    """What the backup has is in force, what came later is not."""
    assert office.status(before) == (200, "")
    assert office.status(revoked) == (401, "token_revoked")
    assert office.status(after) == (401, "token_invalid")


def test_sqlite_is_copied_while_in_use_and_restored(
    require_tool: Tool, world: tuple[IdentityProvider, dict[str, Any]], tmp_path: Path
) -> None:
    """By the page's own commands."""
    require_tool("sqlite3")
    idp, document = world
    store = f"{tmp_path}/var"
    Path(store).mkdir()
    document["store"] = {"url": f"sqlite:///{store}/sidecar.db"}
    with running_sidecar(tmp_path, document) as sidecar:
        office = Office(sidecar, idp)
        before, revoked = office.mint("before"), office.mint("revoked")
        office.revoke(revoked)
        shell(commands("SQLite", "sh"), **{"/var/lib/sidecar": store})
        after = office.mint("after")
        assert office.status(after) == (200, "")
    Path(store, "sidecar.db").write_bytes(b"lost" * 100)
    restore = commands("SQLite", "text")
    shell("\n".join(line for line in restore.splitlines() if "systemctl" not in line), **{"/var/lib/sidecar": store})
    with running_sidecar(tmp_path, document) as sidecar:
        assert_restored(Office(sidecar, idp), before, revoked, after)


def test_redis_is_copied_over_the_network_and_restored(
    require_tool: Tool, world: tuple[IdentityProvider, dict[str, Any]], tmp_path: Path
) -> None:
    """Into a server with an append-only file, as the page says; it then has what it was given after a restart."""
    program = require_tool("redis-server")
    client = program.with_name("redis-cli")
    assert client.exists()
    idp, document = world
    snapshot = tmp_path / "sidecar.rdb"
    with running(RedisServer(program, tmp_path / "first", ["appendonly yes"])) as server:
        document["store"] = {"url": f"redis://127.0.0.1:{server.port}/0"}
        with running_sidecar(tmp_path, document) as sidecar:
            office = Office(sidecar, idp)
            before, revoked = office.mint("before"), office.mint("revoked")
            office.revoke(revoked)
            shell(
                commands("Redis", "text"),
                **{"redis://user:password@redis.example.com:6379": f"redis://127.0.0.1:{server.port}",
                   "/var/backups/sidecar.rdb": str(snapshot)},
            )  # fmt: skip
            after = office.mint("after")
    folder = tmp_path / "second"
    folder.mkdir()
    shutil.copyfile(snapshot, folder / "dump.rdb")
    block = commands("Redis", "text", 1)
    assert "--appendonly no" in block
    second = RedisServer(program, folder, ["appendonly no"])
    with running(second):
        document["store"] = {"url": f"redis://127.0.0.1:{second.port}/0"}
        shell(block.splitlines()[-1], **{"redis-cli": f"redis-cli -p {second.port}"})
        with running_sidecar(tmp_path, document) as sidecar:
            assert_restored(Office(sidecar, idp), before, revoked, after)


def test_sidecars_that_kept_running_add_what_the_snapshot_lacks(
    require_tool: Tool, world: tuple[IdentityProvider, dict[str, Any]], tmp_path: Path
) -> None:
    """Redis comes back with the older snapshot; a token minted and one revoked since then keep their state."""
    program = require_tool("redis-server")
    idp, document = world
    server = RedisServer(program, tmp_path / "redis", ["appendonly no", 'save ""'])
    with running(server):
        document["store"] = {"url": f"redis://127.0.0.1:{server.port}/0"}
        with running_sidecar(tmp_path, document) as sidecar:
            office = Office(sidecar, idp)
            revoked = office.mint("revoked")
            server.ask("SAVE")
            after = office.mint("after")
            office.revoke(revoked)
            server.kill()
            server.start()
            assert (office.status(after), office.status(revoked)) == ((200, ""), (401, "token_revoked"))
            sidecar.process.wait_until(
                lambda: "entries_restored" in sidecar.process.output, within=30.0, what="repaired"
            )
        with running_sidecar(tmp_path, document) as sidecar:
            fresh = Office(sidecar, idp)
            assert (fresh.status(after), fresh.status(revoked)) == ((200, ""), (401, "token_revoked"))
