"""Processes whose clocks differ from that of their Redis, with a real server and clocks that the test sets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.admin.health import Health
from sidecar.app.health import _clock_status
from sidecar.cli.probes import StoreProbe
from sidecar.clock import Clock, SystemClock
from sidecar.config.settings import Settings, StoreSettings
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.base import CLOCK_REPORTS, ClockReport, Store
from sidecar.store.replica.clock_agreement import ClockAgreement
from sidecar.store.replica.mirror import Mirror
from sidecar.store.sqlite.database import Database
from sidecar.store.sqlite.store import SqliteStore
from tests.contract.conftest import store_of
from tests.support.jwks_server import eventually
from tests.support.redis_servers import RedisServer, running

PATIENCE = 15.0
KEY = "{sidecar}:clocks"


class SetClock(SystemClock):
    """The system clock, set ``ahead`` by some seconds."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def now(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def server(require_tool: Callable[[str], Path], tmp_path: Path) -> Iterator[RedisServer]:
    with running(RedisServer(require_tool("redis-server"), tmp_path / "redis")) as started:
        yield started


@pytest.fixture
def settings(server: RedisServer) -> StoreSettings:
    return StoreSettings(url=Secret(f"redis://127.0.0.1:{server.port}"))


@pytest.fixture
async def store(settings: StoreSettings) -> AsyncIterator[Store]:
    opened = await store_of(settings)
    yield opened
    await opened.aclose()


Follow = Callable[[Clock], Awaitable[Mirror]]


@pytest.fixture
async def follow(settings: StoreSettings) -> AsyncIterator[Follow]:
    """Starts processes, each with its own clock, connections and copy."""
    mirrors: list[tuple[Mirror, Store]] = []

    async def one(clock: Clock) -> Mirror:
        store = await store_of(settings, clock)
        mirror = Mirror(store, clock, Metrics())
        mirrors.append((mirror, store))
        await mirror.start()
        assert await mirror.wait_first_load(PATIENCE)
        return mirror

    yield one
    for mirror, store in mirrors:
        await mirror.aclose()
        await store.aclose()


def clock_part(mirror: Mirror) -> tuple[bool, str, str]:
    """Whether the process is ready, and what ``/readyz`` shows of its clock."""
    ready, report = Health([], [partial(_clock_status, mirror)]).report()
    part = report["parts"]["clock"]
    return ready, part["state"], part.get("text", "")


async def test_wrong_clock_is_not_ready_while_another_process_agrees_with_the_store(
    server: RedisServer, follow: Follow
) -> None:
    right, clock = await follow(SetClock()), SetClock(7200)
    await eventually(lambda: server.ask("ZCARD", KEY) == 1, within=PATIENCE)
    wrong = await follow(clock)
    assert not clock_part(wrong)[0], "not even before it knows of the other"
    await eventually(lambda: clock_part(wrong)[1] == "unusable", within=PATIENCE)
    ready, _, text = clock_part(wrong)
    assert not ready
    assert "7200 s ahead of the store's clock" in text
    assert "not ready while the clocks of other processes (1) agree" in text
    assert clock_part(right) == (True, "usable", "")
    clock.ahead = 0.0
    await eventually(lambda: clock_part(wrong) == (True, "usable", ""), within=PATIENCE)
    await eventually(lambda: server.ask("ZCARD", KEY) == 2, within=PATIENCE)


async def test_clock_that_is_set_later_takes_its_process_out_at_once(follow: Follow, store: Store) -> None:
    clock = SetClock()
    _, set_back = await follow(SetClock()), await follow(clock)

    async with asyncio.timeout(PATIENCE):
        while (await store.compare_clocks("", agrees=False)).others < 2 or set_back.right_clocks != 1:
            # the first report of the second one may have come before that of the first
            set_back._agreement._reported_at = float("-inf")
            await asyncio.sleep(0.05)
    clock.ahead = -3600.0
    ready, state, text = clock_part(set_back)
    assert (ready, state) == (False, "unusable")
    assert "3600 s behind the store's clock" in text
    async with asyncio.timeout(PATIENCE):
        while (await store.compare_clocks("", agrees=False)).others != 1:
            await asyncio.sleep(0.05)


