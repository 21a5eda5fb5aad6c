"""The store in an SQLite file. Each row has the number of the change that wrote it last, which is the log."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from sidecar.clock import Clock
from sidecar.identity.actor import ActorType
from sidecar.store.base import (
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
    KEEP_ENTRIES,
    KEEP_RECORDS,
    KEEP_REMOVALS,
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
from sidecar.store.record import TOKEN_KINDS, Current, Owner, TokenKind, TokenRecord, bot_key
from sidecar.store.revocation_entry import Removal, RevocationEntry, Scope
from sidecar.store.sqlite.database import Database

LOG_CHANGES = 100_000
"""Number of changes that the log keeps for readers."""
POLL = 0.05
"""Seconds between two checks for writes of other processes."""
_MAX_SWEPT = 200
_LONGEST_LOCK = 300.0
_BOUND = 500
_PIECE = 2000
_LOG_PIECE = 64
_POSITION = re.compile(r"([0-9]{1,18}):([0-9a-f]*)")
_MARK = re.compile(r"([0-9.e+-]{1,40})/(.{0,1000})", re.DOTALL)

_RECORD_COLUMNS = (
    "id", "token_hash", "name", "kind", "format", "description", "actor_type", "actor_id", "roles",
    "allow_impersonation", "is_admin", "owner_issuer", "owner_provider", "owner_subject", "owner_id",
    "created_at", "expires_at", "last_used_at", "revoked_at", "version",
)  # fmt: skip
_ENTRY_COLUMNS = (
    "id", "scope", "issuer", "name", "created_at", "issued_before", "expires_at", "reason", "created_by",
    "version",
)  # fmt: skip

_VERSION = "coalesce(version, CAST(round(created_at * 1000000) AS INTEGER))"

Value = str | bytes | int | float | None
Row = tuple[Any, ...]


def _insert(table: str, columns: Sequence[str], conflict: str) -> str:
    values = ", ".join("?" * (len(columns) + 1))
    return f"INSERT OR {conflict} INTO {table} (change, {', '.join(columns)}) VALUES ({values})"  # noqa: S608 - names of this file only


_SELECT_RECORDS = f"SELECT {', '.join(_RECORD_COLUMNS)} FROM token_records"  # noqa: S608 - likewise
_SELECT_ENTRIES = f"SELECT {', '.join(_ENTRY_COLUMNS)} FROM denials"  # noqa: S608 - likewise
_PUT_RECORD = _insert("token_records", _RECORD_COLUMNS, "REPLACE")
_PUT_ENTRY = _insert("denials", _ENTRY_COLUMNS, "REPLACE")


class SqliteStore:
    """A :class:`sidecar.store.base.Store` over ``database``, which it closes."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._written = asyncio.Event()

    async def write(self, batch: Batch, after: int = 0) -> Receipt:
        """See :class:`sidecar.store.base.Store`."""
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> Receipt:
            change = _Change(connection, now, after)
            receipt = Receipt(change.mark, change.write(batch))
            change.keep_counter()
            _sweep(connection, now)
            return receipt

        receipt = await self._database.write("write", work)
        self._wake()
        return receipt

    async def merge(self, entries: Entries) -> Receipt:
        """See :class:`sidecar.store.base.Store`."""
        now = self._clock.now()
        receipts: list[Receipt] = []
        for start in range(0, max(1, *map(len, entries.lists)), _PIECE):
            piece = entries.part(start, start + _PIECE)

            def work(connection: sqlite3.Connection, piece: Entries = piece) -> Receipt:
                change = _Change(connection, now, 0)
                receipt = Receipt(change.mark, change.merge(piece))
                change.keep_counter()
                mark = (change.mark.rpartition(":")[2],)
                connection.execute("INSERT OR IGNORE INTO generation VALUES (1, ?)", mark)
                return receipt

            receipts.append(await self._database.write("restore", work))
            self._wake()
        return Receipt(receipts[-1].mark, Entries.joined([receipt.entries for receipt in receipts]))

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """See :class:`sidecar.store.base.Store`."""
        rows = [(moment, _in(token_id)) for token_id, moment in used]
        statement = "UPDATE token_records SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?"
        if rows:
            await self._database.write("touch", lambda connection: connection.executemany(statement, rows).rowcount)

    async def record(self, token_id: str) -> TokenRecord | None:
        """See :class:`sidecar.store.base.Store`."""
        found = await self._rows("read_record", f"{_SELECT_RECORDS} WHERE id = ?", [token_id])
        return _record(found[0]) if found else None

    async def companion(self, record_id: str) -> Companion | None:
        """See :class:`sidecar.store.base.Store`."""
        query = "SELECT text, version FROM companions WHERE id = ? AND expires_at > ?"
        found = await self._rows("read_companion", query, [record_id, self._clock.now()])
        return Companion(*found[0]) if found else None

    async def put_companion(self, record_id: str, text: str, expires_at: float, *, after: int) -> bool:
        """See :class:`sidecar.store.base.Store`."""
        now, identifier = self._clock.now(), _in(record_id)

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM companions WHERE expires_at <= ?", (now,))
            found = connection.execute("SELECT version, text FROM companions WHERE id = ?", (identifier,)).fetchone()
            if found != (after + 1, text):
                if (found[0] if found else 0) != after:
                    return False
                row = (identifier, after + 1, text, expires_at)
                connection.execute("INSERT OR REPLACE INTO companions VALUES (?, ?, ?, ?)", row)
            return True

        return await self._database.write("write_companion", work)

    async def lock(self, name: str, holder: str, seconds: float) -> bool:
        """See :class:`sidecar.store.base.Store`. All processes that have the file open have one clock."""
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> bool:
            # also of a holder whose clock was ahead
            connection.execute("DELETE FROM locks WHERE until <= ? OR until > ?", (now, now + _LONGEST_LOCK))
            connection.execute("INSERT OR IGNORE INTO locks VALUES (?, ?, ?)", (_in(name), holder, now + seconds))
            found = connection.execute("SELECT holder FROM locks WHERE name = ?", (_in(name),)).fetchone()
            return bool(found[0] == holder)

        return await self._database.write("lock", work)

    async def unlock(self, name: str, holder: str) -> None:
        """See :class:`sidecar.store.base.Store`."""
        statement = "DELETE FROM locks WHERE name = ? AND holder = ?"
        await self._database.write(
            "unlock", lambda connection: connection.execute(statement, (_in(name), holder)).rowcount
        )

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """See :class:`sidecar.store.base.Store`."""
        found = await self._rows("read_entry", f"{_SELECT_ENTRIES} WHERE id = ?", [entry_id])
        return _entry(found[0]) if found else None

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        """See :class:`sidecar.store.base.Store`."""
        where, values = _conditions(query)
        rows, mark, total = await self._page(
            "list_records", _RECORD_COLUMNS, _SELECT_RECORDS, where, values, after, limit
        )
        return Page(records=tuple(filter(None, map(_record, rows))), after=mark, total=total)

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """See :class:`sidecar.store.base.Store`."""
        where, values = ["(expires_at IS NULL OR expires_at > ?)"], list[Value]([now])
        if issuer is not None:
            where, values = ["issuer = ?", *where], [issuer, now]
        rows, mark, total = await self._page(
            "list_entries", _ENTRY_COLUMNS, _SELECT_ENTRIES, where, values, after, limit
        )
        return Page(entries=tuple(filter(None, map(_entry, rows))), after=mark, total=total)

    async def snapshot(self) -> AsyncIterator[Changes]:
        """See :class:`sidecar.store.base.Store`."""
        position = await self._database.read("read_snapshot", _position)
        yield Changes(position, marks=(position,))
        removed, replaced, ended = await self._database.read("read_snapshot", _rest)
        yield Changes(position, removals=removed, currents=replaced, ends=ended)
        async for rows in self._pieces(_SELECT_ENTRIES):
            entries = list(map(_entry, rows))
            yield Changes(position, revocations=tuple(filter(None, entries)), skipped=entries.count(None))
        async for rows in self._pieces(_SELECT_RECORDS):
            records = list(map(_record, rows))
            yield Changes(position, records=tuple(filter(None, records)), skipped=records.count(None))

    async def follow(self, position: str, wait: float) -> Changes:
        """See :class:`sidecar.store.base.Store`."""
        stands = _POSITION.fullmatch(position)
        if stands is None:
            raise GapError
        change, mark = int(stands[1]), stands[2]
        clock = asyncio.get_running_loop().time
        started = clock()
        while True:
            asked, written = clock(), self._written
            version = await self._database.version()
            found = await self._database.read("read_changes", lambda connection: _changes(connection, change, mark))
            if found.position != position:
                return replace(found, asked_after=asked - started)
            unchanged = await self._unchanged_since(written, version, asked, started + wait)
            if unchanged is not None:
                return replace(found, asked_after=unchanged - started)

    async def life(self) -> str:
        """See :class:`sidecar.store.base.Store`."""
        found = await self._rows("read_life", "SELECT mark FROM generation", [])
        return str(found[0][0]) if found else ""

    async def compare_clocks(self, process: str, *, agrees: bool) -> ClockReport:
        """See :class:`sidecar.store.base.Store`. All processes that have the file open have one clock."""
        return ClockReport()

    async def status(self) -> StoreStatus:
        """See :class:`sidecar.store.base.Store`."""
        found = await self._rows("status", "SELECT sqlite_version()", [])
        return StoreStatus(persistent=True, detail=f"SQLite {found[0][0]}")

    @property
    def problem(self) -> str:
        """Why the file cannot be written, in one sentence; empty: as far as is known it can."""
        return self._database.problem

    async def aclose(self) -> None:
        """See :class:`sidecar.store.base.Store`."""
        await self._database.aclose()

    def _wake(self) -> None:
        written, self._written = self._written, asyncio.Event()
        written.set()

    async def _unchanged_since(self, written: asyncio.Event, version: int, asked: float, until: float) -> float | None:
        """Wait for a write of this process or another; None: there was one. Else when the last look at the file began,
        which was ``asked`` or later.
        """
        clock = asyncio.get_running_loop().time
        while (left := until - clock()) > 0:
            try:
                async with asyncio.timeout(min(POLL, left)):
                    await written.wait()
            except TimeoutError:
                looked = clock()
                if await self._database.version() == version:
                    asked = looked
                    continue
            return None
        return asked

    async def _rows(self, operation: str, query: str, values: Sequence[Value]) -> list[Row]:
        bound = list(map(_in, values))
        return await self._database.read(operation, lambda connection: connection.execute(query, bound).fetchall())

    async def _pieces(self, select: str) -> AsyncIterator[list[Row]]:
        """All rows, in the order of their ids; rows that are written meanwhile may be included or not."""
        last = ""
        while rows := await self._rows("read_snapshot", f"{select} WHERE id > ? ORDER BY id LIMIT {_PIECE}", [last]):
            yield rows
            last = rows[-1][0]

    async def _page(
        self,
        operation: str,
        columns: Sequence[str],
        select: str,
        where: Sequence[str],
        values: Sequence[Value],
        after: str,
        limit: int,
    ) -> tuple[list[Row], str, int]:
        """The rows of a page, newest first, the mark of the next one, and how many there are in all."""
        start = _read_mark(after) if after else []
        condition = " AND ".join(where) or "TRUE"
        counting = f"SELECT count(*) FROM ({select} WHERE {condition})"  # noqa: S608 - conditions of this file only
        if start:
            condition += " AND (created_at, id) < (?, ?)"
        listing = f"{select} WHERE {condition} ORDER BY created_at DESC, id DESC LIMIT {int(limit) + 1}"
        bound = list(map(_in, values))

        def work(connection: sqlite3.Connection) -> tuple[list[Row], int]:
            rows = connection.execute(listing, [*bound, *start]).fetchall()
            return rows, _number(connection, counting, bound)

        rows, total = await self._database.read(operation, work)
        if len(rows) <= limit:
            return rows, "", total
        last = dict(zip(columns, rows[limit - 1], strict=True))
        return rows[:limit], f"{last['created_at']!r}/{_out(last['id'])}", total


