"""Waiting for what background work is about to do, bounded."""

import asyncio
from collections.abc import Callable


async def eventually(holds: Callable[[], object], rounds: int = 2000) -> None:
    """Let others run until ``holds()``; fails after about two seconds."""
    for _ in range(rounds):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to hold")
