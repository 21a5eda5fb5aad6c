"""The store in Redis: hashes of values, sorted sets for lists, a stream as the log, every write one script.

Records and denials that are long over are swept away a few at a time after writes.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from sidecar.clock import Clock
from sidecar.errors import Unavailable
from sidecar.store.base import Batch, Changes, GapError, LossError, Page, RecordQuery, StoreStatus
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.redis import codec as wire
from sidecar.store.redis.client import Command, RedisClient
from sidecar.store.redis.scripts import LOG_BYTES, LOG_ENTRIES, NAME, PAGE, POSITION, SWEEP, WRITE
from sidecar.store.revocation_entry import RevocationEntry

KEEP_DENIALS = 3600.0
"""Seconds for which an expired denial stays, because clocks differ."""
KEEP_RECORDS = 30 * 86400.0
"""Seconds for which an expired record stays in lists."""
_SWEEP_INTERVAL = 10.0
_MAX_SWEPT = 500
_PIECE = 2000
_RESTORE_PIECE = 500
_LOG_PIECE = 64
_MAX_BLOCK = 1.0
_POSITION = re.compile(r"([0-9]+-[0-9]+):([0-9a-f]*)")

_FIXED = (
    "meta", "log", "applied:", "records", "revoked", "used", "order", "expiry",
    "denials", "denials:order", "denials:expiry", "replaced",
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

    async def write(self, batch: Batch) -> None:
        """See :class:`sidecar.store.base.Store`. Raises ValueError for ids and times that cannot be stored."""
        arguments = _Arguments()
        arguments.add(batch.add, self._indexes, self._standing, replacing=not batch.keep_bot_tokens)
        arguments.revoke(batch.revoke)
        arguments.deny(batch.add_entries, self._by_issuer)
        arguments.forgive(batch.remove_entries, await self._issuers_of(batch.remove_entries))
        arguments.none()
        await self._apply(
            "write", arguments, wire.write_changes(batch.add_entries, batch.remove_entries), restoring=False
        )
        await self._sweep()

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        """See :class:`sidecar.store.base.Store`."""
        known = [(token_id, moment) for token_id, moment in used if wire.is_id(token_id)]
        if known:
            arguments = _Arguments()
            for _ in range(4):
                arguments.none()
            arguments.use(known)
            await self._apply("touch", arguments, "", restoring=False)

    async def record(self, token_id: str) -> TokenRecord | None:
        """See :class:`sidecar.store.base.Store`."""
        if not wire.is_id(token_id):
            return None
        found, _ = await self._records_of(self._kv.read, "read_record", [token_id])
        return found[0] if found else None

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
            # names kept for bots have no Actor: where tokens are listed they are left out
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

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        """See :class:`sidecar.store.base.Store`."""
        if not wire.is_id(entry_id):
            return None
        (value,) = await self._kv.read("read_denial", ("HGET", self._key["denials"], entry_id))
        return None if value is None else wire.read_denial(entry_id, value)

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        """See :class:`sidecar.store.base.Store`."""
        place = wire.parse_sort_key(after) if after else ""
        order = self._key["denials:order"] if issuer is None else self._by_issuer(issuer)
        counting: list[Command] = [("ZCARD", order)]
        if issuer is None:
            counting.append(("ZCOUNT", self._key["denials:expiry"], "-inf", wire.write_time(now)))
        total, *over = await self._kv.read("list_denials", *counting)
        found: list[tuple[str, RevocationEntry]] = []
        async for piece in self._pieces(self._kv.read, "list_denials", order, ("denials",), place):
            for at, denial in zip(piece[0], map(_denial_at, *piece), strict=True):
                if denial is not None and (denial.expires_at is None or denial.expires_at > now):
                    found.append((at, denial))
            if len(found) > limit:
                break
        page, more = _cut(found, limit)
        return Page(entries=page, after=more, total=total - sum(over))

    async def snapshot(self) -> AsyncIterator[Changes]:
        """See :class:`sidecar.store.base.Store`."""
        stand: Command = ("EVAL", POSITION, 2, self._key["meta"], self._key["log"])
        ((last, head),) = await self._kv.follow("read_snapshot", stand)
        position = f"{last.decode('ascii')}:{head.decode('ascii', 'replace')}"
        yield Changes(position)
        async for piece in self._pieces(self._kv.follow, "read_snapshot", self._key["denials:order"], ("denials",)):
            denials = list(map(_denial_at, *piece))
            yield Changes(position, entries=tuple(filter(None, denials)), skipped=denials.count(None))
        async for piece in self._pieces(self._kv.follow, "read_snapshot", self._key["order"], _RECORDS):
            records = list(map(_record_at, *piece))
            yield Changes(position, records=tuple(filter(None, records)), skipped=records.count(None))

    async def follow(self, position: str, wait: float) -> Changes:
        """See :class:`sidecar.store.base.Store`."""
        stands = _POSITION.fullmatch(position)
        if stands is None:
            raise GapError
        last, head = stands.groups()
        until = asyncio.get_running_loop().time() + wait
        while True:
            (newest,) = await self._kv.follow("read_changes", ("HGET", self._key["meta"], "head"))
            if (newest or b"") != head.encode("ascii"):
                entries = await self._log_after(last)
                if not entries:
                    raise LossError
                return await self._changes(entries, last, head)
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return Changes(position)
            entries = await self._new_in_log(last, min(left, _MAX_BLOCK))
            if entries:
                return await self._changes(entries, last, head)

    async def _gap(self, last: str) -> GapError:
        """What it means that the log does not go on from ``last``: it was trimmed, or it has lost its end."""
        (first,) = await self._kv.follow("read_changes", ("XRANGE", self._key["log"], "-", "+", "COUNT", 1))
        return LossError() if first and _order(first[0][0].decode("ascii")) <= _order(last) else GapError()

    async def generation(self) -> str:
        """See :class:`sidecar.store.base.Store`."""
        (found,) = await self._kv.follow("read_generation", ("HGET", self._key["meta"], "generation"))
        return (found or b"").decode("utf-8", "replace")

    async def restore(
        self, records: Sequence[TokenRecord], entries: Sequence[RevocationEntry], generation: str
    ) -> bool:
        """See :class:`sidecar.store.base.Store`."""
        for start in range(0, max(len(records), len(entries)), _RESTORE_PIECE):
            arguments = _Arguments()
            arguments.add(records[start : start + _RESTORE_PIECE], self._indexes, self._standing, replacing=False)
            arguments.none()
            arguments.deny(entries[start : start + _RESTORE_PIECE], self._by_issuer)
            arguments.none()
            arguments.none()
            await self._apply("restore", arguments, "", restoring=True)
        return bool(await self._kv.write("restore", NAME, [self._key["meta"]], [uuid4().hex, generation]))

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
        """The answer to what the user may be forbidden to ask; empty when it is."""
        try:
            (answer,) = await self._kv.read("status", command)
        except Unavailable:
            return {}
        return dict(answer)

    async def _apply(self, operation: str, arguments: "_Arguments", said: str, *, restoring: bool) -> None:
        mark = uuid4().hex
        fixed = {**self._key, "applied:": self._key["applied:"] + mark.encode("ascii")}
        now = wire.write_time(self._clock.now())
        head = [mark, now, "1" if restoring else "0", str(LOG_ENTRIES), str(LOG_BYTES), said]
        await self._kv.write(operation, WRITE, [*fixed.values(), *arguments.keys], head + arguments.values)

    async def _records_of(
        self, ask: "_Command", operation: str, ids: Sequence[str]
    ) -> tuple[tuple[TokenRecord, ...], int]:
        """Those of ``ids`` that there are, and how many could not be understood."""
        found: list[TokenRecord | None] = []
        for start in range(0, len(ids), _PIECE):
            some = ids[start : start + _PIECE]
            commands: list[Command] = [("HMGET", self._key[name], *some) for name in _RECORDS]
            answers = await ask(operation, *commands)
            for token_id, value, revoked, used in zip(some, *answers, strict=True):
                if value is not None:
                    found.append(wire.read_record(token_id, value, revoked, used))
        return tuple(filter(None, found)), found.count(None)

    async def _pieces(
        self, ask: "_Command", operation: str, order: bytes, hashes: Sequence[str], start: str = ""
    ) -> AsyncIterator[list[Any]]:
        """The places of ``order`` from the newest down, and beside them what ``hashes`` say about each.

        Each piece goes on from the last place, so that a server that has taken over in between leaves nothing out.
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

    async def _changes(self, entries: Sequence[Any], last: str, head: str) -> Changes:
        piece = _Piece(head)
        for entry_id, fields in entries:
            if not piece.take(entry_id.decode("ascii"), fields):
                raise await self._gap(last)
        records, damaged = await self._records_of(self._kv.follow, "read_changes", list(piece.record_ids))
        return Changes(
            position=f"{piece.last}:{piece.head}",
            records=records,
            entries=tuple(filter(None, piece.denials.values())),
            removed=tuple(denial_id for denial_id, denial in piece.denials.items() if denial is None),
            written_at=tuple(piece.written_at),
            skipped=piece.skipped + damaged,
        )

    async def _issuers_of(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The index by issuer of those denials that there are."""
        if not ids:
            return {}
        (values,) = await self._kv.read("write", ("HMGET", self._key["denials"], *ids))
        denials = (wire.read_denial(*item) for item in zip(ids, values, strict=True) if item[1] is not None)
        return {denial.id: self._by_issuer(denial.issuer) for denial in denials if denial is not None}

    async def _sweep(self) -> None:
        """Remove some of what is long over. Best effort: the write before it is done."""
        if self._clock.monotonic() - self._swept_at < _SWEEP_INTERVAL:
            return
        now = self._clock.now()
        self._swept_at = self._clock.monotonic()
        with contextlib.suppress(Unavailable):
            records = await self._sweep_one("expiry", _RECORDS, "order", now - KEEP_RECORDS)
            denials = await self._sweep_one("denials:expiry", ("denials",), "denials:order", now - KEEP_DENIALS)
            if max(records, denials) == _MAX_SWEPT:
                self._swept_at -= _SWEEP_INTERVAL

    async def _sweep_one(self, expiry: str, hashes: Sequence[str], order: str, until: float) -> int:
        oldest: Command = ("ZRANGEBYSCORE", self._key[expiry], "-inf", wire.write_time(until), "LIMIT", 0, _MAX_SWEPT)
        (found,) = await self._kv.read("sweep", oldest)
        if not found:
            return 0
        (values,) = await self._kv.read("sweep", ("HMGET", self._key[hashes[0]], *found))
        fixed = [self._key[name] for name in (hashes[0], order, expiry, "revoked", "used")]
        arguments = _Arguments(len(fixed))
        arguments.values.append(wire.write_time(until))
        for raw_id, value in zip(found, values, strict=True):
            entry_id = raw_id.decode("ascii", "replace")
            orders = self._orders_of(hashes[0], entry_id, value or b"")
            arguments.values += [entry_id, *map(arguments.number, orders), *[""] * (3 - len(orders))]
        await self._kv.write("sweep", SWEEP, [*fixed, *arguments.keys], arguments.values)
        return len(found)

    def _orders_of(self, kind: str, entry_id: str, value: bytes) -> list[bytes]:
        """The sorted sets, besides the one of all, in which an entry stands; none when it cannot be understood."""
        if kind == "denials":
            denial = wire.read_denial(entry_id, value)
            return [] if denial is None else [self._by_issuer(denial.issuer)]
        record = wire.read_record(entry_id, value, None, None)
        if record is None:
            return []
        standing = self._standing(record)
        return [*self._indexes(record), *([standing] if standing else [])]

    def _indexes(self, record: TokenRecord) -> list[bytes]:
        owner = record.owner
        return [self._by_actor(record.actor_id), self._by_owner((owner.issuer, owner.subject))]

    def _by_actor(self, actor_id: str) -> bytes:
        return self._kv.key(f"actor:{_digest(actor_id)}")

    def _by_owner(self, owner: tuple[str, str]) -> bytes:
        return self._kv.key(f"owner:{_digest(*owner)}")

    def _by_issuer(self, issuer: str) -> bytes:
        return self._kv.key(f"issuer:{_digest(issuer)}")

    def _standing(self, record: TokenRecord) -> bytes | None:
        """Where the tokens of a bot are that may still stand."""
        return self._kv.key(f"bot:{_digest(record.actor_id)}") if record.kind is TokenKind.BOT else None


class _Arguments:
    """The lists that a script reads, and the keys that they name by number."""

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
        replacing: bool,
    ) -> None:
        """Records to add."""
        self.values.append(str(len(records)))
        for record in records:
            bot = standing(record)
            numbers = [self.number(index) for index in indexes(record)]
            self.values += [
                record.id,
                wire.write_record(record),
                _optional(record.revoked_at),
                _optional(record.last_used_at),
                _optional(record.expires_at),
                self.number(bot) if bot else "",
                "1" if replacing else "0",
                wire.write_time(record.created_at),
                str(len(numbers)),
                *numbers,
            ]

    def revoke(self, ended: Sequence[tuple[str, float]]) -> None:
        """Ids of records that end, and when."""
        self._pairs(ended)

    def deny(self, denials: Sequence[RevocationEntry], by_issuer: Callable[[str], bytes]) -> None:
        """Denials to add."""
        self.values.append(str(len(denials)))
        for denial in denials:
            index = self.number(by_issuer(denial.issuer))
            self.values += [denial.id, wire.write_denial(denial), _optional(denial.expires_at), index]

    def forgive(self, ids: Sequence[str], index_of: Mapping[str, bytes]) -> None:
        """Ids of denials to remove."""
        self.values.append(str(len(ids)))
        for denial_id in ids:
            index = index_of.get(denial_id)
            self.values += [denial_id, self.number(index) if index else ""]

    def use(self, used: Sequence[tuple[str, float]]) -> None:
        """Ids of records that were used, and when."""
        self._pairs(used)

    def _pairs(self, pairs: Sequence[tuple[str, float]]) -> None:
        self.values.append(str(len(pairs)))
        for entry_id, moment in pairs:
            self.values += [entry_id, wire.write_time(moment)]


class _Piece:
    """What a piece of the log comes to: of each denial the last that was said about it."""

    def __init__(self, head: str) -> None:
        self.head = head
        self.last = ""
        self.record_ids: dict[str, None] = {}
        self.denials: dict[str, RevocationEntry | None] = {}
        self.written_at: list[float] = []
        self.skipped = 0

    def take(self, entry_id: str, fields: Mapping[bytes, bytes]) -> bool:
        """Take the next entry. False: it does not follow on the one before. Raises GapError when it tells nothing."""
        self.last = entry_id
        try:
            before, mark = fields[b"p"].decode("ascii"), fields[b"i"].decode("ascii")
            written_at, ids = float(fields[b"t"]), wire.read_ids(fields[b"r"])
        except (KeyError, ValueError):
            # nothing of ours: a damaged entry of ours is found out by the next one, which does not follow
            self.skipped += 1
            return True
        if before != self.head:
            return False
        if fields.get(b"x") == b"1":
            raise GapError
        self.head = mark
        denials, forgiven, damaged = wire.read_changes(fields.get(b"d", b""))
        self.record_ids |= dict.fromkeys(ids)
        self.denials |= dict.fromkeys(forgiven) | {denial.id: denial for denial in denials}
        self.written_at.append(written_at)
        self.skipped += damaged
        return True


def _record_at(place: str, value: str | None, revoked: str | None, used: str | None) -> TokenRecord | None:
    return (
        None
        if value is None or not wire.is_sort_key(place)
        else wire.read_record(place[wire.STAMP :], value, revoked, used)
    )


def _denial_at(place: str, value: str | None) -> RevocationEntry | None:
    return None if value is None or not wire.is_sort_key(place) else wire.read_denial(place[wire.STAMP :], value)


def _order(entry_id: str) -> tuple[int, int]:
    """Where an entry of a stream stands."""
    moment, _, number = entry_id.partition("-")
    return int(moment), int(number or 0)


def _cut(found: Sequence[tuple[str, T]], limit: int) -> tuple[tuple[T, ...], str]:
    """The first ``limit`` of ``found``, and the mark of the next page when there is more."""
    page = found[:limit]
    return tuple(entry for _, entry in page), page[-1][0] if page and len(found) > limit else ""


def _digest(*parts: str) -> str:
    """A name for keys: it tells any two values apart, and shows neither."""
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
