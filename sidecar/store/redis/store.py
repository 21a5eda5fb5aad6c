"""The store in Redis: hashes for values, sorted sets for lists, a stream as the log, one script for each write.

Records, entries and removals that ended long ago, by the clocks of the server and of this process, are deleted in small
numbers after writes.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from sidecar.clock import Clock
from sidecar.errors import Unavailable
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
    KEEP_ENTRIES,
    KEEP_RECORDS,
    KEEP_REMOVALS,
    Entries,
    Word,
    currents_of,
    join_words,
    remembered_until,
    removal_at,
)
from sidecar.store.record import Current, TokenKind, TokenRecord, bot_key
from sidecar.store.redis import codec as wire
from sidecar.store.redis.client import Command, RedisClient
from sidecar.store.redis.scripts import (
    CLOCKS,
    COMPANION,
    LOCK,
    LOG_BYTES,
    LOG_ENTRIES,
    PAGE,
    POSITION,
    SWEEP,
    UNLOCK,
    WRITE,
)
from sidecar.store.revocation_entry import Removal, RevocationEntry

_SWEEP_INTERVAL = 10.0
_MAX_SWEPT = 500
_PIECE = 2000
_MERGE_PIECE = 500
_LOG_PIECE = 64
_MAX_BLOCK = 1.0
_POSITION = re.compile(r"([0-9a-f]*)/([0-9]+-[0-9]+):([0-9a-f]*)")

_FIXED = (
    "meta", "log", "applied:", "records", "revoked", "used", "order", "expiry",
    "denials", "denials:order", "denials:expiry", "replaced", "removed", "removed:expiry",
)  # fmt: skip
_RECORDS = ("records", "revoked", "used")
T = TypeVar("T")


class _Command(Protocol):
    async def __call__(self, operation: str, *commands: Command) -> list[Any]:
        """One of the two ways to read."""


class RedisStore:
    """A :class:`sidecar.store.base.Store` over ``kv``, which it closes."""

    def __init__(self, kv: RedisClient, clock: Clock) -> None:
        self._kv = kv
        self._clock = clock
        self._swept_at = clock.monotonic()
        self._key = {name: kv.key(name) for name in _FIXED}
        self._clock_reports = kv.key("clocks")

    async def write(self, batch: Batch, after: int = 0) -> Receipt:
        """See :class:`sidecar.store.base.Store`. Raises ValueError for ids and times that cannot be stored."""
        arguments = _Arguments()
        removals = [Removal(entry_id, 0, 0.0) for entry_id in batch.remove_entries]
        arguments.add(batch.add, self._indexes, self._standing, own=True, replacing=not batch.keep_bot_tokens)
        arguments.pairs(batch.revoke)
        arguments.deny(batch.add_entries, self._by_issuer, own=True)
        arguments.remove(removals, await self._places_of(batch.remove_entries), own=True)
        arguments.none()
        arguments.none()
        mark, versions = await self._apply("write", arguments, after)
        entries = _written(batch, versions)
        await self._sweep()
        return Receipt(mark, entries)

    async def merge(self, entries: Entries) -> Receipt:
        """See :class:`sidecar.store.base.Store`."""
        kept: list[Entries] = []
        mark = ""
        for start in range(0, max(1, *map(len, entries.lists)), _MERGE_PIECE):
            piece = entries.part(start, start + _MERGE_PIECE)
            arguments = _Arguments()
            arguments.add(piece.records, self._indexes, self._standing, own=False, replacing=False)
            arguments.pairs(piece.ends)
            arguments.deny(piece.revocations, self._by_issuer, own=False)
            places = await self._places_of([removal.id for removal in piece.removals])
            arguments.remove(piece.removals, places, own=False)
            arguments.current(piece.currents, self._bot)
            arguments.none()
            mark, versions = await self._apply("restore", arguments, 0)
            kept.append(_kept(piece, versions))
        return Receipt(mark, Entries.joined(kept))

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """See :class:`sidecar.store.base.Store`."""
        known = [(token_id, moment) for token_id, moment in used if wire.is_id(token_id)]
        if known:
            arguments = _Arguments()
            for _ in range(5):
                arguments.none()
            arguments.pairs(known)
            await self._apply("touch", arguments, 0)

    async def record(self, token_id: str) -> TokenRecord | None:
        """See :class:`sidecar.store.base.Store`."""
        if not wire.is_id(token_id):
            return None
        found = await self._records_of(self._kv.read, "read_record", [token_id])
        return found.records[0] if found.records else None

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        """See :class:`sidecar.store.base.Store`. What no index knows is found by reading through one of them."""
        place = wire.parse_sort_key(after) if after else ""
        order, indexed = self._key["order"], RecordQuery()
        if query.owner is not None:
            order, indexed = self._by_owner(query.owner), RecordQuery(owner=query.owner)
        elif query.actor_id is not None:
            order, indexed = self._by_actor(query.actor_id), RecordQuery(actor_id=query.actor_id)
        whole = replace(query, now=0.0) == indexed
        total = 0
        if whole:
            # registrations of bot names have no Actor: they are not listed as tokens
            names = self._by_actor("")
            counted = await self._kv.read("list_records", ("ZCARD", order), ("ZCARD", names))
            total = counted[0] - (counted[1] if indexed == RecordQuery() else 0)
        found: list[tuple[str, TokenRecord]] = []
        async for piece in self._pieces(self._kv.read, "list_records", order, _RECORDS, place if whole else ""):
            for at, record in zip(piece[0], map(_record_at, *piece), strict=True):
                if record is not None and query.matches(record):
                    total += not whole
                    if (not place or at < place) and len(found) <= limit:
                        found.append((at, record))
            if whole and len(found) > limit:
                break
        page, more = _cut(found, limit)
        return Page(records=page, after=more, total=total)

    async def companion(self, record_id: str) -> Companion | None:
        """See :class:`sidecar.store.base.Store`."""
        if not wire.is_id(record_id):
            return None
        (found,) = await self._kv.read("read_companion", ("HMGET", self._beside(record_id), "text", "version"))
        return _companion(*found)

    async def put_companion(self, record_id: str, text: str, expires_at: float, *, after: int) -> bool:
        """See :class:`sidecar.store.base.Store`."""
        key = self._beside(wire.check_id(record_id))
        arguments = [str(after), text, str(int(expires_at * 1000))]
        return bool(await self._kv.write("write_companion", COMPANION, [key], arguments))

    async def lock(self, name: str, holder: str, seconds: float) -> bool:
        """See :class:`sidecar.store.base.Store`."""
        key = self._kv.key(f"lock:{wire.check_id(name)}")
        return bool(await self._kv.write("lock", LOCK, [key], [holder, str(int(seconds * 1000))]))

    async def unlock(self, name: str, holder: str) -> None:
        """See :class:`sidecar.store.base.Store`."""
        await self._kv.write("unlock", UNLOCK, [self._kv.key(f"lock:{wire.check_id(name)}")], [holder])

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """See :class:`sidecar.store.base.Store`."""
        if not wire.is_id(entry_id):
            return None
        (value,) = await self._kv.read("read_entry", ("HGET", self._key["denials"], entry_id))
        return None if value is None else wire.read_entry(entry_id, value)

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """See :class:`sidecar.store.base.Store`."""
        place = wire.parse_sort_key(after) if after else ""
        order = self._key["denials:order"] if issuer is None else self._by_issuer(issuer)
        counting: list[Command] = [("ZCARD", order)]
        if issuer is None:
            counting.append(("ZCOUNT", self._key["denials:expiry"], "-inf", wire.write_time(now)))
        total, *over = await self._kv.read("list_entries", *counting)
        found: list[tuple[str, RevocationEntry]] = []
        async for piece in self._pieces(self._kv.read, "list_entries", order, ("denials",), place):
            for at, entry in zip(piece[0], map(_entry_at, *piece), strict=True):
                if entry is not None and (entry.expires_at is None or entry.expires_at > now):
                    found.append((at, entry))
            if len(found) > limit:
                break
        page, more = _cut(found, limit)
        return Page(entries=page, after=more, total=total - sum(over))

    async def snapshot(self) -> AsyncIterator[Changes]:
        """See :class:`sidecar.store.base.Store`."""
        stand: Command = ("EVAL", POSITION, 2, self._key["meta"], self._key["log"])
        ((life, last, head),) = await self._kv.follow("read_snapshot", stand)
        mark = head.decode("ascii", "replace")
        position = f"{life.decode('ascii', 'replace')}/{last.decode('ascii')}:{mark}"
        yield Changes(position, marks=(mark,))
        async for removals in self._scan("removed"):
            removed = [wire.read_removal(*item) for item in removals]
            yield Changes(position, removals=tuple(filter(None, removed)), skipped=removed.count(None))
        async for replaced in self._scan("replaced"):
            currents = [wire.read_current(name.rpartition(":")[2], at) for name, at in replaced]
            yield Changes(position, currents=tuple(filter(None, currents)), skipped=currents.count(None))
        async for piece in self._pieces(self._kv.follow, "read_snapshot", self._key["denials:order"], ("denials",)):
            entries = list(map(_entry_at, *piece))
            yield Changes(position, revocations=tuple(filter(None, entries)), skipped=entries.count(None))
        async for piece in self._pieces(self._kv.follow, "read_snapshot", self._key["order"], _RECORDS):
            records = list(map(_record_at, *piece))
            yield Changes(position, records=tuple(filter(None, records)), skipped=records.count(None))

    async def follow(self, position: str, wait: float) -> Changes:
        """See :class:`sidecar.store.base.Store`."""
        stands = _POSITION.fullmatch(position)
        if stands is None:
            raise GapError
        life, last, head = stands.groups()
        clock = asyncio.get_running_loop().time
        started = clock()
        while True:
            asked_after = clock() - started
            there = await self._kv.follow("read_changes", ("HMGET", self._key["meta"], "generation", "head"), ("TIME",))
            (generation, newest), (seconds, micros) = there
            store_time = int(seconds) + int(micros) / 1e6
            lives = (generation or b"").decode("ascii", "replace")
            if life != lives and (life or head):  # a reader that has read nothing cannot have lost anything
                raise LossError
            if (newest or b"") != head.encode("ascii"):
                entries = await self._log_after(last)
                if not entries:
                    raise LossError
                changes = await self._changes(entries, lives, last, head)
                return replace(changes, store_time=store_time, asked_after=asked_after)
            left = started + wait - clock()
            if left <= 0:
                return Changes(position, store_time=store_time, asked_after=asked_after)
            entries = await self._new_in_log(last, min(left, _MAX_BLOCK))
            if entries and lives:
                return await self._changes(entries, lives, last, head)

    async def _gap(self, last: str) -> GapError:
        """The error if the log does not continue at ``last``: it was trimmed, or has lost its end."""
        (first,) = await self._kv.follow("read_changes", ("XRANGE", self._key["log"], "-", "+", "COUNT", 1))
        return LossError() if first and _order(first[0][0].decode("ascii")) <= _order(last) else GapError()

    async def life(self) -> str:
        """See :class:`sidecar.store.base.Store`."""
        (found,) = await self._kv.follow("read_life", ("HGET", self._key["meta"], "generation"))
        return (found or b"").decode("utf-8", "replace")

    async def compare_clocks(self, process: str, *, agrees: bool) -> ClockReport:
        """See :class:`sidecar.store.base.Store`."""
        command: Command = ("EVAL", CLOCKS, 1, self._clock_reports, process, int(agrees), CLOCK_REPORTS)
        ((seconds, micros, others),) = await self._kv.follow("compare_clocks", command)
        return ClockReport(int(seconds) + int(micros) / 1e6, int(others))

    async def status(self) -> StoreStatus:
        """See :class:`sidecar.store.base.Store`."""
        await self._kv.read("status", ("HGET", self._key["meta"], "head"))
        info = await self._if_allowed(("INFO",))
        if not info:
            unknown = "the user may not call INFO: whether Redis keeps anything on disk is not known"
            return StoreStatus(persistent=False, detail="Redis", problems=(unknown,))
        return _judge(info, (await self._if_allowed(("CONFIG GET", "save"))).get("save"))

    async def aclose(self) -> None:
        """See :class:`sidecar.store.base.Store`."""
        await self._kv.aclose()

    async def _if_allowed(self, command: Command) -> dict[str, Any]:
        """The result of a command that the Redis user may not be allowed to run; empty if so."""
        try:
            (answer,) = await self._kv.read("status", command)
        except Unavailable:
            return {}
        return dict(answer)

    async def _apply(self, operation: str, arguments: "_Arguments", after: int) -> tuple[str, list[int]]:
        """The mark of the last write in the log, and the version of each entry; 0: it changed nothing."""
        mark = uuid4().hex
        fixed = {**self._key, "applied:": self._key["applied:"] + mark.encode("ascii")}
        now = wire.write_time(self._clock.now())
        head = [mark, now, str(after), str(LOG_ENTRIES), str(LOG_BYTES), str(int(KEEP_REMOVALS))]
        answer = await self._kv.write(operation, WRITE, [*fixed.values(), *arguments.keys], head + arguments.values)
        last, *versions = answer.decode("ascii").split(" ")
        return last, [int(version) for version in versions if version]

    async def _scan(self, name: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """The fields of a hash, in pieces; a field that exists during the whole scan is included."""
        cursor = 0
        while True:
            command: Command = ("HSCAN", self._key[name], cursor, "COUNT", _PIECE)
            ((cursor, found),) = await self._kv.follow("read_snapshot", command)
            if found:
                yield [(field.decode("ascii", "replace"), value) for field, value in found.items()]
            if not cursor:
                return

    async def _records_of(self, ask: "_Command", operation: str, ids: Sequence[str]) -> "_Found":
        """The records with these ids."""
        found = _Found()
        for start in range(0, len(ids), _PIECE):
            some = ids[start : start + _PIECE]
            commands: list[Command] = [("HMGET", self._key[name], *some) for name in _RECORDS]
            answers = await ask(operation, *commands)
            for token_id, value, revoked, used in zip(some, *answers, strict=True):
                if value is not None:
                    found.take(wire.read_record(token_id, value, revoked, used))
                elif revoked is not None:
                    found.ends.append((token_id, wire.read_end(revoked)))
        return found

    async def _pieces(
        self, ask: "_Command", operation: str, order: bytes, hashes: Sequence[str], start: str = ""
    ) -> AsyncIterator[list[Any]]:
        """The members of ``order``, newest first, with the values of ``hashes`` for each.

        Each piece continues after the last member, so a failover in between omits nothing.
        """
        keys = [order, *(self._key[name] for name in hashes)]
        before: str | bytes = start
        while True:
            command: Command = ("EVAL", PAGE, len(keys), *keys, before, _PIECE)
            ((text, before),) = await ask(operation, command)
            piece = wire.read_page(text)
            if not piece:
                return
            yield piece
            if len(piece[0]) < _PIECE:
                return

    async def _log_after(self, last: str) -> list[Any]:
        command: Command = ("XRANGE", self._key["log"], f"({last}", "+", "COUNT", _LOG_PIECE)
        return list((await self._kv.follow("read_changes", command))[0])

    async def _new_in_log(self, last: str, seconds: float) -> list[Any]:
        waiting = max(1, round(seconds * 1000))
        command: Command = ("XREAD", "COUNT", _LOG_PIECE, "BLOCK", waiting, "STREAMS", self._key["log"], last)
        (streams,) = await self._kv.follow("read_changes", command, block=seconds)
        return list(streams[0][1]) if streams else []

    async def _changes(self, entries: Sequence[Any], life: str, last: str, head: str) -> Changes:
        piece = _Piece(head)
        for entry_id, fields in entries:
            if not piece.take(entry_id.decode("ascii"), fields):
                raise await self._gap(last)
        found = await self._records_of(self._kv.follow, "read_changes", list(piece.record_ids))
        words = piece.words.values()
        return Changes(
            position=f"{life}/{piece.last}:{piece.head}",
            records=tuple(found.records),
            revocations=tuple(word for word in words if isinstance(word, RevocationEntry)),
            removals=tuple(word for word in words if isinstance(word, Removal)),
            currents=tuple(piece.currents),
            ends=tuple(found.ends),
            written_at=tuple(piece.written_at),
            skipped=piece.skipped + found.damaged,
            marks=tuple(piece.marks),
            is_complete=len(entries) < _LOG_PIECE,
        )

    async def _places_of(self, ids: Sequence[str]) -> "dict[str, tuple[bytes, float]]":
        """For each existing entry, the index by issuer, and the minimum time to keep its removal."""
        if not ids:
            return {}
        for entry_id in ids:
            wire.check_id(entry_id)
        (values,) = await self._kv.read("write", ("HMGET", self._key["denials"], *ids))
        entries = (wire.read_entry(*item) for item in zip(ids, values, strict=True) if item[1] is not None)
        return {
            entry.id: (self._by_issuer(entry.issuer), remembered_until(entry.expires_at, 0.0))
            for entry in entries
            if entry is not None
        }

    async def _sweep(self) -> None:
        """Delete some of what ended long ago. Best effort: the write before it has succeeded."""
        if self._clock.monotonic() - self._swept_at < _SWEEP_INTERVAL:
            return
        now = self._clock.now()
        self._swept_at = self._clock.monotonic()
        with contextlib.suppress(Unavailable):
            records = await self._sweep_one("expiry", _RECORDS, "order", now, KEEP_RECORDS)
            entries = await self._sweep_one("denials:expiry", ("denials",), "denials:order", now, KEEP_ENTRIES)
            removals = await self._sweep_one("removed:expiry", ("removed",), "removed:order", now, KEEP_ENTRIES)
            if max(records, entries, removals) == _MAX_SWEPT:
                self._swept_at -= _SWEEP_INTERVAL

    async def _sweep_one(self, expiry: str, hashes: Sequence[str], order: str, now: float, keep: float) -> int:
        """Delete what ended more than ``keep`` seconds ago by both clocks; the script compares the server's."""
        until = now - keep
        oldest: Command = ("ZRANGEBYSCORE", self._key[expiry], "-inf", wire.write_time(until), "LIMIT", 0, _MAX_SWEPT)
        (found,) = await self._kv.read("sweep", oldest)
        if not found:
            return 0
        (values,) = await self._kv.read("sweep", ("HMGET", self._key[hashes[0]], *found))
        lists = ("revoked", "used") if hashes is _RECORDS else ("removed:order", "removed:order")
        fixed = [self._kv.key(name) for name in (hashes[0], order, expiry, *lists)]
        arguments = _Arguments(len(fixed))
        arguments.values += [wire.write_time(until), wire.write_time(keep)]
        for raw_id, value in zip(found, values, strict=True):
            entry_id = raw_id.decode("ascii", "replace")
            orders = self._orders_of(hashes[0], entry_id, value or b"")
            arguments.values += [entry_id, *map(arguments.number, orders), *[""] * (3 - len(orders))]
        return int(await self._kv.write("sweep", SWEEP, [*fixed, *arguments.keys], arguments.values))

    def _orders_of(self, kind: str, entry_id: str, value: bytes) -> list[bytes]:
        """The sorted sets, besides the one of all, that contain an entry; none if it cannot be decoded."""
        if kind == "removed":
            return []
        if kind == "denials":
            entry = wire.read_entry(entry_id, value)
            return [] if entry is None else [self._by_issuer(entry.issuer)]
        record = wire.read_record(entry_id, value, None, None)
        if record is None:
            return []
        standing = self._standing(record)
        return [*self._indexes(record), *([standing] if standing else [])]

    def _indexes(self, record: TokenRecord) -> list[bytes]:
        owner = record.owner
        return [self._by_actor(record.actor_id), self._by_owner((owner.issuer, owner.subject))]

    def _beside(self, record_id: str) -> bytes:
        return self._kv.key(f"companion:{record_id}")

    def _by_actor(self, actor_id: str) -> bytes:
        return self._kv.key(f"actor:{_digest(actor_id)}")

    def _by_owner(self, owner: tuple[str, str]) -> bytes:
        return self._kv.key(f"owner:{_digest(*owner)}")

    def _by_issuer(self, issuer: str) -> bytes:
        return self._kv.key(f"issuer:{_digest(issuer)}")

    def _standing(self, record: TokenRecord) -> bytes | None:
        """The key of the tokens of a bot that may be valid."""
        return self._bot(bot_key(record.actor_id)) if record.kind is TokenKind.BOT else None

    def _bot(self, bot: str) -> bytes:
        """The same, by the key of the bot."""
        return self._kv.key(f"bot:{bot}")


