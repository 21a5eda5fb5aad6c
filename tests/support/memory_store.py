"""A Store in memory that can be taken away, emptied, and made to forget its log."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from sidecar.errors import Cause, Unavailable
from sidecar.store.base import Batch, Changes, GapError, Page, RecordQuery, StoreStatus
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.revocation_entry import RevocationEntry


@dataclass(slots=True)
class MemoryStore:
    """Keeps the contract of :class:`sidecar.store.base.Store`. ``away``: every call raises Unavailable."""

    away: bool = False
    all_records: dict[str, TokenRecord] = field(default_factory=dict)
    all_denials: dict[str, RevocationEntry] = field(default_factory=dict)
    log: list[Changes] = field(default_factory=list)
    trimmed: int = 0
    mark: str = "g1"
    batches: list[Batch] = field(default_factory=list)
    touches: list[Sequence[tuple[str, float]]] = field(default_factory=list)
    now: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        """Raise when the store is away."""
        if self.away:
            raise Unavailable(Cause.STORE_UNAVAILABLE, "away")

    def empty(self) -> None:
        """Lose everything, as a server without persistence does."""
        self.all_records.clear()
        self.all_denials.clear()
        self.log.clear()
        self.trimmed, self.mark = 0, ""
        self._wake()

    def trim(self) -> None:
        """Forget the log, not what it led to."""
        self.trimmed += len(self.log)
        self.log.clear()

    async def write(self, batch: Batch) -> None:
        self.check()
        self.batches.append(batch)
        records: dict[str, TokenRecord] = {}
        for added in batch.add:
            if added.kind is TokenKind.BOT and not batch.keep_bot_tokens:
                records |= self._ended_bots(added)
            records[added.id] = added
        for token_id, ended in batch.revoke:
            known = records.get(token_id) or self.all_records.get(token_id)
            if known is not None and known.revoked_at is None:
                records[token_id] = replace(known, revoked_at=ended)
        self.all_records |= records
        self.all_denials |= {denial.id: denial for denial in batch.add_entries}
        for denial_id in batch.remove_entries:
            self.all_denials.pop(denial_id, None)
        position = self.trimmed + len(self.log) + 1
        self.log.append(
            Changes(
                str(position),
                tuple(records.values()),
                tuple(batch.add_entries),
                tuple(batch.remove_entries),
                written_at=(self.now,),
            )
        )
        self._wake()

    async def touch(self, used: Sequence[tuple[str, float]]) -> None:
        self.check()
        if used:
            self.touches.append(tuple(used))
        for token_id, moment in used:
            if token_id in self.all_records:
                self.all_records[token_id] = replace(self.all_records[token_id], last_used_at=moment)

    async def record(self, token_id: str) -> TokenRecord | None:
        self.check()
        return self.all_records.get(token_id)

    async def records(self, query: RecordQuery, after: str, limit: int) -> Page:
        self.check()
        found = [record for record in reversed(self.all_records.values()) if _matches(record, query)]
        start = _start(after)
        more = str(start + limit) if start + limit < len(found) else ""
        return Page(records=tuple(found[start : start + limit]), after=more, total=len(found))

    async def entry(self, entry_id: str) -> RevocationEntry | None:
        self.check()
        return self.all_denials.get(entry_id)

    async def entries(self, issuer: str | None, after: str, limit: int, now: float) -> Page:
        self.check()
        found = [
            denial
            for denial in reversed(self.all_denials.values())
            if issuer in (None, denial.issuer) and (denial.expires_at is None or denial.expires_at > now)
        ]
        start = _start(after)
        more = str(start + limit) if start + limit < len(found) else ""
        return Page(entries=tuple(found[start : start + limit]), after=more, total=len(found))

    async def snapshot(self) -> AsyncIterator[Changes]:
        self.check()
        position = str(self.trimmed + len(self.log))
        yield Changes(position, tuple(self.all_records.values()), tuple(self.all_denials.values()))

    async def follow(self, position: str, wait: float) -> Changes:
        self.check()
        read = int(position)
        if read < self.trimmed or read > self.trimmed + len(self.log):
            raise GapError
        if read == self.trimmed + len(self.log):
            changed = self.changed
            try:
                await asyncio.wait_for(changed.wait(), wait)
            except TimeoutError:
                return Changes(position)
            self.check()
            if int(position) < self.trimmed or not self.log:
                raise GapError
        pieces = self.log[read - self.trimmed :]
        return Changes(
            str(self.trimmed + len(self.log)),
            tuple(record for piece in pieces for record in piece.records),
            tuple(denial for piece in pieces for denial in piece.entries),
            tuple(denial_id for piece in pieces for denial_id in piece.removed),
            tuple(moment for piece in pieces for moment in piece.written_at),
        )

    async def generation(self) -> str:
        self.check()
        return self.mark

    async def restore(
        self, records: Sequence[TokenRecord], entries: Sequence[RevocationEntry], generation: str
    ) -> bool:
        self.check()
        if self.mark:
            return False
        self.mark = generation
        self.all_records = {record.id: record for record in records} | self.all_records
        self.all_denials = {denial.id: denial for denial in entries} | self.all_denials
        self.log.append(Changes(str(self.trimmed + len(self.log) + 1), tuple(records), tuple(entries)))
        self._wake()
        return True

    async def status(self) -> StoreStatus:
        self.check()
        return StoreStatus(persistent=False)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _ended_bots(self, added: TokenRecord) -> dict[str, TokenRecord]:
        return {
            record.id: replace(record, revoked_at=added.created_at)
            for record in self.all_records.values()
            if record.kind is TokenKind.BOT and record.actor_id == added.actor_id and record.revoked_at is None
        }

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def _matches(record: TokenRecord, query: RecordQuery) -> bool:
    return query.matches(record)


def _start(after: str) -> int:
    """Raises ValueError for what is no mark."""
    return int(after) if after else 0
