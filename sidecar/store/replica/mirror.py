"""The complete copy of the store that requests are decided by. It follows the store's log; look-ups never wait.

One exception: an id that is not in the copy is looked up in the store, because another process may have minted it a
moment ago. While the store is unavailable, and after it comes back empty, the copy decides.

The copy is the state of the store at the position in the log up to which it was read, merged with the writes that the
store has acknowledged to this process and that have not been read in the log. Whenever everything is read again, the
old copy is merged into the new one, and what the store lacks is written to it: every copy restores what the store has
lost. ``docs/decisions/0011-copies-that-merge.md`` has the whole protocol.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from traceback import extract_tb
from typing import Any, TypeVar

from sidecar.clock import Clock, checked
from sidecar.concurrency import retrieve
from sidecar.errors import Cause, Unavailable
from sidecar.lru import BoundedLru
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, Changes, GapError, LossError, Receipt, Store
from sidecar.store.merge import Entries
from sidecar.store.record import TokenRecord
from sidecar.store.replica.clock_agreement import ClockAgreement
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.replica.snapshot import Snapshot, slices

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight:
    """A write whose response is awaited: the number of complete reads when it was sent, the marks that were read since,
    and the versions that the copy has received since of the entries and removals in the write.

    The copy itself has no versions: only these keep a late response from undoing a later write.
    """

    ids: frozenset[str]
    loads: int = 0
    marks: set[str] = field(default_factory=set)
    words: dict[str, int] = field(default_factory=dict)
    reading: dict[str, int] = field(default_factory=dict)
    """Versions in the copy that is being read, which count once it is in use."""

    def note(self, words: dict[str, int]) -> None:
        """The copy has these versions now."""
        _raise(self.words, words, self.ids)

    def note_reading(self, words: dict[str, int]) -> None:
        """The copy that is being read has these versions."""
        _raise(self.reading, words, self.ids)

    def take_reading(self) -> None:
        """The copy that was being read is in use now."""
        self.note(self.reading)

    def without_overtaken(self, entries: Entries) -> Entries:
        """``entries`` without those of which the copy has this or a later version."""
        return replace(
            entries,
            revocations=[word for word in entries.revocations if self.words.get(word.id, -1) < word.version],
            removals=[word for word in entries.removals if self.words.get(word.id, -1) < word.version],
        )


def _raise(known: dict[str, int], words: dict[str, int], ids: frozenset[str]) -> None:
    for name in ids.intersection(words):
        known[name] = max(words[name], known.get(name, -1))


class _Promises:
    """Acknowledged writes that have not been read in the log, by the mark of the write."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entries]] = {}
        self._words: dict[str, int] = {}

    def __contains__(self, mark: str) -> bool:
        return mark in self._entries

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def marks(self) -> list[str]:
        """The marks that have not been read."""
        return list(self._entries)

    @property
    def entries(self) -> list[Entries]:
        """What was acknowledged."""
        return [entries for several in self._entries.values() for entries in several]

    def add(self, receipt: Receipt) -> None:
        """Remember ``receipt``."""
        self._entries.setdefault(receipt.mark, []).append(receipt.entries)
        for name, version in receipt.entries.words().items():
            self._words[name] = max(version, self._words.get(name, -1))

    def settle(self, marks: Iterable[str]) -> None:
        """The writes with these ``marks`` have been read in the log."""
        for mark in marks:
            for entries in self._entries.pop(mark, ()):
                for name, version in entries.words().items():
                    if self._words.get(name) == version:
                        del self._words[name]

    def unknown(self, entries: Entries) -> Entries:
        """``entries`` without those of which a later version was acknowledged."""
        words = self._words
        if not words:
            return entries
        return replace(
            entries,
            revocations=[word for word in entries.revocations if words.get(word.id, -1) < word.version],
            removals=[word for word in entries.removals if words.get(word.id, -1) < word.version],
        )


