"""The operations application: one small ``web.Application``."""

import logging
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from sidecar.admin.health import Health
from sidecar.logs import places
from sidecar.metrics import Metrics

_log = logging.getLogger("sidecar.admin")
_JSON = "application/json"


def operations_runner(app: web.Application) -> web.AppRunner:
    """Serves ``app``. What the parser refuses is not logged: aiohttp quotes it, credentials and all."""
    silent = logging.getLogger("sidecar.admin.parser")
    silent.disabled = True
    return web.AppRunner(app, access_log=None, logger=silent, shutdown_timeout=1.0)


def operations_app(metrics: Metrics, health: Health, effective_config: Callable[[], Any]) -> web.Application:
    """The application. ``effective_config`` returns JSON-ready data without secrets."""

    async def livez(request: web.Request) -> web.Response:
        return _json(200, {"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        ready, report = health.report()
        return _json(200 if ready else 503, report)

    async def config(request: web.Request) -> web.Response:
        return _json(200, effective_config())

    @web.middleware
    async def counted(request: web.Request, handler: Any) -> web.StreamResponse:
        answer = await _answer(request, handler)
        resource = request.match_info.route.resource
        route = resource.canonical.lstrip("/") if resource else "none"
        metrics.http_requests.child("admin", route, str(answer.status)).inc()
        return answer

    metrics.watch(metrics.ready, lambda: health.report()[0])
    app = web.Application(middlewares=[counted])
    app.router.add_get("/metrics", make_aiohttp_handler(metrics.registry))
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
