"""Counts and times as Prometheus reads them."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sidecar.counters import CounterVec, HistogramVec
from sidecar.metrics import Metrics


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_counts_are_shown_by_their_labels() -> None:
    registry = CollectorRegistry()
    tallies = CounterVec(registry, "things_total", "Things.", ("kind", "size"))
    tallies.child("a", "1").inc()
    tallies.child("a", "1").inc()
    tallies.child('quo"te\n', "2").inc()
    assert samples(registry) == {
        ("things_total", (("kind", "a"), ("size", "1"))): 2,
        ("things_total", (("kind", 'quo"te\n'), ("size", "2"))): 1,
    }
    assert b"things_total{" in openmetrics(registry)  # type: ignore[no-untyped-call] # the library's


def test_times_fall_into_the_bucket_that_reaches_them() -> None:
    registry = CollectorRegistry()
    child = HistogramVec(registry, "took_seconds", "Time.", ("route",), (0.1, 1.0)).child("x")
    for seconds in (0.05, 0.1, 0.100001, 5.0):
        child.observe(seconds)
    read = samples(registry)
    buckets = {dict(labels)["le"]: value for (name, labels), value in read.items() if name == "took_seconds_bucket"}
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}
    assert read["took_seconds_count", (("route", "x"),)] == 4
    assert round(read["took_seconds_sum", (("route", "x"),)], 6) == 5.250001


def test_a_name_cannot_be_registered_twice() -> None:
    Metrics()
    Metrics()  # registries of their own
    registry = CollectorRegistry()
    CounterVec(registry, "x_total", "X.", ())
    with pytest.raises(ValueError, match="Duplicated"):
        CounterVec(registry, "x_total", "X.", ())
