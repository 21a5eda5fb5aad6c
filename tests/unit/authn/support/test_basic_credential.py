"""How often one may guess."""

import pytest

from sidecar.authn.support.basic_credential import Throttle
from sidecar.errors import Unavailable
from tests.support.hand_clock import HandClock


def test_names_that_are_not_looked_at_push_nobody_out() -> None:
    """Else a user's count would begin anew after a flood of made-up names, which cost nothing."""
    clock = HandClock()
    throttle = Throttle(clock, per_user=1, in_all=3)
    throttle.begin("a")
    throttle.begin("b")
    clock.advance(30)
    throttle.begin("alice")
    for number in range(10_001):
        with pytest.raises(Unavailable):
            throttle.begin(f"flood{number}")
    clock.advance(30)
    with pytest.raises(Unavailable):
        throttle.begin("alice")
    throttle.begin("bob")


def test_an_attempt_that_was_none_is_not_counted_under_either_name() -> None:
    throttle = Throttle(HandClock(), per_user=1, in_all=1)
    for _ in range(3):
        throttle.begin("alice")
        throttle.is_about("uid=alice")
        throttle.good("alice", "uid=alice")
    throttle.begin("bob")
    throttle.is_about("uid=alice")