def _position(connection: sqlite3.Connection) -> str:
    change, mark = connection.execute("SELECT change, mark FROM changes ORDER BY change DESC LIMIT 1").fetchone()
    return f"{change}:{mark}"


def _changes(connection: sqlite3.Connection, after: int, mark: str) -> Changes:
    """What was written after the change ``after``, or a part of it. Raises GapError and LossError."""
    found = connection.execute("SELECT mark FROM changes WHERE change = ?", (after,)).fetchone()
    if found is None and after < _number(connection, "SELECT min(change) FROM changes"):
        raise GapError
    if found != (mark,):
        raise LossError
    query = "SELECT change, mark, written_at FROM changes WHERE change > ? ORDER BY change LIMIT ?"
    log = connection.execute(query, (after, _LOG_PIECE)).fetchall()
    if not log:
        return Changes(f"{after}:{mark}")
    last, last_mark, written = log[-1]
    span = (after, last)
    within = " WHERE change > ? AND change <= ?"
    records = list(map(_record, connection.execute(_SELECT_RECORDS + within, span)))
    entries = list(map(_entry, connection.execute(_SELECT_ENTRIES + within, span)))
    removals, currents, ends = _rest(connection, within, span)
    # of a process of an earlier version, which gives no versions
    plain = connection.execute(f"SELECT id FROM forgiven {within} AND id NOT IN (SELECT id FROM removed)", span)  # noqa: S608 - text of this file
    unversioned = [removal_at(_out(name), round(written * 1e6)) for (name,) in plain.fetchall()]
    return Changes(
        position=f"{last}:{last_mark}",
        records=tuple(filter(None, records)),
        revocations=tuple(filter(None, entries)),
        removals=(*removals, *unversioned),
        currents=currents,
        ends=ends,
        written_at=tuple(row[2] for row in log),
        skipped=records.count(None) + entries.count(None),
        marks=tuple(f"{number}:{text}" for number, text, _ in log),
        is_complete=len(log) < _LOG_PIECE,
    )


