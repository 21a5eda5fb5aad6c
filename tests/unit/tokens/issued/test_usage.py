"""The time of last use is written rarely, and never delays a request."""

import asyncio

from sidecar.tokens.issued.usage import UsageRecorder
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually
from tests.support.memory_store import MemoryStore


async def test_each_token_is_written_at_most_once_a_minute() -> None:
    store, clock = MemoryStore(), HandClock()
    usage = UsageRecorder(store, clock, clock.wait)
    await usage.start()
    start = clock.now()
    for _ in range(24):
        usage.note("a")
        await asyncio.sleep(0)
        clock.advance(5)
        await asyncio.sleep(0.001)
    usage.note("b")
    await usage.aclose()
    written = [entry for touch in store.touches for entry in touch]
    assert written == [("a", start), ("a", start + 60), ("b", start + 120)]


async def test_store_that_is_away_does_no_harm() -> None:
    store, clock = MemoryStore(away=True), HandClock()
    usage = UsageRecorder(store, clock, clock.wait)
    await usage.start()
    usage.note("a")
    await asyncio.sleep(0)
    clock.advance(5)
    await asyncio.sleep(0.001)
    store.away = False
    clock.advance(60)
    usage.note("a")
    await asyncio.sleep(0.001)
    clock.advance(5)
    await eventually(lambda: store.touches)
    await usage.aclose()
    assert len(store.touches) == 1


async def test_memory_is_bounded() -> None:
    store, clock = MemoryStore(), HandClock()
    usage = UsageRecorder(store, clock, clock.wait)
    for number in range(100_001):
        usage.note(str(number))
    await usage.aclose()
    assert len(store.touches[0]) == 100_000
    clock.advance(61)
    usage.note("late")
    await usage.aclose()
    assert len(store.touches) == 2
