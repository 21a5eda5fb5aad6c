"""What the stores do when their servers stall, die, forget, or hang up: faults made for real."""

import asyncio
import contextlib
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.probes import StoreProbe
from sidecar.config.settings import Settings, StoreSettings
from sidecar.errors import Cause, Misconfigured, Unavailable
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.base import Batch, Changes, GapError, LossError, RecordQuery, Store
from sidecar.store.merge import Entries
from sidecar.store.redis.client import RedisClient
from sidecar.store.redis.store import RedisStore
from sidecar.store.sqlite.database import _APPLICATION_ID, _MIGRATIONS, Database
from sidecar.store.sqlite.store import SqliteStore
from tests.contract.conftest import store_of
from tests.contract.test_store import bot, entry, record, stand
from tests.support.cutting_proxy import CuttingProxy
from tests.support.hand_clock import HandClock
from tests.support.redis_servers import RedisServer, Watched, cluster, running, watched

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 2.0
MARGIN = 0.5


def settings(server: RedisServer, **more: Any) -> StoreSettings:
    return StoreSettings(url=Secret(f"redis://127.0.0.1:{server.port}"), **more)


@pytest.fixture
def server(require_tool: Callable[[str], Path], tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, which keeps what it has written."""
    with running(RedisServer(require_tool("redis-server"), tmp_path / "redis", ["appendonly yes"])) as started:
        yield started


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    opened = await store_of(settings(server))
    yield opened
    await opened.aclose()


async def fails(work: Any) -> float:
    """How long it took ``work`` to raise Unavailable."""
    start = time.monotonic()
    with pytest.raises(Unavailable) as failure:
        await work
    assert failure.value.cause is Cause.STORE_UNAVAILABLE
    return time.monotonic() - start


async def write_until_done(store: Store, batch: Batch, within: float = 15.0) -> None:
    """Repeat ``batch`` until it is answered."""
    async with asyncio.timeout(within):
        while True:
            with contextlib.suppress(Unavailable):
                await store.write(batch)
                return
            await asyncio.sleep(0.05)


async def test_stalled_server_costs_one_deadline_and_then_nothing(server: RedisServer, store: Store) -> None:
    await store.write(Batch(add=[record()]))
    server.signal(signal.SIGSTOP)
    try:
        waited = await asyncio.gather(*(fails(store.record("1")) for _ in range(50)))
        assert max(waited) < DEADLINE + MARGIN
        assert await fails(store.write(Batch(add_entries=[entry()]))) < 0.1
        assert await fails(store.touch([("1", 1.0)])) < 0.1
    finally:
        server.signal(signal.SIGCONT)
    await write_until_done(store, Batch(add_entries=[entry()]))
    assert await store.record("1") == record()


async def test_follower_notices_a_stalled_server(server: RedisServer, store: Store) -> None:
    _, _, position = await stand(store)
    following = asyncio.create_task(store.follow(position, 60.0))
    await asyncio.sleep(0)
    server.signal(signal.SIGSTOP)
    try:
        assert await fails(following) < 2 * DEADLINE + 1 + MARGIN
    finally:
        server.signal(signal.SIGCONT)


async def test_answer_of_a_stalled_server_is_as_old_as_the_question(server: RedisServer, store: Store) -> None:
    _, _, position = await stand(store)
    server.signal(signal.SIGSTOP)
    following = asyncio.create_task(store.follow(position, 0.2))
    try:
        await asyncio.sleep(0.7)
    finally:
        server.signal(signal.SIGCONT)
    assert (await following).asked_after < 0.2


async def test_answered_writes_survive_a_killed_server(server: RedisServer, store: Store) -> None:
    _, _, position = await stand(store)
    await store.write(Batch(add=[record()], add_entries=[entry()]))
    server.kill()
    assert await fails(store.record("1")) < DEADLINE
    server.start()
    await write_until_done(store, Batch(add_entries=[entry("2")]))
    records, entries, _ = await stand(store)
    assert set(records) == {"1"}
    assert {item.name for item in entries.values()} == {"j", "2"}
    seen = await store.follow(position, 1.0)
    assert (len(seen.records), len(seen.revocations)) == (1, 2), "a follower goes on where it stood"


async def test_server_that_comes_back_empty_is_found_out(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    forgetful = RedisServer(require_tool("redis-server"), tmp_path / "redis", ['save ""'])
    with running(forgetful):
        store = await store_of(settings(forgetful))
        status = await store.status()
        assert not status.persistent
        assert "keeps nothing on disk" in status.problems[0]
        await store.write(Batch(add_entries=[entry()]))
        life = await store.life()
        _, known, position = await stand(store)
        forgetful.kill()
        forgetful.start()
        await write_until_done(store, Batch(add_entries=[entry("2")]))
        with pytest.raises(GapError):
            await store.follow(position, 1.0)
        assert await store.life() not in ("", life)
        await store.merge(Entries(revocations=list(known.values())))
        assert len((await stand(store))[1]) == 2
        await store.aclose()


@pytest.mark.parametrize("passed", [0, 1, 3])
async def test_write_whose_answer_is_lost_happens_once(server: RedisServer, passed: int) -> None:
    """The connection is cut before or within the answer; the retry must neither double the write nor fail."""
    async with CuttingProxy(server.port) as proxy:
        store = await store_of(StoreSettings(url=Secret(f"redis://127.0.0.1:{proxy.port}")))
        await store.write(Batch(add=[bot("1")]))
        proxy.cut_after = passed
        await store.write(Batch(add=[bot("2", created_at=1_800_000_100.0)], add_entries=[entry()]))
        assert proxy.cuts == 1
        assert server.ask("XLEN", "{sidecar}:log") == 2
        records, entries, _ = await stand(store)
        assert [item.id for item in records.values() if item.revoked_at is None] == ["2"]
        assert len(entries) == 1
        proxy.cut_after = passed
        assert await store.record("2") == records["2"]
        await store.aclose()


async def test_garbage_is_skipped_and_counted(server: RedisServer, store: Store) -> None:
    await store.write(Batch(add=[record()], add_entries=[entry()]))
    _, _, position = await stand(store)
    good_record = server.ask("HGET", "{sidecar}:records", "1")
    good_entry = server.ask("HGET", "{sidecar}:denials", entry().id)
    garbage = [b"", b"\xff\xfe\x00", b"{}", b"[" * 50_000, good_entry[:-3], good_record.replace(b"[1,", b"[2,")]
    garbage += [good_record.replace(b"personal", b"unheard"), good_entry.replace(b'"token"', b'"galaxy"')]
    immense = b"1" + b"0" * 400  # which no float can hold
    garbage += [good_entry[:16] + b'[1,"token","i","j",' + immense + b',null,null,"",""]']
    for kind in ("records", "denials"):
        order = "{sidecar}:order" if kind == "records" else "{sidecar}:denials:order"
        for number, value in enumerate(garbage):
            server.ask("HSET", f"{{sidecar}}:{kind}", f"bad{number}", value)
            server.ask("ZADD", order, 0, f"{number:016x}bad{number}")
    server.ask("ZADD", "{sidecar}:order", 0, b"\xff\xfe")
    more_than_a_piece = [part for number in range(5000) for part in (0, b"\x80%d" % number)]
    server.ask("ZADD", "{sidecar}:order", *more_than_a_piece)
    server.ask("XADD", "{sidecar}:log", "*", "what", "ever")
    server.ask("HSET", "{sidecar}:revoked", "1", "soon")
    records, entries, skipped = set(), set(), 0
    async for piece in store.snapshot():
        records |= {item.id for item in piece.records}
        entries |= {item.id for item in piece.revocations}
        skipped += piece.skipped
    assert (records, entries) == ({"1"}, {entry().id})
    assert skipped >= 2 * (len(garbage) - 1)
    damaged = await store.record("1")
    assert damaged is not None
    assert damaged.revoked_at is not None, "an end that cannot be read is an end"
    assert (await store.records(RecordQuery(), "", 10)).records == (damaged,)
    assert (await store.entries(None, "", 10, 0.0)).entries == (entry(),)
    await store.write(Batch(add_entries=[entry("2")]))
    seen = Changes(position)
    while not seen.revocations:
        seen = await store.follow(seen.position, 1.0)
    assert seen.revocations == (entry("2"),)


async def test_log_that_was_cut_short_is_a_gap(server: RedisServer, store: Store) -> None:
    await store.write(Batch(add_entries=[entry("1")]))
    _, _, position = await stand(store)
    for name in "234":
        await store.write(Batch(add_entries=[entry(name)]))
    server.ask("XTRIM", "{sidecar}:log", "MAXLEN", 1)
    with pytest.raises(GapError) as gap:
        await store.follow(position, 1.0)
    assert not isinstance(gap.value, LossError), "nothing is lost"
    assert len((await stand(store))[1]) == 4


async def test_log_that_lost_its_end_is_a_loss(server: RedisServer, store: Store) -> None:
    """As after a failover to a replica that lagged behind, which has gone on since."""
    await store.write(Batch(add_entries=[entry("1")]))
    head = server.ask("HGET", "{sidecar}:meta", "head")
    await store.write(Batch(add_entries=[entry("2")]))
    _, _, position = await stand(store)
    server.ask("XDEL", "{sidecar}:log", position.partition("/")[2].partition(":")[0])
    server.ask("HSET", "{sidecar}:meta", "head", head)
    with pytest.raises(LossError):
        await store.follow(position, 1.0)
    await store.write(Batch(add_entries=[entry("3")]))
    with pytest.raises(LossError):
        await store.follow(position, 1.0)


async def test_log_does_not_grow_without_end(
    server: RedisServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.store.redis.store.LOG_BYTES", 20_000)
    for start in range(0, 2000, 20):
        await store.write(Batch(add_entries=[entry(str(number)) for number in range(start, start + 20)]))
    assert server.ask("XLEN", "{sidecar}:log") < 20
    _, entries, position = await stand(store)
    assert len(entries) == 2000
    assert await store.follow(position, 0.0) == Changes(position)


async def test_too_few_replicas_are_no_success(server: RedisServer) -> None:
    store = await store_of(settings(server, wait_replicas=1, wait_timeout=0.2))
    assert await fails(store.write(Batch(add_entries=[entry()]))) < 1.0
    assert await fails(store.merge(Entries())) < 1.0
    assert await store.entry(entry().id) == entry(), "reading needs no replicas"
    await store.aclose()


async def test_refused_writes_leave_nothing(server: RedisServer, store: Store) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "1")
    await fails(store.write(Batch(add=[bot("1")], add_entries=[entry()])))
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert (await stand(store))[:2] == ({}, {})


async def test_errors_name_no_address_and_no_password(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "requirepass", "hunter2")
    server.login["password"] = "hunter2"
    kv = RedisClient(settings(server, password=Secret("hunter3")), Metrics(), HandClock())
    with pytest.raises(Unavailable) as failure:
        await kv.read("r", ("GET", "x"))
    assert failure.value.__cause__ is None
    shown = f"{failure.value!r} {failure.value.detail} {vars(kv)!r}"
    assert failure.value.detail == "it rejects user name or password (WRONGPASS)"
    assert "hunter" not in shown
    assert str(server.port) not in failure.value.detail
    await kv.aclose()


async def test_status_tells_what_may_be_lost(server: RedisServer, store: Store) -> None:
    assert (await store.status()).persistent
    assert not (await store.status()).problems
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.ask("CONFIG", "SET", "appendonly", "no")
    server.ask("CONFIG", "SET", "save", "60 1")
    status = await store.status()
    assert status.persistent
    assert any("allkeys-lru" in problem for problem in status.problems)
    assert any("snapshots only" in problem for problem in status.problems)


async def test_check_asks_the_server_and_tells_what_may_be_lost(server: RedisServer) -> None:
    probe = StoreProbe(Settings(store=settings(server)))
    assert await probe.run() == []
    server.ask("CONFIG", "SET", "appendonly", "no")
    server.ask("CONFIG", "SET", "save", "")
    (problem,) = await probe.run()
    assert not problem.fatal
    assert "keeps nothing on disk" in problem.message
    server.ask("ACL", "SETUSER", "poor", "on", "nopass", "~*", "+@all", "-@dangerous")
    (problem,) = await StoreProbe(Settings(store=settings(server, username="poor", password=Secret("x")))).run()
    assert not problem.fatal
    assert "INFO" in problem.message
    server.kill()
    (problem,) = await probe.run()
    assert problem.fatal
    assert problem.message == (
        f"cannot connect to Redis at 127.0.0.1:{server.port}: connection refused; "
        "check that it runs, the host and port in store.url, and NetworkPolicies"
    )


@pytest.mark.parametrize(
    ("written", "prefix"),
    [("{sidecar}:", "{sidecar}:"), ("om:", "{om}:"), ("a{b}c", "a{b}c"), ("", "{sidecar}:"), ("{}x", "{x}:")],
)
async def test_all_keys_lie_in_one_slot(written: str, prefix: str) -> None:
    kv = RedisClient(StoreSettings(url=Secret("redis://h"), key_prefix=written), Metrics(), HandClock())
    assert kv.prefix == prefix


@pytest.mark.parametrize("more", [{"tls": {"ca_file": "/none"}}, {"tls": {"cert_file": "/none", "key_file": "/none"}}])
async def test_certificates_that_cannot_be_read_stop_the_start(more: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        RedisClient(StoreSettings(url=Secret("rediss://h"), **more), Metrics(), HandClock())


@pytest.mark.heavy
async def test_failover_loses_nothing_that_was_answered(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Writes go on while the master is killed; with waitReplicas every answered one is there afterwards."""
    with watched(require_tool("redis-server"), tmp_path, 2) as group:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)
        url = Secret(f"redis+sentinel://{hosts}/main")
        store = await store_of(StoreSettings(url=url, wait_replicas=1))
        follower = await store_of(StoreSettings(url=url))
        await check_failover(group, store, follower)
        await store.aclose()
        await follower.aclose()


