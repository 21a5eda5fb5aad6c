"""The names that are reserved for bots, by the records of their tokens and registrations.

A registration is a record of kind ``bot_name``: it has no token, never expires, and its end is the release of the name.
"""

from hashlib import sha256

from sidecar.identity.actor import ActorType
from sidecar.identity.names import folded
from sidecar.store.record import TokenKind, TokenRecord


def registration_id(name: str, number: int) -> str:
    """Id of the ``number``-th registration of ``name``: two replicas that register it write one record."""
    return f"bot-name-{sha256(folded(name).encode('utf-8', 'surrogatepass')).hexdigest()[:32]}-{number}"


def make_registration(name: str, number: int, now: float, by: str) -> TokenRecord:
    """The record that reserves ``name`` for a bot. ``by``: the caller that registered it."""
    # without token and Actor: no credential and no list of tokens ever finds it
    return TokenRecord(
        id=registration_id(name, number),
        token_hash="",
        name=name,
        kind=TokenKind.BOT_NAME,
        actor_id="",
        actor_type=ActorType.SERVICE,
        created_at=now,
        description=by,
    )


class BotNames:
    """The reserved names in a copy of the store, compared without case."""

    def __init__(self) -> None:
        self._registered: dict[str, set[str]] = {}
        self._released: dict[str, float] = {}
        self._standing: dict[str, set[str]] = {}
        self._minted: dict[str, float] = {}
        self._spelled: dict[str, str] = {}

    def learn(self, record: TokenRecord) -> bool:
        """Add ``record``, also a revoked one. True: it reserves a name that was free."""
        if record.kind is not TokenKind.BOT_NAME and record.kind is not TokenKind.BOT:
            return False
        name = record.name if record.kind is TokenKind.BOT_NAME else record.actor_id
        was_reserved = self.has(name)
        self._add(record)
        return not was_reserved and self.has(name)

    def _add(self, record: TokenRecord) -> None:
        if record.kind is TokenKind.BOT_NAME:
            name = folded(record.name)
            registered = self._registered.setdefault(name, set())
            if record.revoked_at is None:
                registered.add(record.id)
            else:
                registered.discard(record.id)
                self._released[name] = max(record.revoked_at, self._released.get(name, record.revoked_at))
        else:
            name = folded(record.actor_id)
            standing = self._standing.setdefault(name, set())
            (standing.add if record.revoked_at is None else standing.discard)(record.id)
            self._spelled[name] = record.actor_id
            self._minted[name] = max(record.created_at, self._minted.get(name, record.created_at))

    def forget(self, record: TokenRecord) -> None:
        """``record`` was dropped from the copy. Its name stays reserved."""
        if record.kind is TokenKind.BOT:
            self._standing[folded(record.actor_id)].discard(record.id)

    def has(self, name: str) -> bool:
        """Whether ``name`` is reserved: it is registered, or a token was minted after its last release."""
        name = folded(name)
        minted = self._minted.get(name)
        if minted is None:
            return bool(self._registered.get(name))
        if self._registered.get(name) or self._standing.get(name):
            return True
        released = self._released.get(name)
        return released is None or minted > released

    def unregistered(self) -> list[str]:
        """Names that are reserved only by tokens, whose records are deleted after a time."""
        return [self._spelled[name] for name in self._minted if not self._registered.get(name) and self.has(name)]
