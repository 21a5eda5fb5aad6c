"""Reports to the store whether this process's clock agrees with it, and knows how many other processes' clocks do."""

from uuid import uuid4

from sidecar.clock import CheckedClock
from sidecar.errors import Unavailable
from sidecar.store.base import CLOCK_REPORTS, Store


class ClockAgreement:
    """What one process reports of its ``clock``, and what it has learned of others. Times are in seconds."""

    INTERVAL = CLOCK_REPORTS / 3
    """Between two reports of a clock that agrees."""
    WHILE_WRONG = 2.0
    """Between two reports of a clock that differs."""

    def __init__(self, store: Store, clock: CheckedClock) -> None:
        self._store = store
        self._clock = clock
        self._process = uuid4().hex
        self._reported: bool | None = None
        self._reported_at = 0.0
        self._others = 0
        self._others_at = 0.0

    @property
    def others(self) -> int | None:
        """How many other processes' clocks agree with the store's; None: it has not been asked yet.

        0 once the last answer is too old: a process whose clock is wrong is not kept out by what cannot be known.
        """
        if self._reported is None:
            return None
        return self._others if self._clock.monotonic() - self._others_at <= CLOCK_REPORTS else 0

    async def report_if_due(self) -> None:
        """Report at each change, and again before the last report expires. Ignores that the store is unavailable."""
        agrees, now = self._clock.agrees, self._clock.monotonic()
        pause = self.INTERVAL if agrees else self.WHILE_WRONG
        if agrees is self._reported and now - self._reported_at < pause:
            return
        try:
            report = await self._store.compare_clocks(self._process, agrees=agrees)
        except Unavailable:
            pass  # following the store logs it
        else:
            self._others, self._others_at = report.others, now
        # a failure too: the log is to be followed in time
        self._reported, self._reported_at = agrees, now
