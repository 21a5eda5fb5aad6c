"""``{prefix}/sessions``: list, show and end browser sessions."""

from typing import Any

from aiohttp import web

from sidecar.api.body import bad_request, parse_query
from sidecar.api.browser_sessions import BrowserSessions
from sidecar.api.paging import PARAMETERS, is_record_id, list_response
from sidecar.errors import Reason, Refused
from sidecar.sessions.records import describe_session
from sidecar.store.record import TokenRecord
from sidecar.tokens.issued.service import Caller
from sidecar.web.error_responses import json_answer, no_content

_BOOLEAN = {None: None, "true": True, "false": False}


class SessionHandlers:
    """Handlers for authenticated callers."""

    def __init__(self, sessions: BrowserSessions) -> None:
        self._sessions = sessions

    async def list_sessions(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with a page of the sessions that the caller may see."""
        asked = parse_query(request, ("actor", "active", *PARAMETERS))
        active = _boolean(asked.get("active"), "active")
        return await list_response(
            asked,
            lambda after, limit: self._sessions.page(
                caller, actor_id=asked.get("actor"), active=active, after=after, limit=limit
            ),
            lambda page: (_described(record, caller) for record in page.records),
        )

    async def show(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with the session."""
        parse_query(request, ())
        return json_answer(200, _described(await self._sessions.show(caller, _id(rest)), caller))

    async def end(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """204: the session has ended, and with ``withTokens`` the tokens that were minted in it."""
        with_tokens = _boolean(parse_query(request, ("withTokens",)).get("withTokens"), "withTokens")
        await self._sessions.end(caller, _id(rest), with_tokens=bool(with_tokens))
        return no_content()

    async def end_others(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with the number of the caller's own sessions that were ended."""
        if parse_query(request, ("others",)).get("others") != "true":
            raise bad_request("others=true is required; to end one session, add its id to the path")
        return json_answer(200, {"ended": await self._sessions.end_others(caller)})


def _described(record: TokenRecord, caller: Caller) -> dict[str, Any]:
    return {**describe_session(record), "current": record.id == caller.session_id}


def _boolean(value: str | None, name: str) -> bool | None:
    if value not in _BOOLEAN:
        raise bad_request(f"{name} must be true or false")
    return _BOOLEAN[value]


def _id(rest: str) -> str:
    if not is_record_id(rest):
        raise Refused(Reason.NOT_FOUND)
    return rest
