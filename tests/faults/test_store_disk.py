"""The volume of the SQLite file: full while the sidecar runs, full at its start, and read-only."""

import asyncio
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar.app.running import run_sidecar
from sidecar.cli.main import main
from sidecar.config.load import load
from sidecar.errors import Misconfigured, Unavailable
from sidecar.metrics import Metrics
from sidecar.store.sqlite.database import Database
from tests.support.identity_provider import IdentityProvider
from tests.support.managed_sidecar import ManagedSidecar, write_configuration


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(volume: Path) -> None:
    with suppress(OSError), (volume / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def configuration(volume: Path, tmp_path: Path, idp: IdentityProvider) -> Path:
    return write_configuration(tmp_path, idp, store={"url": f"sqlite:///{volume}/s.db"})


async def test_full_volume_is_named_while_it_lasts(
    volume: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judging goes on; log, metric and readiness say which file, and what to do; all is well once there is space."""
    monkeypatch.setattr("sidecar.store.sqlite.database._RETRY_INTERVAL", 0.05)
    with IdentityProvider() as idp:
        path = configuration(volume, tmp_path, idp)
        async with run_sidecar(load([str(path)], {})) as sidecar:
            host, port = sidecar.public_addresses[0][:2]
            managed = ManagedSidecar(f"http://{host}:{port}", idp, tmp_path)
            admin = managed.token_of("root")

            async def deny(number: int) -> int:
                entry = {"issuer": idp.issuer, "jti": f"x{number}"}
                return (await managed.call("POST", "/revocations", admin, body=entry)).status

            async def until(wanted: int) -> None:
                async with asyncio.timeout(20):
                    for number in range(10_000):  # pragma: no branch
                        if await deny(number) == wanted:
                            return

            def up() -> float | None:
                return sidecar.metrics.registry.get_sample_value("sidecar_store_up")

            def told() -> str:
                part = sidecar.health.report()[1]["parts"]["revocation state"]
                return str(part.get("text", "")) if part["state"] == "degraded" else ""

            await until(201)
            fill(volume)
            with caplog.at_level(logging.INFO, "sidecar.db"):
                await until(503)
                lines = [line for line in caplog.records if line.name == "sidecar.db"]
                assert [line.levelname for line in lines] == ["ERROR"]
                assert lines[0].__dict__["path"] == f"{volume}/s.db"
                assert "the disk is full; free space on its volume" in lines[0].__dict__["detail"]
                assert (up(), sidecar.health.report()[0]) == (0, True)
                assert "the disk is full" in told()
                assert await managed.status(managed.token_of("sam")) == 200
                assert await managed.status(managed.token_of("sam", jti="x0")) == 401
                (volume / "fill").unlink()
                async with asyncio.timeout(20):
                    while told() or up() != 1:
                        await asyncio.sleep(0.02)
            assert await deny(0) == 201


def test_full_volume_is_named_at_the_start(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with IdentityProvider() as idp:
        path = str(configuration(volume, tmp_path, idp))
        fill(volume)
        for _ in range(2):  # where there is no file yet, and where there is one
            assert main(["token", "list", "--config", path]) == 1
            said = capsys.readouterr().err
            assert f"{volume}/s.db cannot be written: the disk is full; free space on its volume" in said
            assert said.count("\n") == 1
            (volume / "fill").unlink()
            assert main(["token", "list", "--config", path]) == 0
            fill(volume)
            capsys.readouterr()
        assert main(["check", "--config", path]) == 1
        assert "tokens cannot be revoked or minted; free space on that volume" in capsys.readouterr().err


async def test_read_only_volume_is_named(volume: Path) -> None:
    database = await Database.open(volume / "s.db", Metrics())
    await database.aclose()
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    with pytest.raises(Misconfigured, match=r"s\.db: Read-only file system; its folder must exist and be writable"):
        await Database.open(volume / "s.db", Metrics())


async def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await (await Database.open(path, Metrics())).aclose()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    async def use() -> None:
        database = await Database.open(path, Metrics())
        await database.write("w", lambda connection: connection.execute("INSERT INTO forgiven VALUES ('x', 1)"))

    with pytest.raises((Misconfigured, Unavailable), match="move it away to begin with an empty store"):
        await use()
