"""The store in the SQLite file. Rows carry the number of the change that wrote them last: that is the log."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from sidecar.clock import Clock
from sidecar.identity.actor import ActorType
from sidecar.store.base import Batch, Changes, GapError, LossError, Page, RecordQuery, StoreStatus
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.store.revocation_entry import RevocationEntry, Scope
from sidecar.store.sqlite.database import Database

KEEP_DENIALS = 3600.0
"""Seconds for which an expired denial stays, because clocks differ."""
KEEP_RECORDS = 30 * 86400.0
"""Seconds for which an expired record stays in lists."""
LOG_CHANGES = 100_000
"""How many changes readers may be behind."""
POLL = 0.05
"""Seconds between two looks at what other processes have written."""
_MAX_SWEPT = 200
_PIECE = 2000
_LOG_PIECE = 64
_POSITION = re.compile(r"([0-9]{1,18}):([0-9a-f]*)")
_MARK = re.compile(r"([0-9.e+-]{1,40})/(.{0,1000})", re.DOTALL)

_RECORD_COLUMNS = (
    "id", "token_hash", "name", "kind", "format", "description", "actor_type", "actor_id", "roles",
    "allow_impersonation", "is_admin", "owner_issuer", "owner_provider", "owner_subject", "owner_id",
    "created_at", "expires_at", "last_used_at", "revoked_at",
)  # fmt: skip
_DENIAL_COLUMNS = (
    "id", "scope", "issuer", "name", "created_at", "issued_before", "expires_at", "reason", "created_by",
)  # fmt: skip

Value = str | bytes | int | float | None
Row = tuple[Any, ...]


def _insert(table: str, columns: Sequence[str], conflict: str) -> str:
    values = ", ".join("?" * (len(columns) + 1))
    return f"INSERT OR {conflict} INTO {table} (change, {', '.join(columns)}) VALUES ({values})"  # noqa: S608 - names of this file only


_SELECT_RECORDS = f"SELECT {', '.join(_RECORD_COLUMNS)} FROM token_records"  # noqa: S608 - likewise
_SELECT_DENIALS = f"SELECT {', '.join(_DENIAL_COLUMNS)} FROM denials"  # noqa: S608 - likewise
_ADD_RECORD = _insert("token_records", _RECORD_COLUMNS, "IGNORE")
_PUT_DENIAL = _insert("denials", _DENIAL_COLUMNS, "REPLACE")
_ADD_DENIAL = _insert("denials", _DENIAL_COLUMNS, "IGNORE")


class SqliteStore:
    """A :class:`sidecar.store.base.Store` over ``database``, which it closes."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._written = asyncio.Event()

    async def write(self, batch: Batch) -> None:
        """See :class:`sidecar.store.base.Store`."""
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> None:
            change = _next_change(connection, now)
            for record in batch.add:
                if _added(connection, change, record) and record.kind is TokenKind.BOT and not batch.keep_bot_tokens:
                    _replace_bot(connection, change, record)
            _end(connection, change, batch.revoke)
            _deny(connection, change, _PUT_DENIAL, batch.add_entries)
            _forgive(connection, change, batch.remove_entries)
            _sweep(connection, now)

        await self._database.write("write", work)
        self._wake()

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

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """See :class:`sidecar.store.base.Store`."""
        found = await self._rows("read_denial", f"{_SELECT_DENIALS} WHERE id = ?", [entry_id])
        return _denial(found[0]) if found else None

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
            "list_denials", _DENIAL_COLUMNS, _SELECT_DENIALS, where, values, after, limit
        )
        return Page(entries=tuple(filter(None, map(_denial, rows))), after=mark, total=total)

    async def snapshot(self) -> AsyncIterator[Changes]:
        """See :class:`sidecar.store.base.Store`."""
        position = await self._database.read("read_snapshot", _position)
        yield Changes(position)
        async for rows in self._pieces(_SELECT_DENIALS):
            denials = list(map(_denial, rows))
            yield Changes(position, entries=tuple(filter(None, denials)), skipped=denials.count(None))
        async for rows in self._pieces(_SELECT_RECORDS):
            records = list(map(_record, rows))
            yield Changes(position, records=tuple(filter(None, records)), skipped=records.count(None))

    async def follow(self, position: str, wait: float) -> Changes:
        """See :class:`sidecar.store.base.Store`."""
        stands = _POSITION.fullmatch(position)
        if stands is None:
            raise GapError
        change, mark = int(stands[1]), stands[2]
        until = asyncio.get_running_loop().time() + wait
        while True:
            written = self._written
            version = await self._database.version()
            found = await self._database.read("read_changes", lambda connection: _changes(connection, change, mark))
            if found.position != position or not await self._is_written(written, version, until):
                return found

    async def generation(self) -> str:
        """See :class:`sidecar.store.base.Store`."""
        found = await self._rows("read_generation", "SELECT mark FROM generation", [])
        return str(found[0][0]) if found else ""

    async def restore(
        self, records: Sequence[TokenRecord], entries: Sequence[RevocationEntry], generation: str
    ) -> bool:
        """See :class:`sidecar.store.base.Store`."""
        for start in range(0, max(len(records), len(entries)), _PIECE):
            await self._put_back(records[start : start + _PIECE], entries[start : start + _PIECE])

        def work(connection: sqlite3.Connection) -> bool:
            return connection.execute("INSERT OR IGNORE INTO generation VALUES (1, ?)", (generation,)).rowcount == 1

        return await self._database.write("restore", work)

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

    async def _is_written(self, written: asyncio.Event, version: int, until: float) -> bool:
        """Wait for a write of this process or another; False when there was none ``until`` then."""
        clock = asyncio.get_running_loop().time
        while (left := until - clock()) > 0:
            try:
                async with asyncio.timeout(min(POLL, left)):
                    await written.wait()
            except TimeoutError:
                if await self._database.version() == version:
                    continue
            return True
        return False

    async def _put_back(self, records: Sequence[TokenRecord], denials: Sequence[RevocationEntry]) -> None:
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> None:
            change = _next_change(connection, now)
            for record in records:
                if not _added(connection, change, record) and record.revoked_at is not None:
                    _end(connection, change, [(record.id, record.revoked_at)])
            connection.execute(_END_REPLACED, (change, change, TokenKind.BOT.value))
            _deny(connection, change, _ADD_DENIAL, denials)

        await self._database.write("restore", work)
        self._wake()

    async def _rows(self, operation: str, query: str, values: Sequence[Value]) -> list[Row]:
        bound = list(map(_in, values))
        return await self._database.read(operation, lambda connection: connection.execute(query, bound).fetchall())

    async def _pieces(self, select: str) -> AsyncIterator[list[Row]]:
        """All rows, in order of their ids; what is written meanwhile may be among them or not."""
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


