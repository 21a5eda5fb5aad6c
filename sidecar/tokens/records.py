"""Where token records last, and the memory copy that requests ask. Times are seconds since the epoch."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sidecar.clock import Clock
from sidecar.db import Database
from sidecar.errors import Unavailable
from sidecar.identity.actor import ActorType
from sidecar.metrics import Metrics
from sidecar.store.record import Owner, TokenKind, TokenRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """Records written after a known point, in order, and the point that a reader has then reached."""

    reached: int
    records: tuple[TokenRecord, ...]


class RecordStore(Protocol):
    """Where records last. Every method raises Unavailable(STORE_UNAVAILABLE)."""

    async def add(self, record: TokenRecord) -> None:
        """Write ``record`` for good. A bot's new token ends its older ones in the same step."""

    async def get(self, token_id: str) -> TokenRecord | None:
        """The record of that id, ended ones included."""

    async def changes(self, after: int) -> Changes:
        """What was written after ``after`` (0: everything); after a loss of data everything, and a lower point."""


class SqliteRecords:
    """Records in the SQLite file. Writes of all processes are numbered in the order in which they take effect."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: TokenRecord) -> None:
        """See :class:`RecordStore`."""

        def work(connection: sqlite3.Connection) -> None:
            change = _next_change(connection)
            if record.kind is TokenKind.BOT:
                connection.execute(
                    "UPDATE token_records SET revoked_at = ?, change = ?"
                    " WHERE kind = ? AND actor_id = ? AND revoked_at IS NULL",
                    (record.created_at, change, record.kind.value, record.actor_id),
                )
            connection.execute(_INSERT, {**_to_row(record), "change": change})

        await self._database.write("add_record", work)

    async def get(self, token_id: str) -> TokenRecord | None:
        """See :class:`RecordStore`."""

        def work(connection: sqlite3.Connection) -> TokenRecord | None:
            row = connection.execute(f"{_SELECT} WHERE id = ?", (token_id,)).fetchone()
            return None if row is None else _from_row(row)

        return await self._database.read("get_record", work)

    async def changes(self, after: int) -> Changes:
        """See :class:`RecordStore`."""

        def work(connection: sqlite3.Connection) -> Changes:
            reached: int = connection.execute("SELECT value FROM change_counter").fetchone()[0]
            if reached == after:
                return Changes(reached, ())
            start = after if reached > after else 0
            rows = connection.execute(f"{_SELECT} WHERE change > ? ORDER BY change", (start,)).fetchall()
            return Changes(reached, tuple(map(_from_row, rows)))

        return await self._database.read("read_changes", work)


_COLUMNS = (
    "id", "token_hash", "name", "kind", "format", "description", "actor_type", "actor_id", "roles",
    "allow_impersonation", "is_admin", "owner_issuer", "owner_provider", "owner_subject", "owner_id",
    "created_at", "expires_at", "last_used_at", "revoked_at",
)  # fmt: skip
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM token_records"  # noqa: S608 - made of the names above only
_VALUES = ", ".join(f":{column}" for column in _COLUMNS)
_INSERT = f"INSERT INTO token_records (change, {', '.join(_COLUMNS)}) VALUES (:change, {_VALUES})"  # noqa: S608 - likewise


def _next_change(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE change_counter SET value = value + 1")
    return int(connection.execute("SELECT value FROM change_counter").fetchone()[0])


def _to_row(record: TokenRecord) -> dict[str, object]:
    row: dict[str, object] = {column: getattr(record, column, None) for column in _COLUMNS}
    owner = record.owner
    row.update(
        kind=record.kind.value,
        actor_type=record.actor_type.value,
        roles=json.dumps(record.roles),
        owner_issuer=owner.issuer,
        owner_provider=owner.provider,
        owner_subject=owner.subject,
        owner_id=owner.id,
    )
    return row


def _from_row(row: tuple[Any, ...]) -> TokenRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    owner = Owner(*(values.pop(f"owner_{part}") for part in ("issuer", "provider", "subject", "id")))
    values.update(
        kind=TokenKind(values["kind"]),
        actor_type=ActorType(values["actor_type"]),
        roles=tuple(json.loads(values["roles"])),
        allow_impersonation=bool(values["allow_impersonation"]),
        is_admin=bool(values["is_admin"]),
    )
    return TokenRecord(**values, owner=owner)


class RecordMirror:
    """Every record that may still matter in memory, kept up by following the store, so that requests never wait.

    One exception: an id that the memory does not know is asked of the store, at most once in ``ASK_AGAIN`` seconds
    per id, because it may have been minted a moment ago by another process.
    """

    POLL = 0.2
    ASK_AGAIN = 5.0
    KEEP_EXPIRED = 86400.0
    _PRUNE = 3600.0
    _MOST_UNKNOWN = 10_000

    def __init__(
        self,
        store: RecordStore,
        clock: Clock,
        metrics: Metrics,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wait = wait
        self._records: dict[str, TokenRecord] = {}
        self._bots: set[str] = set()
        self._reached = 0
        self._read_at: float | None = None
        self._pruned_at = clock.monotonic()
        self._refreshing = asyncio.Lock()
        self._unknown: OrderedDict[str, tuple[float, asyncio.Task[TokenRecord | None]]] = OrderedDict()
        self._follower: asyncio.Task[None] | None = None
        metrics.watch(metrics.revocation_mirror_age, lambda: self.age)

    async def start(self) -> None:
        """Read everything once and follow the store from then on. A store that is down does not stop the start."""
        with contextlib.suppress(Unavailable):
            await self.refresh()
        self._follower = asyncio.create_task(self._follow(), name="record mirror")

    async def aclose(self) -> None:
        """Stop following."""
        tasks: list[asyncio.Task[Any]] = [task for _, task in self._unknown.values()]
        if self._follower is not None:
            tasks.append(self._follower)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def age(self) -> float:
        """Seconds since the memory last agreed with the store; infinite before the first time."""
        return float("inf") if self._read_at is None else self._clock.monotonic() - self._read_at

    def status(self, token_id: str) -> TokenRecord | None:
        """The record as the memory has it. Never waits."""
        return self._records.get(token_id)

    def is_bot_name(self, name: str) -> bool:
        """Whether a bot of that name is on record, ended tokens included: nobody else may take its name."""
        return name in self._bots

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record, asked of the store when the memory has none.

        Raises Unavailable(STORE_UNAVAILABLE) when the store cannot be asked.
        """
        known = self._records.get(token_id)
        if known is not None:
            return known
        now = self._clock.monotonic()
        asked = self._unknown.get(token_id)
        if asked is None or now - asked[0] >= self.ASK_AGAIN:
            asked = (now, asyncio.create_task(self._ask(token_id)))
            self._unknown[token_id] = asked
            if len(self._unknown) > self._MOST_UNKNOWN:
                self._unknown.popitem(last=False)
        # shielded: the first asker may leave, the others still want to know
        return await asyncio.shield(asked[1])

    async def refresh(self) -> None:
        """Take over what was written since the last time. Raises Unavailable."""
        async with self._refreshing:
            read_at = self._clock.monotonic()
            changes = await self._store.changes(self._reached)
            if changes.reached < self._reached:
                log.critical("the store has lost records: all of it is read anew")
                self._records.clear()
            for record in changes.records:
                self._remember(record)
            self._reached = changes.reached
            self._read_at = read_at
        self._prune()

    async def _ask(self, token_id: str) -> TokenRecord | None:
        record = await self._store.get(token_id)
        if record is not None:
            self._remember(record)
        return record

    def _remember(self, record: TokenRecord) -> None:
        if record.kind is TokenKind.BOT:
            self._bots.add(record.actor_id)
        known = self._records.get(record.id)
        if known is None or known.revoked_at is None:
            # otherwise an answer that was on its way would bring a revoked token back
            self._records[record.id] = record

    def _prune(self) -> None:
        """Long expired tokens are refused by their own ``exp``; their records need no memory."""
        if self._clock.monotonic() - self._pruned_at < self._PRUNE:
            return
        self._pruned_at = self._clock.monotonic()
        ended = self._clock.now() - self.KEEP_EXPIRED
        for record in [record for record in self._records.values() if (record.expires_at or ended) < ended]:
            del self._records[record.id]

    async def _follow(self) -> None:
        failing = False
        while True:
            await self._wait(self.POLL)
            try:
                await self.refresh()
            except Unavailable as failure:
                if not failing:
                    log.warning("records cannot be read", extra={"cause": failure.cause, "detail": failure.detail})
                failing = True
            else:
                failing = False
