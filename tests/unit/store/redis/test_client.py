"""The circuit breaker: an absent server costs one caller a wait, not all of them."""

from sidecar.store.redis.client import DEADLINE, Breaker
from tests.support.hand_clock import HandClock


def test_after_a_failure_no_call_is_sent_until_one_has_tried() -> None:
    clock = HandClock()
    breaker = Breaker(clock.monotonic)
    assert breaker.enter()
    breaker.failed()
    assert not breaker.enter()
    clock.advance(Breaker.FIRST)
    assert breaker.enter()
    assert not breaker.enter(), "one alone tries"
    breaker.succeeded()
    assert breaker.enter()
    assert breaker.enter()


def test_pauses_grow_to_a_bound_while_the_server_stays_away() -> None:
    clock = HandClock()
    breaker = Breaker(clock.monotonic)
    breaker.failed()
    for pause in (0.25, 0.5, 1.0, 2.0, 2.0):
        clock.advance(pause - 0.01)
        assert not breaker.enter()
        clock.advance(0.01)
        assert breaker.enter()
        breaker.failed()


def test_many_failures_at_once_count_as_one() -> None:
    clock = HandClock()
    breaker = Breaker(clock.monotonic)
    for _ in range(50):
        breaker.failed()
    clock.advance(Breaker.FIRST)
    assert breaker.enter()


def test_try_that_never_ends_does_not_close_the_way_for_good() -> None:
    """Its caller may have been cancelled."""
    clock = HandClock()
    breaker = Breaker(clock.monotonic)
    breaker.failed()
    clock.advance(Breaker.FIRST)
    assert breaker.enter()
    clock.advance(DEADLINE)
    assert breaker.enter()
