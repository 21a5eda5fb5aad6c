"""The contract of a store. SQLite and Redis implement it; one test suite checks both."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.store.merge import Entries
from sidecar.store.record import TOKEN_KINDS, Current, TokenRecord
from sidecar.store.revocation_entry import Removal, RevocationEntry


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that are written atomically.

    ``add``: new records (an existing id changes nothing); a new record of a bot revokes that bot's other records at its
    ``created_at`` unless ``keep_bot_tokens``. ``revoke``: ids of records and their time of revocation (the earliest of
    several counts; that of an unknown id is kept for the record). ``add_entries`` and ``remove_entries``: revocation
    entries to add (an existing id is replaced) and ids of entries to remove, known or not.
    """

    add: Sequence[TokenRecord] = ()
    revoke: Sequence[tuple[str, float]] = ()
    add_entries: Sequence[RevocationEntry] = ()
    remove_entries: Sequence[str] = ()
    keep_bot_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """Part of the log, or of a snapshot; ``position`` is the reader's position after it.

    It has only the latest state of each entry. ``marks`` are those of the writes that the reader has then seen; the
    last one is the mark of ``position``. ``is_complete``: there was no later write when the store was asked.
    ``store_time``: the time of the store's own clock, where it has one. ``asked_after``: seconds from the call until
    the store was asked for this. ``skipped`` counts entries that could not be decoded (corrupt, or written by another
    version).
    """

    position: str
    records: tuple[TokenRecord, ...] = ()
    revocations: tuple[RevocationEntry, ...] = ()
    removals: tuple[Removal, ...] = ()
    currents: tuple[Current, ...] = ()
    ends: tuple[tuple[str, float], ...] = ()
    written_at: tuple[float, ...] = ()
    skipped: int = 0
    marks: tuple[str, ...] = field(default=(), compare=False)
    is_complete: bool = field(default=True, compare=False)
    store_time: float | None = field(default=None, compare=False)
    asked_after: float = field(default=0.0, compare=False)

    @property
    def entries(self) -> Entries:
        """The states in it, to be merged."""
        return Entries(self.records, self.ends, self.revocations, self.removals, self.currents)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of a write: the store has all of ``entries``, with the versions that it assigned.

    Of what was to be merged, ``entries`` omits what the store has in a later version. ``mark`` is that of the last
    write in the log at that time: a reader that has read up to it, in the same life of the store, has all of
    ``entries`` or later versions.
    """

    mark: str
    entries: Entries = field(default_factory=Entries)


WriteBatch = Callable[[Batch], Awaitable[object]]
"""Writes a batch durably; this process then sees it. Raises Unavailable(STORE_UNAVAILABLE)."""
WriteOnce = Callable[[Batch], Awaitable[Receipt]]
"""The same, with a receipt, which lacks the records whose ids existed before."""


class GapError(Exception):
    """The log no longer contains the reader's position: a new snapshot is needed."""


