"""Time as an argument: production hands in :class:`SystemClock`, tests a clock that they move by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, both in seconds."""

    def now(self) -> float:
        """Seconds since the Unix epoch (UTC); jumps when the system clock is set. For token claims and records."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back. For ages, cool-downs and deadlines."""


class SystemClock:
    """The clock of this machine."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