class Mirror:
    """The store as this process knows it. Times are in seconds."""

    FOLLOW = 1.0
    """Maximum wait for one piece of the log."""
    ASK_AGAIN = 5.0
    """Minimum time between two look-ups of one unknown id in the store."""
    RETRY = (0.1, 5.0)
    """First and maximum wait after a failure; it doubles in between."""
    _MAX_UNKNOWN = 10_000
    _PRUNE_AT_ONCE = 5_000
    _PRUNE_REMOVALS = 600.0
    _SLICE = 1_000

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = checked(clock)
        self._wait = wait
        self._agreement = ClockAgreement(store, self._clock)
        self._store_has_clock = False
        self._removals_pruned = self._clock.monotonic()
        self._picture = Snapshot()
        self._position = ""
        self._mark = ""
        self._life = ""
        self._agreed_at: float | None = None
        self._floor = 0
        self._loads = 0
        self._promises = _Promises()
        self._flights: list[_Flight] = []
        # set while a new copy replaces the old one
        self._swapping: asyncio.Event | None = None
        self._unknown: BoundedLru[str, tuple[float, asyncio.Task[TokenRecord | None]]] = BoundedLru(self._MAX_UNKNOWN)
        self._tried = asyncio.Event()
        self._news = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._propagation = metrics.revocation_propagation.child()
        self._skipped = metrics.revocation_skipped
        self._reseeds = metrics.store_reseeds
        self._revoked = metrics.tokens_revoked
        self._metrics = metrics
        self.observe()

    def observe(self) -> None:
        """Let the metrics show this copy, instead of the one that they showed before."""
        metrics = self._metrics
        metrics.watch(metrics.revocation_mirror_age, lambda: self.age)
        metrics.watch(metrics.revocation_entries, lambda: len(self.revocations))
        metrics.watch(metrics.revocation_endless, lambda: self.revocations.endless)
        metrics.watch(metrics.clock_offset, lambda: self._clock.offset)

    async def start(self) -> None:
        """Read everything and follow the store, in the background. An unavailable store does not prevent the start."""
        self._follower = asyncio.create_task(self._follow(), name="mirror")

    async def aclose(self) -> None:
        """Stop following."""
        tasks: set[asyncio.Task[Any]] = {task for _, task in self._unknown.values()}
        if self._follower is not None:
            tasks.add(self._follower)
        while tasks:
            for task in tasks:
                task.cancel()
            # again: wait_for of Python 3.11 loses a cancellation that arrives together with its result
            _, tasks = await asyncio.wait(tasks, timeout=0.1)

    async def wait_first_load(self, within: float) -> bool:
        """Wait until everything has been read or the first attempt has failed, at most ``within``. Whether read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._tried.wait()
        return self.is_loaded

    async def changed(self, within: float) -> None:
        """Return when the copy has changed, or after ``within``."""
        news = self._news
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await news.wait()

    @property
    def is_loaded(self) -> bool:
        """Whether everything has been read once."""
        return self._agreed_at is not None

    @property
    def age(self) -> float:
        """Seconds since the copy last had everything that the store had; infinite before the first time."""
        return float("inf") if self._agreed_at is None else self._clock.monotonic() - self._agreed_at

    @property
    def clock_problem(self) -> str:
        """What is wrong with the clock of this process, as a sentence; empty: nothing."""
        return self._clock.problem

    @property
    def is_clock_wrong(self) -> bool:
        """Whether the clock differs from the store's by more than :data:`CheckedClock.WRONG`."""
        return self._clock.is_wrong

    @property
    def right_clocks(self) -> int | None:
        """How many other processes have a clock that agrees with the store's; None: the store was not asked yet."""
        return self._agreement.others

    @property
    def revocations(self) -> RevocationList:
        """The current revocation list."""
        return self._picture.revocations

    def record(self, token_id: str) -> TokenRecord | None:
        """The record in the copy."""
        return self._picture.record(token_id)

    def records(self) -> list[TokenRecord]:
        """Every record in the copy."""
        return self._picture.records()

    def is_bot_name(self, name: str) -> bool:
        """Whether ``name`` is reserved for a bot, compared without case."""
        return self._picture.bot_names.has(name)

    def unregistered_bots(self) -> list[str]:
        """Names that are reserved only by records of tokens, which are deleted after a time."""
        return self._picture.bot_names.unregistered()

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record; looked up in the store if the copy has none.

        Raises Unavailable(STORE_UNAVAILABLE) if that fails.
        """
        known = self._picture.record(token_id)
        if known is not None:
            return known
        now = self._clock.monotonic()
        asked = self._unknown.get(token_id)
        if asked is None or now - asked[0] >= self.ASK_AGAIN:
            asked = (now, asyncio.create_task(self._fetch_record(token_id)))
            asked[1].add_done_callback(retrieve)
            self._unknown.put(token_id, asked)
        # shielded: others may wait for it after the first caller was cancelled
        return await asyncio.shield(asked[1])

    async def write(self, batch: Batch) -> Receipt:
        """Write ``batch`` to the store; then it applies in this process, and within milliseconds in the others.

        The receipt lacks the records of ``batch`` whose ids existed before. Raises Unavailable(STORE_UNAVAILABLE):
        nothing was written, or after a time-out possibly everything.
        """
        with self._flying(batch) as flight:
            receipt = await self._store.write(batch, self._floor)
            await self._landed(flight)
            while flight.loads != self._loads:
                # what was read meanwhile has this write, a later one, or has lost it: the store decides
                flight.loads, flight.marks = self._loads, {self._mark}
                receipt = await self._store.merge(receipt.entries)
                await self._landed(flight)
        self._promised(receipt, flight)
        self._notify()
        self._count(batch)
        return receipt

    @contextmanager
    def _flying(self, batch: Batch) -> Iterator[_Flight]:
        ids = frozenset((*(entry.id for entry in batch.add_entries), *batch.remove_entries))
        flight = _Flight(ids, self._loads, {self._mark})
        self._flights.append(flight)
        try:
            yield flight
        finally:
            self._flights.remove(flight)

    async def _landed(self, flight: _Flight) -> None:
        """The response has arrived: wait while a new copy replaces the old one."""
        while self._swapping is not None:
            await self._swapping.wait()

    def _promised(self, receipt: Receipt, flight: _Flight) -> None:
        """Apply what the store has acknowledged, and remember it until it was read in the log."""
        self._floor = max(self._floor, receipt.entries.version)
        if receipt.mark not in flight.marks:
            self._promises.add(receipt)
        for other in self._flights:
            other.note(receipt.entries.words())
        self._picture.merge(flight.without_overtaken(receipt.entries))

    def _count(self, batch: Batch) -> None:
        """Count what ``batch`` revokes, by kind of record and by scope of entry."""
        for token_id, _ in batch.revoke:
            record = self.record(token_id)
            if record is not None:
                self._revoked.labels(record.kind.value).inc()
        for entry in batch.add_entries:
            self._revoked.labels(entry.scope.value).inc()

    # --- following

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                if not self._position:
                    await self._load()
                await self._agreement.report_if_due()
                await self._catch_up()
            except Exception as error:  # noqa: BLE001 - revocations would go unseen for ever if this task ended
                failures += 1
                self._log_state(error, first=failures == 1)
                self._tried.set()
                if failures > 1 or not isinstance(error, GapError):
                    await self._wait(min(self.RETRY[0] * 2 ** min(failures - 1, 10), self.RETRY[1]))
            else:
                failures = 0

    def _log_state(self, error: Exception, *, first: bool) -> None:
        """Drop the position if ``error`` requires a complete read, and log the first of consecutive errors."""
        if isinstance(error, Unavailable):
            if first:
                _log.warning(
                    "store could not be read; retrying",
                    extra={"event": "store_read_failed", "cause": error.cause, "detail": error.detail},
                )
            return
        self._position = ""
        if isinstance(error, LossError):
            _log.warning(
                "store has lost writes; reloading the snapshot, restoring what this process knows",
                extra={"event": "store_writes_lost"},
            )
        elif isinstance(error, GapError):
            _log.warning("gap in the change log of the store; reloading the snapshot", extra={"event": "store_log_gap"})
        elif first:
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]
            _log.error(
                "unhandled error while following the store",
                extra={"event": "store_follow_error", "error": type(error).__name__, "places": places},
            )

    async def _catch_up(self) -> None:
        """Apply one piece of the log. Raises GapError and Unavailable."""
        asked, promised = self._clock.monotonic(), self._promises.marks
        changes = await self._store.follow(self._position, self.FOLLOW)
        self._compare_clocks(changes)
        await self._take(changes)
        self._position = changes.position
        if changes.is_complete:
            if any(mark in self._promises for mark in promised):
                raise LossError
            self._agreed_at = min(asked + changes.asked_after, self._clock.monotonic())
        self._prune()
        if self._picture.revocations.is_wasteful:
            self._position = ""

    async def _take(self, changes: Changes) -> None:
        entries = changes.entries
        words = entries.words()
        self._floor = max(self._floor, entries.version)
        if changes.marks:
            self._mark = changes.marks[-1]
        for flight in self._flights:
            flight.note(words)
            flight.marks.update(changes.marks)
        # the piece has the acknowledged versions of the marks in it, or later ones
        self._promises.settle(changes.marks)
        self._skipped.inc(changes.skipped)
        is_outdated = not await self._fill(self._picture, entries)
        if entries:
            self._notify()
        now = self._clock.now()
        for written_at in changes.written_at:
            self._propagation.observe(max(0.0, now - written_at))
        if is_outdated and not self._promises and not self._flights:
            # a record is valid in the store that is revoked here: the revocation was lost
            raise LossError

    async def _fill(self, picture: Snapshot, entries: Entries) -> bool:
        """Merge ``entries``, yielding to other tasks. False: a record is revoked here and valid in ``entries``."""
        is_current = True
        for records in slices(entries.records, self._SLICE):
            for record in records:
                is_current &= picture.merge_record(record)
            await asyncio.sleep(0)
        rest = Entries(ends=entries.ends, currents=entries.currents, removals=entries.removals)
        picture.merge(self._promises.unknown(rest))
        for some in slices(entries.revocations, self._SLICE):
            self._skipped.inc(picture.add(self._promises.unknown(Entries(revocations=some)).revocations))
            await asyncio.sleep(0)
        return is_current

    def _compare_clocks(self, changes: Changes) -> None:
        self._store_has_clock = self._store_has_clock or changes.store_time is not None
        if changes.store_time is not None or not self._store_has_clock:
            self._clock.compare(changes.store_time)

    def _prune(self) -> None:
        """Drop what ended long ago, if the clock agrees with the store's."""
        if not self._clock.agrees:
            return
        now = self._clock.earliest()
        self._picture.prune(now, self._PRUNE_AT_ONCE)
        if self._clock.monotonic() - self._removals_pruned >= self._PRUNE_REMOVALS:
            self._picture.prune_removals(now)
            self._removals_pruned = self._clock.monotonic()

    # --- reading everything

    async def _load(self) -> None:
        """Read the whole store into a new copy, merge the old one into it, and use it from then on.

        What the store lacks of the old copy is written to it.
        """
        old, fresh = self._picture, Snapshot()
        # in the old copy, all of which is compared with the store
        self._promises = _Promises()
        life = await self._store.life()
        if not life:
            await self._store.merge(Entries())
            life = await self._store.life()
        position, mark, asked = await self._read_snapshot(fresh)
        owed = _Promises()
        put_back = await self._put_back(old, fresh, owed)
        self._swapping = asyncio.Event()
        try:
            for entries in self._promises.entries:
                receipt = await self._store.merge(entries)
                fresh.merge(receipt.entries)
                owed.add(receipt)
            is_new = bool(self._life) and life != self._life
            self._picture, self._position, self._mark, self._life = fresh, position, mark, life
            self._promises = owed
            for flight in self._flights:
                flight.take_reading()
            self._loads += 1
            self._agreed_at = asked
        finally:
            self._swapping.set()
            self._swapping = None
        self._tried.set()
        self._notify()
        self._report(put_back, is_new=is_new)

    async def _read_snapshot(self, fresh: Snapshot) -> tuple[str, str, float]:
        """Read everything into ``fresh``. Returns the position, its mark, and when it was known to be complete."""
        position, mark = "", ""
        for flight in self._flights:
            flight.reading.clear()
        async with aclosing(_ahead(self._store.snapshot())) as pieces:
            async for piece in pieces:
                self._skipped.inc(piece.skipped)
                entries = piece.entries
                self._floor = max(self._floor, entries.version)
                self._note_reading(entries)
                await self._fill(fresh, entries)
                position, mark = piece.position, piece.marks[-1] if piece.marks else mark
        if not position:
            raise Unavailable(Cause.STORE_UNAVAILABLE, "a snapshot without position")
        while True:
            # what was written while the pieces were read, and whether it is still the same store
            asked = self._clock.monotonic()
            changes = await self._store.follow(position, 0.0)
            self._compare_clocks(changes)
            self._skipped.inc(changes.skipped)
            self._floor = max(self._floor, changes.entries.version)
            self._note_reading(changes.entries)
            await self._fill(fresh, changes.entries)
            position, mark = changes.position, changes.marks[-1] if changes.marks else mark
            if changes.is_complete:
                return position, mark, asked

    def _note_reading(self, entries: Entries) -> None:
        if self._flights:
            words = entries.words()
            for flight in self._flights:
                flight.note_reading(words)

    async def _put_back(self, old: Snapshot, fresh: Snapshot, owed: _Promises) -> dict[str, int]:
        """Merge into the store and ``fresh`` what only ``old`` has. Returns the number of each kind."""
        counts = {"records": 0, "revoked": 0, "entries": 0, "removals": 0}
        for seen, entries in enumerate(old.better_than(fresh, self._clock.now())):
            if entries:
                receipt = await self._store.merge(entries)
                fresh.merge(entries)
                owed.add(Receipt(receipt.mark, entries))
                counts["records"] += len(entries.records)
                counts["revoked"] += sum(record.revoked_at is not None for record in entries.records)
                counts["entries"] += len(entries.revocations)
                counts["removals"] += len(entries.removals)
            elif entries is not None or seen % self._SLICE == 0:
                await asyncio.sleep(0)
        return counts

    def _report(self, put_back: dict[str, int], *, is_new: bool) -> None:
        if is_new:
            self._reseeds.inc()
        if not any(put_back.values()):
            return
        if is_new:
            _log.critical("store was empty; restored from memory", extra={"event": "store_restored", **put_back})
        else:
            _log.critical(
                "store had lost entries; restored from memory",
                extra={"event": "store_entries_restored", **put_back},
            )

    # --- small parts

    async def _fetch_record(self, token_id: str) -> TokenRecord | None:
        record = await self._store.record(token_id)
        if record is not None:
            self._picture.merge_record(record)
            self._unknown.discard(token_id)
        return record

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _ahead(items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The same items; each is fetched while the previous one is processed."""
    upcoming = asyncio.create_task(_next(items))
    try:
        while item := await upcoming:
            upcoming = asyncio.create_task(_next(items))
            await asyncio.sleep(0)  # lets the request be sent
            yield item[0]
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)


async def _next(items: AsyncIterator[T]) -> tuple[T, ...]:
    async for item in items:
        return (item,)
    return ()
