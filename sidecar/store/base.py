"""The contract of a store. SQLite and Redis keep it alike; one suite of tests holds both to it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.revocation_entry import RevocationEntry


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written at once: all of it or nothing.

    ``add``: new records (one whose id is there already changes nothing); a new record of a bot ends that bot's other
    standing records at its ``created_at`` unless ``keep_bot_tokens``. ``revoke``: ids of records and when they ended
    (one that has ended keeps its end, an unknown id is ignored). ``add_entries`` and ``remove_entries``: denials to add
    (same id again: replaced) and ids of denials to remove.
    """

    add: Sequence[TokenRecord] = ()
    revoke: Sequence[tuple[str, float]] = ()
    add_entries: Sequence[RevocationEntry] = ()
    remove_entries: Sequence[str] = ()
    keep_bot_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """A piece of the log, or of a snapshot, in order of effect; ``position`` is where a reader then stands.

    ``skipped`` counts entries that could not be understood (garbage, other versions).
    """

    position: str
    records: tuple[TokenRecord, ...] = ()
    entries: tuple[RevocationEntry, ...] = ()
    removed: tuple[str, ...] = ()
    written_at: tuple[float, ...] = ()
    skipped: int = 0


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

    async def write(self, batch: Batch) -> None:
        """Write ``batch`` for good, as one step that readers of the log see once."""

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """Remember when records were last used. Best effort: not logged, and an unknown id is ignored."""

    async def record(self, token_id: str) -> TokenRecord | None:
        """The record of that id, ended ones included."""

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        """Records in order of creation, newest first. Raises ValueError for an ``after`` that is no mark."""

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """The denial of that id, or None."""

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """Denials not expired at ``now``, newest first. Raises ValueError for an ``after`` that is no mark."""

    def snapshot(self) -> AsyncIterator[Changes]:
        """Everything that stands, in pieces. From the last piece's position :meth:`follow` misses nothing."""

    async def follow(self, position: str, wait: float) -> Changes:
        """What was written after ``position``; waits up to ``wait`` seconds for the first change. Raises GapError."""

    async def generation(self) -> str:
        """A mark that the store carries as long as it keeps its contents; empty: none, it is new or was emptied."""

    async def restore(
        self, records: Sequence[TokenRecord], entries: Sequence[RevocationEntry], generation: str
    ) -> bool:
        """Put back what a mirror knows into an emptied store and give it ``generation``.

        Entries that are there already win, but an end of a record counts on either side, and a bot's records from
        before one that has replaced them come back ended. False: the store had been given a mark by somebody else;
        what it did not have was added all the same. Followers get GapError when much was put back.
        """

    async def status(self) -> StoreStatus:
        """How the store stands."""

    async def aclose(self) -> None:
        """Let go of connections."""
