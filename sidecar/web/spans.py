"""Spans for OpenTelemetry, imported only where tracing is configured. They hold no token, claim, path or query.

The server's span has the route, the status, who has judged and how; the client's below it is the forwarded request.
Spans are sent by a thread of the SDK's own: whatever becomes of them, requests do not notice.
"""

import asyncio
import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from urllib.parse import quote, urlsplit

import requests
from aiohttp import web
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from sidecar import __version__
from sidecar.access.decide import Decider, Deny, Verdict
from sidecar.config.settings import TracingSettings
from sidecar.egress import Proxy
from sidecar.errors import Failed
from sidecar.identity.request import RequestContext
from sidecar.web.dispatcher import Handler, RouteTable
from sidecar.web.request import connection_of, request_id
from sidecar.web.trace_context import read_trace_context

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EXPORT_TIMEOUT = 5.0
_CA_VARIABLES = frozenset({"OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"})
_CLOSE_TIMEOUT = 2.0


class RequestSpan:
    """The spans of one request."""

    def __init__(self, spans: "Spans", server: Span) -> None:
        self._spans = spans
        self._server = server
        self._client: Span | None = None
        self._has_status = False
        self._judged = False

    def judged(self, verdict: Verdict) -> None:
        """Note the first verdict: later ones are about tokens that were handed over."""
        if self._judged or not self._server.is_recording():
            return
        self._judged = True
        if isinstance(verdict, Deny):
            who = {"authenticator": verdict.authenticator, "provider": verdict.provider}
            seen = {"outcome": "denied", "reason": verdict.failure.cause.value, **who}
        elif verdict.accepted is None:
            seen = {"outcome": "anonymous"}
        else:
            actor = verdict.accepted.actor
            seen = {"outcome": "accepted", "authenticator": actor.authenticator, "provider": actor.provider}
        self._server.set_attributes({f"sidecar.{name}": value for name, value in seen.items() if value})

    def forward(self, method: str) -> bytes:
        """Begin the client's span; the header lines by which the service behind continues it."""
        self._client = self._spans.client(self._server, method)
        context = self._client.get_span_context()
        lines = f"traceparent: 00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}\r\n"
        if context.trace_state:
            lines += f"tracestate: {context.trace_state.to_header()}\r\n"
        return lines.encode("ascii")

    def answered(self, status: int) -> None:
        """The service behind has answered so."""
        if self._client is not None:
            self._has_status = True
            _note_status(self._client, status, error_from=400)

    def end(self, status: int | None, error: str = "") -> None:
        """The request is over; without ``status`` by ``error``, a kind of exception."""
        if self._client is not None:
            if not self._has_status:
                _note_error(self._client, error or str(status))
            self._client.end()
        if status is None:
            _note_error(self._server, error)
        else:
            _note_status(self._server, status, error_from=500)
        self._server.end()


_current: ContextVar[RequestSpan | None] = ContextVar("current_span", default=None)


def _session(proxy: Proxy | None) -> requests.Session:
    """Sends through ``proxy`` or directly: by itself the library would take plain http through ``HTTP_PROXY``."""
    session = requests.Session()
    session.trust_env = False
    if proxy is not None:
        credentials = ""
        if proxy.user:
            credentials = f"{quote(proxy.user, safe='')}:{quote(proxy.password.reveal(), safe='')}@"
        session.proxies = {"https": proxy.url.replace("://", f"://{credentials}", 1)}
    return session


