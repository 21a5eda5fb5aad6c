"""The mirror over every real store: what one process writes another judges by, and no loss of the store is forever."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.clock import SystemClock
from sidecar.errors import Unavailable
from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.replica.mirror import Mirror
from tests.contract.conftest import Open
from tests.contract.test_store import bot, entry, record
from tests.support.jwks_server import eventually

PATIENCE = 10.0


@pytest.fixture
async def follow(open_store: Open) -> AsyncIterator[Callable[[], Awaitable[Mirror]]]:
    """Makes mirrors, each over a store of its own, as processes have them."""
    mirrors: list[Mirror] = []

    async def one() -> Mirror:
        mirrors.append(Mirror(await open_store(), SystemClock(), Metrics()))
        await mirrors[-1].start()
        assert await mirrors[-1].wait_first_load(PATIENCE)
        return mirrors[-1]

    yield one
    for mirror in mirrors:
        await mirror.aclose()


@asynccontextmanager
async def counted(mirror: Mirror) -> AsyncIterator[list[float]]:
    """One entry for each time that ``mirror`` reads the whole store meanwhile."""
    readings: list[float] = []
    whole = mirror._read_snapshot

    async def read(fresh: Any) -> tuple[str, str, float]:
        readings.append(0.0)
        return await whole(fresh)

    mirror._read_snapshot = read  # type: ignore[method-assign]
    yield readings


async def test_what_one_writes_the_other_judges_by(follow: Callable[[], Awaitable[Mirror]]) -> None:
    here, there = await follow(), await follow()
    async with counted(there) as readings:
        await here.write(Batch(add=[bot("1")], add_entries=[entry("j1"), entry("j2")]))
        assert here.revocations.has(entry("j1"))
        await eventually(lambda: there.revocations.has(entry("j2")) and there.record("1"), within=PATIENCE)
        assert there.is_bot_name(bot("1").actor_id)
        await here.write(Batch(add=[bot("2", created_at=bot("1").created_at + 1)], remove_entries=[entry("j1").id]))
        await eventually(lambda: there.record("2"), within=PATIENCE)
        ended = there.record("1")
        assert ended is not None
        assert ended.revoked_at is not None
        assert not there.revocations.has(entry("j1"))
        assert there.revocations.has(entry("j2"))
        assert not readings, "the log was enough"


async def test_late_comer_knows_everything(follow: Callable[[], Awaitable[Mirror]]) -> None:
    here = await follow()
    batch = [entry(f"j{number}") for number in range(700)]
    await here.write(Batch(add=[record("1")], add_entries=batch))
    await here.write(Batch(remove_entries=[batch[0].id]))
    late = await follow()
    assert len(late.revocations) == 699
    assert late.record("1") == record("1")
    assert not late.revocations.has(batch[0])


async def test_store_that_was_emptied_is_filled_again(world: Any, follow: Callable[[], Awaitable[Mirror]]) -> None:
    """One of the mirrors repairs it, and meanwhile none accepts a revoked token."""
    if world.settings.url.reveal().startswith("sqlite:"):
        pytest.skip("its file cannot vanish under an open connection")
    here, there = await follow(), await follow()
    await here.write(Batch(add=[record("1", revoked_at=9.0)], add_entries=[entry("j1"), entry("j2")]))
    await eventually(lambda: there.revocations.has(entry("j2")), within=PATIENCE)
    world.empty()
    let_pass = 0

    async def filled() -> bool:
        nonlocal let_pass
        let_pass += not (here.revocations.has(entry("j1")) and there.revocations.has(entry("j1")))
        try:
            is_known = await here._store.entry(entry("j2").id) is not None
            return is_known and await here._store.record("1") == record("1", revoked_at=9.0)
        except Unavailable:  # a server that has been emptied may be busy
            return False

    async with asyncio.timeout(PATIENCE):
        while not await filled():
            await asyncio.sleep(0.01)
    assert let_pass == 0
    await here.write(Batch(add_entries=[entry("j3")]))
    await eventually(lambda: there.revocations.has(entry("j3")) and there.revocations.has(entry("j1")), within=PATIENCE)
