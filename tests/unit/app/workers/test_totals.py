"""Several processes' metrics as one set."""

import json
import math

from prometheus_client import CollectorRegistry

from sidecar.app.workers.totals import Family, Totals, families
from sidecar.metrics import Metrics


def said(metrics: Metrics) -> list[Family]:
    """What a worker sends of ``metrics``."""
    sent: list[Family] = json.loads(json.dumps(families(metrics.registry)))
    return sent


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def total(*workers: Metrics) -> CollectorRegistry:
    supervisor = Metrics()
    return Totals(supervisor.across).registry(families(supervisor.registry), [said(worker) for worker in workers])


def test_counters_and_histograms_add_up() -> None:
    one, other = Metrics(), Metrics()
    for worker, times in ((one, 2), (other, 3)):
        for _ in range(times):
            worker.http_requests.child("public", "check", "200").inc()
            worker.http_request_duration.child("check").observe(0.00390625)
    other.jwks_fetches.labels("corp", "ok").inc()
    shown = total(one, other)
    labels = {"listener": "public", "route": "check", "code": "200"}
    assert value(shown, "sidecar_http_requests_total", **labels) == 5
    assert value(shown, "sidecar_http_request_duration_seconds_bucket", route="check", le="0.0025") == 0
    assert value(shown, "sidecar_http_request_duration_seconds_bucket", route="check", le="0.005") == 5
    assert value(shown, "sidecar_http_request_duration_seconds_count", route="check") == 5
    assert value(shown, "sidecar_http_request_duration_seconds_sum", route="check") == 5 * 0.00390625
    assert value(shown, "sidecar_jwks_fetches_total", provider="corp", outcome="ok") == 1


def test_each_gauge_shows_what_an_operator_has_to_know() -> None:
    """Sums of what is shared out, and the worse of what each has whole."""
    one, other = Metrics(), Metrics()
    for worker, number in ((one, 1.0), (other, 3.0)):
        worker.http_in_flight.set(number)
        worker.jwks_keys.labels("corp").set(number)
        worker.jwks_age.labels("corp").set(number)
        worker.revocation_mirror_age.set(number)
        worker.store_up.set(number == 1)
        worker.ready.set(1)
    shown = total(one, other)
    assert value(shown, "sidecar_http_requests_in_flight") == 4
    assert value(shown, "sidecar_jwks_keys", provider="corp") == 1
    assert value(shown, "sidecar_jwks_age_seconds", provider="corp") == 3
    assert value(shown, "sidecar_revocation_mirror_age_seconds") == 3
    assert value(shown, "sidecar_store_up") == 0
    assert value(shown, "sidecar_ready") == 0  # the supervisor's to say
    single = value(total(one), "process_resident_memory_bytes") or 0
    assert (value(total(one, other), "process_resident_memory_bytes") or 0) > single


def test_an_age_that_one_does_not_have_is_that_of_the_others() -> None:
    one, other = Metrics(), Metrics()
    one.jwks_age.labels("corp").set(math.nan)
    other.jwks_age.labels("corp").set(7)
    assert value(total(one, other), "sidecar_jwks_age_seconds", provider="corp") == 7
    assert math.isnan(value(total(one), "sidecar_jwks_age_seconds", provider="corp") or 0)


def test_what_a_worker_had_counted_stays_when_it_has_ended() -> None:
    """Its gauges do not."""
    supervisor, gone, present = Metrics(), Metrics(), Metrics()
    totals = Totals(supervisor.across)
    gone.tokens_issued.labels("bot").inc(5)
    gone.http_request_duration.child("check").observe(1)
    gone.websockets_open.set(9)
    totals.end(said(gone))
    present.tokens_issued.labels("bot").inc()
    shown = totals.registry(families(supervisor.registry), [said(present)])
    assert value(shown, "sidecar_tokens_issued_total", kind="bot") == 6
    assert value(shown, "sidecar_http_request_duration_seconds_count", route="check") == 1
    assert value(shown, "sidecar_websockets_open") == 0


def test_every_metric_is_shown_as_by_a_single_process() -> None:
    """Names, types and texts."""
    alone = Metrics()
    shown = [(m.name, m.type, m.documentation) for m in total(alone).collect()]
    assert shown == [(m.name, m.type, m.documentation) for m in alone.registry.collect()]
