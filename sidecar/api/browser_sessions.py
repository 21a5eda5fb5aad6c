"""Who may list and end which browser sessions: persons their own, admins those of all users."""

from sidecar.errors import Reason, Refused
from sidecar.sessions.records import session_owner
from sidecar.sessions.service import Sessions
from sidecar.store.base import Page
from sidecar.store.pages import all_pages
from sidecar.store.record import Owner, TokenRecord
from sidecar.tokens.issued.service import Caller, TokenService

_ENDED = "ended"


class BrowserSessions:
    """Every method raises Unavailable(STORE_UNAVAILABLE) if the store does not answer."""

    def __init__(self, sessions: Sessions, tokens: TokenService) -> None:
        self._sessions = sessions
        self._tokens = tokens

    async def page(
        self, caller: Caller, *, actor_id: str | None, active: bool | None, after: str, limit: int, mine: bool = False
    ) -> Page:
        """A page of the sessions that ``caller`` may see; ``mine``: only of the caller's own, also for admins.

        Raises ValueError for an invalid cursor ``after``.
        """
        owner = None
        if mine or not caller.actor.is_admin:
            owner = _owner(caller)
            if owner is None:
                return Page()
        return await self._sessions.page(owner=owner, name=actor_id, active=active, after=after, limit=limit)

    async def show(self, caller: Caller, identifier: str, *, mine: bool = False) -> TokenRecord:
        """The record. Raises Refused(NOT_FOUND), also if the caller may not see it."""
        record = await self._sessions.show(identifier)
        if record is None:
            raise Refused(Reason.NOT_FOUND)
        owner = _owner(caller)
        is_own = owner is not None and owner.is_same_as(record.owner)
        if not is_own and (mine or not caller.actor.is_admin):
            raise Refused(Reason.NOT_FOUND)
        return record

    async def end(self, caller: Caller, identifier: str, *, with_tokens: bool = False, mine: bool = False) -> None:
        """End a session; ``with_tokens``: revoke the tokens minted in it too, also if it has ended before.

        Raises Refused(NOT_FOUND) as :meth:`show`.
        """
        record = await self.show(caller, identifier, mine=mine)
        await self._sessions.end(record, by=caller.name, cause=_ENDED)
        if with_tokens:
            await self._tokens.revoke_minted_in(record, by=caller.name)

    async def end_others(self, caller: Caller) -> int:
        """End the caller's own sessions, except the one that is the caller's credential. Returns how many."""
        owner = _owner(caller)
        if owner is None:
            return 0
        ended = 0
        async for page in all_pages(
            lambda after, limit: self._sessions.page(owner=owner, name=None, active=True, after=after, limit=limit)
        ):
            for record in page.records:
                if record.id != caller.session_id:
                    await self._sessions.end(record, by=caller.name, cause=_ENDED)
                    ended += 1
        return ended


def _owner(caller: Caller) -> Owner | None:
    identity = caller.identity_key
    return None if identity is None else session_owner(identity.issuer, identity.provider, identity.subject)
