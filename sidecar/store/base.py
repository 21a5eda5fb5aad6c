"""The contract of a store. SQLite and Redis keep it alike; one suite of tests holds both to it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.store.merge import Entries
from sidecar.store.record import Current, TokenKind, TokenRecord
from sidecar.store.revocation_entry import Removal, RevocationEntry


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written as one step: all of it or nothing.

    ``add``: new records (one whose id is there already changes nothing); a new record of a bot ends that bot's other
    standing records at its ``created_at`` unless ``keep_bot_tokens``. ``revoke``: ids of records and when they ended
    (of several ends the earliest counts; that of an unknown id is kept for the record). ``add_entries`` and
    ``remove_entries``: denials to add (same id again: replaced) and ids of denials to remove, known or not.
    """

    add: Sequence[TokenRecord] = ()
    revoke: Sequence[tuple[str, float]] = ()
    add_entries: Sequence[RevocationEntry] = ()
    remove_entries: Sequence[str] = ()
    keep_bot_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """A piece of the log, or of a snapshot; ``position`` is where a reader then stands.

    Of each denial it has only the last word. ``marks`` are those of the writes that the reader has then seen, the last
    one is the mark of ``position``. ``is_complete``: nothing had been written behind it when the store was asked.
    ``store_time``: what the store's own clock said then, where it has one. ``skipped`` counts entries that could not be
    understood (garbage, other versions).
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

    @property
    def entries(self) -> Entries:
        """What is said, to be merged."""
        return Entries(self.records, self.ends, self.revocations, self.removals, self.currents)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the store promises of a write: it has all of ``entries``, with the versions that it gave.

    Of what was to be merged, ``entries`` leaves out what the store knows better. ``mark`` is that of the last write of
    the log by then: a reader who sees it in the log of the same life of the store sees everything of ``entries``, or
    what has come of it.
    """

    mark: str
    entries: Entries = field(default_factory=Entries)


class GapError(Exception):
    """The log no longer reaches back to the reader's position: a new snapshot is needed."""


class LossError(GapError):
    """The log ends before the reader's position: the store has lost what the reader has seen."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. ``after`` is the opaque mark of the next page, empty on the last.

    ``total`` counts all; of the denials of one issuer it may still count some that have expired.
    """

    records: tuple[TokenRecord, ...] = ()
    entries: tuple[RevocationEntry, ...] = ()
    after: str = ""
    total: int = 0


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Which records: None asks for any of tokens; a name that is kept for a bot has to be asked for by its ``kind``.

    ``owner`` is (issuer, raw subject), of the provider ``owner_provider``. ``active``: not ended at ``now``.
    """

    actor_id: str | None = None
    kind: str | None = None
    active: bool | None = None
    owner: tuple[str, str] | None = None
    owner_provider: str | None = None
    now: float = 0.0

    def matches(self, record: TokenRecord) -> bool:
        """Whether ``record`` is one of them."""
        active = record.revoked_at is None and (record.expires_at is None or record.expires_at > self.now)
        return (
            self.actor_id in (None, record.actor_id)
            and (record.kind is not TokenKind.BOT_NAME if self.kind is None else self.kind == record.kind.value)
            and self.active in (None, active)
            and self.owner in (None, (record.owner.issuer, record.owner.subject))
            and self.owner_provider in (None, record.owner.provider)
        )


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What an operator wants to know. ``persistent`` False: contents are lost when the server restarts."""

    persistent: bool
    detail: str = ""
    problems: tuple[str, ...] = field(default_factory=tuple)


class Store(Protocol):
    """Where records and denials last. Every method raises Unavailable(STORE_UNAVAILABLE) within its deadline.

    ``write`` answers only when the batch survives what the store's configuration promises to survive. After a
    time-out the batch may or may not have happened; every reader agrees on which, and writing it again is harmless.
    """

    async def write(self, batch: Batch, after: int = 0) -> Receipt:
        """Write ``batch`` for good, as one step that readers of the log see once.

        The store gives each entry a version of its own, higher than any that it has given, than what it holds of the
        same id, than ``after``, and than the microsecond of its own clock.
        """

    async def merge(self, entries: Entries) -> Receipt:
        """Merge what a copy knows (see :mod:`sidecar.store.merge`), versions and all, in one step for each kind.

        Gives the store a mark of its life where it has none.
        """

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """Remember when records were last used. Best effort: not logged, and an unknown id is ignored."""

    async def record(self, token_id: str) -> TokenRecord | None:
        """The record of that id, ended ones included."""

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        """Records in order of creation, newest first. Raises ValueError for an ``after`` that is no mark."""

    async def entry(self, denial_id: str) -> RevocationEntry | None:
        """The denial of that id, or None."""

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """Denials not expired at ``now``, newest first. Raises ValueError for an ``after`` that is no mark."""

    def snapshot(self) -> AsyncIterator[Changes]:
        """Everything that stands, and what was removed, in pieces of one position. From there :meth:`follow` misses
        nothing; what was written meanwhile may be among the pieces or not.
        """

    async def follow(self, position: str, wait: float) -> Changes:
        """What was written after ``position``; waits up to ``wait`` seconds for the first change. Raises GapError."""

    async def life(self) -> str:
        """A mark that the store carries as long as it keeps its contents; empty: none, it is new or was emptied."""

    async def status(self) -> StoreStatus:
        """How the store stands."""

    async def aclose(self) -> None:
        """Let go of connections."""
