"""One consistent picture of the store in memory: the deny list, and every record that may still matter."""

from collections.abc import Iterable
from dataclasses import replace

from sidecar.store.base import Batch
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.bot_names import BotNames
from sidecar.store.replica.expiry_index import ExpiryIndex
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.revocation_entry import RevocationEntry

KEEP_EXPIRED = 86400.0
"""How long after its end a record is still kept, in seconds."""


class Snapshot:
    """What is known of denials and records. What has once been revoked stays so, whatever arrives late."""

    def __init__(self) -> None:
        self.revocations = RevocationList()
        self._records: dict[str, TokenRecord] = {}
        self._standing_bots: dict[str, set[str]] = {}
        self.bot_names = BotNames()
        self._expiries: ExpiryIndex[str] = ExpiryIndex()

    def record(self, token_id: str) -> TokenRecord | None:
        """The record of that id."""
        return self._records.get(token_id)

    def records(self) -> list[TokenRecord]:
        """All of them."""
        return list(self._records.values())

    def merge(self, record: TokenRecord) -> None:
        """Take over what the store says of a record; one that has ended stays so."""
        known = self._records.get(record.id)
        if known is not None and known.revoked_at is not None and record.revoked_at is None:
            record = replace(record, revoked_at=known.revoked_at)
        elif known is None and record.expires_at is not None:
            self._expiries.put(record.id, record.expires_at + KEEP_EXPIRED)
        self._records[record.id] = record
        self.bot_names.learn(record)
        if record.kind is TokenKind.BOT:
            standing = self._standing_bots.setdefault(record.actor_id, set())
            (standing.add if record.revoked_at is None else standing.discard)(record.id)

    def add(self, denials: Iterable[RevocationEntry]) -> int:
        """Let ``revocations`` stand. Returns how many could not be understood."""
        return sum(not self.revocations.add(denial) for denial in denials)

    def replaced_by(self, batch: Batch) -> list[tuple[str, float]]:
        """Ids of the standing bot tokens that end when the store writes ``batch``, and when they end."""
        if batch.keep_bot_tokens:
            return []
        return [
            (token_id, record.created_at)
            for record in batch.add
            if record.kind is TokenKind.BOT
            for token_id in self._standing_bots.get(record.actor_id, set()) - {record.id}
        ]

    def apply(self, batch: Batch) -> None:
        """Do what the store has just done with ``batch``; which tokens it replaced is not found out here."""
        for record in batch.add:
            self.merge(record)
        for token_id, ended in batch.revoke:
            self._end(token_id, ended)
        for denial_id in batch.remove_entries:
            self.revocations.discard(denial_id)
        self.add(batch.add_entries)

    def prune(self, now: float, most: int) -> None:
        """Forget what ended long before ``now``, looking at no more than ``most`` of each kind."""
        self.revocations.prune(now, most)
        for token_id in self._expiries.pop_due(now, most):
            gone = self._records.pop(token_id, None)
            if gone is not None and gone.kind is TokenKind.BOT:
                self._standing_bots[gone.actor_id].discard(token_id)
                self.bot_names.forget(gone)

    def difference(self, other: "Snapshot") -> Batch:
        """What ``other``'s store must be told of records so that it refuses all that is refused here."""
        added, revoked = [], []
        for record in self._records.values():
            found = other.record(record.id)
            if found is None:
                added.append(record)
            elif record.revoked_at is not None and found.revoked_at is None:
                revoked.append((record.id, record.revoked_at))
        return Batch(add=added, revoke=revoked, keep_bot_tokens=True)

    def _end(self, token_id: str, ended: float) -> None:
        known = self._records.get(token_id)
        if known is not None and known.revoked_at is None:
            self.merge(replace(known, revoked_at=ended))
