"""Routes of the operations listener: health, metrics, effective configuration."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from sidecar.config.settings import Limits
from sidecar.errors import Failed, MethodNotAllowed, Reason, Refused
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
from sidecar.web.request import check_framing
from sidecar.web.response import Response
from sidecar.web.server import HttpServer

_log = logging.getLogger("sidecar.admin")
_JSON = b"Content-Type: application/json\r\n"
_METHODS = ("GET", "HEAD")
_ALLOW = f"Allow: {', '.join(_METHODS)}\r\n".encode("ascii")
_COPIED = ("Content-Type", "Content-Encoding", "Vary")


class Operations(Protocol):
    """The source of the responses; called for each request."""

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether the process is ready, and the state of every part."""

    async def scrape(self) -> CollectorRegistry:
        """All metrics with their current values."""

    def configuration(self) -> Any:
        """The effective configuration as JSON values, without secrets."""


def operations_server(operations: Operations, metrics: Metrics) -> HttpServer:
    """The server of the operations listener. ``metrics`` counts its responses.

    It has the default limits of the public listener. Requests that the HTTP parser rejects are not logged.
    """
    handler = _Handler(operations, metrics)
    return HttpServer(
        handler,
        limits=Limits(),
        parse_failure=handler.refuse_unparsed,
        handler_cancellation=False,
    )


class _Handler:
    """Handles requests."""

    def __init__(self, operations: Operations, metrics: Metrics) -> None:
        self._operations = operations
        self._counted = metrics.http_requests
        self._calls: dict[str, Callable[[web.BaseRequest], Awaitable[Response]]] = {
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/healthz": self._readyz,
            "/config": self._config,
        }

    async def __call__(self, request: web.BaseRequest) -> Response:
        """The response of the route, or the error as JSON."""
        route = "none"
        try:
            check_framing(request, request.raw_path)
            path = request.raw_path.partition("?")[0]
            call = self._calls.get(path)
            if call is None:
                raise Refused(Reason.NOT_FOUND)
            route = path.lstrip("/")
            if request.method not in _METHODS:
                raise MethodNotAllowed(*_METHODS)
            answer = await call(request)
        except Failed as failure:
            answer = _refusal(failure)
        except Exception as error:  # noqa: BLE001 - aiohttp would log its text, which may have content of the request
            _log.error(
                "unhandled error",
                extra={
                    "event": "unhandled_error",
                    "error": type(error).__name__,
                    "places": traceback_locations(error),
                    "route": route,
                },
            )
            answer = _json(500, {"code": 500, "message": "Internal error", "reason": "unavailable"})
        self._counted.child("admin", route, str(answer.status)).inc()
        return answer

    def refuse_unparsed(self, failure: Failed) -> Response:
        """The response to a request that the HTTP parser rejected."""
        answer = _refusal(failure, close=True)
        self._counted.child("admin", "none", str(answer.status)).inc()
        return answer

    async def _livez(self, _request: web.BaseRequest) -> Response:
        return _json(200, {"alive": True})

    async def _readyz(self, _request: web.BaseRequest) -> Response:
        ready, report = await self._operations.readiness()
        return _json(200 if ready else 503, report)

    async def _config(self, _request: web.BaseRequest) -> Response:
        return _json(200, self._operations.configuration())

    async def _metrics(self, request: web.BaseRequest) -> Response:
        make = make_aiohttp_handler(await self._operations.scrape())
        made = await make(request)  # type: ignore[arg-type] # reads headers and query only
        headers = made.headers
        lines = "".join(f"{name}: {headers[name]}\r\n" for name in _COPIED if name in headers)
        body = made.body if isinstance(made, web.Response) else None
        return Response(made.status, lines.encode("ascii"), body if isinstance(body, bytes) else b"")


def _refusal(failure: Failed, *, close: bool = False) -> Response:
    document = {"code": failure.status, "message": failure.message, "reason": failure.reason.value}
    lines = _JSON + _ALLOW if failure.status == 405 else _JSON
    return Response(failure.status, lines, orjson.dumps(document), close=close or failure.ends_connection)


def _json(status: int, document: object) -> Response:
    return Response(status, _JSON, orjson.dumps(document))