async def check_failover(group: Watched, store: Store, follower: Store) -> None:
    answered: list[str] = []
    unanswered = 0
    over = asyncio.Event()

    async def keep_writing() -> None:
        nonlocal unanswered
        number = 0
        while not over.is_set():
            number += 1
            try:
                await store.write(Batch(add_entries=[entry(str(number))]))
                answered.append(str(number))
            except Unavailable:
                unanswered += 1
                await asyncio.sleep(0.02)

    _, followed, position = await stand(follower)
    old = await asyncio.to_thread(group.master)
    writing = asyncio.create_task(keep_writing())
    async with asyncio.timeout(30):
        while len(answered) < 200:
            await asyncio.sleep(0.01)
        old.kill()
        while (await asyncio.to_thread(group.master)) is old:
            await asyncio.sleep(0.05)
        mark = len(answered)
        while len(answered) < mark + 200:
            await asyncio.sleep(0.01)
    over.set()
    await writing
    assert unanswered
    _, entries, _ = await stand(store)
    assert set(answered) <= {item.name for item in entries.values()}
    with contextlib.suppress(GapError):
        while (changes := await follower.follow(position, 0.5)).position != position:
            position = changes.position
            followed |= {item.id: item for item in changes.revocations}
        assert followed.keys() >= entries.keys(), "followed without a gap, yet something was missed"


