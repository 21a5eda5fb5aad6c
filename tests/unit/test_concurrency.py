"""Calls that concurrent callers share, and background tasks that fail without a complaint of the event loop."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.concurrency import SingleFlight, cancel, retrieve
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


async def test_concurrent_callers_share_one_call_and_later_ones_start_another() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    release = asyncio.Event()
    started: list[str] = []
    ended: list[str] = []

    async def work() -> int:
        started.append("x")
        await release.wait()
        return len(started)

    callers = [asyncio.create_task(flights.run("a", work, on_end=lambda: ended.append("x"))) for _ in range(3)]
    await asyncio.sleep(0)
    assert ("a" in flights, "b" in flights, len(flights)) == (True, False, 1)
    release.set()
    assert await asyncio.gather(*callers) == [1, 1, 1]
    assert (len(ended), len(flights)) == (1, 0)
    assert await flights.run("a", work) == 2


async def test_a_cancelled_caller_does_not_cancel_the_call_for_the_others() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    first, second = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    await cancel(first)
    release.set()
    assert await second == "done"


async def test_a_failure_reaches_all_callers_and_is_not_remembered(complaints: list[dict[str, Any]]) -> None:
    flights: SingleFlight[str, str] = SingleFlight()

    async def fail() -> str:
        raise ConnectionError

    async def succeed() -> str:
        return "done"

    callers = [asyncio.create_task(flights.run("a", fail)) for _ in range(2)]
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionError, ConnectionError]
    assert await flights.run("a", succeed) == "done"
    caller = asyncio.create_task(flights.run("a", fail))
    await asyncio.sleep(0)
    await cancel(caller)
    await settled()
    assert not complaints


async def test_closing_cancels_the_calls_also_those_that_have_not_begun() -> None:
    flights: SingleFlight[str, None] = SingleFlight()
    ended: list[str] = []

    async def hang() -> None:
        await asyncio.Event().wait()

    callers = [
        asyncio.create_task(flights.run("begun", hang, on_end=lambda: ended.append("begun"))),
        asyncio.create_task(flights.run("not begun", hang, on_end=lambda: ended.append("not begun"))),
    ]
    await asyncio.sleep(0)
    await flights.aclose()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert (sorted(ended), len(flights)) == (["begun", "not begun"], 0)
