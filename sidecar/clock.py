"""Time as an argument: production passes :class:`CheckedClock`, tests a clock that they control."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

_log = logging.getLogger(__name__)


class Clock(Protocol):
    """Wall-clock and monotonic time, both in seconds."""

    def now(self) -> float:
        """Seconds since the Unix epoch (UTC); may jump when the system clock is set. For token claims and records."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases. For ages, cool-downs and timeouts."""


class SystemClock:
    """The system clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class CheckedClock:
    """``clock``, compared now and then with the store's clock and with its own course.

    While they disagree nothing is forgotten (:attr:`agrees`), what expires is judged by :meth:`latest`, and what is not
    valid yet by :meth:`earliest`. A clock that was set neither revives an expired token nor makes a later one valid.
    """

    JUMP = 30.0
    """Disagreement in seconds that is no drift."""
    STEADY = 3600.0
    """Where the store has no clock of its own, a new time counts when it has gone on evenly for so many seconds."""

    def __init__(self, clock: Clock) -> None:
        self.now: Callable[[], float] = clock.now
        self.monotonic: Callable[[], float] = clock.monotonic
        self.offset = 0.0
        """Seconds by which this clock was ahead when it was last compared."""
        self.agrees = True
        # now minus monotonic, when it last agreed and when it was last compared, and since when that is so
        self._agreed: float | None = None
        self._course: float | None = None
        self._steady_since = 0.0

    @property
    def problem(self) -> str:
        """What is wrong, as a sentence; empty: nothing."""
        if self.agrees:
            return ""
        way = "ahead" if self.offset > 0 else "behind"
        return (
            f"this clock is {abs(self.offset):.0f} s {way}: nothing is forgotten until it agrees with the store's clock"
        )

    def latest(self) -> float:
        """The later of the clock and of the course of the time that was last agreed upon: for what expires."""
        now = self.now()
        return now if self._agreed is None else max(now, self._agreed + self.monotonic())

    def earliest(self) -> float:
        """The earlier of both: for what is not valid yet, and for denials that end."""
        now = self.now()
        return now if self._agreed is None else min(now, self._agreed + self.monotonic())

    def compare(self, store_time: float | None) -> None:
        """Compare with what the store's clock says; None: it has none of its own."""
        now, monotonic = self.now(), self.monotonic()
        course = now - monotonic
        if self._course is None or abs(course - self._course) > self.JUMP:
            if self._course is not None:
                extra = {"seconds": round(course - self._course, 1)}
                _log.warning("the clock has jumped: nothing is forgotten until it is right", extra=extra)
            self._steady_since = monotonic
        self._course = course
        if store_time is not None:
            self.offset = now - store_time
            agrees = abs(self.offset) <= self.JUMP
        else:
            self.offset = 0.0 if self._agreed is None else course - self._agreed
            agrees = abs(self.offset) <= self.JUMP or monotonic - self._steady_since >= self.STEADY
        if agrees:
            self._agreed = course
        if agrees != self.agrees:
            self.agrees = agrees
            if agrees:
                _log.warning("the clock agrees with the store's clock again")
            else:
                _log.warning("the clock is wrong", extra={"seconds": round(self.offset, 1)})


def checked(clock: Clock) -> CheckedClock:
    """``clock`` itself where it is one that is compared, else one around it."""
    return clock if isinstance(clock, CheckedClock) else CheckedClock(clock)


def latest_of(clock: Clock) -> Callable[[], float]:
    """The reading of ``clock`` that decides whether something has expired."""
    return clock.latest if isinstance(clock, CheckedClock) else clock.now


def earliest_of(clock: Clock) -> Callable[[], float]:
    """The reading of ``clock`` that decides whether something is valid already, and whether a denial has ended."""
    return clock.earliest if isinstance(clock, CheckedClock) else clock.now
