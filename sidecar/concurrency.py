"""Background tasks whose outcome no caller waits for."""

import asyncio
from typing import Any


def retrieve(task: "asyncio.Future[Any]") -> None:
    """Done callback: fetch the exception of ``task``, which the event loop would otherwise log with its text.

    For tasks that log their own faults, or whose failure means nothing any more.
    """
    if not task.cancelled():
        task.exception()
