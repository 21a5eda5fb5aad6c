"""A collector of spans as OpenTelemetry's own: takes OTLP over HTTP, keeps what it was sent."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.loopback_server import LoopbackServer


@dataclass(frozen=True, slots=True)
class SentSpan:
    """A span as it arrived: ids in hex, ``kind`` and ``status`` as OTLP writes them."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    status: int
    state: str


@dataclass
class SpanCollector:
    """Runs on a loopback port; a context manager. ``answer`` is the status it gives, None: none at all.

    ``heads`` are path and headers of each request, names in lower case.
    """

    answer: int | None = 200
    requests: list[bytes] = field(default_factory=list)
    heads: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[SentSpan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = LoopbackServer(self._take)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return self._server.url

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(body)
        self.heads.append((request.path, {name.lower(): value for name, value in request.headers.items()}))
        if self.answer is None:
            await asyncio.Event().wait()
        if self.answer == 200:
            self._read(body)
        return web.Response(status=self.answer or 200, content_type="application/x-protobuf")

    def _read(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_values(group.resource.attributes))
            self.spans += [
                SentSpan(
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _values(span.attributes),
                    span.status.code,
                    span.trace_state,
                )
                for scope in group.scope_spans
                for span in scope.spans
            ]


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in attributes}
