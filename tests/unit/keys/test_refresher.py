"""When something is fetched, on a clock that stands still."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sidecar.config.settings import KeyFetchSettings
from sidecar.keys.refresher import Refresher, Timing
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually


class Fetches:
    """Times of fetches, and what the next one returns."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.times: list[float] = []
        self.lifetime: float | None = 1000.0

    async def fetch(self) -> float | None:
        self.times.append(self.clock.monotonic())
        return self.lifetime

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def refresher(fetches: Fetches, chance: float = 0.5) -> Refresher:
    pace = Timing(fetches.clock, fetches.clock.wait, lambda: chance)
    return Refresher(fetches.fetch, KeyFetchSettings(), pace)


def unknown() -> bool:
    """What is demanded is never there."""
    return False


async def run(made: Refresher, fetches: Fetches, seconds: int) -> None:
    """Let ``seconds`` pass one by one while the background work goes on."""
    made.start()
    for _ in range(seconds):
        for _ in range(8):
            await asyncio.sleep(0)
        fetches.clock.advance(1)
    await made.aclose()


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.75), (0.5, 0.825), (1.0, 0.9)])
async def test_refresh_is_ahead_of_expiry_and_jittered(chance: float, share: float) -> None:
    fetches = Fetches(HandClock())
    await run(refresher(fetches, chance), fetches, 2000)
    assert fetches.pauses[0] == pytest.approx(1000 * share, abs=1)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (1.0, 1.0)])
async def test_failures_are_retried_with_doubling_jittered_pauses(chance: float, share: float) -> None:
    fetches = Fetches(HandClock())
    fetches.lifetime = None
    await run(refresher(fetches, chance), fetches, 400)
    expected = [max(1.0, pause * share) for pause in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert fetches.pauses[:8] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("lifetime", [0.0, None])
async def test_nothing_makes_it_ask_in_a_tight_loop(lifetime: float | None) -> None:
    fetches = Fetches(HandClock())
    fetches.lifetime = lifetime
    settings = KeyFetchSettings(retry_min="0s", retry_max="0s")  # type: ignore[arg-type]
    made = Refresher(fetches.fetch, settings, Timing(fetches.clock, fetches.clock.wait, lambda: 0.0))
    made.start()
    for _ in range(1000):
        await asyncio.sleep(0)
    await made.aclose()
    assert len(fetches.times) == 1


async def test_success_ends_the_growth_of_pauses() -> None:
    fetches = Fetches(HandClock())
    fetches.lifetime = None
    made = refresher(fetches, 1.0)
    await run(made, fetches, 100)
    fetches.lifetime = 10.0
    await made.on_demand(unknown)
    fetches.lifetime = None
    fetches.times.clear()
    await run(made, fetches, 30)
    assert fetches.pauses[0] == pytest.approx(1, abs=1)


@pytest.fixture
async def held() -> tuple[Callable[[], Awaitable[float]], asyncio.Event, list[int]]:
    gate, calls = asyncio.Event(), []

    async def fetch() -> float:
        calls.append(1)
        await gate.wait()
        return 60.0

    return fetch, gate, calls


async def test_demand_joins_the_fetch_in_progress(
    held: tuple[Callable[[], Awaitable[float]], asyncio.Event, list[int]],
) -> None:
    fetch, gate, calls = held
    clock = HandClock()
    made = Refresher(fetch, KeyFetchSettings(), Timing(clock, clock.wait, lambda: 0.5))
    made.start()
    await eventually(lambda: calls)
    waiting = [asyncio.create_task(made.on_demand(lambda: True)) for _ in range(10)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting)
    assert len(calls) == 1
    await made.on_demand(unknown)
    assert len(calls) == 2, "joining does not begin a cool-down"
    await made.aclose()


async def test_demand_that_the_fetch_in_progress_does_not_meet_is_fetched_again(
    held: tuple[Callable[[], Awaitable[float]], asyncio.Event, list[int]],
) -> None:
    """The issuer may have answered it before it published the key that is asked for."""
    fetch, gate, calls = held
    clock = HandClock()
    made = Refresher(fetch, KeyFetchSettings(), Timing(clock, clock.wait, lambda: 0.5))
    made.start()
    await eventually(lambda: calls)
    waiting = [asyncio.create_task(made.on_demand(unknown)) for _ in range(10)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting)
    assert len(calls) == 2, "one for all of them"
    await made.aclose()


async def test_demand_does_not_repeat_a_fetch_that_failed() -> None:
    fetches = Fetches(HandClock())
    fetches.lifetime = None
    made = refresher(fetches)
    made.start()
    await asyncio.sleep(0)
    await made.on_demand(unknown)
    assert len(fetches.times) == 1
    await made.aclose()


async def test_demand_within_the_cooldown_returns_at_once() -> None:
    fetches = Fetches(HandClock())
    made = refresher(fetches)
    for _ in range(100):
        await made.on_demand(unknown)
    assert len(fetches.times) == 1
    fetches.clock.advance(10)
    await made.on_demand(unknown)
    assert len(fetches.times) == 2
