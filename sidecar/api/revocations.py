"""``{prefix}/revocations``: the revocation list, for admins."""

from aiohttp import web

from sidecar.api.body import BodyReader, bad_request, parse_query
from sidecar.api.caller import CallerAuthentication
from sidecar.api.paging import PARAMETERS, is_record_id, list_response
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
    """Handlers for authenticated admins."""

    def __init__(
        self, revocations: RevocationService, authentication: CallerAuthentication, bodies: BodyReader
    ) -> None:
        self._revocations = revocations
        self._authentication = authentication
        self._bodies = bodies

    async def add(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """201 with the entry, or with a list of entries if the body is a list: all of them are written or none."""
        parse_query(request, ())
        document = await self._bodies.read_json(request)
        entries = document if isinstance(document, list) else [document]
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise bad_request(f"The body must be an entry, or a list of 1 to {MAX_ENTRIES} entries")
        requests = [await self._request(entry) for entry in entries]
        added = await self._revocations.add(requests, by=caller.name)
        shown = [describe_added(entry) for entry in added]
        return json_answer(201, {"data": shown} if isinstance(document, list) else shown[0])

    async def list_entries(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with a page of the active entries."""
        asked = parse_query(request, ("issuer", *PARAMETERS))
        return await list_response(
            asked,
            lambda after, limit: self._revocations.page(asked.get("issuer"), after, limit),
            lambda page: map(describe_entry, page.entries),
        )

    async def remove(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """204: the entry was removed."""
        parse_query(request, ())
        if not is_record_id(rest):
            raise Refused(Reason.NOT_FOUND)
        await self._revocations.remove(rest, by=caller.name)
        return no_content()

    async def _request(self, entry: object) -> RevocationRequest:
        try:
            request = parse_request(entry)
        except ValueError as error:
            raise bad_request(f"The entry is not valid: {error}") from error
        if not request.token:
            return request
        token = (await self._authentication.verify_submitted(request.token)).revocable_token()
        if token is None:
            raise bad_request("The token to revoke has no valid signature of a known issuer, or has expired")
        return for_token(request, token)
