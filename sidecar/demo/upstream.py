"""The service behind, in the demonstration: answers every request with the identity headers that came with it."""

import json
from typing import Any

from aiohttp import web


async def _show(request: web.Request) -> web.Response:
    identity = {name: value for name, value in request.headers.items() if name.lower().startswith("x-auth-")}
    shown: dict[str, Any] = {
        "message": "the service behind answers",
        "method": request.method,
        "path": request.raw_path,
        "identity": identity or "nobody",
        "authorization": "as the caller sent it" if "Authorization" in request.headers else "none",
    }
    return web.json_response(shown, dumps=_pretty)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def application() -> web.Application:
    """One handler for everything."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", _show)
    return application