class _Arguments:
    """The lists of a script's arguments, and the keys that they refer to by number."""

    def __init__(self, fixed: int = len(_FIXED)) -> None:
        self.values: list[str] = []
        self._fixed = fixed
        self._numbers: dict[bytes, str] = {}

    @property
    def keys(self) -> list[bytes]:
        """The keys beyond the fixed ones, in the order of their numbers."""
        return list(self._numbers)

    def number(self, key: bytes) -> str:
        """The number of ``key``."""
        return self._numbers.setdefault(key, str(self._fixed + len(self._numbers) + 1))

    def none(self) -> None:
        """An empty list."""
        self.values.append("0")

    def add(
        self,
        records: Sequence[TokenRecord],
        indexes: Callable[[TokenRecord], list[bytes]],
        standing: Callable[[TokenRecord], bytes | None],
        *,
        own: bool,
        replacing: bool,
    ) -> None:
        """Records to add; the server assigns the versions of ``own`` ones."""
        self.values.append(str(len(records)))
        for record in records:
            bot = standing(record)
            numbers = [self.number(index) for index in indexes(record)]
            self.values += [
                wire.check_id(record.id),
                wire.record_text(record),
                "" if own else str(record.version),
                _optional(record.revoked_at),
                _optional(record.last_used_at),
                _optional(record.expires_at),
                self.number(bot) if bot else "",
                bot_key(record.actor_id) if bot else "",
                "1" if replacing else "0",
                wire.write_time(record.created_at),
                str(len(numbers)),
                *numbers,
            ]

    def deny(self, entries: Sequence[RevocationEntry], by_issuer: Callable[[str], bytes], *, own: bool) -> None:
        """Revocation entries to add."""
        self.values.append(str(len(entries)))
        for entry in entries:
            index = self.number(by_issuer(entry.issuer))
            version = "" if own else str(entry.version)
            text = wire.entry_text(entry)
            self.values += [wire.check_id(entry.id), text, version, _optional(entry.expires_at), index]

    def remove(self, removals: Sequence[Removal], places: Mapping[str, tuple[bytes, float]], *, own: bool) -> None:
        """Revocation entries to remove; ``places`` has the existing ones."""
        self.values.append(str(len(removals)))
        for removal in removals:
            index, until = places.get(removal.id, (None, 0.0))
            self.values += [
                removal.id,
                "" if own else str(removal.version),
                wire.write_time(until if own else removal.until),
                self.number(index) if index else "",
            ]

    def current(self, currents: Sequence[Current], standing: Callable[[str], bytes]) -> None:
        """The current tokens of bots."""
        self.values.append(str(len(currents)))
        for current in currents:
            place = wire.sort_key(current.version, wire.check_id(current.id))
            self.values += [self.number(standing(current.bot)), current.bot, place]

    def pairs(self, pairs: Sequence[tuple[str, float]]) -> None:
        """Ids of records, and when they ended or were used."""
        self.values.append(str(len(pairs)))
        for entry_id, moment in pairs:
            self.values += [wire.check_id(entry_id), wire.write_time(moment)]