def _rest(
    connection: sqlite3.Connection, within: str = "", span: tuple[int, ...] = ()
) -> tuple[tuple[Removal, ...], tuple[Current, ...], tuple[tuple[str, float], ...]]:
    """Removals, current tokens of bots, and ends of records that do not exist."""
    removals = connection.execute(f"SELECT id, version, until FROM removed{within}", span).fetchall()  # noqa: S608 - text of this file
    currents = connection.execute(f"SELECT bot, version, id FROM bot_currents{within}", span).fetchall()  # noqa: S608 - likewise
    ends = connection.execute(f"SELECT id, moment FROM ends{within}", span).fetchall()  # noqa: S608 - likewise
    return (
        tuple(Removal(_out(name), version, until) for name, version, until in removals),
        tuple(Current(bot, version, _out(name)) for bot, version, name in currents),
        tuple((_out(name), moment) for name, moment in ends),
    )


class _Change:
    """One change of the file: what is written is merged as ``sidecar.store.merge`` says."""

    def __init__(self, connection: sqlite3.Connection, now: float, after: int) -> None:
        self._connection = connection
        connection.execute("UPDATE change_counter SET value = value + 1")
        self._number = _number(connection, "SELECT value FROM change_counter")
        connection.execute("INSERT INTO changes VALUES (?, lower(hex(randomblob(8))), ?)", (self._number, now))
        for table in ("changes", "forgiven"):
            connection.execute(f"DELETE FROM {table} WHERE change <= ?", (self._number - LOG_CHANGES,))  # noqa: S608 - names from above
        self.mark = _position(connection)
        last, clock = connection.execute(
            "SELECT version, CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) * 1000 FROM version_counter"
        ).fetchone()
        self._version: int = max(last, clock - 1, after)

    def keep_counter(self) -> None:
        """Store the last version that was assigned or read."""
        self._connection.execute("UPDATE version_counter SET version = ?", (self._version,))

    def write(self, batch: Batch) -> Entries:
        """Write ``batch`` with new versions. Returns it as written, without records that existed before."""
        added = [record for record in map(self._minted, batch.add) if record is not None]
        currents = [] if batch.keep_bot_tokens else currents_of(added)
        for record in () if batch.keep_bot_tokens else added:
            for current in currents_of([record]):
                self._replace(current, record.created_at, [_in(record.actor_id)])
        for token_id, moment in batch.revoke:
            self._end(token_id, moment)
        words = self._words([entry.id for entry in batch.add_entries])
        denied = [replace(entry, version=self._above(words.get(entry.id))) for entry in batch.add_entries]
        self._deny(denied)
        removed = [self._taken_off(entry_id) for entry_id in batch.remove_entries]
        return Entries(added, batch.revoke, denied, removed, currents)

    def merge(self, entries: Entries) -> Entries:
        """Merge ``entries``. Returns them without what the file has in a later version."""
        self._version = max(self._version, entries.version)
        for record in entries.records:
            known = self._record(record.id)
            joined = record if known is None else join_records(known, record)
            if known is None or joined != known or joined.version != known.version:
                self._put_record(joined)
        for token_id, moment in entries.ends:
            self._end(token_id, moment)
        for current in entries.currents:
            known_current = self._current(current.bot)
            if known_current is None or join_currents(known_current, current) != known_current:
                self._replace(current, moment_of(current.version), self._bots(current.bot))
        words = self._words([entry.id for entry in entries.revocations])
        ranks = {name: rank(word) for name, word in words.items()}
        kept = [entry for entry in entries.revocations if entry.id not in words or rank(entry) >= ranks[entry.id]]
        self._deny(sorted((entry for entry in kept if rank(entry) != ranks.get(entry.id)), key=rank))
        return replace(
            entries,
            revocations=kept,
            removals=[removal for removal in entries.removals if self._put_removal(removal)],
        )

    def _above(self, known: Word | None) -> int:
        self._version = max(self._version, 0 if known is None else known.version) + 1
        return self._version

    def _minted(self, record: TokenRecord) -> TokenRecord | None:
        """``record`` with its version; None: it exists already."""
        if self._record(record.id) is not None:
            return None
        current = self._current(bot_key(record.actor_id)) if record.kind is TokenKind.BOT else None
        self._version = max(self._version, 0 if current is None else current.version) + 1
        minted = replace(record, version=self._version)
        self._put_record(minted)
        return minted

    def _record(self, token_id: str) -> TokenRecord | None:
        row = self._connection.execute(f"{_SELECT_RECORDS} WHERE id = ?", (_in(token_id),)).fetchone()
        return None if row is None else _record(row)

    def _put_record(self, record: TokenRecord) -> None:
        """Write ``record``, revoked if an end or a later token of its bot is stored."""
        found = self._connection.execute("SELECT moment FROM ends WHERE id = ?", (_in(record.id),)).fetchone()
        if found is not None:
            record = replace(record, revoked_at=join_ends(record.revoked_at, found[0]))
            self._connection.execute("DELETE FROM ends WHERE id = ?", (_in(record.id),))
        current = self._current(bot_key(record.actor_id)) if record.kind is TokenKind.BOT else None
        if current is not None and record.revoked_at is None and is_replaced(record, current):
            record = replace(record, revoked_at=moment_of(current.version))
        owner = record.owner
        row = (
            record.id, record.token_hash, record.name, record.kind.value, record.format, record.description,
            record.actor_type.value, record.actor_id, json.dumps(record.roles), record.allow_impersonation,
            record.is_admin, owner.issuer, owner.provider, owner.subject, owner.id,
            record.created_at, record.expires_at, record.last_used_at, record.revoked_at, record.version,
        )  # fmt: skip
        self._connection.execute(_PUT_RECORD, [self._number, *map(_in, row)])

    def _end(self, token_id: str, moment: float) -> None:
        """Revoke a record; if it does not exist, keep the time for it."""
        values = {"moment": moment, "change": self._number, "id": _in(token_id)}
        self._connection.execute(
            "UPDATE token_records SET revoked_at = :moment, change = :change"
            " WHERE id = :id AND (revoked_at IS NULL OR revoked_at > :moment)",
            values,
        )
        self._connection.execute(
            "INSERT INTO ends SELECT :id, :change, :moment"
            " WHERE NOT EXISTS (SELECT 1 FROM token_records WHERE id = :id)"
            " ON CONFLICT (id) DO UPDATE SET moment = excluded.moment, change = excluded.change"
            " WHERE excluded.moment < moment",
            values,
        )

    def _current(self, bot: str) -> Current | None:
        row = self._connection.execute("SELECT bot, version, id FROM bot_currents WHERE bot = ?", (bot,)).fetchone()
        return None if row is None else Current(row[0], row[1], _out(row[2]))

    def _bots(self, bot: str) -> list[Value]:
        """Names of the bots with that key that have valid tokens."""
        query = "SELECT DISTINCT actor_id FROM token_records WHERE kind = ? AND revoked_at IS NULL"
        names = self._connection.execute(query, (TokenKind.BOT.value,)).fetchall()
        return [name for (name,) in names if bot_key(_out(name)) == bot]

    def _replace(self, current: Current, moment: float, names: Sequence[Value]) -> None:
        """Make ``current`` the token of the bot with these ``names``, and revoke the earlier ones."""
        row = (current.bot, self._number, current.version, _in(current.id))
        self._connection.execute("INSERT OR REPLACE INTO bot_currents VALUES (?, ?, ?, ?)", row)
        for name in names:
            self._connection.execute(
                "UPDATE token_records SET revoked_at = ?, change = ?"  # noqa: S608 - text of this file
                f" WHERE kind = ? AND actor_id = ? AND revoked_at IS NULL AND id != ? AND ({_VERSION}, id) < (?, ?)",
                (moment, self._number, TokenKind.BOT.value, name, row[3], current.version, row[3]),
            )

    def _words(self, ids: Sequence[str]) -> dict[str, Word]:
        """The stored state of each of these entries."""
        words: dict[str, Word] = {}
        for start in range(0, len(ids), _BOUND):
            some = [_in(entry_id) for entry_id in ids[start : start + _BOUND]]
            among = f"WHERE id IN ({', '.join('?' * len(some))})"
            for row in self._connection.execute(f"SELECT id, version, until FROM removed {among}", some):  # noqa: S608 - marks only
                words[_out(row[0])] = Removal(_out(row[0]), *row[1:])
            for entry in map(_entry, self._connection.execute(f"{_SELECT_ENTRIES} {among}", some)):
                if entry is not None:
                    removal = words.get(entry.id)
                    words[entry.id] = entry if removal is None else join_words(removal, entry)
        return words

    def _deny(self, entries: Sequence[RevocationEntry]) -> None:
        """Write ``entries`` to the revocation list."""
        ids = [(_in(entry.id),) for entry in entries]
        self._connection.executemany("DELETE FROM removed WHERE id = ?", ids)
        self._connection.executemany("DELETE FROM forgiven WHERE id = ?", ids)
        rows = [(self._number, *map(_in, _entry_row(entry))) for entry in entries]
        self._connection.executemany(_PUT_ENTRY, rows)

    def _put_removal(self, removal: Removal) -> bool:
        """Write ``removal`` unless the file has a later state. False: it has."""
        known = self._words([removal.id]).get(removal.id)
        if known is not None and rank(removal) <= rank(known):
            return rank(removal) == rank(known)
        self._remove(removal)
        return True

    def _remove(self, removal: Removal) -> Removal:
        row = (_in(removal.id), self._number, removal.version, removal.until)
        self._connection.execute("DELETE FROM denials WHERE id = ?", row[:1])
        self._connection.execute("INSERT OR REPLACE INTO removed VALUES (?, ?, ?, ?)", row)
        # for processes of an earlier version
        self._connection.execute("INSERT OR REPLACE INTO forgiven VALUES (?, ?)", row[:2])
        return removal

    def _taken_off(self, entry_id: str) -> Removal:
        # also if it is removed already: a copy may have a later entry that the file does not have
        known = self._words([entry_id]).get(entry_id)
        ends = known.expires_at if isinstance(known, RevocationEntry) else None
        return self._remove(removal_at(entry_id, self._above(known), ends))


