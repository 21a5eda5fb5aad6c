"""The operations application: one small ``web.Application``."""

import logging
from typing import Any, Protocol

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from sidecar.logs import places
from sidecar.metrics import Metrics

_log = logging.getLogger("sidecar.admin")
_JSON = "application/json"


def operations_runner(app: web.Application) -> web.AppRunner:
    """Serves ``app``. What the parser refuses is not logged: aiohttp quotes it, credentials and all."""
    silent = logging.getLogger("sidecar.admin.parser")
    silent.disabled = True
    return web.AppRunner(app, access_log=None, logger=silent, shutdown_timeout=1.0)


class Operations(Protocol):
    """What the listener tells of, asked anew each time."""

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether requests may come, and the state of every part."""

    async def scrape(self) -> CollectorRegistry:
        """Every metric as it stands now."""

    def configuration(self) -> Any:
        """The effective configuration, JSON-ready, without secrets."""


def operations_app(operations: Operations, metrics: Metrics) -> web.Application:
    """The application. ``metrics`` counts what it answers."""

    async def livez(request: web.Request) -> web.Response:
        return _json(200, {"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        ready, report = await operations.readiness()
        return _json(200 if ready else 503, report)

    async def config(request: web.Request) -> web.Response:
        return _json(200, operations.configuration())

    async def scraped(request: web.Request) -> web.StreamResponse:
        return await make_aiohttp_handler(await operations.scrape())(request)

    @web.middleware
    async def counted(request: web.Request, handler: Any) -> web.StreamResponse:
        answer = await _answer(request, handler)
        resource = request.match_info.route.resource
        route = resource.canonical.lstrip("/") if resource else "none"
        metrics.http_requests.child("admin", route, str(answer.status)).inc()
        return answer

    app = web.Application(middlewares=[counted])
    app.router.add_get("/metrics", scraped)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/healthz", readyz)
    app.router.add_get("/config", config)
    return app


async def _answer(request: web.Request, handler: Any) -> web.StreamResponse:
    """The handler's answer, or what went wrong as JSON."""
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        reason = "not_found" if error.status == 404 else "method_not_allowed"
        return _json(error.status, {"code": error.status, "message": error.reason, "reason": reason})
    except Exception as error:  # noqa: BLE001 - aiohttp would log its text, which may hold what the request carried
        _log.error("fault while answering", extra={"error": type(error).__name__, "places": places(error)})
        return _json(500, {"code": 500, "message": "Internal fault", "reason": "unavailable"})
    return answer


def _json(status: int, document: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type=_JSON)
