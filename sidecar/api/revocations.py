"""``{prefix}/revocations``: the deny list, for admins."""

from aiohttp import web

from sidecar.api.body import Bodies, bad_request, query
from sidecar.api.caller import CallerAuthentication
from sidecar.api.paging import PARAMETERS, is_id, list_answer
from sidecar.errors import Reason, Refused
from sidecar.tokens.issued.service import Caller
from sidecar.tokens.revocation.service import (
    MAX_ENTRIES,
    RevocationRequest,
    RevocationService,
    about_token,
    describe,
    parse_request,
    shown_with_matches,
)
from sidecar.web.error_responses import json_answer, no_content


class RevocationCalls:
    """The calls, for admins who have been let in."""

    def __init__(self, revocations: RevocationService, door: CallerAuthentication, bodies: Bodies) -> None:
        self._revocations = revocations
        self._door = door
        self._bodies = bodies

    async def add(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """201 with the entry, or with the list of entries where a list was sent: all of them or none."""
        query(request, ())
        document = await self._bodies.json(request)
        entries = document if isinstance(document, list) else [document]
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise bad_request(f"The body is an entry, or a list of 1 to {MAX_ENTRIES}")
        wishes = [await self._request(entry) for entry in entries]
        added = await self._revocations.add(wishes, by=caller.name)
        shown = [shown_with_matches(entry) for entry in added]
        return json_answer(201, {"data": shown} if isinstance(document, list) else shown[0])

    async def list(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with a page of the entries that stand."""
        asked = query(request, ("issuer", *PARAMETERS))
        return await list_answer(
            asked,
            lambda after, limit: self._revocations.page(asked.get("issuer"), after, limit),
            lambda page: map(describe, page.entries),
        )

    async def remove(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """204: the entry is off the list."""
        query(request, ())
        if not is_id(rest):
            raise Refused(Reason.NOT_FOUND)
        await self._revocations.remove(rest, by=caller.name)
        return no_content()

    async def _request(self, entry: object) -> RevocationRequest:
        try:
            wish = parse_request(entry)
        except ValueError as error:
            raise bad_request(f"The entry cannot be read: {error}") from error
        if not wish.token:
            return wish
        token = (await self._door.verify_submitted(wish.token)).to_revoke()
        if token is None:
            raise bad_request("The token to revoke is not valid here, or has expired")
        return about_token(wish, token)