def _sweep(connection: sqlite3.Connection, now: float) -> None:
    """Delete some of what ended long ago, by the clock of this process and that of the host."""
    now = min(now, connection.execute("SELECT (julianday('now') - 2440587.5) * 86400.0").fetchone()[0])
    over = (
        ("token_records", "expires_at", now - KEEP_RECORDS),
        ("denials", "expires_at", now - KEEP_ENTRIES),
        ("removed", "until", now - KEEP_ENTRIES),
        ("ends", "moment", now - KEEP_REMOVALS),
    )
    for table, column, until in over:
        some = f"SELECT id FROM {table} WHERE {column} <= ? LIMIT {_MAX_SWEPT}"  # noqa: S608 - names from above
        connection.execute(f"DELETE FROM {table} WHERE id IN ({some})", (until,))  # noqa: S608 - likewise


def _conditions(query: RecordQuery) -> tuple[list[str], list[Value]]:
    where: list[str] = []
    values: list[Value] = []
    if query.actor_id is not None:
        where.append("actor_id = ?")
        values.append(query.actor_id)
    if query.kind is None:
        where.append(f"kind IN ({', '.join('?' * len(TOKEN_KINDS))})")
        values += [kind.value for kind in TOKEN_KINDS]
    else:
        where.append("kind = ?")
        values.append(query.kind)
    if query.owner is not None:
        where.append("owner_issuer = ? AND owner_subject = ?")
        values += query.owner
    if query.owner_provider is not None:
        where.append("owner_provider = ?")
        values.append(query.owner_provider)
    if query.active is not None:
        is_active = "(revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?))"
        where.append(is_active if query.active else f"NOT {is_active}")
        values.append(query.now)
    return where, values


