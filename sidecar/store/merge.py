"""Merges two states of one object: the order that every copy and every store keeps.

Each function is commutative, associative and idempotent, so the order in which states arrive does not matter.
``redis/scripts.py`` does the same in Lua. Correctness: ``docs/decisions/0011-copies-that-merge.md``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from typing import Any

from sidecar.store.record import Current, TokenKind, TokenRecord, bot_key
from sidecar.store.redis.codec import entry_text
from sidecar.store.revocation_entry import Removal, RevocationEntry

DAY = 86400.0
KEEP_ENTRIES = DAY
"""Seconds for which an expired entry stays, in stores and in copies, because clocks differ."""
KEEP_RECORDS = 30 * DAY
"""Seconds for which an expired record stays in lists."""
KEEP_REMOVALS = 366 * DAY
"""Seconds for which a removal is remembered, and longer where the entry would have lasted longer."""

Word = RevocationEntry | Removal


@dataclass(frozen=True, slots=True)
class Entries:
    """States to merge, in any order. ``ends``: ids of records and their time of revocation, stored here or not."""

    records: Sequence[TokenRecord] = ()
    ends: Sequence[tuple[str, float]] = ()
    revocations: Sequence[RevocationEntry] = ()
    removals: Sequence[Removal] = ()
    currents: Sequence[Current] = ()

    def __bool__(self) -> bool:
        return any(self.lists)

    @property
    def lists(self) -> tuple[Sequence[Any], ...]:
        """Its five lists."""
        return (self.records, self.ends, self.revocations, self.removals, self.currents)

    def part(self, start: int, end: int) -> "Entries":
        """From each list the items from ``start`` to ``end``."""
        return Entries(*(items[start:end] for items in self.lists))

    @staticmethod
    def joined(pieces: Sequence["Entries"]) -> "Entries":
        """All of ``pieces``."""
        return Entries(*(tuple(chain(*items)) for items in zip(*(piece.lists for piece in pieces), strict=True)))

    @property
    def version(self) -> int:
        """The highest version that is among them."""
        versions: list[int] = []
        for items in (self.records, self.revocations, self.removals, self.currents):
            versions += [item.version for item in items]
        return max(versions, default=0)

    def versioned(self) -> Iterable[TokenRecord | RevocationEntry | Removal | Current]:
        """Everything that has a version."""
        yield from self.records
        yield from self.revocations
        yield from self.removals
        yield from self.currents

    def words(self) -> dict[str, int]:
        """The version of each entry and removal, by id."""
        denied = {entry.id: entry.version for entry in self.revocations}
        return denied | {removal.id: removal.version for removal in self.removals}


def rank(word: Word) -> tuple[int, int, float, str]:
    """Of two states of one entry the higher rank counts: the later version, and of equal ones what rejects more.

    Equal versions occur only in data from before stores assigned versions.
    """
    if isinstance(word, Removal):
        return (word.version, 0, word.until, "")
    # the text as Redis compares it
    return (word.version, 1, inf if word.expires_at is None else word.expires_at, entry_text(word))


def join_words(one: Word, other: Word) -> Word:
    """The state of an entry that counts."""
    return max(one, other, key=rank)


def join_ends(one: float | None, other: float | None) -> float | None:
    """The revocation time of a record: the earlier one; one takes precedence over none."""
    return other if one is None else one if other is None else min(one, other)


def join_records(one: TokenRecord, other: TokenRecord) -> TokenRecord:
    """Merge two states of a record. Only its end, last use and version can differ: ids are never reused."""
    used = max(one.last_used_at or 0.0, other.last_used_at or 0.0)
    return replace(
        other if other.version >= one.version else one,
        revoked_at=join_ends(one.revoked_at, other.revoked_at),
        last_used_at=None if one.last_used_at is None and other.last_used_at is None else used,
    )


def join_currents(one: Current, other: Current) -> Current:
    """The token of a bot that was minted last."""
    return max(one, other, key=lambda current: (current.version, current.id))


def currents_of(minted: Iterable[TokenRecord]) -> list[Current]:
    """The current tokens of bots that result from ``minted``."""
    return [
        Current(bot_key(record.actor_id), record.version, record.id)
        for record in minted
        if record.kind is TokenKind.BOT
    ]


def is_replaced(record: TokenRecord, current: Current | None) -> bool:
    """Whether ``record`` is an older token of the bot that ``current`` is about."""
    if current is None or record.kind is not TokenKind.BOT or record.id == current.id:
        return False
    return (record.version, record.id) < (current.version, current.id)


def moment_of(version: int) -> float:
    """The time at which the store assigned ``version``, in seconds since the epoch."""
    return version / 1_000_000


def remembered_until(expires_at: float | None, now: float) -> float:
    """Until when a removal is kept that is made at ``now``, of an entry that would have expired at ``expires_at``."""
    return max(now + KEEP_REMOVALS, (expires_at or 0.0) + DAY)


def removal_at(entry_id: str, version: int, expires_at: float | None = None) -> Removal:
    """The removal of an entry that would have expired at ``expires_at``; the store has just assigned ``version``."""
    return Removal(entry_id, version, remembered_until(expires_at, moment_of(version)))
