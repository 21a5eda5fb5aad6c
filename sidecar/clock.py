"""Time as an argument: production passes :class:`SystemClock`, tests a clock that they control."""

import time
from typing import Protocol


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
