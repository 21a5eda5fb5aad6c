"""The SQLite file: access to it, its schema and versions, and the thread that owns the connection.

Write-ahead logging lets several processes use one file; ``synchronous=FULL`` makes a write that was answered survive a
killed process and a power failure. Every SQLite error is raised as Unavailable or Misconfigured.
"""

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.metrics import Metrics

T = TypeVar("T")
_log = logging.getLogger("sidecar.db")

_APPLICATION_ID = 0x61755363
_BUSY_TIMEOUT = 2.0
_BUSY_PAUSE = 0.01
_DEADLINE = 4.0
# While the file cannot be written: how often that is tried again, and how often it is said.
_RETRY_INTERVAL = 2.0
_LOG_INTERVAL = 60.0
_MIN_ROOM = 64 * 1024  # less than the -wal and -shm of a file that is opened take up

# One entry per schema version, never edited once released: a file is brought up by those it has not seen.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE change_counter (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL)",
        "INSERT INTO change_counter VALUES (1, 0)",
        """CREATE TABLE token_records (
            id TEXT PRIMARY KEY,
            change INTEGER NOT NULL,
            token_hash TEXT NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            format TEXT NOT NULL,
            description TEXT NOT NULL,
            actor_type TEXT NOT NULL,
            actor_id TEXT NOT NULL,
            roles TEXT NOT NULL,
            allow_impersonation INTEGER NOT NULL,
            is_admin INTEGER NOT NULL,
            owner_issuer TEXT NOT NULL,
            owner_provider TEXT NOT NULL,
            owner_subject TEXT NOT NULL,
            owner_id TEXT NOT NULL,
            created_at REAL NOT NULL,
            expires_at REAL,
            last_used_at REAL,
            revoked_at REAL
        ) WITHOUT ROWID""",
        "CREATE INDEX token_records_by_change ON token_records (change)",
        "CREATE INDEX token_records_by_actor ON token_records (actor_id, kind)",
    ),
    (
        # The log: one row for every change that readers may still stand at, the present one included. The mark tells
        # a file from an older copy of itself.
        "CREATE TABLE changes (change INTEGER PRIMARY KEY, mark TEXT NOT NULL, written_at REAL NOT NULL)",
        "INSERT INTO changes SELECT value, lower(hex(randomblob(8))), 0 FROM change_counter",
        """CREATE TABLE denials (
            id TEXT PRIMARY KEY,
            change INTEGER NOT NULL,
            scope TEXT NOT NULL,
            issuer TEXT NOT NULL,
            name TEXT NOT NULL,
            created_at REAL NOT NULL,
            issued_before REAL,
            expires_at REAL,
            reason TEXT NOT NULL,
            created_by TEXT NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX denials_by_change ON denials (change)",
        "CREATE INDEX denials_by_time ON denials (created_at, id)",
        "CREATE INDEX denials_by_issuer ON denials (issuer, created_at, id)",
        "CREATE INDEX denials_by_expiry ON denials (expires_at) WHERE expires_at IS NOT NULL",
        "CREATE TABLE forgiven (id TEXT PRIMARY KEY, change INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX forgiven_by_change ON forgiven (change)",
        # the last token of each bot that replaced its others
        "CREATE TABLE replaced_bots (actor_id TEXT PRIMARY KEY, created_at REAL NOT NULL) WITHOUT ROWID",
        "CREATE TABLE generation (only INTEGER PRIMARY KEY CHECK (only = 1), mark TEXT NOT NULL)",
        "CREATE INDEX token_records_by_time ON token_records (created_at, id)",
        "CREATE INDEX token_records_by_owner ON token_records (owner_issuer, owner_subject, created_at, id)",
        "CREATE INDEX token_records_by_expiry ON token_records (expires_at) WHERE expires_at IS NOT NULL",
    ),
)

# Additions that a process of the former version, which may open the file too, does not notice. Each statement runs
# once for each file, in this order, and is never edited once released.
_ADDITIONS: tuple[str, ...] = (
    "ALTER TABLE token_records ADD COLUMN version INTEGER",
    "ALTER TABLE denials ADD COLUMN version INTEGER",
    "CREATE TABLE version_counter (only INTEGER PRIMARY KEY CHECK (only = 1), version INTEGER NOT NULL)",
    "INSERT INTO version_counter VALUES (1, 0)",
    """CREATE TABLE removed (
        id TEXT PRIMARY KEY, change INTEGER NOT NULL, version INTEGER NOT NULL, until REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX removed_by_change ON removed (change)",
    "CREATE INDEX removed_by_until ON removed (until)",
    # the token of each bot that replaced its others
    """CREATE TABLE bot_currents (
        bot TEXT PRIMARY KEY, change INTEGER NOT NULL, version INTEGER NOT NULL, id TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX bot_currents_by_change ON bot_currents (change)",
    # ends of records that are not there
    "CREATE TABLE ends (id TEXT PRIMARY KEY, change INTEGER NOT NULL, moment REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX ends_by_change ON ends (change)",
    """CREATE TABLE companions (
        id TEXT PRIMARY KEY, version INTEGER NOT NULL, text TEXT NOT NULL, expires_at REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX companions_by_expiry ON companions (expires_at)",
    "CREATE TABLE locks (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID",
)


class _ClosedError(sqlite3.ProgrammingError):
    """The file was closed before."""


class _MovedError(sqlite3.OperationalError):
    """The path leads to another file, or to none: what is written now would be lost, and no other process sees it."""


def sqlite_path(url: str) -> Path:
    """The file that ``sqlite:////absolute/path`` names. Raises Misconfigured; the URL itself is never repeated."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path.startswith("/") or path.endswith("/"):
        raise _misconfigured("must be sqlite:////absolute/path")
    return Path(path)


class Database:
    """The file, opened and migrated to the current schema. Use :meth:`open`; close with :meth:`aclose`."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path = path
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._problem = self._said = ""
        self._said_at = self._tried_at = float("-inf")
        metrics.store_up.set(0)

    @property
    def problem(self) -> str:
        """Why the file cannot be written, in one sentence; empty: as far as is known it can."""
        return self._problem

    @classmethod
    async def open(cls, path: Path, metrics: Metrics) -> "Database":
        """Open ``path``, creating it (mode 0600) when absent.

        Raises Misconfigured when it can never work (folder missing, no permission, not ours, newer schema) and
        Unavailable when it cannot work now (locked, disk full).
        """
        database = cls(path, metrics)
        try:
            await database._in_thread(database._connect)
        except BaseException:
            database._thread.shutdown(wait=False)
            raise
        metrics.store_up.set(1)
        return database

    async def read(self, operation: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` reads, all of it from one moment; it hinders no writer.

        ``operation`` is a metric label from a fixed set. Raises Unavailable(STORE_UNAVAILABLE).
        """
        return await self._run(operation, "BEGIN DEFERRED", work)

    async def write(self, operation: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` makes of the file, as the only writer.

        Everything it wrote is on disk when this returns, and nothing of it when it raises; only if the time-out came
        while it was at it, it may still happen. ``operation`` is a metric label from a fixed set. Raises
        Unavailable(STORE_UNAVAILABLE).
        """
        return await self._run(operation, _WRITING, work)

    async def version(self) -> int:
        """A number that changes when another process has written. Cheap. Raises Unavailable(STORE_UNAVAILABLE)."""
        try:
            return await asyncio.wait_for(self._in_thread(self._data_version), _DEADLINE)
        except (sqlite3.Error, TimeoutError) as error:
            self._metrics.store_up.set(0)
            raise Unavailable(Cause.STORE_UNAVAILABLE, _sentence(self._path, error)) from error

    async def aclose(self) -> None:
        """Close the file after the work in progress."""
        if self._connection is not None:
            await self._in_thread(self._disconnect)
        self._thread.shutdown(wait=False)

    async def _run(self, operation: str, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                raise _ClosedError
            until = time.monotonic() + _DEADLINE
            done = self._in_thread(lambda: self._transaction(begin, work, until))
            result = await asyncio.wait_for(done, _DEADLINE)
        except (sqlite3.Error, TimeoutError) as error:
            self._metrics.store_up.set(0)
            self._metrics.store_operations.labels(operation, "failed").inc()
            sentence = _sentence(self._path, error)
            if _is_lasting(error):
                self._fail(sentence)
            raise Unavailable(Cause.STORE_UNAVAILABLE, sentence) from error
        if self._problem:
            await self._look_again(is_written=begin == _WRITING)
        self._metrics.store_up.set(0 if self._problem else 1)
        self._metrics.store_operations.labels(operation, "done").inc()
        return result

    def _fail(self, sentence: str) -> None:
        """Remember, and say in the log, that the file cannot be used: reading may go on working meanwhile."""
        now = time.monotonic()
        if sentence != self._said or now - self._said_at >= _LOG_INTERVAL:
            self._said, self._said_at = sentence, now
            _log.error(
                "store unavailable",
                extra={"event": "store_unavailable", "path": str(self._path), "detail": sentence},
            )
        self._problem, self._tried_at = sentence, now

    async def _look_again(self, *, is_written: bool) -> None:
        """Whether the file can be written again, tried now and then: the next write may be hours away."""
        now = time.monotonic()
        if not is_written:
            if now - self._tried_at < _RETRY_INTERVAL:
                return
            self._tried_at = now
            try:
                until = now + _DEADLINE
                await asyncio.wait_for(
                    self._in_thread(lambda: self._transaction(_WRITING, _write_nothing, until)), _DEADLINE
                )
            except (sqlite3.Error, TimeoutError):
                return
        self._problem = ""
        _log.info("store available again", extra={"event": "store_available", "path": str(self._path)})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # shielded: a cancelled caller must not leave half a transaction to the next one
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T], until: float) -> T:
        if time.monotonic() >= until:
            raise TimeoutError  # its caller has got an error already
        connection = self._in_place()
        connection.execute(begin)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return result

    def _data_version(self) -> int:
        return _number(self._in_place(), "PRAGMA data_version")

    def _in_place(self) -> sqlite3.Connection:
        """The connection. Raises sqlite3.Error when it is closed, or open to a file that is no longer at its path."""
        if self._connection is None:
            raise _ClosedError
        if _identity(self._path) != self._opened:
            raise _MovedError
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> None:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unavailable(Cause.STORE_UNAVAILABLE, _FULL.format(path=self._path)) from error
            raise _misconfigured(
                f"cannot open {self._path}: {error.strerror}; its folder must exist and be writable"
            ) from error
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        try:
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection, self._path)
        except sqlite3.Error as error:
            connection.close()
            if _is_passing(error) or is_full(self._path):
                raise Unavailable(Cause.STORE_UNAVAILABLE, _sentence(self._path, error)) from error
            raise _misconfigured(_sentence(self._path, error)) from error
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened = connection, _identity(self._path)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging. For this SQLite does not wait for others who open a new file too."""
    until = time.monotonic() + _BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _kind(error).startswith("SQLITE_BUSY") or time.monotonic() >= until:
                raise
            time.sleep(_BUSY_PAUSE)
        else:
            return


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at ``path`` from every other; None: there is none to be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    version = _number(connection, "PRAGMA user_version")
    owner = _number(connection, "PRAGMA application_id")
    empty = not _number(connection, "SELECT count(*) FROM sqlite_master")
    if owner != _APPLICATION_ID and not empty:
        raise _misconfigured(f"{path} belongs to another program; name a file of our own")
    if version > len(_MIGRATIONS):
        raise _misconfigured(f"{path} was written by a newer version; upgrade, or name another file")
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute("CREATE TABLE IF NOT EXISTS additions (number INTEGER PRIMARY KEY)")
    for number in range(_number(connection, "SELECT count(*) FROM additions"), len(_ADDITIONS)):
        connection.execute(_ADDITIONS[number])
        connection.execute("INSERT INTO additions VALUES (?)", (number,))
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    connection.execute("COMMIT")


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


_WRITING = "BEGIN IMMEDIATE"
_FULL = "{path} cannot be written: the disk is full; free space on its volume"
# What an error of SQLite's says, by the beginning of its name.
_SENTENCES = {
    "SQLITE_FULL": _FULL,
    "SQLITE_BUSY": "{path} is locked by another process; end that process, or let it finish",
    "SQLITE_LOCKED": "{path} is locked by another process; end that process, or let it finish",
    "SQLITE_READONLY": "{path} is read-only; make the file, its -wal and -shm and their folder writable for this user",
    "SQLITE_CANTOPEN": "{path} cannot be opened; its folder must exist and be writable, for -wal and -shm too",
    "SQLITE_CORRUPT": "{path} is damaged; restore a copy of it, or move it away to begin with an empty store",
    "SQLITE_NOTADB": "{path} is no SQLite file; name another file, or move it away to begin with an empty store",
    "SQLITE_PERM": "{path} may not be used by this user; give it read and write permission",
    "SQLITE_AUTH": "{path} may not be used by this user; give it read and write permission",
    "SQLITE_IOERR": "{path} cannot be read or written: its disk reports an error; look at its volume",
}


def _sentence(path: Path, error: Exception) -> str:
    """What ``error`` means for the file at ``path``, and what to do; SQLite's name of the error beside it."""
    kind = _kind(error)
    if isinstance(error, _MovedError):
        return f"{path} was removed or replaced while in use; restart the sidecar"
    if isinstance(error, _ClosedError):
        return f"{path} has been closed"
    if isinstance(error, TimeoutError):
        return f"{path} gave no answer within {_DEADLINE:g} s; another process may hold it, or its disk is slow"
    # without room for its -shm, SQLite speaks of an input/output error, or that it cannot open a file
    if kind.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and is_full(path):
        return f"{_FULL.format(path=path)} ({kind})"
    known = next((text for name, text in _SENTENCES.items() if kind.startswith(name)), "{path} cannot be used")
    return f"{known.format(path=path)} ({kind})"


def is_full(path: Path) -> bool:
    """Whether the volume of ``path`` has no room left."""
    try:
        volume = os.statvfs(path.parent)
    except OSError:
        return False
    return volume.f_blocks > 0 and volume.f_bavail * volume.f_frsize < _MIN_ROOM


def _write_nothing(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE change_counter SET value = value")


def _is_lasting(error: Exception) -> bool:
    """Whether the next attempt fails as well, until its cause is removed. A lock passes by itself."""
    kind = _kind(error)
    return isinstance(error, _MovedError) or (
        kind.startswith(tuple(_SENTENCES)) and not kind.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    )


def _is_passing(error: sqlite3.Error) -> bool:
    return _kind(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR"))


def _kind(error: Exception) -> str:
    """SQLite's own name of the error: it quotes neither values nor statements."""
    return str(getattr(error, "sqlite_errorname", "") or type(error).__name__)


def _misconfigured(message: str) -> Misconfigured:
    return Misconfigured([Problem("store.url", message)])
