"""A background task that fails leaves no complaint of the event loop behind."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.concurrency import cancel, retrieve
from sidecar.store.redis.client import _Closer, _Endpoint


@pytest.fixture
async def complaints() -> list[dict[str, Any]]:
    """Exceptions that the event loop reported as unhandled."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    return told


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()


async def test_the_exception_of_a_retrieved_task_is_not_reported(complaints: list[dict[str, Any]]) -> None:
    async def fail() -> None:
        raise ConnectionError

    task = asyncio.create_task(fail())
    await settled()
    del task
    await settled()
    assert len(complaints) == 1, "without it, it is"
    task = asyncio.create_task(fail())
    task.add_done_callback(retrieve)
    await settled()
    del task
    await settled()
    assert len(complaints) == 1


async def test_a_store_connection_that_fails_to_close_is_not_reported(complaints: list[dict[str, Any]]) -> None:
    """It is closed in the background, when its server was lost: there it fails more often than not."""

    class Client:
        async def aclose(self) -> None:
            raise ConnectionError("Connection closed by server")

    connector = SimpleNamespace(closer=_Closer())
    servers = _Endpoint(connector, "x", 1.0)  # type: ignore[arg-type] # makes no connection here
    servers._client = Client()  # type: ignore[assignment]
    servers.mark_suspect()
    await settled()
    assert not complaints


async def test_cancelled_tasks_have_ended_and_their_failures_are_discarded(complaints: list[dict[str, Any]]) -> None:
    """Also a task that fails while it is cancelled, and one that was never started."""
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)
            if name == "b":
                raise ConnectionError

    tasks = [asyncio.create_task(work(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    await cancel(*tasks, None)
    assert sorted(ended) == ["a", "b"]
    assert all(task.done() for task in tasks)
    tasks.clear()
    await settled()
    assert complaints == []
