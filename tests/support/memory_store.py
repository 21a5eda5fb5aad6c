"""A Store in memory that can be taken away, emptied, set back, and made to forget its log.

It keeps the contract as the real stores do: the suite in ``tests/contract`` is run with it too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count

from sidecar.errors import Cause, Unavailable
from sidecar.store.base import (
    CLOCK_REPORTS,
    Batch,
    Changes,
    ClockReport,
    Companion,
    GapError,
    LossError,
    Page,
    Receipt,
    RecordQuery,
    StoreStatus,
)
from sidecar.store.merge import (
    Entries,
    Word,
    currents_of,
    is_replaced,
    join_currents,
    join_ends,
    join_records,
    join_words,
    moment_of,
    rank,
    removal_at,
)
from sidecar.store.record import Current, TokenKind, TokenRecord, bot_key
from sidecar.store.revocation_entry import Removal, RevocationEntry

LOG_PIECE = 64
_marks = count(1)


@dataclass(slots=True)
class Logged:
    """One write: its mark, when it was, and what it changed."""

    mark: str
    written_at: float
    records: list[str] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    currents: list[Current] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


@dataclass(slots=True)
class MemoryStore:
    """Keeps the contract of :class:`sidecar.store.base.Store`. ``away``: every call raises Unavailable.

    ``micros``: what its own clock says, in microseconds. ``now`` is the time that the log tells.
    """

    away: bool = False
    all_records: dict[str, TokenRecord] = field(default_factory=dict)
    all_entries: dict[str, RevocationEntry] = field(default_factory=dict)
    removals: dict[str, Removal] = field(default_factory=dict)
    currents: dict[str, Current] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    log: list[Logged] = field(default_factory=list)
    trimmed: int = 0
    base: str = ""
    head: str = ""
    mark: str = "g1"
    version: int = 0
    micros: Callable[[], int] = lambda: 0
    batches: list[Batch] = field(default_factory=list)
    touches: list[Sequence[tuple[str, float]]] = field(default_factory=list)
    now: float = 0.0
    store_time: float | None = None
    clock_reports: dict[str, float] = field(default_factory=dict)
    companions: dict[str, Companion] = field(default_factory=dict)
    locks: dict[str, tuple[str, float]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        """Raise when the store is away."""
        if self.away:
            raise Unavailable(Cause.STORE_UNAVAILABLE, "away")

    def empty(self) -> None:
        """Lose everything, as a server without persistence does."""
        for kept in (self.all_records, self.all_entries, self.removals, self.currents, self.ends, self.log):
            kept.clear()
        self.companions.clear()
        self.trimmed, self.base, self.head, self.mark, self.version = 0, "", "", "", 0
        self.wake()

    def save(self) -> "MemoryStore":
        """A copy of the contents, for :meth:`lose`."""
        return MemoryStore(
            all_records=copy(self.all_records), all_entries=copy(self.all_entries), removals=copy(self.removals),
            currents=copy(self.currents), ends=copy(self.ends), log=copy(self.log), trimmed=self.trimmed,
            base=self.base, head=self.head, mark=self.mark, version=self.version,
        )  # fmt: skip

    def lose(self, saved: "MemoryStore") -> None:
        """Go back to what was saved, as a crash or a failover does that loses the last writes."""
        kept = saved.save()
        for name in ("all_records", "all_entries", "removals", "currents", "ends", "log", "trimmed", "base"):
            setattr(self, name, getattr(kept, name))
        self.head, self.mark, self.version = kept.head, kept.mark, kept.version
        self.wake()

    def trim(self) -> None:
        """Forget the log, not what it led to."""
        self.trimmed += len(self.log)
        self.base = self.head
        self.log.clear()

    async def write(self, batch: Batch, after: int = 0) -> Receipt:
        self.check()
        self.batches.append(batch)
        self.version = max(self.version, after, self.micros() - 1)
        logged = Logged(self._mark(), self.now)
        added = []
        for record in batch.add:
            if record.id not in self.all_records:
                current = self.currents.get(bot_key(record.actor_id))
                least = 0 if current is None or record.kind is not TokenKind.BOT else current.version
                added.append(replace(record, version=self._above(least)))
                self._put_record(added[-1], logged)
        currents = [] if batch.keep_bot_tokens else currents_of(added)
        for current in currents:
            self._replace(current, self.all_records[current.id].created_at, logged)
        for token_id, moment in batch.revoke:
            self._end(token_id, moment, logged)
        denied = [replace(entry, version=self._above(self._known_version(entry.id))) for entry in batch.add_entries]
        for entry in denied:
            self._say(entry, logged)
        removed = [self._remove(entry_id, logged) for entry_id in batch.remove_entries]
        return self._done(logged, Entries(added, batch.revoke, denied, removed, currents))

    async def merge(self, entries: Entries) -> Receipt:
        self.check()
        self.version = max(self.version, entries.version)
        logged = Logged(self._mark(), self.now)
        for record in entries.records:
            known = self.all_records.get(record.id)
            joined = record if known is None else join_records(known, record)
            if known is None or joined != known or joined.version != known.version:
                self._put_record(joined, logged)
        for token_id, moment in entries.ends:
            self._end(token_id, moment, logged)
        for current in entries.currents:
            there = self.currents.get(current.bot)
            if there is None or join_currents(there, current) != there:
                self._replace(current, moment_of(current.version), logged)
        kept = replace(
            entries,
            revocations=[entry for entry in entries.revocations if self._heard(entry, logged)],
            removals=[removal for removal in entries.removals if self._heard(removal, logged)],
        )
        return self._done(logged, kept)

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        self.check()
        if used:
            self.touches.append(tuple(used))
        for token_id, moment in used:
            if token_id in self.all_records:
                record = self.all_records[token_id]
                latest = max(moment, record.last_used_at or 0.0)
                self.all_records[token_id] = replace(record, last_used_at=latest)

    async def record(self, token_id: str) -> TokenRecord | None:
        self.check()
        return self.all_records.get(token_id)

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        self.check()
        found = sorted(self.all_records.values(), key=_written, reverse=True)
        found = [record for record in found if query.matches(record)]
        start = _start(after)
        more = f"at{start + limit}" if start + limit < len(found) else ""
        return Page(records=tuple(found[start : start + limit]), after=more, total=len(found))

    async def companion(self, record_id: str) -> Companion | None:
        self.check()
        return self.companions.get(record_id)

    async def put_companion(self, record_id: str, text: str, expires_at: float, *, after: int) -> bool:
        self.check()
        there = self.companions.get(record_id)
        if there == Companion(text, after + 1):
            return True
        if (there.version if there else 0) != after:
            return False
        self.companions[record_id] = Companion(text, after + 1)
        return True

    async def lock(self, name: str, holder: str, seconds: float) -> bool:
        self.check()
        now = time.monotonic()
        known, until = self.locks.get(name, ("", 0.0))
        if until > now and known != holder:
            return False
        self.locks[name] = holder, now + seconds
        return True

    async def unlock(self, name: str, holder: str) -> None:
        self.check()
        if self.locks.get(name, ("",))[0] == holder:
            del self.locks[name]

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        self.check()
        return self.all_entries.get(entry_id)

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        self.check()
        newest = sorted(self.all_entries.values(), key=_written, reverse=True)
        found = [
            entry
            for entry in newest
            if issuer in (None, entry.issuer) and (entry.expires_at is None or entry.expires_at > now)
        ]
        start = _start(after)
        more = f"at{start + limit}" if start + limit < len(found) else ""
        return Page(entries=tuple(found[start : start + limit]), after=more, total=len(found))

    async def snapshot(self) -> AsyncIterator[Changes]:
        self.check()
        yield Changes(
            self._position(),
            tuple(self.all_records.values()),
            tuple(self.all_entries.values()),
            tuple(self.removals.values()),
            tuple(self.currents.values()),
            tuple(self.ends.items()),
            marks=(self.head,),
        )

    async def follow(self, position: str, wait: float) -> Changes:
        self.check()
        read = self._read_position(position)
        if read == self.trimmed + len(self.log):
            changed = self.changed
            try:
                await asyncio.wait_for(changed.wait(), wait)
            except TimeoutError:
                return Changes(position, store_time=self.store_time, asked_after=wait)
            self.check()
            read = self._read_position(position)
        pieces = self.log[read - self.trimmed :][:LOG_PIECE]
        words: dict[str, Word] = {}
        for word in (word for piece in pieces for word in piece.words):
            words[word.id] = join_words(words.get(word.id, word), word)
        named = dict.fromkeys(name for piece in pieces for name in piece.records)
        ended = dict.fromkeys(name for piece in pieces for name in piece.ends)
        return Changes(
            self._position(read + len(pieces), pieces[-1].mark if pieces else self.head),
            tuple(self.all_records[name] for name in named if name in self.all_records),
            tuple(word for word in words.values() if isinstance(word, RevocationEntry)),
            tuple(word for word in words.values() if isinstance(word, Removal)),
            tuple(current for piece in pieces for current in piece.currents),
            tuple((name, self.ends[name]) for name in ended if name in self.ends),
            tuple(piece.written_at for piece in pieces),
            marks=tuple(piece.mark for piece in pieces),
            is_complete=len(pieces) < LOG_PIECE,
            store_time=self.store_time,
        )

    async def life(self) -> str:
        self.check()
        return self.mark

    async def compare_clocks(self, process: str, *, agrees: bool) -> ClockReport:
        self.check()
        now = self.store_time
        if now is None:
            return ClockReport()
        if process:
            self.clock_reports.pop(process, None)
            if agrees:
                self.clock_reports[process] = now
        others = [at for name, at in self.clock_reports.items() if name != process]
        return ClockReport(now, sum(now - CLOCK_REPORTS <= at <= now + 1 for at in others))

    async def status(self) -> StoreStatus:
        self.check()
        return StoreStatus(persistent=False, detail="memory")

    async def aclose(self) -> None:
        """Nothing is held."""

    def wake(self) -> None:
        """Let followers look."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _mark(self) -> str:
        return f"{next(_marks):x}"

    def _position(self, number: int | None = None, mark: str | None = None) -> str:
        there = self.trimmed + len(self.log) if number is None else number
        return f"{self.mark}/{there}:{self.head if mark is None else mark}"

    def _read_position(self, position: str) -> int:
        """How many writes the reader has seen. Raises GapError and LossError."""
        life, _, rest = position.partition("/")
        number, _, mark = rest.partition(":")
        if not number.isdecimal():
            raise GapError
        read = int(number)
        if life != self.mark and (life or mark):
            raise LossError
        if read < self.trimmed:
            raise GapError
        if read > self.trimmed + len(self.log):
            raise LossError
        there = self.log[read - self.trimmed - 1].mark if read > self.trimmed else self.base
        if there != mark:
            raise LossError
        return read

    def _above(self, least: int) -> int:
        self.version = max(self.version, least) + 1
        return self.version

    def _known(self, entry_id: str) -> Word | None:
        words: Iterable[Word | None] = (self.all_entries.get(entry_id), self.removals.get(entry_id))
        return max((word for word in words if word is not None), key=rank, default=None)

    def _known_version(self, entry_id: str) -> int:
        known = self._known(entry_id)
        return 0 if known is None else known.version

    def _put_record(self, record: TokenRecord, logged: Logged) -> None:
        record = replace(record, revoked_at=join_ends(record.revoked_at, self.ends.pop(record.id, None)))
        current = self.currents.get(bot_key(record.actor_id))
        if record.revoked_at is None and current is not None and is_replaced(record, current):
            record = replace(record, revoked_at=moment_of(current.version))
        self.all_records[record.id] = record
        logged.records.append(record.id)

    def _end(self, token_id: str, moment: float, logged: Logged) -> None:
        known = self.all_records.get(token_id)
        if known is None:
            self.ends[token_id] = min(moment, self.ends.get(token_id, moment))
            logged.ends.append(token_id)
        elif known.revoked_at is None or moment < known.revoked_at:
            self.all_records[token_id] = replace(known, revoked_at=moment)
            logged.records.append(token_id)

    def _replace(self, current: Current, moment: float, logged: Logged) -> None:
        self.currents[current.bot] = current
        logged.currents.append(current)
        for record in tuple(self.all_records.values()):
            is_its = record.kind is TokenKind.BOT and bot_key(record.actor_id) == current.bot
            if is_its and record.revoked_at is None and is_replaced(record, current):
                self._end(record.id, moment, logged)

    def _heard(self, word: Word, logged: Logged) -> bool:
        known = self._known(word.id)
        if known is not None and rank(word) <= rank(known):
            return rank(word) == rank(known)
        self._say(word, logged)
        return True

    def _say(self, word: Word, logged: Logged) -> None:
        if isinstance(word, RevocationEntry):
            self.removals.pop(word.id, None)
            self.all_entries[word.id] = word
        else:
            self.all_entries.pop(word.id, None)
            self.removals[word.id] = word
        logged.words.append(word)

    def _remove(self, entry_id: str, logged: Logged) -> Removal:
        known = self._known(entry_id)
        ends = known.expires_at if isinstance(known, RevocationEntry) else None
        removal = removal_at(entry_id, self._above(0 if known is None else known.version), ends)
        self._say(removal, logged)
        return removal

    def _done(self, logged: Logged, entries: Entries) -> Receipt:
        if logged.records or logged.words or logged.currents or logged.ends:
            self.log.append(logged)
            self.head = logged.mark
        self.mark = self.mark or logged.mark
        self.wake()
        return Receipt(self.head, entries)


def _start(after: str) -> int:
    """Raises ValueError for what is no mark."""
    number = after.removeprefix("at") if after.startswith("at") else ""
    if after and not number.isdecimal():
        raise ValueError("not the mark of a page")
    return int(number or "0")


def _written(entry: TokenRecord | RevocationEntry) -> tuple[int, float, str]:
    return entry.version, entry.created_at, entry.id