class _Found:
    """Records that were read, the ends of records that do not exist, and how many could not be decoded."""

    def __init__(self) -> None:
        self.records: list[TokenRecord] = []
        self.ends: list[tuple[str, float]] = []
        self.damaged = 0

    def take(self, record: TokenRecord | None) -> None:
        """Take the next one."""
        if record is None:
            self.damaged += 1
        else:
            self.records.append(record)


class _Piece:
    """A piece of the log: of each entry the latest state."""

    def __init__(self, head: str) -> None:
        self.head = head
        self.last = ""
        self.record_ids: dict[str, None] = {}
        self.words: dict[str, Word] = {}
        self.currents: list[Current] = []
        self.written_at: list[float] = []
        self.marks: list[str] = []
        self.skipped = 0

    def take(self, entry_id: str, fields: Mapping[bytes, bytes]) -> bool:
        """Take the next log entry. False: it does not follow the previous one. Raises GapError if it is empty."""
        self.last = entry_id
        try:
            before, mark = fields[b"p"].decode("ascii"), fields[b"i"].decode("ascii")
            written_at, ids = float(fields[b"t"]), wire.read_ids(fields[b"r"])
            removals = wire.read_pairs(fields.get(b"f", b""))
            currents = wire.read_pairs(fields.get(b"b", b""))
        except (KeyError, ValueError):
            # not written by a sidecar; if a damaged one was, the next one does not follow
            self.skipped += 1
            return True
        if before != self.head:
            return False
        if fields.get(b"x") == b"1":
            raise GapError  # of an earlier version, which restores without logging the entries
        self.head = mark
        self.marks.append(mark)
        entries, removed, damaged = wire.read_changes(fields.get(b"d", b""))
        if b"f" not in fields:
            self._take_unversioned(entry_id, entries, removed)
        else:
            self._hear(entries)
            self._hear(map(wire.read_removal, *zip(*removals, strict=True)) if removals else ())
        for current in (wire.read_current(*item) for item in currents):
            if current is None:
                self.skipped += 1
            else:
                self.currents.append(current)
        self.record_ids |= dict.fromkeys(ids)
        self.written_at.append(written_at)
        self.skipped += damaged
        return True

    def _take_unversioned(self, entry_id: str, entries: Sequence[RevocationEntry], removed: Sequence[str]) -> None:
        """Writes of a process of an earlier version: ordered by the server's clock in the id of the log entry."""
        version = _order(entry_id)[0] * 1000
        self._hear(Removal(name, version, remembered_until(None, version / 1e6)) for name in removed)
        self._hear(replace(entry, version=max(entry.version, version + 1)) for entry in entries)

    def _hear(self, words: Iterable[Word | None]) -> None:
        for word in words:
            if word is None:
                self.skipped += 1
            else:
                known = self.words.get(word.id)
                self.words[word.id] = word if known is None else join_words(known, word)


