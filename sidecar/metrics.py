"""Every metric name and label, once. Label values come from small fixed sets; children are resolved ahead of use."""

import platform
from collections.abc import Callable, Iterable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from sidecar import __version__

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process, on a registry of their own.

    Attributes are prometheus-client collectors. The methods return children and remember them: ``labels()`` costs
    several times what the increment does. Whoever passes a label value must take it from a bounded set.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # one more series for every counter, of no use to anybody here
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=_SECONDS, registry=registry)

        self.http_requests = counter("sidecar_http_requests_total", "Requests answered.", "listener", "route", "code")
        self.http_request_duration = histogram(
            "sidecar_http_request_duration_seconds", "Time from request to end of answer.", "route"
        )
        self.http_in_flight = gauge("sidecar_http_requests_in_flight", "Requests being answered.")
        self.authentications = counter(
            "sidecar_authentications_total",
            "Outcomes of authentication; reason is the exact cause.",
            "authenticator",
            "provider",
            "outcome",
            "reason",
        )
        self.upstream_requests = counter("sidecar_upstream_requests_total", "Requests forwarded.", "code")
        self.upstream_duration = histogram(
            "sidecar_upstream_duration_seconds", "Time from forwarding to the head of the answer."
        )
        self.jwks_fetches = counter("sidecar_jwks_fetches_total", "Fetches of key sets.", "provider", "outcome")
        self.jwks_keys = gauge("sidecar_jwks_keys", "Usable keys.", "provider")
        self.jwks_age = gauge("sidecar_jwks_age_seconds", "Age of the oldest key set in use.", "provider")
        self.token_cache_lookups = counter(
            "sidecar_token_cache_lookups_total", "Look-ups in the verified-token cache.", "result"
        )
        self.token_cache_entries = gauge("sidecar_token_cache_entries", "Tokens in the verified-token cache.")
        self.store_operations = counter(
            "sidecar_store_operations_total", "Operations on the store.", "operation", "outcome"
        )
        self.store_up = gauge("sidecar_store_up", "Whether the store answered last time.")
        self.revocation_mirror_age = gauge(
            "sidecar_revocation_mirror_age_seconds", "Age of the local picture of records and revocations."
        )
        self.tokens_issued = counter("sidecar_tokens_issued_total", "Tokens minted.", "kind")
        self.headers_blanked = counter(
            "sidecar_identity_headers_blanked_total", "Groups left blank because the headers grew too large."
        )
        build = gauge("sidecar_build_info", "What is running.", "version", "python")
        build.labels(__version__, platform.python_version()).set(1)

        self.cache_hits = self.token_cache_lookups.labels("hit")
        self.cache_misses = self.token_cache_lookups.labels("miss")
        self.http_request = lru_cache(maxsize=4096)(self._http_request)
        self.authentication = lru_cache(maxsize=4096)(self._authentication)
        self.upstream_request = lru_cache(maxsize=1024)(self._upstream_request)
        self.request_duration = lru_cache(maxsize=256)(self._request_duration)

    def _http_request(self, listener: str, route: str, code: int) -> Counter:
        return self.http_requests.labels(listener, route, str(code))

    def _authentication(self, authenticator: str, provider: str, outcome: str, reason: str) -> Counter:
        return self.authentications.labels(authenticator, provider, outcome, reason)

    def _upstream_request(self, code: int) -> Counter:
        return self.upstream_requests.labels(str(code))

    def _request_duration(self, route: str) -> Histogram:
        return self.http_request_duration.labels(route)

    def watch(self, gauge: Gauge, read: Callable[[], float], labels: Iterable[str] = ()) -> None:
        """Let ``gauge`` ask ``read`` when it is scraped."""
        names = tuple(labels)
        child = gauge.labels(*names) if names else gauge
        child.set_function(read)