# a bot's standing tokens from before one that has replaced them
_END_REPLACED = """UPDATE token_records SET change = ?, revoked_at = replaced.created_at FROM replaced_bots AS replaced
    WHERE token_records.change = ? AND kind = ? AND revoked_at IS NULL AND replaced.actor_id = token_records.actor_id
    AND token_records.created_at <= replaced.created_at"""


def _position(connection: sqlite3.Connection) -> str:
    change, mark = connection.execute("SELECT change, mark FROM changes ORDER BY change DESC LIMIT 1").fetchone()
    return f"{change}:{mark}"


def _changes(connection: sqlite3.Connection, after: int, mark: str) -> Changes:
    """What was written after the change ``after``, some of it when it is much. Raises GapError, LossError."""
    found = connection.execute("SELECT mark FROM changes WHERE change = ?", (after,)).fetchone()
    if found is None and after < _number(connection, "SELECT min(change) FROM changes"):
        raise GapError
    if found != (mark,):
        raise LossError
    query = "SELECT change, mark, written_at FROM changes WHERE change > ? ORDER BY change LIMIT ?"
    log = connection.execute(query, (after, _LOG_PIECE)).fetchall()
    if not log:
        return Changes(f"{after}:{mark}")
    last, last_mark, _ = log[-1]
    span = (after, last)
    written = " WHERE change > ? AND change <= ?"
    records = list(map(_record, connection.execute(_SELECT_RECORDS + written, span)))
    denials = list(map(_denial, connection.execute(_SELECT_DENIALS + written, span)))
    forgiven = connection.execute("SELECT id FROM forgiven WHERE change > ? AND change <= ?", span).fetchall()
    return Changes(
        position=f"{last}:{last_mark}",
        records=tuple(filter(None, records)),
        entries=tuple(filter(None, denials)),
        removed=tuple(_out(row[0]) for row in forgiven),
        written_at=tuple(row[2] for row in log),
        skipped=records.count(None) + denials.count(None),
    )


def _next_change(connection: sqlite3.Connection, now: float) -> int:
    connection.execute("UPDATE change_counter SET value = value + 1")
    change = _number(connection, "SELECT value FROM change_counter")
    connection.execute("INSERT INTO changes VALUES (?, lower(hex(randomblob(8))), ?)", (change, now))
    connection.execute("DELETE FROM changes WHERE change <= ?", (change - LOG_CHANGES,))
    connection.execute("DELETE FROM forgiven WHERE change <= ?", (change - LOG_CHANGES,))
    return change


