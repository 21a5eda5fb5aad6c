"""Declares all metrics and their labels. Label values come from small fixed sets; children are resolved before use."""

import platform
from collections.abc import Callable, Iterable
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from sidecar import __version__
from sidecar.counters import CounterVec, HistogramVec

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class MultiprocessMode(Enum):
    """How a gauge is aggregated over worker processes. SUPERVISOR: the value of the supervisor counts."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    SUPERVISOR = "supervisor"


class Metrics:
    """The metrics of one process, in a registry of their own.

    Metrics on the request path use :mod:`sidecar.counters` (event loop only), the others prometheus-client collectors.
    Label values must come from a bounded set. Keep the child of a label value if it is used often.
    """

    def __init__(self) -> None:
        # would add a second series for every counter
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library's
        self.registry = registry = CollectorRegistry()
        self.across: dict[str, MultiprocessMode] = {}
        """Aggregation rule of each gauge, by name."""
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str, across: MultiprocessMode = MultiprocessMode.MAX) -> Gauge:
            self.across[name] = across
            return Gauge(name, text, labels, registry=registry)

        def counter_vec(name: str, text: str, *labels: str) -> CounterVec:
            return CounterVec(registry, name, text, labels)

        def histogram_vec(name: str, text: str, *labels: str) -> HistogramVec:
            return HistogramVec(registry, name, text, labels, _BUCKETS)

        self.http_requests = counter_vec("sidecar_http_requests_total", "Responses sent.", "listener", "route", "code")
        self.http_request_duration = histogram_vec(
            "sidecar_http_request_duration_seconds",
            "Time from the head of the request to the end of the response.",
            "route",
        )
        self.http_in_flight = gauge(
            "sidecar_http_requests_in_flight", "Requests in flight.", across=MultiprocessMode.SUM
        )
        self.http_undecided = gauge(
            "sidecar_http_requests_undecided",
            "Requests waiting for an authentication decision.",
            across=MultiprocessMode.SUM,
        )
        self.log_lines_left_out = counter(
            "sidecar_log_lines_left_out_total", "Log lines about rejected requests that were suppressed."
        )
        self.authentications = counter_vec(
            "sidecar_authentications_total",
            "Outcomes of authentication; reason is the exact cause.",
            "authenticator",
            "provider",
            "outcome",
            "reason",
        )
        self.upstream_requests = counter_vec("sidecar_upstream_requests_total", "Requests forwarded.", "code")
        self.upstream_duration = histogram_vec(
            "sidecar_upstream_duration_seconds", "Time from forwarding to the head of the response."
        )
        self.upstream_repeats = counter(
            "sidecar_upstream_repeats_total", "GET and HEAD requests retried because an idle connection was closed."
        )
        self.ready = gauge(
            "sidecar_ready", "Whether this process is ready for requests.", across=MultiprocessMode.SUPERVISOR
        )
        self.websockets_open = gauge("sidecar_websockets_open", "Open WebSockets.", across=MultiprocessMode.SUM)
        self.jwks_fetches = counter("sidecar_jwks_fetches_total", "Fetches of key sets.", "provider", "outcome")
        self.jwks_keys = gauge("sidecar_jwks_keys", "Usable keys.", "provider", across=MultiprocessMode.MIN)
        self.jwks_age = gauge("sidecar_jwks_age_seconds", "Age of the oldest key set in use.", "provider")
        self.token_cache_lookups = counter_vec(
            "sidecar_token_cache_lookups_total", "Lookups in the verified-token cache.", "result"
        )
        self.token_cache_entries = gauge(
            "sidecar_token_cache_entries", "Tokens in the verified-token cache.", across=MultiprocessMode.SUM
        )
        self.token_cache_bytes = gauge(
            "sidecar_token_cache_bytes",
            "Memory of the tokens in the verified-token cache.",
            across=MultiprocessMode.SUM,
        )
        self.store_operations = counter(
            "sidecar_store_operations_total", "Operations on the store.", "operation", "outcome"
        )
        self.store_up = gauge(
            "sidecar_store_up", "Whether the last operation on the store succeeded.", across=MultiprocessMode.MIN
        )
        self.revocation_mirror_age = gauge(
            "sidecar_revocation_mirror_age_seconds", "Age of the local copy of records and revocations."
        )
        self.revocation_entries = gauge("sidecar_revocation_entries", "Entries of the revocation list.")
        self.revocation_endless = gauge(
            "sidecar_revocation_endless_entries", "Entries of the revocation list that never expire."
        )
        self.revocation_propagation = histogram_vec(
            "sidecar_revocation_propagation_seconds",
            "Time from a write to the store until this process has applied it.",
        )
        self.revocation_skipped = counter(
            "sidecar_revocation_skipped_entries_total", "Entries of the store that could not be parsed."
        )
        self.clock_offset = gauge(
            "sidecar_clock_offset_seconds", "By how much this clock is ahead of the store's, or of its own course."
        )
        self.store_reseeds = counter(
            "sidecar_store_reseeds_total", "Times that the store was empty and was restored from memory."
        )
        self.tokens_issued = counter("sidecar_tokens_issued_total", "Tokens minted.", "kind")
        self.tokens_revoked = counter(
            "sidecar_tokens_revoked_total", "Tokens revoked and revocation entries added.", "kind"
        )
        self.untrusted_checks = counter(
            "sidecar_untrusted_checks_total", "Checks rejected because the peer is not in server.trustedProxies."
        )
        self.headers_blanked = counter(
            "sidecar_identity_headers_blanked_total",
            "Responses whose groups were omitted because the headers were too large.",
        )
        self.config_reloads = counter("sidecar_config_reloads_total", "Reloads of the configuration.", "outcome")
        self.config_current = gauge(
            "sidecar_config_last_reload_successful",
            "Whether the last reload was applied; 1 before the first.",
            across=MultiprocessMode.SUPERVISOR,
        )
        self.workers = gauge("sidecar_workers", "Processes that answer requests.", across=MultiprocessMode.SUPERVISOR)
        self.worker_memory = gauge(
            "sidecar_worker_resident_memory_bytes",
            "Memory of each worker.",
            "worker",
            across=MultiprocessMode.SUPERVISOR,
        )
        self.worker_deaths = counter(
            "sidecar_worker_deaths_total", "Workers that exited unexpectedly and were restarted."
        )
        self._declare_optional()
        gauge("sidecar_build_info", "Version of the sidecar and of Python.", "version", "python").labels(
            __version__, platform.python_version()
        ).set(1)

        self.cache_hits = self.token_cache_lookups.child("hit")
        self.cache_misses = self.token_cache_lookups.child("miss")

    def _declare_optional(self) -> None:
        """The metrics of parts that a configuration may leave out."""
        self._declare_login()
        self._declare_token_endpoint()
        self._declare_secrets()
        self.signals = Counter(
            "sidecar_signals_total",
            "Security events of providers.",
            ("provider", "event", "outcome"),
            registry=self.registry,
        )
        self.across["sidecar_stream_enabled"] = MultiprocessMode.MIN
        self.stream_enabled = Gauge(
            "sidecar_stream_enabled",
            "Whether the provider sends security events, as far as it has said.",
            ("provider",),
            registry=self.registry,
        )
        self.across["sidecar_signal_last_timestamp_seconds"] = MultiprocessMode.MAX
        self.signal_last = Gauge(
            "sidecar_signal_last_timestamp_seconds",
            "Time of the last accepted security event.",
            ("provider",),
            registry=self.registry,
        )
        self.challenges = Counter(
            "sidecar_challenges_total",
            "Challenges about protected resources.",
            ("resource", "reason"),
            registry=self.registry,
        )
        self._declare_kafka()

    def _declare_login(self) -> None:
        """The metrics of browser login."""
        registry = self.registry
        logins, logouts = "Ends of browser logins; reason is the exact cause.", "Logout tokens of providers."
        self.logins = CounterVec(registry, "sidecar_logins_total", logins, ("provider", "outcome", "reason"))
        self.backchannel_logouts = CounterVec(
            registry, "sidecar_backchannel_logouts_total", logouts, ("provider", "outcome")
        )
        refreshes = "Questions to providers whether the person of a session may still log in."
        self.session_refreshes = CounterVec(
            registry, "sidecar_session_refreshes_total", refreshes, ("provider", "outcome")
        )

    def _declare_token_endpoint(self) -> None:
        """The metrics of the token endpoint."""
        self.token_requests = Counter(
            "sidecar_token_requests_total",
            "Requests to the token endpoint; outcome is issued, or the error.",
            ("grant", "client_or_rule", "outcome"),
            registry=self.registry,
        )

    def _declare_secrets(self) -> None:
        """The metrics of the secrets manager, which the supervisor reads for all workers."""
        self.secrets_requests = Counter(
            "sidecar_secrets_requests_total",
            "Calls to the secrets manager.",
            ("operation", "outcome"),
            registry=self.registry,
        )
        self.secrets_duration = Histogram(
            "sidecar_secrets_request_duration_seconds",
            "Duration of calls to the secrets manager.",
            ("operation",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.secrets_up = self._supervisor_gauge(
            "sidecar_secrets_up",
            "Whether every secret could be read the last time.",
        )
        self.secrets_references = self._supervisor_gauge(
            "sidecar_secrets_references",
            "Settings whose value is in the secrets manager.",
        )
        self.secrets_age = self._supervisor_gauge(
            "sidecar_secrets_age_seconds",
            "Time since every secret was read.",
        )
        self.secrets_expires = self._supervisor_gauge(
            "sidecar_secrets_expires_seconds",
            "Time until the first secret expires according to the secrets manager; infinite if none does.",
        )
        self.across["sidecar_secrets_untidied"] = MultiprocessMode.MAX
        self.secrets_untidied = Gauge(
            "sidecar_secrets_untidied",
            "Secrets with a revoked token of a bot that could not be deleted.",
            registry=self.registry,
        )
        self.secrets_refreshes = Counter(
            "sidecar_secrets_refreshes_total",
            "Times that all secrets were read again.",
            ("outcome",),
            registry=self.registry,
        )

    def _declare_kafka(self) -> None:
        """The metrics of Kafka gates. Their threads use them, so they are collectors with locks."""
        registry = self.registry

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            self.across[name] = MultiprocessMode.SUM
            return Gauge(name, text, labels, registry=registry)

        self.kafka_records = Counter(
            "sidecar_kafka_records_total",
            "Records that left the inbound topic.",
            ("gate", "outcome", "reason"),
            registry=registry,
        )
        self.kafka_transactions = Counter(
            "sidecar_kafka_transactions_total", "Kafka transactions of gates.", ("gate", "outcome"), registry=registry
        )
        self.kafka_transaction_duration = Histogram(
            "sidecar_kafka_transaction_duration_seconds",
            "Duration of committed Kafka transactions.",
            ("gate",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.kafka_unreadable = Counter(
            "sidecar_kafka_unreadable_total",
            "Records skipped because their batch could not be read.",
            ("gate",),
            registry=registry,
        )
        self.kafka_lag_records = gauge(
            "sidecar_kafka_lag_records", "Records of the inbound topic that wait.", "gate", "partition"
        )
        self.kafka_lag_seconds = gauge("sidecar_kafka_lag_seconds", "Age of the oldest record that waits.", "gate")
        self.kafka_assigned = gauge("sidecar_kafka_assigned_partitions", "Partitions that this process reads.", "gate")
        self.kafka_stopped = gauge(
            "sidecar_kafka_paused", "Partitions, or the gate as a whole (1), that are stopped.", "gate", "cause"
        )

    def _supervisor_gauge(self, name: str, text: str) -> Gauge:
        self.across[name] = MultiprocessMode.SUPERVISOR
        return Gauge(name, text, registry=self.registry)

    def watch(self, gauge: Gauge, read: Callable[[], float], labels: Iterable[str] = ()) -> None:
        """Have ``gauge`` call ``read`` on each scrape."""
        names = tuple(labels)
        child = gauge.labels(*names) if names else gauge
        child.set_function(read)
