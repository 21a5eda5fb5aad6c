"""How often one may guess."""

import pytest

from sidecar.authn.support.basic_credential import RateLimiter
from sidecar.errors import Unavailable
from tests.support.hand_clock import HandClock


def test_names_without_attempts_evict_no_count() -> None:
    """Else a user's count would begin anew after a flood of made-up names, which cost nothing."""
    clock = HandClock()
    throttle = RateLimiter(clock, per_user=1, total=3)
    throttle.attempt("a")
    throttle.attempt("b")
    clock.advance(30)
    throttle.attempt("alice")
    for number in range(10_001):
        with pytest.raises(Unavailable):
            throttle.attempt(f"flood{number}")
    clock.advance(30)
    with pytest.raises(Unavailable):
        throttle.attempt("alice")
    throttle.attempt("bob")


def test_an_attempt_that_was_none_is_not_counted_under_either_name() -> None:
    throttle = RateLimiter(HandClock(), per_user=1, total=1)
    for _ in range(3):
        throttle.attempt("alice")
        throttle.alias("uid=alice")
        throttle.success("alice", "uid=alice")
    throttle.attempt("bob")
    throttle.alias("uid=alice")