WRITER = """
import asyncio, sys
from pathlib import Path
from sidecar.clock import SystemClock
from sidecar.store.sqlite.database import Database
from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.revocation_entry import Scope, make_entry
from sidecar.store.sqlite.store import SqliteStore

async def main():
    store = SqliteStore(await Database.open(Path(sys.argv[1]), Metrics()), SystemClock())
    for number in range(100_000):
        await store.write(Batch(add_entries=[make_entry(Scope.TOKEN, "iss", f"{sys.argv[2]}-{number}", 1.0)]))
        print(number, flush=True)

asyncio.run(main())
"""


async def sqlite_store(path: Path) -> SqliteStore:
    return SqliteStore(await Database.open(path, Metrics()), HandClock())


async def test_answered_writes_survive_killed_processes(tmp_path: Path) -> None:
    """Three processes write one file and are killed; what each was answered is there, and the log is whole."""
    store = await sqlite_store(tmp_path / "s.db")
    _, _, position = await stand(store)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "s.db")]
    writers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
        for name in "abc"
    ]
    answered: set[str] = set()
    for name, writer in zip("abc", writers, strict=True):
        assert writer.stdout
        for _ in range(20):
            answered.add(f"{name}-{int(writer.stdout.readline())}")
    for name, writer in zip("abc", writers, strict=True):
        writer.kill()
        output, _ = writer.communicate()
        answered |= {f"{name}-{line}" for line in output.split("\n")[:-1]}
    _, entries, _ = await stand(store)
    assert answered <= {item.name for item in entries.values()}
    followed: set[str] = set()
    while (changes := await store.follow(position, 0.0)).position != position:
        position = changes.position
        followed |= {item.id for item in changes.revocations}
    assert followed == entries.keys()
    await store.aclose()