def _written(batch: Batch, versions: Sequence[int]) -> Entries:
    """``batch`` as the store has it now, without records that existed before."""
    given = iter(versions)
    added = [replace(record, version=version) for record in batch.add if (version := next(given))]
    denied = [replace(entry, version=next(given)) for entry in batch.add_entries]
    return Entries(
        records=added,
        ends=batch.revoke,
        revocations=denied,
        removals=[removal_at(entry_id, next(given)) for entry_id in batch.remove_entries],
        currents=[] if batch.keep_bot_tokens else currents_of(added),
    )


def _kept(piece: Entries, versions: Sequence[int]) -> Entries:
    """``piece`` without what the server has in a later version."""
    given = iter(versions[len(piece.records) :])
    return replace(
        piece,
        revocations=[entry for entry in piece.revocations if next(given)],
        removals=[removal for removal in piece.removals if next(given)],
    )


def _record_at(place: str, value: str | None, revoked: str | None, used: str | None) -> TokenRecord | None:
    return (
        None
        if value is None or not wire.is_sort_key(place)
        else wire.read_record(place[wire.STAMP :], value, revoked, used)
    )


def _entry_at(place: str, value: str | None) -> RevocationEntry | None:
    return None if value is None or not wire.is_sort_key(place) else wire.read_entry(place[wire.STAMP :], value)