class Spans:
    """Makes the spans and sends them. Of untrusted callers the ids are continued, but not their wish to be sampled."""

    def __init__(
        self,
        settings: TracingSettings,
        upstream: str = "",
        chance: Callable[[], float] = random.random,
        *,
        proxy: Proxy | None = None,
        ca_file: str = "",
    ) -> None:
        """``upstream`` is the service's URL. ``chance`` gives numbers from 0 up to 1.

        Spans are sent through ``proxy``, else directly. ``ca_file`` counts where no variable names a CA bundle.
        """
        self._ratio = settings.sample_ratio
        self._chance = chance
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": settings.service_name, "service.version": __version__}),
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            shutdown_on_exit=False,  # it would hold the exit up for as long as a collector hangs
        )
        exporter = OTLPSpanExporter(
            traces_url(settings.endpoint),
            certificate_file=None if _CA_VARIABLES & os.environ.keys() else ca_file or None,
            timeout=_EXPORT_TIMEOUT,
            session=_session(proxy),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("auth-sidecar", __version__)
        self._service = _address(upstream)

    def start(self, request: web.BaseRequest, route: str) -> RequestSpan:
        """A span for ``request``, the current one of this task from now on."""
        method = _method(request.method)
        attributes = {"http.request.method": method, "http.route": route, "sidecar.request_id": request_id(request)}
        server = self._tracer.start_span(f"{method} {route}", self._parent(request), SpanKind.SERVER, attributes)
        span = RequestSpan(self, server)
        _current.set(span)
        return span

    def forward(self, method: str) -> bytes:
        """See :meth:`RequestSpan.forward`, of the current request."""
        span = _current.get()
        return b"" if span is None else span.forward(method)

    def answered(self, status: int) -> None:
        """See :meth:`RequestSpan.answered`, of the current request."""
        span = _current.get()
        if span is not None:
            span.answered(status)

    def client(self, parent: Span, method: str) -> Span:
        """A span below ``parent`` for a request to the service behind."""
        name, attributes = _method(method), {"http.request.method": _method(method), **self._service}
        return self._tracer.start_span(name, set_span_in_context(parent, Context()), SpanKind.CLIENT, attributes)

    async def aclose(self) -> None:
        """Send what is left, but not for long."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="spans", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _CLOSE_TIMEOUT)

    def _parent(self, request: web.BaseRequest) -> Context:
        headers = request.raw_headers
        parents = [value for name, value in headers if name.lower() == b"traceparent"]
        states = [value for name, value in headers if name.lower() == b"tracestate"]
        given = read_trace_context(parents, states)
        if given is None:
            return Context()
        trusted = connection_of(request).trusted
        sampled = given.sampled if trusted else self._chance() < self._ratio
        state = TraceState.from_header([given.state.decode("ascii")]) if given.state else None
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        remote = SpanContext(given.trace_id, given.span_id, is_remote=True, trace_flags=flags, trace_state=state)
        return set_span_in_context(NonRecordingSpan(remote), Context())


class TracedRoutes:
    """The same routes, with a span about each request that has one. No check is answered at once."""

    def __init__(self, routes: RouteTable, spans: Spans) -> None:
        self._routes = routes
        self._spans = spans

    def find(self, target: str) -> tuple[str, Handler, str]:
        """See :class:`sidecar.web.dispatcher.RouteTable`."""
        route, handler, rest = self._routes.find(target)

        async def traced(request: web.BaseRequest, rest: str) -> web.StreamResponse:
            span = self._spans.start(request, route)
            try:
                answer = await handler(request, rest)
            except Failed as failure:
                span.end(failure.status)
                raise
            except BaseException as error:
                span.end(None, type(error).__name__)
                raise
            span.end(answer.status)
            return answer

        return route, traced, rest

    def find_check(self, target: str) -> None:
        """None: such an answer would have no span."""

    def find_streaming_handler(self, target: str) -> None:
        """None: such a request would have no span."""


class TracedDecider(Decider):
    """Tells the current request's span what it has decided."""

    async def decide(self, view: RequestContext) -> Verdict:
        """See :class:`Decider`."""
        verdict = await super().decide(view)
        span = _current.get()
        if span is not None:
            span.judged(verdict)
        return verdict


def traces_url(endpoint: str) -> str:
    """Where spans go: ``endpoint``, with OTLP's own path where it has none."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def _method(method: str) -> str:
    """One of those that are known, for callers may invent as many as they like."""
    return method if method in _METHODS else "_OTHER"


def _address(url: str) -> dict[str, AttributeValue]:
    parts = urlsplit(url)
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or (443 if parts.scheme == "https" else 80)}


def _note_status(span: Span, status: int, *, error_from: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= error_from:
        _note_error(span, str(status))


def _note_error(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
