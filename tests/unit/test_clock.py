"""A clock that was set forgets nothing, revives nothing and lets nothing in early."""

import logging

import pytest

from sidecar.clock import CheckedClock, checked, earliest_of, latest_of
from tests.support.hand_clock import HandClock


def agrees(clock: CheckedClock) -> bool:
    """Whether it agrees now: asked anew, not narrowed by an earlier assertion."""
    return clock.agrees


class SetClock(HandClock):
    """A clock that can be set."""

    def set(self, seconds: float) -> None:
        self._now += seconds


def test_clock_without_fault_is_one_time() -> None:
    hand = SetClock()
    clock = CheckedClock(hand)
    assert clock.latest() == clock.earliest() == hand.now()
    for _ in range(3):
        clock.compare(hand.now() + 20)
        hand.advance(60)
    assert clock.latest() == clock.earliest() == clock.now() == hand.now()
    assert agrees(clock)
    assert clock.problem == ""
    assert clock.offset == -20


@pytest.mark.parametrize("seconds", [7200.0, -7200.0, 40.0])
@pytest.mark.parametrize("has_store", [True, False])
def test_clock_that_jumps_is_wrong_until_it_agrees_again(
    caplog: pytest.LogCaptureFixture, seconds: float, has_store: bool
) -> None:
    hand = SetClock()
    clock = CheckedClock(hand)
    right = hand.now()
    clock.compare(right if has_store else None)
    hand.set(seconds)
    # before the first comparison
    assert clock.latest() == max(right, right + seconds)
    assert clock.earliest() == min(right, right + seconds)
    clock.compare(right if has_store else None)
    assert not agrees(clock)
    assert f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}" in clock.problem
    hand.advance(100)
    assert clock.latest() == right + 100 + max(seconds, 0)
    hand.set(-seconds)
    clock.compare(right + 100 if has_store else None)
    assert agrees(clock)
    assert clock.latest() == clock.earliest() == right + 100
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING] * 4


def test_difference_is_known_before_the_store_is_asked_again() -> None:
    """Also while the store is unavailable: readiness and the metric must not show the difference of an hour ago."""
    hand = SetClock()
    clock = CheckedClock(hand)
    clock.compare(hand.now())
    hand.advance(600)
    assert (clock.offset, clock.is_wrong, clock.problem) == (0.0, False, "")
    hand.set(-400)
    assert clock.offset == -400
    assert clock.is_wrong
    assert "400 s behind the store's clock" in clock.problem


@pytest.mark.parametrize(
    ("seconds", "named", "wrong"), [(30, False, False), (31, True, False), (300, True, False), (301, True, True)]
)
def test_half_a_minute_is_named_and_five_minutes_are_wrong(seconds: float, named: bool, wrong: bool) -> None:
    hand = SetClock()
    clock = CheckedClock(hand)
    clock.compare(hand.now() - seconds)
    assert bool(clock.problem) is named
    assert clock.is_wrong is wrong


def test_problem_names_both_clocks_and_what_to_do() -> None:
    clock = CheckedClock(SetClock(1_800_000_000.0))
    clock.compare(1_800_000_000.0 + 3600)
    assert clock.problem == (
        "system clock 2027-01-15T08:00:00Z is 3600 s behind the store's clock, 2027-01-15T09:00:00Z; "
        "synchronise the clock of this host"
    )


def test_step_of_a_second_makes_no_difference_to_whether_it_agrees() -> None:
    hand = SetClock()
    clock = CheckedClock(hand)
    clock.compare(hand.now())
    hand.set(-1.0)
    assert clock.latest() == hand.now() + 1
    clock.compare(hand.now() + 1)
    assert agrees(clock)
    assert clock.latest() == hand.now()


def test_clock_that_was_put_right_counts_as_soon_as_the_store_says_so() -> None:
    hand = SetClock()
    clock = CheckedClock(hand)
    clock.compare(hand.now() + 7200)
    assert not agrees(clock)
    hand.set(7200)
    clock.compare(hand.now())
    assert agrees(clock)
    assert clock.latest() == clock.earliest() == hand.now()


def test_without_a_clock_of_the_store_a_new_time_counts_when_it_has_been_steady() -> None:
    hand = SetClock()
    clock = CheckedClock(hand)
    clock.compare(None)
    hand.set(7200)
    clock.compare(None)
    hand.advance(CheckedClock.STEADY - 1)
    clock.compare(None)
    assert not agrees(clock)
    hand.advance(1)
    clock.compare(None)
    assert agrees(clock)
    assert clock.latest() == clock.earliest() == hand.now()


def test_decisions_use_the_clock_that_rejects_more() -> None:
    hand = SetClock()
    clock = checked(hand)
    assert checked(clock) is clock
    clock.compare(hand.now())
    hand.set(60)
    assert latest_of(clock)() - earliest_of(clock)() == 60
    assert latest_of(hand)() == earliest_of(hand)() == hand.now()
