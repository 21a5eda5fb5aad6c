"""Streams end with what let them begin, and only those."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sidecar.authn.base import Accepted
from sidecar.dataplane.proxy.stream_watch import StreamWatch
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually

NOW = forge.NOW


class World:
    """A gate with fixed results, a watch over it, and a clock; the test starts each round."""

    def __init__(self) -> None:
        self.clock = HandClock(NOW)
        self.failures: dict[str, Failed] = {}
        self.asked = 0
        self.watch = StreamWatch(self, self.clock, self.clock.wait, self.clock.wait)

    def check(self, accepted: Accepted) -> Failed | None:
        self.asked += 1
        return self.failures.get(accepted.actor.id)

    async def round(self) -> None:
        """One more round of the watch."""
        for _ in range(2):
            await eventually(lambda: self.clock._sleepers)
            self.clock.advance(StreamWatch.CHECK)
            for _ in range(5):
                await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.watch.start()
    yield made
    await made.watch.aclose()


def accepted(name: str = "sam", **more: Any) -> Accepted:
    return Accepted(Actor(ActorType.USER, name), **{"key": forge.public(forge.RSA, "RS256"), **more})


REVOKED = Refused(Reason.TOKEN_REVOKED, Cause.DENIED)


async def test_revoked_stream_ends_once_and_the_others_go_on(world: World) -> None:
    ended: list[str] = []

    def end(name: str) -> Callable[[], None]:
        return lambda: ended.append(name)

    with (
        world.watch.watching(accepted("sam"), end("sam"), ends_with_token=False),
        world.watch.watching(accepted("kim"), end("kim"), ends_with_token=True),
        world.watch.watching(None, end("unknown"), ends_with_token=True),
    ):
        await world.round()
        assert ended == []
        world.failures["sam"] = REVOKED
        for _ in range(3):
            await world.round()
        assert ended == ["sam"]


async def test_a_response_that_cannot_be_checked_now_goes_on(world: World) -> None:
    ended: list[int] = []
    world.failures["sam"] = Unavailable(Cause.MIRROR_STALE)
    with world.watch.watching(accepted(), lambda: ended.append(1), ends_with_token=True):
        await world.round()
    assert ended == []


@pytest.mark.parametrize("ends_with_token", [True, False])
async def test_expired_token_and_withdrawn_key_end_what_has_no_end_of_its_own(
    world: World, ends_with_token: bool
) -> None:
    ended: list[str] = []
    key = forge.public(forge.RSA, "RS256")
    expiring, withdrawn = accepted(expires_at=NOW + 30), accepted(key=key)
    with (
        world.watch.watching(expiring, lambda: ended.append("expired"), ends_with_token=ends_with_token),
        world.watch.watching(withdrawn, lambda: ended.append("withdrawn"), ends_with_token=ends_with_token),
    ):
        await world.round()
        assert ended == []
        world.clock.advance(30)
        key.live = False
        await world.round()
    assert sorted(ended) == (["expired", "withdrawn"] if ends_with_token else [])


async def test_stream_that_is_over_is_not_asked_about(world: World) -> None:
    with world.watch.watching(accepted(), lambda: None, ends_with_token=True):
        pass
    await world.round()
    assert world.asked == 0


async def test_one_that_cannot_be_ended_does_not_keep_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[int] = []

    def fail() -> None:
        raise OSError("secret")

    world.failures["sam"] = REVOKED
    with (
        world.watch.watching(accepted(), fail, ends_with_token=True),
        world.watch.watching(accepted(), lambda: ended.append(1), ends_with_token=True),
    ):
        await world.round()
        await world.round()
    assert ended == [1]
    assert "secret" not in caplog.text