def _record(row: Row) -> TokenRecord | None:
    try:
        values = dict(zip(_RECORD_COLUMNS, map(_out, row), strict=True))
        owner = Owner(*(values.pop(f"owner_{part}") for part in ("issuer", "provider", "subject", "id")))
        values.update(
            kind=TokenKind(values["kind"]),
            actor_type=ActorType(values["actor_type"]),
            roles=tuple(json.loads(values["roles"])),
            allow_impersonation=bool(values["allow_impersonation"]),
            is_admin=bool(values["is_admin"]),
            version=_version(values["version"], values["created_at"]),
        )
    except ValueError:
        return None
    return TokenRecord(**values, owner=owner)


def _entry_row(entry: RevocationEntry) -> tuple[Value, ...]:
    return (
        entry.id, entry.scope.value, entry.issuer, entry.name, entry.created_at, entry.issued_before,
        entry.expires_at, entry.reason, entry.created_by, entry.version,
    )  # fmt: skip


def _entry(row: Row) -> RevocationEntry | None:
    if bytes in map(type, row):
        row = tuple(map(_out, row))
    entry_id, scope, issuer, name, created_at, issued_before, expires_at, reason, created_by, version = row
    try:
        return RevocationEntry(
            entry_id,
            Scope(scope),
            issuer,
            name,
            created_at,
            issued_before,
            expires_at,
            reason,
            created_by,
            _version(version, created_at),
        )
    except ValueError:
        return None


def _version(version: int | None, created_at: float) -> int:
    """The version of a row; without one, the microsecond of its creation."""
    return round(created_at * 1e6) if version is None else version


def _in(value: Value) -> Value:
    """``value`` for SQLite: text with a lone surrogate, which a hostile claim may contain, as bytes."""
    if not isinstance(value, str) or value.isascii():
        return value
    encoded = value.encode("utf-8", "surrogatepass")
    return value if encoded.decode("utf-8", "ignore") == value else encoded


def _out(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _read_mark(text: str) -> list[Value]:
    found = _MARK.fullmatch(text)
    if found is None:
        raise ValueError("not the mark of a page")
    return [float(found[1]), _in(found[2])]


def _number(connection: sqlite3.Connection, query: str, values: Sequence[Value] = ()) -> int:
    return int(connection.execute(query, values).fetchone()[0])
