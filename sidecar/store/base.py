"""The contract of a store. SQLite and Redis implement it; one test suite checks both."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.revocation_entry import RevocationEntry


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that are written atomically.

    ``add``: new records (an existing id changes nothing); a new record of a bot revokes that bot's other records at its
    ``created_at`` unless ``keep_bot_tokens``. ``revoke``: ids of records and their time of revocation (a revoked record
    keeps its time, an unknown id is ignored). ``add_entries`` and ``remove_entries``: revocation entries to add (an
    existing id is replaced) and ids of entries to remove.
    """

    add: Sequence[TokenRecord] = ()
    revoke: Sequence[tuple[str, float]] = ()
    add_entries: Sequence[RevocationEntry] = ()
    remove_entries: Sequence[str] = ()
    keep_bot_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """Part of the log, or of a snapshot, in order of effect; ``position`` is the reader's position after it.

    ``skipped`` counts log entries that could not be decoded (corrupt, or written by another version).
    """

    position: str
    records: tuple[TokenRecord, ...] = ()
    entries: tuple[RevocationEntry, ...] = ()
    removed: tuple[str, ...] = ()
    written_at: tuple[float, ...] = ()
    skipped: int = 0


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
    """Selects records. None matches all token records; registrations of bot names must be selected by ``kind``.

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
            and (record.kind is not TokenKind.BOT_NAME if self.kind is None else self.kind == record.kind.value)
            and self.active in (None, active)
            and self.owner in (None, (record.owner.issuer, record.owner.subject))
            and self.owner_provider in (None, record.owner.provider)
        )


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """State for operators. ``persistent`` False: the contents are lost when the server restarts."""

    persistent: bool
    detail: str = ""
    problems: tuple[str, ...] = field(default_factory=tuple)


class Store(Protocol):
    """Stores records and revocation entries. Every method raises Unavailable(STORE_UNAVAILABLE) within its time limit.

    ``write`` returns only when the batch is as durable as the store's configuration promises. After a time-out the
    batch may or may not have been written; all readers agree, and writing it again is harmless.
    """

    async def write(self, batch: Batch) -> None:
        """Write ``batch`` durably, as one step that readers of the log see once."""

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """Store when records were last used. Best effort: not logged, and an unknown id is ignored."""

    async def record(self, token_id: str) -> TokenRecord | None:
        """The record with that id, also if revoked."""

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        """Records, newest first. Raises ValueError for an invalid cursor ``after``."""

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """The revocation entry with that id, or None."""

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """Revocation entries not expired at ``now``, newest first. Raises ValueError for an invalid ``after``."""

    def snapshot(self) -> AsyncIterator[Changes]:
        """The whole content, in pieces. From the last piece's position, :meth:`follow` misses nothing."""

    async def follow(self, position: str, wait: float) -> Changes:
        """What was written after ``position``; waits up to ``wait`` seconds for the first change. Raises GapError."""

    async def generation(self) -> str:
        """An identifier that exists as long as the store keeps its contents; empty: the store is new or was emptied."""

    async def restore(
        self, records: Sequence[TokenRecord], entries: Sequence[RevocationEntry], generation: str
    ) -> bool:
        """Write the content of a mirror into an emptied store, and set its ``generation``.

        Existing entries take precedence, but a record revoked on either side stays revoked, and a bot's records that
        were replaced by a newer one are restored as revoked. False: another process has set a generation; missing
        content was added all the same. Followers get GapError after a large restore.
        """

    async def status(self) -> StoreStatus:
        """The state of the store."""

    async def aclose(self) -> None:
        """Close the connections."""
