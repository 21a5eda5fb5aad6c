"""Random schedules of writes, losses, late answers and wrong clocks over the real stores end as they should.

``python -m tests.support.schedules --number 100000`` runs more of them.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.schedules import redis_client, search, sqlite_search
from tests.support.store_world import MemoryBacking, RedisBacking

SECONDS = 30.0
"""Most time for one store: a machine that is busy runs fewer."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def test_redis(require_tool: Callable[[str], Path]) -> None:
    with redis_client(require_tool("redis-server")) as client:
        number, found = await search(lambda: RedisBacking(client), range(1500), until=time.monotonic() + SECONDS)
    assert not found, found
    assert number > 100


async def test_store_in_memory() -> None:
    number, found = await search(MemoryBacking, range(500), until=time.monotonic() + SECONDS / 2)
    assert not found, found
    assert number > 50


async def test_sqlite() -> None:
    with TemporaryDirectory(prefix="auth-sidecar-test-", dir=_fast_folder()) as folder:
        number, found = await sqlite_search(Path(folder), range(60))
    assert not found, found
    assert number == 60


def _fast_folder() -> str | None:
    """Memory in place of a disk: what survives a power cut is not asked here."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
