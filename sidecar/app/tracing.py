"""Sets up tracing. Imports its library only if tracing is configured."""

import importlib
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.access.decide import Decider
from sidecar.config.load import Loaded
from sidecar.environment import without_tracing_variables
from sidecar.errors import Misconfigured, Problem
from sidecar.web.dispatcher import SpanFactory


@dataclass(frozen=True, slots=True)
class Tracing:
    """Creates spans, and the decider that adds verdicts to them; without tracing, no spans."""

    spans: SpanFactory | None = None
    decider: type[Decider] = Decider


def open_tracing(loaded: Loaded, stack: AsyncExitStack) -> Tracing:
    """What ``loaded`` says; ``stack`` closes it. Raises Misconfigured without the library."""
    settings = loaded.settings
    if settings.tracing is None:
        return Tracing()
    require_library()
    from sidecar.web.spans import Spans, TracedDecider

    with without_tracing_variables():
        spans = Spans(
            settings.tracing,
            settings.upstream.url if settings.upstream else "",
            proxy=loaded.egress.route(settings.tracing.endpoint).proxy,
            ca_file=settings.outbound.ca_file,
        )
    stack.push_async_callback(spans.aclose)
    return Tracing(spans, TracedDecider)


def require_library() -> None:
    """Raise Misconfigured if the tracing library is not installed."""
    try:
        with without_tracing_variables():
            importlib.import_module("sidecar.web.spans")
    except ImportError as error:
        raise Misconfigured([Problem("tracing", "needs the extra otel: pip install auth-sidecar[otel]")]) from error