class LossError(GapError):
    """The log ends before the reader's position: the store has lost data that the reader has seen."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. ``after`` is the opaque cursor of the next page, empty on the last.

    ``total`` counts all; for the entries of one issuer it may include expired ones.
    """

    records: tuple[TokenRecord, ...] = ()
    entries: tuple[RevocationEntry, ...] = ()
    after: str = ""
    total: int = 0


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Selects records. None matches all token records; registrations of bot names and sessions of browsers must be
    selected by ``kind``. They have no ``actor_id``, so that no listing of an Actor's tokens counts them.

    ``owner`` is (issuer, raw subject), of the provider ``owner_provider``. ``active``: neither revoked nor expired at
    ``now``.
    """

    actor_id: str | None = None
    kind: str | None = None
    active: bool | None = None
    owner: tuple[str, str] | None = None
    owner_provider: str | None = None
    now: float = 0.0

    def matches(self, record: TokenRecord) -> bool:
        """Whether ``record`` is selected."""
        active = record.revoked_at is None and (record.expires_at is None or record.expires_at > self.now)
        return (
            self.actor_id in (None, record.actor_id)
            and (record.kind in TOKEN_KINDS if self.kind is None else self.kind == record.kind.value)
            and self.active in (None, active)
            and self.owner in (None, (record.owner.issuer, record.owner.subject))
            and self.owner_provider in (None, record.owner.provider)
        )


@dataclass(frozen=True, slots=True)
class ClockReport:
    """``time`` of the store's clock; None: it has none, and every process has the clock of its host.

    ``others``: how many other processes have reported within the last :data:`CLOCK_REPORTS` seconds of that clock that
    theirs agrees with it.
    """

    time: float | None = None
    others: int = 0


@dataclass(frozen=True, slots=True)
class Companion:
    """A text that is kept beside a record. ``version`` is 1 for the first one and grows by 1 with each."""

    text: str
    version: int


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """State for operators. ``persistent`` False: the contents are lost when the server restarts."""

    persistent: bool
    detail: str = ""
    problems: tuple[str, ...] = field(default_factory=tuple)


CLOCK_REPORTS = 30.0
"""Seconds for which the report of a process about its clock counts."""


class Store(Protocol):
    """Stores records and revocation entries. Every method raises Unavailable(STORE_UNAVAILABLE) within its time limit.

    ``write`` returns only when the batch is as durable as the store's configuration promises. After a time-out the
    batch may or may not have been written; all readers agree, and writing it again is harmless.
    """

    async def write(self, batch: Batch, after: int = 0) -> Receipt:
        """Write ``batch`` durably, as one step that readers of the log see once.

        The store assigns each entry a version, which is higher than all that it has assigned, than that of the same id,
        and than ``after``, and not lower than the microsecond of its own clock.
        """

    async def merge(self, entries: Entries) -> Receipt:
        """Merge the entries of a copy (see :mod:`sidecar.store.merge`), with their versions, atomically for each kind.

        Assigns the identifier of :meth:`life` if the store has none.
        """

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """Store when records were last used. Best effort: not logged, and an unknown id is ignored."""

    async def record(self, token_id: str) -> TokenRecord | None:
        """The record with that id, also if revoked."""

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        """Records, newest first. Raises ValueError for an invalid cursor ``after``."""

    async def companion(self, record_id: str) -> Companion | None:
        """The text beside the record with that id. It is in no log, snapshot or copy, and a store that was emptied
        does not get it back.
        """

    async def put_companion(self, record_id: str, text: str, expires_at: float, *, after: int) -> bool:
        """Replace the text of the version ``after``, 0: write the first one. False: there is another version.

        It is deleted after ``expires_at``. Writing the same text again is harmless. Raises ValueError for an id that
        cannot be stored.
        """

    async def lock(self, name: str, holder: str, seconds: float) -> bool:
        """Take the lock ``name`` for at most ``seconds``, for all processes. False: another holder has it.

        Raises ValueError for a name that cannot be stored.
        """

    async def unlock(self, name: str, holder: str) -> None:
        """Release a lock, if ``holder`` still has it."""

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """The revocation entry with that id, or None."""

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """Revocation entries not expired at ``now``, newest first. Raises ValueError for an invalid ``after``."""

    def snapshot(self) -> AsyncIterator[Changes]:
        """The whole content, removals included, in pieces of one position. From there, :meth:`follow` misses nothing;
        what is written meanwhile may be among the pieces or not.
        """

    async def follow(self, position: str, wait: float) -> Changes:
        """What was written after ``position``; waits up to ``wait`` seconds for the first change. Raises GapError."""

    async def life(self) -> str:
        """An identifier that exists as long as the store keeps its contents; empty: the store is new or was emptied."""

    async def compare_clocks(self, process: str, *, agrees: bool) -> ClockReport:
        """Report that the clock of ``process`` agrees with the store's, or no longer does; empty: report nothing.

        Not logged, and not part of the contents.
        """

    async def status(self) -> StoreStatus:
        """The state of the store."""

    async def aclose(self) -> None:
        """Close the connections."""