async def test_no_clock_that_agrees_leaves_every_process_ready(server: RedisServer, follow: Follow) -> None:
    """The clock of the Redis server is wrong, or the only right process has stopped."""
    first, second = await follow(SetClock(86_400)), await follow(SetClock(86_400))
    for mirror in (first, second):
        await eventually(lambda mirror=mirror: mirror.right_clocks == 0, within=PATIENCE)  # type: ignore[misc]
        ready, state, text = clock_part(mirror)
        assert (ready, state) == (True, "degraded")
        assert "no other process agrees with the store" in text
    right = await follow(SetClock())
    await eventually(lambda: clock_part(first)[0] is clock_part(second)[0] is False, within=PATIENCE)
    await right.aclose()
    server.ask("DEL", KEY)  # as when its report is too old
    await eventually(lambda: clock_part(first)[0] is clock_part(second)[0] is True, within=PATIENCE)


async def test_difference_below_five_minutes_is_shown_and_stays_ready(follow: Follow) -> None:
    await follow(SetClock())
    off = await follow(SetClock(120))
    await eventually(lambda: off.right_clocks == 1, within=PATIENCE)
    ready, state, text = clock_part(off)
    assert (ready, state) == (True, "degraded")
    assert "120 s ahead" in text


async def test_only_reports_of_the_servers_clock_as_it_is_now_count(server: RedisServer, store: Store) -> None:
    """A server whose clock was set, or another server after a failover, must not count what was reported before."""
    now = time.time()
    server.ask("ZADD", KEY, now - CLOCK_REPORTS - 5, "before", now + 300, "from a clock that was ahead")
    report = await store.compare_clocks("", agrees=True)
    assert report.others == 0
    assert report.time == pytest.approx(now, abs=5)
    assert server.ask("ZCARD", KEY) == 2, "a question changes nothing"
    assert (await store.compare_clocks("a", agrees=True)).others == 0
    assert server.ask("ZRANGE", KEY, 0, -1) == [b"a"]
    assert (await store.compare_clocks("b", agrees=True)).others == 1
    assert (await store.compare_clocks("c", agrees=False)).others == 2
    assert (await store.compare_clocks("a", agrees=False)).others == 1
    assert (await store.compare_clocks("b", agrees=False)).others == 0
    assert not server.ask("EXISTS", KEY)


async def test_answer_that_is_too_old_keeps_no_process_out(server: RedisServer, follow: Follow) -> None:
    """The store is away: whether another clock is right can no longer be known."""
    await follow(SetClock())
    await eventually(lambda: server.ask("ZCARD", KEY) == 1, within=PATIENCE)
    wrong = await follow(SetClock(7200))
    await eventually(lambda: clock_part(wrong)[1] == "unusable", within=PATIENCE)
    server.kill()
    assert not clock_part(wrong)[0]
    wrong._agreement._others_at -= CLOCK_REPORTS
    assert clock_part(wrong)[:2] == (True, "degraded")


async def test_refused_report_does_not_stop_following(server: RedisServer, follow: Follow) -> None:
    """A server that takes no writes, for want of memory or replicas, is still read in time."""
    server.ask("SET", KEY, "not a sorted set")
    mirror = await follow(SetClock())
    await eventually(lambda: mirror.right_clocks == 0, within=PATIENCE)
    asked = time.monotonic()
    await eventually(lambda: mirror.age < 0.5 and time.monotonic() - asked > 1.5, within=PATIENCE)


async def test_check_names_both_clocks(server: RedisServer, settings: StoreSettings, store: Store) -> None:
    server.ask("CONFIG", "SET", "appendonly", "yes")

    async def check(ahead: float) -> list[Any]:
        return await StoreProbe(Settings(store=settings), SetClock(ahead)).run()

    assert await check(0) == await check(25) == []
    (problem,) = await check(-120)
    assert (problem.path, problem.fatal) == ("clock", False)
    assert "120 s behind the clock of the Redis server, 20" in problem.message
    (problem,) = await check(7200)
    assert not problem.fatal, "nothing else would be ready either"
    await store.compare_clocks("another", agrees=True)
    (problem,) = await check(7200)
    assert problem.fatal
    assert "7200 s ahead of the clock of the Redis server" in problem.message
    assert "not ready" in problem.message
    assert server.ask("ZCARD", KEY) == 1, "a check is no process"
    (problem,) = await check(120)
    assert not problem.fatal


async def test_processes_with_one_file_have_one_clock(tmp_path: Path) -> None:
    store = SqliteStore(await Database.open(tmp_path / "sidecar.db", Metrics()), SystemClock())
    assert await store.compare_clocks("a", agrees=True) == await store.compare_clocks("b", agrees=True) == ClockReport()
    await store.aclose()


def test_reports_are_repeated_before_they_expire() -> None:
    assert 2 * ClockAgreement.INTERVAL < CLOCK_REPORTS