def _companion(text: str | bytes | None, version: str | bytes | None) -> Companion | None:
    if text is None or version is None:
        return None
    try:
        return Companion(text if isinstance(text, str) else text.decode("utf-8"), int(version))
    except ValueError:
        return None


def _order(entry_id: str) -> tuple[int, int]:
    """The position of an entry in a stream."""
    moment, _, number = entry_id.partition("-")
    return int(moment), int(number or 0)


def _cut(found: Sequence[tuple[str, T]], limit: int) -> tuple[tuple[T, ...], str]:
    """The first ``limit`` of ``found``, and the cursor of the next page if there are more."""
    page = found[:limit]
    return tuple(entry for _, entry in page), page[-1][0] if page and len(found) > limit else ""


def _digest(*parts: str) -> str:
    """A name for keys that is unique and does not reveal the values."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _optional(moment: float | None) -> str:
    return "" if moment is None else wire.write_time(moment)


def _judge(info: Mapping[str, Any], saving: str | None) -> StoreStatus:
    appends = info.get("aof_enabled") == 1
    persistent = appends or bool(saving)
    problems = []
    if not persistent:
        known = "keeps nothing on disk" if saving is not None else "keeps no append-only file"
        problems.append(f"Redis {known}: when it restarts, only the mirrors know what was revoked")
    elif not appends:
        problems.append("Redis writes snapshots only: when it crashes, the writes since the last one are gone")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        problems.append(f"Redis may evict revocations when memory is short (maxmemory-policy {policy})")
    if "err" in (info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")):
        problems.append("Redis could not write to its disk")
    version, replicas = info.get("redis_version", "?"), info.get("connected_slaves", 0)
    return StoreStatus(persistent, f"Redis {version}, {replicas} replicas", tuple(problems))
