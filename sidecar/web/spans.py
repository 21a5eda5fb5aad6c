"""OpenTelemetry spans; imported only if tracing is configured. They contain no token, claim, path or query.

The server span has the route, the status, the authenticator and the verdict; the client span below it is the forwarded
request. A thread of the SDK sends them, so that requests never wait for the collector.
"""

import asyncio
import os
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from urllib.parse import quote, urlsplit

import requests
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
from sidecar.access.decide import Allow, Decider, Deny, Verdict
from sidecar.concurrency import Pending
from sidecar.config.settings import TracingSettings
from sidecar.egress import Proxy
from sidecar.identity.request import Observer, RequestContext
from sidecar.web.request import RequestHead, identifier_of
from sidecar.web.server import Connection
from sidecar.web.trace_context import read_trace_context

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EXPORT_TIMEOUT = 5.0
_CA_VARIABLES = frozenset({"OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"})
_CLOSE_TIMEOUT = 2.0


class OtelRequestSpan:
    """The spans of one request."""

    def __init__(self, spans: "Spans", server: Span) -> None:
        self._spans = spans
        self._server = server
        self._client: Span | None = None
        self._has_status = False

    def observe(self, step: str, value: object) -> None:
        """Add the verdict. See :class:`sidecar.identity.request.Observer`."""
        if isinstance(value, Allow | Deny) and self._server.is_recording():
            self._add_verdict(value)

    def _add_verdict(self, verdict: Verdict) -> None:
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
        """Start the client span. Returns the header lines with which the upstream continues it."""
        if self._client is None:  # the request may have failed to be sent before
            self._client = self._spans.client(self._server, method)
        context = self._client.get_span_context()
        lines = f"traceparent: 00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}\r\n"
        if context.trace_state:
            lines += f"tracestate: {context.trace_state.to_header()}\r\n"
        return lines.encode("ascii")

    def answered(self, status: int) -> None:
        """The upstream has answered with ``status``."""
        if self._client is not None:
            self._has_status = True
            _note_status(self._client, status, error_from=400)

    def end(self, status: int | None, error: str = "") -> None:
        """The request has ended; without ``status`` because of ``error``, the type of an exception."""
        if self._client is not None:
            if not self._has_status:
                _note_error(self._client, error or str(status))
            self._client.end()
        if status is None:
            _note_error(self._server, error)
        else:
            _note_status(self._server, status, error_from=500)
        self._server.end()


def _session(proxy: Proxy | None) -> requests.Session:
    """Sends through ``proxy`` or directly: by itself the library would use ``HTTP_PROXY`` for http."""
    session = requests.Session()
    session.trust_env = False
    if proxy is not None:
        credentials = ""
        if proxy.user:
            credentials = f"{quote(proxy.user, safe='')}:{quote(proxy.password.reveal(), safe='')}@"
        session.proxies = {"https": proxy.url.replace("://", f"://{credentials}", 1)}
    return session


class Spans:
    """Creates spans and sends them. The trace ids of untrusted callers are continued, their sampling flag is not."""

    def __init__(
        self,
        settings: TracingSettings,
        upstream: str = "",
        chance: Callable[[], float] = random.random,
        *,
        proxy: Proxy | None = None,
        ca_file: str = "",
    ) -> None:
        """``upstream`` is the URL of the upstream. ``chance`` returns numbers from 0 up to 1.

        Spans are sent through ``proxy``, else directly. ``ca_file`` is used if no variable names a CA bundle.
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

    def start(self, asked: RequestHead, route: str, connection: Connection) -> OtelRequestSpan:
        """The spans of the request ``asked`` on ``connection``."""
        method = _method(asked.method)
        identifier = identifier_of(asked, connection)
        attributes = {"http.request.method": method, "http.route": route, "sidecar.request_id": identifier}
        parent = self._parent(asked, trusted=connection.trusted)
        return OtelRequestSpan(self, self._tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes))

    def client(self, parent: Span, method: str) -> Span:
        """A span below ``parent`` for a request to the upstream."""
        name, attributes = _method(method), {"http.request.method": _method(method), **self._service}
        return self._tracer.start_span(name, set_span_in_context(parent, Context()), SpanKind.CLIENT, attributes)

    async def aclose(self) -> None:
        """Send the remaining spans, within a time limit."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="spans", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), _CLOSE_TIMEOUT)

    def _parent(self, asked: RequestHead, *, trusted: bool) -> Context:
        headers = asked.raw_headers
        parents = [value for name, value in headers if name.lower() == b"traceparent"]
        states = [value for name, value in headers if name.lower() == b"tracestate"]
        given = read_trace_context(parents, states)
        if given is None:
            return Context()
        sampled = given.sampled if trusted else self._chance() < self._ratio
        state = TraceState.from_header([given.state.decode("ascii")]) if given.state else None
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        remote = SpanContext(given.trace_id, given.span_id, is_remote=True, trace_flags=flags, trace_state=state)
        return set_span_in_context(NonRecordingSpan(remote), Context())


class TracedDecider(Decider):
    """A decider that reports verdicts to the observer of the request."""

    def decide(self, view: RequestContext) -> Verdict | Awaitable[Verdict]:
        """See :class:`Decider`."""
        verdict = super().decide(view)
        if view.observer is None:
            return verdict
        if isinstance(verdict, Allow | Deny):
            view.observer.observe("verdict", verdict)
            return verdict
        return Pending(partial(_observe_later, view.observer), verdict)


async def _observe_later(observer: Observer, pending: Awaitable[Verdict]) -> Verdict:
    verdict = await pending
    observer.observe("verdict", verdict)
    return verdict


def traces_url(endpoint: str) -> str:
    """The URL for traces: ``endpoint``, with the path of OTLP if it has none."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def _method(method: str) -> str:
    """``method`` if it is known: callers can invent any number of others."""
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
