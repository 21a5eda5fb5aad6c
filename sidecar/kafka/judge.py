"""Decides on the records of a batch, on the event loop, with the authentication chain of HTTP requests."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from sidecar.authn.base import Accepted
from sidecar.clock import CheckedClock
from sidecar.concurrency import drop
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.request import Condition, Credential
from sidecar.kafka.records import Record

_append_time: ContextVar[float | None] = ContextVar("append_time", default=None)
_BATCH_TIMEOUT = 15.0
_SIMULTANEOUS = 32
# new tokens cost up to a millisecond each: other tasks, such as the one that follows revocations, run in between
_WITHOUT_PAUSE = 25


@dataclass(frozen=True, slots=True)
class RecordVerdict:
    """The decision on one record. ``failure`` None: accepted, as a record of ``actor``.

    With a failure, ``actor`` is that of an accepted credential that does not meet the rules.
    """

    actor: Actor | None
    failure: Failed | None = None


Authenticate = Callable[[Credential], "Accepted | Failed | Awaitable[Accepted | Failed]"]
"""Decides on a credential, at the time of :class:`RecordClock`. A failure is returned, not raised."""


class RecordClock(CheckedClock):
    """``clock``, or the time at which the record that is being decided on was appended."""

    def __init__(self, clock: CheckedClock) -> None:
        super().__init__(clock)
        self._clock = clock

    def latest(self) -> float:
        """As the wrapped clock, or the time of the record."""
        appended = _append_time.get()
        return self._clock.latest() if appended is None else appended

    def earliest(self) -> float:
        """As the wrapped clock, or the time of the record."""
        appended = _append_time.get()
        return self._clock.earliest() if appended is None else appended


@dataclass(frozen=True, slots=True)
class RecordRules:
    """All conditions of the rule must be met. None: there is no rule, and ``allows`` decides."""

    conditions: tuple[Condition, ...] | None
    allows: bool

    def failure(self, actor: Actor) -> Refused | None:
        """Why ``actor`` may not write, or None."""
        if self.conditions is None:
            return None if self.allows else Refused(Reason.FORBIDDEN, Cause.RULE, "default: refuse")
        for condition in self.conditions:
            missing = condition.missing(actor)
            if missing is not None:
                detail = f"requires {missing.text}; the Actor has {missing.has}" if missing.has else ""
                return Refused(missing.reason, missing.cause, detail)
        return None


class Judge:
    """Decides on records. Use it on one event loop only."""

    def __init__(self, authenticate: Authenticate, rules: RecordRules, clock: CheckedClock, *, max_lag: float) -> None:
        """``max_lag``: see :attr:`sidecar.config.settings.KafkaGateSettings.max_lag`, in seconds."""
        self._authenticate = authenticate
        self._rules = rules
        self._clock = clock
        self._max_lag = max_lag

    async def decide(self, records: Sequence[Record]) -> list[RecordVerdict]:
        """A verdict for each record, in order. A failure that is no Refused means: not decided, try again later."""
        outcomes: list[Accepted | Failed | None] = [None] * len(records)
        waiting: dict[asyncio.Task[Accepted | Failed], int] = {}
        slots = asyncio.Semaphore(_SIMULTANEOUS)
        for index, record in enumerate(records):
            if index % _WITHOUT_PAUSE == _WITHOUT_PAUSE - 1:
                await asyncio.sleep(0)
            outcome = self._begin(record)
            if isinstance(outcome, Accepted | Failed):
                outcomes[index] = outcome
            else:
                task = asyncio.create_task(_settle(outcome, self._time_of(record), slots))
                waiting[task] = index
        if waiting:
            done, late = await asyncio.wait(waiting, timeout=_BATCH_TIMEOUT)
            for task in done:
                outcomes[waiting[task]] = task.result()
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return [self._verdict(outcome) for outcome in outcomes]

    def _begin(self, record: Record) -> "Accepted | Failed | Awaitable[Accepted | Failed]":
        if record.unreadable is not None:
            return record.unreadable
        token = _append_time.set(self._time_of(record))
        try:
            return self._authenticate(record.credential)
        finally:
            _append_time.reset(token)

    def _time_of(self, record: Record) -> float | None:
        """When the record was appended if that is known and recent; None: the current time counts."""
        if not record.is_broker_time:
            return None
        appended, now = record.timestamp / 1000, self._clock.now()
        return appended if now - self._max_lag <= appended <= now else None

    def _verdict(self, outcome: Accepted | Failed | None) -> RecordVerdict:
        if outcome is None:
            return RecordVerdict(None, Unavailable(Cause.DEADLINE))
        if isinstance(outcome, Failed):
            return RecordVerdict(None, outcome)
        return RecordVerdict(outcome.actor, self._rules.failure(outcome.actor))


async def _settle(
    pending: Awaitable[Accepted | Failed], time: float | None, slots: asyncio.Semaphore
) -> Accepted | Failed:
    _append_time.set(time)  # of the context of this task
    try:
        async with slots:
            return await pending
    except asyncio.CancelledError:
        drop(pending)
        raise