def _added(connection: sqlite3.Connection, change: int, record: TokenRecord) -> bool:
    """Whether ``record`` was not there yet."""
    owner = record.owner
    row = (
        record.id, record.token_hash, record.name, record.kind.value, record.format, record.description,
        record.actor_type.value, record.actor_id, json.dumps(record.roles), record.allow_impersonation,
        record.is_admin, owner.issuer, owner.provider, owner.subject, owner.id,
        record.created_at, record.expires_at, record.last_used_at, record.revoked_at,
    )  # fmt: skip
    return connection.execute(_ADD_RECORD, [change, *map(_in, row)]).rowcount == 1


def _replace_bot(connection: sqlite3.Connection, change: int, record: TokenRecord) -> None:
    """End every other standing token of the bot that ``record`` belongs to."""
    connection.execute(
        "UPDATE token_records SET revoked_at = ?, change = ?"
        " WHERE kind = ? AND actor_id = ? AND id != ? AND revoked_at IS NULL",
        [record.created_at, change, record.kind.value, _in(record.actor_id), _in(record.id)],
    )
    row = (_in(record.actor_id), record.created_at)
    connection.execute("INSERT OR REPLACE INTO replaced_bots VALUES (?, ?)", row)


def _end(connection: sqlite3.Connection, change: int, ended: Iterable[tuple[str, float]]) -> None:
    connection.executemany(
        "UPDATE token_records SET revoked_at = ?, change = ? WHERE id = ? AND revoked_at IS NULL",
        [(moment, change, _in(token_id)) for token_id, moment in ended],
    )


def _deny(connection: sqlite3.Connection, change: int, statement: str, denials: Sequence[RevocationEntry]) -> None:
    connection.executemany(statement, [(change, *map(_in, _denial_row(denial))) for denial in denials])
    connection.executemany("DELETE FROM forgiven WHERE id = ?", [(_in(denial.id),) for denial in denials])


def _forgive(connection: sqlite3.Connection, change: int, ids: Sequence[str]) -> None:
    connection.executemany("DELETE FROM denials WHERE id = ?", [(_in(denial_id),) for denial_id in ids])
    connection.executemany(
        "INSERT OR REPLACE INTO forgiven VALUES (?, ?)", [(_in(denial_id), change) for denial_id in ids]
    )


def _sweep(connection: sqlite3.Connection, now: float) -> None:
    """Remove some of what is long over."""
    for table, until in (("token_records", now - KEEP_RECORDS), ("denials", now - KEEP_DENIALS)):
        some = f"SELECT id FROM {table} WHERE expires_at <= ? LIMIT {_MAX_SWEPT}"  # noqa: S608 - names from above
        connection.execute(f"DELETE FROM {table} WHERE id IN ({some})", (until,))  # noqa: S608 - likewise


def _conditions(query: RecordQuery) -> tuple[list[str], list[Value]]:
    where: list[str] = []
    values: list[Value] = []
    if query.actor_id is not None:
        where.append("actor_id = ?")
        values.append(query.actor_id)
    where.append("kind != ?" if query.kind is None else "kind = ?")
    values.append(TokenKind.BOT_NAME.value if query.kind is None else query.kind)
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
        )
    except ValueError:
        return None
    return TokenRecord(**values, owner=owner)


def _denial_row(denial: RevocationEntry) -> tuple[Value, ...]:
    return (
        denial.id, denial.scope.value, denial.issuer, denial.name, denial.created_at, denial.issued_before,
        denial.expires_at, denial.reason, denial.created_by,
    )  # fmt: skip


def _denial(row: Row) -> RevocationEntry | None:
    denial_id, scope, *rest = map(_out, row)
    try:
        return RevocationEntry(denial_id, Scope(scope), *rest)
    except ValueError:
        return None


def _in(value: Value) -> Value:
    """``value`` as SQLite takes it: text with half a surrogate pair, which a hostile claim may hold, as octets."""
    if not isinstance(value, str) or value.isascii():
        return value
    octets = value.encode("utf-8", "surrogatepass")
    return value if octets.decode("utf-8", "ignore") == value else octets


def _out(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _read_mark(text: str) -> list[Value]:
    found = _MARK.fullmatch(text)
    if found is None:
        raise ValueError("not the mark of a page")
    return [float(found[1]), _in(found[2])]


def _number(connection: sqlite3.Connection, query: str, values: Sequence[Value] = ()) -> int:
    return int(connection.execute(query, values).fetchone()[0])
