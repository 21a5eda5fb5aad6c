"""The upstream of the demo: an echo service that returns the identity headers it received."""

import json
from typing import Any

from aiohttp import web


async def _echo(request: web.Request) -> web.Response:
    identity = {name: value for name, value in request.headers.items() if name.lower().startswith("x-auth-")}
    response: dict[str, Any] = {
        "message": "response of the upstream",
        "method": request.method,
        "path": request.raw_path,
        "identity": identity or "none",
        "authorization": "as sent by the caller" if "Authorization" in request.headers else "none",
    }
    return web.json_response(response, dumps=_pretty)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def application() -> web.Application:
    """The application: one handler for all paths."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", _echo)
    return application
