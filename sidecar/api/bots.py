"""``{prefix}/bots``: reserved bot names, for admins."""

from urllib.parse import unquote

from aiohttp import web

from sidecar.api.body import BodyReader, bad_request, parse_query
from sidecar.api.paging import PARAMETERS, list_response
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.service import Caller
from sidecar.web.error_responses import json_answer, no_content

BOT_MEMBERS = ("name", "replacePerson")
MAX_BOT_NAME = 256


class BotHandlers:
    """Handlers for authenticated admins."""

    def __init__(self, bots: BotRegistry, bodies: BodyReader) -> None:
        self._bots = bots
        self._bodies = bodies

    async def register(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """201 with the name, or 200 if it was registered before."""
        parse_query(request, ())
        name, replace_person = _parse_registration(await self._bodies.read_json(request))
        registration, is_new = await self._bots.register(name, by=caller.name, replace_person=replace_person)
        return json_answer(201 if is_new else 200, self._bots.describe(registration))

    async def list_names(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with a page of the names."""
        asked = parse_query(request, PARAMETERS)
        return await list_response(asked, self._bots.page, lambda page: map(self._bots.describe, page.records))

    async def release(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """204: people may use the name again."""
        parse_query(request, ())
        try:
            name = unquote(rest, errors="strict")
        except UnicodeDecodeError as error:
            raise bad_request("The name is not UTF-8") from error
        await self._bots.release(name, by=caller.name)
        return no_content()


def _parse_registration(document: object) -> tuple[str, bool]:
    if not isinstance(document, dict) or not document.keys() <= set(BOT_MEMBERS):
        raise bad_request(f"The body must be an object; allowed members: {', '.join(BOT_MEMBERS)}")
    name, replace_person = document.get("name"), document.get("replacePerson", False)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_BOT_NAME:
        raise bad_request(f"name must be a string of 1 to {MAX_BOT_NAME} characters")
    if not isinstance(replace_person, bool):
        raise bad_request("replacePerson must be true or false")
    return name, replace_person
