"""One consistent copy of the store in memory: the revocation list, and every record that is still needed."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from sidecar.store.merge import (
    DAY,
    Entries,
    is_replaced,
    join_currents,
    join_ends,
    join_records,
    moment_of,
)
from sidecar.store.record import Current, TokenKind, TokenRecord, bot_key
from sidecar.store.replica.bot_names import BotNames
from sidecar.store.replica.expiry_index import ExpiryIndex
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.revocation_entry import Removal, RevocationEntry

KEEP_EXPIRED = DAY
"""Seconds for which a record is kept after its end."""
T = TypeVar("T")
_BUCKET = 32
_PIECE = 1000


class Snapshot:
    """Records and entries, merged as in :mod:`sidecar.store.merge`.

    For an entry in force it has what a check needs, which is not its version: the states of one entry must be added in
    the order of their versions. Everything else may be merged in any order.
    """

    def __init__(self) -> None:
        self.revocations = RevocationList()
        self._removals: dict[str, Removal] = {}
        self._records: dict[str, TokenRecord] = {}
        self._ends: dict[str, float] = {}
        self._currents: dict[str, Current] = {}
        self._standing_bots: dict[str, set[str]] = {}
        self.bot_names = BotNames()
        self._bots: dict[str, str] = {}
        self._expiries: ExpiryIndex[str] = ExpiryIndex()

    def record(self, token_id: str) -> TokenRecord | None:
        """The record with that id."""
        return self._records.get(token_id)

    def records(self) -> list[TokenRecord]:
        """All records."""
        return list(self._records.values())

    def removal(self, entry_id: str) -> Removal | None:
        """The removal of that entry, if it was removed and is not in force again."""
        return self._removals.get(entry_id)

    def merge_record(self, record: TokenRecord) -> bool:
        """Merge a record. False: it is valid in the store, and revoked here."""
        known = self._records.get(record.id)
        is_outdated = False
        if known is not None:
            is_outdated = record.revoked_at is None and known.revoked_at is not None
            record = join_records(known, record)
        elif record.expires_at is not None:
            self._expiries.put(record.id, record.expires_at + KEEP_EXPIRED)
        if record.id in self._ends:
            record = replace(record, revoked_at=join_ends(record.revoked_at, self._ends.pop(record.id)))
        if record.kind is TokenKind.BOT:
            record = self._learn_bot(record)
        self._records[record.id] = record
        if self.bot_names.learn(record):
            self.revocations.match_again()  # a token accepted before may have the name
        return not is_outdated

    def merge(self, entries: Entries) -> int:
        """Merge ``entries``, whose revocation entries are later than those here. Returns how many are invalid."""
        for record in entries.records:
            self.merge_record(record)
        for token_id, ended in entries.ends:
            self.end(token_id, ended)
        for current in entries.currents:
            self.replace(current)
        for removal in entries.removals:
            self.remove(removal)
        return self.add(entries.revocations)

    def add(self, entries: Iterable[RevocationEntry]) -> int:
        """Add ``entries``. Returns how many are invalid."""
        removals, failed = self._removals, 0
        for entry in entries:
            if removals and entry.id in removals:
                if removals[entry.id].version > entry.version:
                    continue
                del removals[entry.id]
            failed += not self.revocations.add(entry)
        return failed

    def remove(self, removal: Removal) -> None:
        """Remove an entry."""
        known = self._removals.get(removal.id)
        if known is None or known.version < removal.version:
            self._removals[removal.id] = removal
        self.revocations.discard(removal.id)

    def end(self, token_id: str, ended: float) -> None:
        """Revoke a record, or one that has not been read yet."""
        known = self._records.get(token_id)
        if known is None:
            self._ends[token_id] = min(ended, self._ends.get(token_id, ended))
        else:
            self.merge_record(replace(known, revoked_at=join_ends(known.revoked_at, ended)))

    def replace(self, current: Current) -> None:
        """Make ``current`` the token of its bot, and revoke what was minted before it."""
        known = self._currents.get(current.bot)
        newest = current if known is None else join_currents(known, current)
        if newest == known:
            return
        self._currents[current.bot] = newest
        for token_id in tuple(self._standing_bots.get(self._bots.get(current.bot, ""), ())):
            self.merge_record(self._records[token_id])

    def prune(self, now: float, most: int) -> None:
        """Drop what ended a day before ``now`` or earlier, looking at no more than ``most`` of each kind."""
        self.revocations.prune(now - DAY, most)
        for token_id in self._expiries.pop_due(now, most):
            gone = self._records.pop(token_id, None)
            if gone is not None and gone.kind is TokenKind.BOT:
                self._standing_bots[gone.actor_id].discard(token_id)
                self.bot_names.forget(gone)

    def prune_removals(self, now: float) -> None:
        """Drop removals that are kept no longer."""
        for removal in [removal for removal in self._removals.values() if removal.until + DAY <= now]:
            del self._removals[removal.id]

    def better_than(self, other: "Snapshot", now: float) -> Iterator[Entries | None]:
        """What ``other`` lacks, in pieces; None from time to time, to let other tasks run."""
        yield from self._words_unlike(other, now)
        currents = [current for current in self._currents.values() if other.is_newer(current)]
        ends = [(name, ended) for name, ended in self._ends.items() if not other.knows_end(name, ended)]
        yield Entries(currents=currents, ends=ends)
        for some in slices(tuple(self._records.values()), _PIECE):
            yield Entries(records=[record for record in some if other.is_unlike(record)])

    def _words_unlike(self, other: "Snapshot", now: float) -> Iterator[Entries | None]:
        """Entries and removals of which ``other`` has an earlier version or none. Versions are in the archives only."""
        if not len(self.revocations) and not self._removals:
            return
        oldest = now - DAY
        buckets = 1 + (len(self.revocations) + len(other.revocations)) // _BUCKET
        here, there = [0] * buckets, [0] * buckets
        # most entries of two copies are equal: only buckets that differ are compared one by one
        for picture, sums in ((self, here), (other, there)) if len(other.revocations) else ():
            for entry in picture.revocations.active(oldest):
                sums[hash(entry.id) % buckets] += hash((entry.id, entry.version))
                yield None
        is_unlike = [one != another for one, another in zip(here, there, strict=True)]
        is_all = not len(other.revocations)
        known: dict[str, int] = {}
        for entry in other.revocations.active(oldest):
            if is_unlike[hash(entry.id) % buckets] or entry.id in self._removals:
                known[entry.id] = max(entry.version, known.get(entry.id, 0))
            yield None
        better: dict[str, RevocationEntry] = {}
        for entry in self.revocations.active(oldest):
            if (is_all or is_unlike[hash(entry.id) % buckets]) and entry.version > known.get(entry.id, -1):
                removal = other.removal(entry.id)
                if removal is None or removal.version <= entry.version:
                    better[entry.id] = entry
            yield None
        yield from (Entries(revocations=some) for some in slices(better.values(), _PIECE))
        removals = [
            removal
            for removal in self._removals.values()
            if removal.version > known.get(removal.id, -1) and other.is_news(removal)
        ]
        yield from (Entries(removals=some) for some in slices(removals, _PIECE))

    def is_news(self, removal: Removal) -> bool:
        """Whether ``removal`` is later than the one here."""
        known = self._removals.get(removal.id)
        return known is None or known.version < removal.version

    def is_newer(self, current: Current) -> bool:
        """Whether ``current`` is a later token of its bot than the one here."""
        known = self._currents.get(current.bot)
        return known is None or (known.version, known.id) < (current.version, current.id)

    def knows_end(self, token_id: str, ended: float) -> bool:
        """Whether that record is revoked here, at that time or earlier."""
        record = self._records.get(token_id)
        known = self._ends.get(token_id) if record is None else record.revoked_at
        return known is not None and known <= ended

    def _learn_bot(self, record: TokenRecord) -> TokenRecord:
        """``record``, revoked if its bot has a later token."""
        standing = self._standing_bots.get(record.actor_id)
        if standing is None:
            standing = self._standing_bots[record.actor_id] = set()
            self._bots[bot_key(record.actor_id)] = record.actor_id
        if record.revoked_at is None and self._currents:
            current = self._currents.get(bot_key(record.actor_id))
            if current is not None and is_replaced(record, current):
                newer = self._records.get(current.id)
                ended = moment_of(current.version) if newer is None else newer.created_at
                record = replace(record, revoked_at=ended)
        (standing.add if record.revoked_at is None else standing.discard)(record.id)
        return record

    def is_unlike(self, record: TokenRecord) -> bool:
        """Whether ``record`` is not here, is revoked earlier than here, or has a later version."""
        known = self._records.get(record.id)
        if known is None or record.version > known.version:
            return True
        return record.revoked_at is not None and (known.revoked_at is None or record.revoked_at < known.revoked_at)


def slices(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """``items`` in pieces of ``size``."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
