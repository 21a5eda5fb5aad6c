"""The SQLite file: whole transactions, several processes, clear words when it cannot be used."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidecar.errors import Cause, Misconfigured, Unavailable
from sidecar.metrics import Metrics
from sidecar.store.sqlite.database import Database, sqlite_path

COUNT = "SELECT value FROM change_counter"
BUMP = "UPDATE change_counter SET value = value + 1"


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute(COUNT).fetchone()[0])


def bump(connection: sqlite3.Connection) -> None:
    connection.execute(BUMP)


async def misconfigured(path: Path) -> str:
    with pytest.raises(Misconfigured) as error:
        await Database.open(path, Metrics())
    (problem,) = error.value.problems
    assert problem.path == "store.url"
    return problem.message


async def test_survives_reopening(tmp_path: Path) -> None:
    for expected in (0, 1, 2):
        database = await Database.open(tmp_path / "s.db", Metrics())
        assert await database.read("r", count) == expected
        await database.write("w", bump)
        await database.aclose()


async def test_file_is_the_owners_alone(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())
    await database.write("w", bump)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    await database.aclose()


async def test_answered_writes_are_synced(tmp_path: Path) -> None:
    """An answered revocation must survive a power cut."""
    database = await Database.open(tmp_path / "s.db", Metrics())
    assert await database.read("r", lambda c: c.execute("PRAGMA synchronous").fetchone()[0]) == 2
    assert await database.read("r", lambda c: c.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    await database.aclose()


async def test_failed_work_leaves_nothing(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())

    def half(connection: sqlite3.Connection) -> None:
        bump(connection)
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(Unavailable) as failure:
        await database.write("w", half)
    assert failure.value.cause is Cause.STORE_UNAVAILABLE
    assert await database.read("r", count) == 0
    await database.aclose()


async def test_error_that_is_ours_passes_and_leaves_nothing(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())

    def refuse(connection: sqlite3.Connection) -> None:
        bump(connection)
        raise LookupError("ours")

    with pytest.raises(LookupError):
        await database.write("w", refuse)
    assert await database.read("r", count) == 0
    await database.aclose()


async def test_one_thread_owns_the_connection(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())
    threads = await asyncio.gather(*(database.read("r", lambda _: threading.get_ident()) for _ in range(20)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    await database.aclose()


async def test_caller_that_leaves_harms_no_other(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        begun.set()
        go_on.wait(5)
        bump(connection)

    leaving = asyncio.create_task(database.write("w", slow))
    await asyncio.to_thread(begun.wait, 5)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    go_on.set()
    await database.write("w", bump)
    assert await database.read("r", count) == 2
    await database.aclose()


async def test_writers_of_several_processes_take_turns(tmp_path: Path) -> None:
    """Opened at once on a file that none of them has made yet."""
    script = (
        "import asyncio, sys; from pathlib import Path; from sidecar.store.sqlite.database import Database; "
        "from sidecar.metrics import Metrics\n"
        "async def main():\n"
        "    database = await Database.open(Path(sys.argv[1]), Metrics())\n"
        f"    for _ in range(20): await database.write('w', lambda c: c.execute({BUMP!r}))\n"
        "    await database.aclose()\n"
        "asyncio.run(main())"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "s.db")]) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    database = await Database.open(tmp_path / "s.db", Metrics())
    assert await database.read("r", count) == 80
    await database.aclose()


async def test_locked_file_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.sqlite.database._BUSY_TIMEOUT", 0.05)
    database = await Database.open(tmp_path / "s.db", Metrics())
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as failure:
        await database.write("w", bump)
    assert failure.value.detail.endswith("end that process, or let it finish (SQLITE_BUSY)")
    assert await database.read("r", count) == 0
    other.close()
    await database.write("w", bump)
    await database.aclose()


async def test_file_that_is_locked_at_the_start_is_unavailable_and_no_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.store.sqlite.database._BUSY_TIMEOUT", 0.05)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable):
        await Database.open(tmp_path / "s.db", Metrics())
    other.close()


async def test_a_new_file_that_another_process_is_at_is_waited_for(tmp_path: Path) -> None:
    """Several workers open it at once, and SQLite itself does not wait when the journal is switched."""
    path = tmp_path / "s.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(Database.open(path, Metrics()))
        await asyncio.wait({opening}, timeout=0.2)
        other.execute("COMMIT")
        await (await opening).aclose()


async def test_full_disk_is_unavailable_and_passes(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())

    def grow(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE big (x)")
        connection.execute("INSERT INTO big VALUES (zeroblob(1000000))")

    pages = await database.read("r", lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await database.read("r", lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(Unavailable) as failure:
        await database.write("w", grow)
    assert failure.value.detail.endswith("the disk is full; free space on its volume (SQLITE_FULL)")
    await database.write("w", bump)
    await database.aclose()


async def test_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.sqlite.database._DEADLINE", 0.05)
    database = await Database.open(tmp_path / "s.db", Metrics())
    go_on = threading.Event()
    with pytest.raises(Unavailable):
        await database.read("r", lambda _: go_on.wait(5))
    go_on.set()
    await database.aclose()


async def test_closed_database_is_unavailable(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())
    await database.aclose()
    with pytest.raises(Unavailable):
        await database.read("r", count)


async def test_missing_folder(tmp_path: Path) -> None:
    assert "its folder must exist" in await misconfigured(tmp_path / "none" / "s.db")


async def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert "cannot open" in await misconfigured(tmp_path)


async def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database, only long enough to be read as one" * 100)
    assert "SQLITE_NOTADB" in await misconfigured(tmp_path / "s.db")


async def test_database_of_another_program(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert "another program" in await misconfigured(tmp_path / "s.db")


async def test_file_of_a_newer_version(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "s.db", Metrics())).aclose()
    newer = sqlite3.connect(tmp_path / "s.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert "newer version" in await misconfigured(tmp_path / "s.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot open" in await misconfigured(tmp_path / "s.db")


async def test_metrics_tell_how_the_store_fares(tmp_path: Path) -> None:
    metrics = Metrics()
    database = await Database.open(tmp_path / "s.db", metrics)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    def operations(outcome: str) -> float | None:
        return value("sidecar_store_operations_total", operation="get_record", outcome=outcome)

    assert value("sidecar_store_up") == 1
    with pytest.raises(Unavailable):
        await database.read("get_record", lambda c: c.execute("SELECT * FROM nowhere"))
    assert (value("sidecar_store_up"), operations("failed")) == (0, 1)
    await database.read("get_record", count)
    assert (value("sidecar_store_up"), operations("done")) == (1, 1)
    await database.aclose()


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///relative.db", "sqlite:////folder/", "redis://h", "/a.db", "file:///a.db"]
)
def test_url_that_names_no_file(url: str) -> None:
    with pytest.raises(Misconfigured):
        sqlite_path(url)


def test_url_of_a_file() -> None:
    assert sqlite_path("sqlite:////var/lib/sidecar/s.db") == Path("/var/lib/sidecar/s.db")


@pytest.mark.parametrize("replaced", [False, True])
async def test_file_that_was_deleted_or_replaced_takes_no_writes(tmp_path: Path, *, replaced: bool) -> None:
    """What goes to a file without a name is gone with this process, and no other process reads it."""
    path = tmp_path / "s.db"
    database = await Database.open(path, Metrics())
    await database.write("w", bump)
    path.unlink()
    if replaced:
        await (await Database.open(path, Metrics())).aclose()
    for ask in (database.write("w", bump), database.read("r", count)):
        with pytest.raises(Unavailable):
            await ask
    with pytest.raises(Unavailable):
        await database.version()
    await database.aclose()


async def test_write_whose_caller_was_answered_before_its_turn_never_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else everything that was refused while the file was locked would happen when it no longer is."""
    database = await Database.open(tmp_path / "s.db", Metrics())
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> None:
        begun.set()
        go_on.wait(10)

    first = asyncio.create_task(database.read("r", slow))
    await asyncio.to_thread(begun.wait, 5)
    monkeypatch.setattr("sidecar.store.sqlite.database._DEADLINE", 0.05)
    with pytest.raises(Unavailable):
        await database.write("w", bump)
    monkeypatch.undo()
    go_on.set()
    await first
    assert await database.read("r", count) == 0
    await database.aclose()