async def test_full_disk_is_no_success_and_leaves_nothing(tmp_path: Path) -> None:
    store = await sqlite_store(tmp_path / "s.db")
    await store.write(Batch(add=[bot("1")]))
    before = await stand(store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "s.db-wal").stat().st_size, limits[1]))
    try:
        many = [entry(str(number)) for number in range(1000)]
        await fails(store.write(Batch(add=[bot("2")], add_entries=many)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await stand(store) == before
    await store.write(Batch(add=[bot("2")]))
    assert set((await stand(store))[0]) == {"1", "2"}
    await store.aclose()


async def test_file_that_turns_read_only_is_no_success(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "s.db", Metrics())
    store = SqliteStore(database, HandClock())
    await store.write(Batch(add=[record()]))
    await database.read("r", lambda connection: connection.execute("PRAGMA query_only = ON").fetchall())
    await fails(store.write(Batch(add_entries=[entry()])))
    assert await store.record("1") == record()
    assert await store.entry(entry().id) is None
    await store.aclose()


async def test_sqlite_log_is_trimmed_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.sqlite.store.LOG_CHANGES", 5)
    store = await sqlite_store(tmp_path / "s.db")
    _, _, position = await stand(store)
    for number in range(4):
        await store.write(Batch(add_entries=[entry(str(number))], remove_entries=[entry("gone").id]))
    assert len((await store.follow(position, 0.0)).revocations) == 4
    await store.write(Batch(add_entries=[entry("4")]))
    with pytest.raises(GapError) as gap:
        await store.follow(position, 0.0)
    assert not isinstance(gap.value, LossError)
    await store.aclose()


async def test_older_copy_of_the_file_is_a_loss(tmp_path: Path) -> None:
    """A backup that was put back has forgotten revocations, and may have gone on since."""
    store = await sqlite_store(tmp_path / "s.db")
    await store.write(Batch(add_entries=[entry("1")]))
    await store.aclose()
    backup = (tmp_path / "s.db").read_bytes()
    store = await sqlite_store(tmp_path / "s.db")
    await store.write(Batch(add_entries=[entry("2")]))
    _, _, position = await stand(store)
    await store.aclose()
    (tmp_path / "s.db").write_bytes(backup)
    store = await sqlite_store(tmp_path / "s.db")
    for name in "34":
        with pytest.raises(LossError):
            await store.follow(position, 0.0)
        await store.write(Batch(add_entries=[entry(name)]))
    await store.aclose()


def test_redis_store_needs_no_server_to_be_made() -> None:
    """A server that is away stops no start."""

    async def make() -> None:
        store = RedisStore(
            RedisClient(StoreSettings(url=Secret("redis://127.0.0.1:1")), Metrics(), HandClock()), HandClock()
        )
        await fails(store.life())
        await store.aclose()

    asyncio.run(make())


async def test_slot_that_moves_is_followed(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """The cluster hands our slot to another node: the next operation goes there."""
    with cluster(require_tool("redis-server"), tmp_path) as nodes:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        store = await store_of(StoreSettings(url=Secret(f"redis+cluster://{hosts}")))
        await store.write(Batch(add_entries=[entry("1")]))
        slot = nodes[0].ask("CLUSTER", "KEYSLOT", "{sidecar}:meta")
        owner = nodes[min(slot // 5500, 2)]
        heir = nodes[(nodes.index(owner) + 1) % 3]
        name = heir.ask("CLUSTER", "MYID")
        owner.ask("FLUSHALL")
        for node in (heir, owner, *nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", name)
        await store.write(Batch(add_entries=[entry("2")]))
        assert await store.entry(entry("2").id) == entry("2")
        assert heir.ask("EXISTS", "{sidecar}:meta")
        await store.aclose()


async def test_file_of_the_first_version_is_brought_up_with_its_records(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as old, old:
        for statement in _MIGRATIONS[0]:
            old.execute(statement)
        old.execute("UPDATE change_counter SET value = 7")
        old.execute(
            "INSERT INTO token_records VALUES ('1', 7, 'ab', 'ingest', 'personal', 'openmetadata', '', 'USER', 'sam',"
            " '[]', 0, 0, '', '', '', '', 1800000000.0, NULL, NULL, NULL)"
        )
        old.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")
    store = await sqlite_store(tmp_path / "s.db")
    records, _, position = await stand(store)
    assert records == {"1": record()}
    await store.write(Batch(revoke=[("1", 1_800_000_001.0)]))
    assert [item.id for item in (await store.follow(position, 0.0)).records] == ["1"]
    await store.aclose()
