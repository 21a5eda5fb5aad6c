"""``{prefix}/revocations``: the deny list, for admins."""

from aiohttp import web

from sidecar.api.body import BodyReader, bad_request, parse_query
from sidecar.api.caller import CallerAuthentication
from sidecar.api.paging import PARAMETERS, is_id, list_response
from sidecar.errors import Reason, Refused
from sidecar.tokens.issued.service import Caller
from sidecar.tokens.revocation.service import (
    MAX_ENTRIES,
    RevocationRequest,
    RevocationService,
    describe_added,
    describe_entry,
    for_token,
    parse_request,
)
from sidecar.web.error_responses import json_answer, no_content


class RevocationHandlers:
    """The calls, for admins who have been let in."""

    def __init__(
        self, revocations: RevocationService, authentication: CallerAuthentication, bodies: BodyReader
    ) -> None:
        self._revocations = revocations
        self._authentication = authentication
        self._bodies = bodies

    async def add(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """201 with the entry, or with the list of entries where a list was sent: all of them or none."""
        parse_query(request, ())
        document = await self._bodies.read_json(request)
        entries = document if isinstance(document, list) else [document]
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise bad_request(f"The body is an entry, or a list of 1 to {MAX_ENTRIES}")
        wishes = [await self._request(entry) for entry in entries]
        added = await self._revocations.add(wishes, by=caller.name)
        shown = [describe_added(entry) for entry in added]
        return json_answer(201, {"data": shown} if isinstance(document, list) else shown[0])

    async def list_entries(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with a page of the entries that stand."""
        asked = parse_query(request, ("issuer", *PARAMETERS))
        return await list_response(
            asked,
            lambda after, limit: self._revocations.page(asked.get("issuer"), after, limit),
            lambda page: map(describe_entry, page.entries),
        )

    async def remove(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """204: the entry is off the list."""
        parse_query(request, ())
        if not is_id(rest):
            raise Refused(Reason.NOT_FOUND)
        await self._revocations.remove(rest, by=caller.name)
        return no_content()

    async def _request(self, entry: object) -> RevocationRequest:
        try:
            request = parse_request(entry)
        except ValueError as error:
            raise bad_request(f"The entry cannot be read: {error}") from error
        if not request.token:
            return request
        token = (await self._authentication.verify_submitted(request.token)).revocable_token()
        if token is None:
            raise bad_request("The token to revoke is not valid here, or has expired")
        return for_token(request, token)
