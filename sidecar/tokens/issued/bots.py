"""Reserved bot names. A name that was ever used by a bot token stays reserved until an admin releases it."""

import logging
from collections.abc import Awaitable, Callable, Iterable

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.claims import actor_name
from sidecar.identity.names import folded
from sidecar.logs import AUDIT
from sidecar.store.base import Batch, Page, RecordQuery, Store
from sidecar.store.pages import PAGE_SIZE, all_records
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.bot_names import make_registration, registration_id
from sidecar.store.timestamps import format_rfc3339

_audit = logging.getLogger(AUDIT)


def _no_person(_name: str) -> bool:
    return False


def _nowhere(_name: str) -> None:
    return None


class BotRegistry:
    """Registers, releases and lists bot names.

    ``admin_names`` are the names in ``adminPrincipals``, ``reserved`` cannot be registered. ``is_person_seen`` says
    whether a person with that name was authenticated recently, ``location`` where the token of a bot is kept. Every
    method raises Unavailable(STORE_UNAVAILABLE) if the store does not answer.
    """

    def __init__(
        self,
        store: Store,
        write: Callable[[Batch], Awaitable[object]],
        clock: Clock,
        *,
        admin_names: Iterable[str],
        reserved: Iterable[str],
        is_person_seen: Callable[[str], bool] = _no_person,
        location: Callable[[str], str | None] = _nowhere,
    ) -> None:
        self._location = location
        self._store = store
        self._write = write
        self._clock = clock
        # corp/alice has the Actor id alice unless the provider has a namespace
        self._admin_names = {folded(part) for name in admin_names for part in (name, name.rpartition("/")[2])}
        self._reserved = set(map(folded, reserved))
        self._is_person_seen = is_person_seen

    async def claim(self, name: str, by: str, replace_person: bool) -> tuple[TokenRecord, ...]:
        """The registration to write so that ``name`` is reserved for a bot; empty if it is reserved already.

        Raises Refused(CONFLICT) for the name of a person or an admin, unless ``replace_person``.
        """
        number, registration = await self._registration(name)
        if registration is not None:
            return ()
        if not replace_person and not await self._tokens(name, number):
            person = await self._person_reason(name)
            if person:
                raise Refused(
                    Reason.CONFLICT,
                    message=f"{name} {person}. While a name is reserved for a bot, callers of other issuers with this "
                    "name are rejected. To reserve it anyway, set replacePerson (--replace-person)",
                )
        return (make_registration(name, number, self._clock.now(), by),)

    async def is_registered(self, name: str) -> bool:
        """Whether ``name`` is reserved for a bot."""
        number, registration = await self._registration(name)
        return registration is not None or bool(await self._tokens(name, number))

    async def register(self, name: str, *, by: str, replace_person: bool) -> tuple[TokenRecord, bool]:
        """Reserve ``name`` for a bot. Returns the registration, and whether it is new. Raises as :meth:`claim`."""
        name = self._canonical_name(name)
        claimed = await self.claim(name, by, replace_person)
        if claimed:
            await self._write(Batch(add=claimed))
            _audit.info("bot name registered", extra={"event": "bot_name_registered", "bot": name, "by": by})
            return claimed[0], True
        _, standing = await self._registration(name)
        if standing is None:
            raise Refused(Reason.CONFLICT, message="The name was released concurrently; retry the request")
        return standing, False

    async def release(self, name: str, *, by: str) -> None:
        """Allow people to use ``name`` again. Raises Refused: NOT_FOUND, or CONFLICT if the bot has a valid token."""
        name = self._canonical_name(name)
        number, standing = await self._registration(name)
        tokens = await self._tokens(name, number)
        if standing is None and not tokens:
            raise Refused(Reason.NOT_FOUND, message="No bot is registered with this name")
        now = self._clock.now()
        in_force = [token for token in tokens if token.expires_at is None or token.expires_at > now]
        in_force = [token for token in in_force if token.revoked_at is None]
        if in_force:
            raise Refused(
                Reason.CONFLICT,
                message=f"The bot has {len(in_force)} valid tokens, for example {in_force[0].id}; revoke them first",
            )
        # tokens of the token endpoint would keep the name for up to an hour
        query = RecordQuery(actor_id=name, kind=TokenKind.EXCHANGED.value)
        tokens += [token async for token in all_records(self._store, query)]
        revocations = [(token.id, now) for token in tokens if token.revoked_at is None]
        registration = standing or make_registration(name, number, now, by)
        added = () if standing else (registration,)
        await self._write(Batch(add=added, revoke=((registration.id, now), *revocations)))
        _audit.info("bot name released", extra={"event": "bot_name_released", "bot": name, "by": by})

    async def adopt_existing(self, names: Iterable[str]) -> int:
        """Register ``names``, which were reserved by token records only. Returns how many were registered."""
        adopted = [record for name in names for record in await self.claim(name, "earlier tokens", True)]
        for start in range(0, len(adopted), PAGE_SIZE):
            await self._write(Batch(add=adopted[start : start + PAGE_SIZE]))
        return len(adopted)

    async def page(self, after: str, limit: int) -> Page:
        """A page of the reserved names. Raises ValueError for an invalid cursor ``after``."""
        query = RecordQuery(actor_id="", kind=TokenKind.BOT_NAME.value, active=True, now=self._clock.now())
        return await self._store.records(query, after, limit)

    def describe(self, registration: TokenRecord) -> dict[str, object]:
        """A reserved name as JSON. ``secret``: the reference to the bot's token in the secrets manager, or None."""
        return {
            "name": registration.name,
            "registeredAt": format_rfc3339(registration.created_at),
            "registeredBy": registration.description,
            "secret": self._location(registration.name),
        }

    def _canonical_name(self, name: str) -> str:
        """``name`` in the spelling of Actor ids."""
        try:
            name = actor_name(name)
        except Refused as refusal:
            message = "A bot's name must not contain white space or @"
            raise Refused(Reason.REQUEST_INVALID, refusal.cause, message=message) from refusal
        if folded(name) in self._reserved:
            raise Refused(Reason.REQUEST_INVALID, Cause.RESERVED_NAME, message="The name is reserved")
        return name

    async def _registration(self, name: str) -> tuple[int, TokenRecord | None]:
        """The active registration, or None and the number of the next one."""
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
            async for token in all_records(self._store, RecordQuery(actor_id=name, kind=TokenKind.BOT.value))
            if token.revoked_at is None or released is None or token.created_at > released
        ]

    async def _person_reason(self, name: str) -> str:
        """Why ``name`` belongs to a person; empty: no evidence."""
        if folded(name) in self._admin_names:
            return "is named in adminPrincipals"
        for kind in (TokenKind.PERSONAL, TokenKind.SESSION):
            if (await self._store.records(RecordQuery(actor_id=name, kind=kind.value), "", 1)).records:
                return "is a person with issued tokens"
        return "is a person who was authenticated recently" if self._is_person_seen(name) else ""
