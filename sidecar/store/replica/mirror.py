"""The complete copy of the store that requests ask, kept up by following the store's log; look-ups never wait.

One exception: an id that the copy does not know is asked of the store, because it may have been minted a moment ago by
another process. While the store is away, and when it comes back empty, the copy is what is judged by.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from traceback import extract_tb
from typing import Any, TypeVar
from uuid import uuid4

from sidecar.clock import Clock
from sidecar.concurrency import retrieve
from sidecar.errors import Cause, Unavailable
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, Changes, GapError, LossError, Store
from sidecar.store.record import TokenRecord
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.replica.snapshot import Snapshot
from sidecar.store.revocation_entry import RevocationEntry

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _ConcurrentLog:
    """What the log has said of denials, by id, while the answer to a write was on its way."""

    denied: set[str] = field(default_factory=set)
    forgiven: set[str] = field(default_factory=set)

    def drop_superseded(self, batch: Batch) -> Batch:
        """``batch`` without that of which the log has said, or says in a moment, what has come of it since."""
        return replace(
            batch,
            add_entries=[denial for denial in batch.add_entries if denial.id not in self.denied & self.forgiven],
            remove_entries=[name for name in batch.remove_entries if name not in self.denied | self.forgiven],
        )


class Mirror:
    """The store as this process knows it. Times are in seconds."""

    FOLLOW = 1.0
    """Longest wait for one piece of the log."""
    ASK_AGAIN = 5.0
    """Least time between two questions to the store about one unknown id."""
    CHECK_GENERATION = 1.0
    """How often the store is asked whether it is still the one that was read."""
    RETRY = (0.1, 5.0)
    """First and longest wait after a failure; doubles in between."""
    _MOST_UNKNOWN = 10_000
    _PRUNE_AT_ONCE = 5_000
    _SLICE = 1_000

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wait = wait
        self._picture = Snapshot()
        self._loading: Snapshot | None = None
        self._position = ""
        self._generation = ""
        self._generation_seen = 0.0
        self._agreed_at: float | None = None
        self._has_lost = False
        # own denials that have not come back in the log yet: an older removal in the log must not end them
        self._awaited: set[str] = set()
        self._writing: list[_ConcurrentLog] = []
        self._unknown: OrderedDict[str, tuple[float, asyncio.Task[TokenRecord | None]]] = OrderedDict()
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
        """Be the one whose state the metrics tell; so is every new one, until another is."""
        metrics = self._metrics
        metrics.watch(metrics.revocation_mirror_age, lambda: self.age)
        metrics.watch(metrics.revocation_entries, lambda: len(self.revocations))
        metrics.watch(metrics.revocation_endless, lambda: self.revocations.endless)

    async def start(self) -> None:
        """Read everything and follow the store from then on, in the background. A store that is down stops nothing."""
        self._follower = asyncio.create_task(self._follow(), name="mirror")

    async def aclose(self) -> None:
        """Stop following."""
        tasks: set[asyncio.Task[Any]] = {task for _, task in self._unknown.values()}
        if self._follower is not None:
            tasks.add(self._follower)
        while tasks:
            for task in tasks:
                task.cancel()
            # again, because wait_for of Python 3.11 forgets a cancellation that comes together with what it waits for
            _, tasks = await asyncio.wait(tasks, timeout=0.1)

    async def wait_first_load(self, within: float) -> bool:
        """Wait until everything has been read or the first attempt has failed, at most ``within``. Whether read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._tried.wait()
        return self.is_loaded

    async def changed(self, within: float) -> None:
        """Return when something has been learned, or after ``within``."""
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
        """Seconds since the copy last agreed with the store; infinite before the first time."""
        return float("inf") if self._agreed_at is None else self._clock.monotonic() - self._agreed_at

    @property
    def revocations(self) -> RevocationList:
        """The deny list of this moment."""
        return self._picture.revocations

    def record(self, token_id: str) -> TokenRecord | None:
        """The record as the copy has it."""
        return self._picture.record(token_id)

    def records(self) -> list[TokenRecord]:
        """Every record that the copy has."""
        return self._picture.records()

    def is_bot_name(self, name: str) -> bool:
        """Whether only a bot may be called ``name``, in whatever letters: until the name is released."""
        return self._picture.bot_names.has(name)

    def unregistered_bots(self) -> list[str]:
        """Names that are kept by the records of tokens alone, which the store forgets one day."""
        return self._picture.bot_names.unregistered()

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record, asked of the store when the copy has none.

        Raises Unavailable(STORE_UNAVAILABLE) when the store cannot be asked.
        """
        known = self._picture.record(token_id)
        if known is not None:
            return known
        now = self._clock.monotonic()
        asked = self._unknown.get(token_id)
        if asked is None or now - asked[0] >= self.ASK_AGAIN:
            asked = (now, asyncio.create_task(self._fetch_record(token_id)))
            asked[1].add_done_callback(retrieve)
            self._unknown[token_id] = asked
            self._unknown.move_to_end(token_id)
            if len(self._unknown) > self._MOST_UNKNOWN:
                self._unknown.popitem(last=False)
        # shielded: the first asker may leave, the others still want to know
        return await asyncio.shield(asked[1])

    async def write(self, batch: Batch) -> None:
        """Write ``batch`` to the store; once that is done this process judges by it, the others in milliseconds.

        Raises Unavailable(STORE_UNAVAILABLE): nothing has happened, or after a time-out perhaps everything.
        """
        own = {denial.id for denial in batch.add_entries}
        self._awaited |= own
        # asked before: a token that becomes known while the answer is on its way may have replaced the new one
        replaced = [ended for picture in self._snapshots() for ended in picture.replaced_by(batch)]
        heard = _ConcurrentLog()
        self._writing.append(heard)
        try:
            await self._store.write(batch)
        except BaseException:
            self._awaited -= own
            raise
        finally:
            self._writing.remove(heard)
        done = heard.drop_superseded(replace(batch, revoke=(*batch.revoke, *replaced)))
        for picture in self._snapshots():
            picture.apply(done)
        self._notify()
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        """What ``batch`` has ended, by kind of record and by scope of entry."""
        for token_id, _ in batch.revoke:
            record = self.record(token_id)
            if record is not None:
                self._revoked.labels(record.kind.value).inc()
        for denial in batch.add_entries:
            self._revoked.labels(denial.scope.value).inc()

    # --- following

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                if not self._position:
                    await self._load()
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
        """Remember what ``error`` means for the next step, and log the first of a row."""
        if isinstance(error, Unavailable):
            if first:
                _log.warning(
                    "store could not be read; retrying",
                    extra={"event": "store_read_failed", "cause": error.cause, "detail": error.detail},
                )
            return
        self._position = ""
        if isinstance(error, GapError):
            self._has_lost = self._has_lost or isinstance(error, LossError)
            _log.warning("gap in the change log of the store; reloading the snapshot", extra={"event": "store_log_gap"})
        elif first:
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)]
            _log.error(
                "unhandled error while following the store",
                extra={"event": "store_follow_error", "error": type(error).__name__, "places": places},
            )

    async def _catch_up(self) -> None:
        """Take over one piece of the log. Raises GapError and Unavailable."""
        changes = await self._store.follow(self._position, self.FOLLOW)
        await self._take(changes)
        self._position = changes.position
        now = self._clock.monotonic()
        if now - self._generation_seen >= self.CHECK_GENERATION:
            if await self._store.generation() != self._generation:
                raise GapError
            self._generation_seen = now
        self._agreed_at = now
        self._picture.prune(self._clock.now(), self._PRUNE_AT_ONCE)
        if self._picture.revocations.is_wasteful:
            self._position = ""

    async def _take(self, changes: Changes) -> None:
        denied = {denial.id for denial in changes.entries}
        for heard in self._writing:
            heard.denied |= denied
            heard.forgiven.update(changes.removed)
        doubtful = [name for name in changes.removed if name in denied or name in self._awaited]
        self._skipped.inc(changes.skipped)
        for name in changes.removed:
            if name not in doubtful:
                self._picture.revocations.discard(name)
        await self._fill(self._picture, changes)
        self._awaited -= denied
        if changes.records or changes.entries or changes.removed:
            self._notify()
        now = self._clock.now()
        for written_at in changes.written_at:
            self._propagation.observe(max(0.0, now - written_at))
        for name in doubtful:
            # denied and forgiven at once: only the store knows which came last
            if await self._store.entry(name) is None:
                self._picture.revocations.discard(name)

    async def _fill(self, picture: Snapshot, changes: Changes) -> None:
        """Take over records and denials, letting others run in between."""
        for records in _slices(changes.records, self._SLICE):
            for record in records:
                picture.merge(record)
            await asyncio.sleep(0)
        for denials in _slices(changes.entries, self._SLICE):
            self._skipped.inc(picture.add(denials))
            await asyncio.sleep(0)

    # --- reading everything

    async def _load(self) -> None:
        """Read the whole store into a new picture and put it in place of the old one in one step.

        Where the store has lost what this process knew, it is told of it first.
        """
        generation = await self._store.generation()
        has_lost = self._has_lost or bool(self._generation and generation != self._generation)
        if not generation:
            generation = await self._mark_store()
        self._awaited.clear()
        fresh = self._loading = Snapshot()
        try:
            position = await self._read_snapshot(fresh)
            if has_lost:
                await self._put_back(fresh)
        finally:
            self._loading = None
        self._picture, self._position, self._generation, self._has_lost = fresh, position, generation, False
        self._generation_seen = self._agreed_at = self._clock.monotonic()
        self._tried.set()
        self._notify()

    async def _read_snapshot(self, fresh: Snapshot) -> str:
        position = ""
        async for piece in _ahead(self._store.snapshot()):
            self._skipped.inc(piece.skipped)
            await self._fill(fresh, piece)
            position = piece.position
        if not position:
            raise Unavailable(Cause.STORE_UNAVAILABLE, "a snapshot without position")
        return position

    async def _mark_store(self) -> str:
        """Give a store without generation one, and with it whatever this process knows. Returns what it has then."""
        generation = uuid4().hex
        records = self._picture.records()
        denials = await self._standing(lambda _: True)
        if not await self._store.restore(records, denials, generation):
            return await self._store.generation()
        if self._generation:
            self._reseeds.inc()
            _log.critical(
                "store was empty; restored from memory",
                extra={"event": "store_restored", "records": len(records), "denials": len(denials)},
            )
        return generation

    async def _put_back(self, fresh: Snapshot) -> None:
        """Write to the store what this process knew and ``fresh``, which was read from it, has not."""
        denials = await self._standing(lambda denial: not fresh.revocations.has(denial))
        missing = replace(self._picture.difference(fresh), add_entries=denials)
        for batch in _batches(missing, self._SLICE):
            await self._store.write(batch)
            fresh.apply(batch)
        if missing.add or missing.revoke or missing.add_entries:
            _log.critical(
                "store had lost entries; restored from memory",
                extra={
                    "event": "store_entries_restored",
                    "records": len(missing.add),
                    "revoked": len(missing.revoke),
                    "denials": len(missing.add_entries),
                },
            )

    async def _standing(self, wanted: Callable[[RevocationEntry], bool]) -> list[RevocationEntry]:
        found: dict[str, RevocationEntry] = {}
        for some in _slices(self._picture.revocations.active(self._clock.now()), self._SLICE):
            found.update((denial.id, denial) for denial in some if wanted(denial))
            await asyncio.sleep(0)
        return list(found.values())

    # --- small parts

    async def _fetch_record(self, token_id: str) -> TokenRecord | None:
        record = await self._store.record(token_id)
        if record is not None:
            for picture in self._snapshots():
                picture.merge(record)
            self._unknown.pop(token_id, None)
        return record

    def _snapshots(self) -> Iterator[Snapshot]:
        """The picture in use, and the one that is about to replace it."""
        yield self._picture
        if self._loading is not None:
            yield self._loading

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _ahead(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same items; each is fetched while the one before is being worked on."""
    upcoming = asyncio.create_task(_next(items))
    try:
        while item := await upcoming:
            upcoming = asyncio.create_task(_next(items))
            await asyncio.sleep(0)  # lets the question go out
            yield item[0]
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)


async def _next(items: AsyncIterator[T]) -> tuple[T, ...]:
    async for item in items:
        return (item,)
    return ()


def _slices(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _batches(whole: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, max(len(whole.add), len(whole.revoke), len(whole.add_entries)), size):
        part = slice(start, start + size)
        yield replace(whole, add=whole.add[part], revoke=whole.revoke[part], add_entries=whole.add_entries[part])
