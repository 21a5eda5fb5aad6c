"""Time as an argument: production passes :class:`CheckedClock`, tests a clock that they control."""

import logging
import time
from collections.abc import Callable
from math import inf
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
    """``clock``, compared periodically with the store's clock and with the monotonic clock.

    While they disagree (:attr:`agrees`), nothing is removed from memory, expiry uses :meth:`latest`, not-before
    uses :meth:`earliest`. Setting the system clock neither revives an expired token nor makes a future one valid.
    """

    JUMP = 30.0
    """Difference in seconds that is not explained by drift."""
    WRONG = 300.0
    """Difference in seconds at which a process is not ready while the clocks of other processes agree."""
    STEADY = 3600.0
    """If the store has no clock, a new time is accepted after it has been constant for this many seconds."""

    def __init__(self, clock: Clock) -> None:
        self.now: Callable[[], float] = clock.now
        self.monotonic: Callable[[], float] = clock.monotonic
        self.agrees = True
        # now minus monotonic: at the last agreement, at the last comparison, and as it should be; and the time since
        # when it is constant
        self._agreed: float | None = None
        # the same for every check of a token, without a condition: before the first agreement only the clock counts
        self._not_before, self._not_after = -inf, inf
        self._course: float | None = None
        self._right: float | None = None
        self._steady_since = 0.0
        self._store_has_clock = False

    @property
    def offset(self) -> float:
        """Seconds by which this clock is ahead of the store's, which runs on as it was at the last comparison."""
        return 0.0 if self._right is None else self.now() - self.monotonic() - self._right

    @property
    def is_wrong(self) -> bool:
        """Whether it differs by so much that this process should not be used while others agree with the store."""
        return abs(self.offset) > self.WRONG

    @property
    def problem(self) -> str:
        """The problem as a sentence; empty: none."""
        offset, now = self.offset, self.now()
        if abs(offset) <= self.JUMP:
            return ""
        return difference(now, now - offset, "the store's clock" if self._store_has_clock else "the expected time")

    def latest(self) -> float:
        """The later of the clock and of the time extrapolated from the last agreement: for expiry."""
        now, continued = self.now(), self._not_before + self.monotonic()
        return continued if continued > now else now  # noqa: FURB136 - max() costs as much as reading a clock

    def earliest(self) -> float:
        """The earlier of both: for not-before, and for the end of revocation entries."""
        now, continued = self.now(), self._not_after + self.monotonic()
        return continued if continued < now else now  # noqa: FURB136 - likewise

    def compare(self, store_time: float | None) -> None:
        """Compare with the clock of the store; None: the store has no clock."""
        now, monotonic = self.now(), self.monotonic()
        course = now - monotonic
        if self._course is None or abs(course - self._course) > self.JUMP:
            if self._course is not None:
                _log.warning(
                    "system clock jumped; nothing is expired from memory until it is correct",
                    extra={"event": "clock_jumped", "seconds": round(course - self._course, 1)},
                )
            self._steady_since = monotonic
        self._course = course
        self._store_has_clock = store_time is not None
        if store_time is not None:
            self._right = store_time - monotonic
            agrees = abs(now - store_time) <= self.JUMP
        else:
            ahead = 0.0 if self._agreed is None else course - self._agreed
            agrees = abs(ahead) <= self.JUMP or monotonic - self._steady_since >= self.STEADY
            if agrees or self._right is None:
                self._right = course
        if agrees:
            self._agreed = self._not_before = self._not_after = course
        if agrees != self.agrees:
            self.agrees = agrees
            if agrees:
                _log.warning("system clock agrees with the store's clock again", extra={"event": "clock_correct"})
            else:
                _log.warning(
                    "system clock differs from the store's clock",
                    extra={"event": "clock_wrong", "seconds": round(self.offset, 1)},
                )


def checked(clock: Clock) -> CheckedClock:
    """``clock`` itself if it is a CheckedClock, else a CheckedClock around it."""
    return clock if isinstance(clock, CheckedClock) else CheckedClock(clock)


def latest_of(clock: Clock) -> Callable[[], float]:
    """The function of ``clock`` to decide whether something has expired."""
    return clock.latest if isinstance(clock, CheckedClock) else clock.now


def earliest_of(clock: Clock) -> Callable[[], float]:
    """The function of ``clock`` to decide whether something is valid yet, and whether a revocation entry has ended."""
    return clock.earliest if isinstance(clock, CheckedClock) else clock.now


def difference(now: float, right: float, what: str) -> str:
    """What is wrong with a system clock that says ``now`` where ``what`` says ``right``, and what to do."""
    way = "ahead of" if now > right else "behind"
    return (
        f"system clock {_text(now)} is {abs(now - right):.0f} s {way} {what}, {_text(right)}; "
        "synchronise the clock of this host"
    )


def _text(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f}"
