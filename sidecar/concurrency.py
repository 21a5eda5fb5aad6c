"""Background tasks: their end, and exceptions that no caller waits for."""

import asyncio
from typing import Any


async def cancel(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel ``tasks`` and wait until they have ended; their exceptions are discarded. None: not started."""
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)


def retrieve(task: "asyncio.Future[Any]") -> None:
    """Done callback: fetch the exception of ``task``, which the event loop would otherwise log with its text.

    For tasks that log their own faults, or whose failure means nothing any more.
    """
    if not task.cancelled():
        task.exception()
