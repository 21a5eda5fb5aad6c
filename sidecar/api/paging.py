"""Paged lists: parameters ``limit`` and ``after`` (an opaque cursor)."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web

from sidecar.api.body import bad_request
from sidecar.store.base import Page
from sidecar.web.error_responses import json_answer

PARAMETERS = ("limit", "after")
MAX_LIMIT = 500
DEFAULT_LIMIT = "50"
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)


async def list_response(
    parameters: Mapping[str, str],
    fetch: Callable[[str, int], Awaitable[Page]],
    render: Callable[[Page], Iterable[object]],
) -> web.StreamResponse:
    """200 with the page that ``fetch(after, limit)`` returns. Raises Refused(REQUEST_INVALID)."""
    limit = parameters.get("limit", DEFAULT_LIMIT)
    if not re.fullmatch(r"[0-9]{1,3}", limit, re.ASCII) or not 1 <= int(limit) <= MAX_LIMIT:
        raise bad_request(f"limit must be a number from 1 to {MAX_LIMIT}")
    try:
        page = await fetch(parameters.get("after", ""), int(limit))
    except ValueError as error:
        raise bad_request("after is not a cursor returned by this list") from error
    return json_answer(200, {"data": list(render(page)), "paging": {"after": page.after or None, "total": page.total}})


def is_record_id(segment: str) -> bool:
    """Whether a path segment is a valid id."""
    return _ID.fullmatch(segment) is not None
