"""The names that are kept for bots. A name that ever had a bot's token stays kept until an admin releases it."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.claims import actor_name
from sidecar.identity.names import folded
from sidecar.logs import AUDIT
from sidecar.store.base import Batch, Page, RecordQuery, Store
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.bot_names import make_registration, registration_id
from sidecar.store.timestamps import to_text

_audit = logging.getLogger(AUDIT)
_PAGE = 500


def _never_seen(_name: str) -> bool:
    return False


class Bots:
    """Registers, releases and lists the names.

    ``admin_names`` are those in ``adminPrincipals``, ``reserved`` nobody's. ``is_person_seen`` says whether a person of
    that name has come in lately. Every method raises Unavailable(STORE_UNAVAILABLE) when the store does not answer.
    """

    def __init__(
        self,
        store: Store,
        write: Callable[[Batch], Awaitable[object]],
        clock: Clock,
        *,
        admin_names: Iterable[str],
        reserved: Iterable[str],
        is_person_seen: Callable[[str], bool] = _never_seen,
    ) -> None:
        self._store = store
        self._write = write
        self._clock = clock
        # corp/alice is called alice unless the provider has a namespace
        self._admin_names = {folded(part) for name in admin_names for part in (name, name.rpartition("/")[2])}
        self._reserved = set(map(folded, reserved))
        self._is_person_seen = is_person_seen

    async def claim(self, name: str, by: str, replace_person: bool) -> tuple[TokenRecord, ...]:
        """What is to be written so that ``name`` is kept for a bot; nothing where it is.

        Raises Refused(CONFLICT) for the name of a person or an admin, unless ``replace_person``.
        """
        number, standing = await self._registration(name)
        if standing is not None:
            return ()
        if not replace_person and not await self._tokens(name, number):
            person = await self._person(name)
            if person:
                raise Refused(
                    Reason.CONFLICT,
                    message=f"{name} {person}. Kept for a bot, the name is refused to every person until it is "
                    "released. If that is meant, ask again with replacePerson (--replace-person)",
                )
        return (make_registration(name, number, self._clock.now(), by),)

    async def has(self, name: str) -> bool:
        """Whether ``name`` is kept for a bot."""
        number, standing = await self._registration(name)
        return standing is not None or bool(await self._tokens(name, number))

    async def register(self, name: str, *, by: str, replace_person: bool) -> tuple[TokenRecord, bool]:
        """Keep ``name`` for a bot. Returns the registration, and whether it is new. Raises as :meth:`claim`."""
        name = self._sound(name)
        claimed = await self.claim(name, by, replace_person)
        if claimed:
            await self._write(Batch(add=claimed))
            _audit.info("bot name registered", extra={"event": "bot_name_registered", "bot": name, "by": by})
            return claimed[0], True
        _, standing = await self._registration(name)
        if standing is None:
            raise Refused(Reason.CONFLICT, message="The name was released in the same moment; ask again")
        return standing, False

    async def release(self, name: str, *, by: str) -> None:
        """Let ``name`` be a person's again. Raises Refused: NOT_FOUND, or CONFLICT while a token of the bot stands."""
        name = self._sound(name)
        number, standing = await self._registration(name)
        tokens = await self._tokens(name, number)
        if standing is None and not tokens:
            raise Refused(Reason.NOT_FOUND, message="No bot has or had this name")
        now = self._clock.now()
        in_force = [token for token in tokens if token.expires_at is None or token.expires_at > now]
        in_force = [token for token in in_force if token.revoked_at is None]
        if in_force:
            raise Refused(
                Reason.CONFLICT,
                message=f"The bot has {len(in_force)} tokens in force, {in_force[0].id} among them; revoke them first",
            )
        over = [(token.id, now) for token in tokens if token.revoked_at is None]
        registration = standing or make_registration(name, number, now, by)
        added = () if standing else (registration,)
        await self._write(Batch(add=added, revoke=((registration.id, now), *over)))
        _audit.info("bot name released", extra={"event": "bot_name_released", "bot": name, "by": by})

    async def adopt(self, names: Iterable[str]) -> int:
        """Keep ``names``, which records of tokens keep so far. Returns how many were registered."""
        adopted = [record for name in names for record in await self.claim(name, "earlier tokens", True)]
        for start in range(0, len(adopted), _PAGE):
            await self._write(Batch(add=adopted[start : start + _PAGE]))
        return len(adopted)

    async def page(self, after: str, limit: int) -> Page:
        """A page of the names that are kept. Raises ValueError for an ``after`` that is no mark."""
        query = RecordQuery(actor_id="", kind=TokenKind.BOT_NAME.value, active=True, now=self._clock.now())
        return await self._store.records(query, after, limit)

    def _sound(self, name: str) -> str:
        """``name`` as Actors are spelled."""
        try:
            name = actor_name(name)
        except Refused as refusal:
            message = "A bot's name has no white space and no @"
            raise Refused(Reason.REQUEST_INVALID, refusal.cause, message=message) from refusal
        if folded(name) in self._reserved:
            raise Refused(Reason.REQUEST_INVALID, Cause.RESERVED_NAME, message="The name is reserved")
        return name

    async def _registration(self, name: str) -> tuple[int, TokenRecord | None]:
        """The registration that stands, or None and the number of the next."""
        number = 0
        while True:
            record = await self._store.record(registration_id(name, number))
            if record is None or record.revoked_at is None:
                return number, record
            number += 1

    async def _tokens(self, name: str, number: int) -> list[TokenRecord]:
        """The bot's tokens on record from after the last release of ``name``, and those that have not ended."""
        released = None
        if number:
            record = await self._store.record(registration_id(name, number - 1))
            released = None if record is None else record.revoked_at
        return [
            token
            async for token in self._records(RecordQuery(actor_id=name, kind=TokenKind.BOT.value))
            if token.revoked_at is None or released is None or token.created_at > released
        ]

    async def _person(self, name: str) -> str:
        """What makes ``name`` a person's; empty: nothing is known."""
        if folded(name) in self._admin_names:
            return "is named in adminPrincipals"
        for kind in (TokenKind.PERSONAL, TokenKind.SESSION):
            if (await self._store.records(RecordQuery(actor_id=name, kind=kind.value), "", 1)).records:
                return "is a person who has tokens on record"
        return "is a caller who has come in lately" if self._is_person_seen(name) else ""

    async def _records(self, query: RecordQuery) -> AsyncIterator[TokenRecord]:
        after = ""
        while True:
            page = await self._store.records(query, after, _PAGE)
            for record in page.records:
                yield record
            after = page.after
            if not after:
                return


def describe(registration: TokenRecord) -> dict[str, object]:
    """A kept name as JSON."""
    return {
        "name": registration.name,
        "registeredAt": to_text(registration.created_at),
        "registeredBy": registration.description,
    }
