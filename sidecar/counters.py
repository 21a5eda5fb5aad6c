"""Counters for the hot path: plain integers that become Prometheus samples when the metrics are scraped.

A counter of the library takes a lock and validates its labels on every increment; several of them per request cost
more than the authentication. Not thread-safe: increments and scrapes run on the event loop.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Counter:
    """A monotonic counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """Increment by one."""
        self.value += 1


class CounterVec(Collector):
    """A Prometheus counter with one :class:`Counter` per combination of label values."""

    kind = "counter"

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._children: dict[tuple[str, ...], Counter] = {}
        registry.register(self)

    def child(self, *values: str) -> Counter:
        """The counter of these label values. Values must come from bounded sets; keep the child if it is used often."""
        return self._children.get(values) or self._children.setdefault(values, Counter())

    def describe(self) -> list[Metric]:
        """The metric without samples."""
        return [CounterMetricFamily(self.name, self.text, labels=self.labels)]

    def collect(self) -> Iterator[Metric]:
        """The current samples."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for values, counter in self._children.items():
            family.add_metric(values, counter.value)
        yield family


class Histogram:
    """Durations by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation of ``seconds``."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class HistogramVec(Collector):
    """A Prometheus histogram of seconds with one :class:`Histogram` per combination of label values.

    ``bounds`` are the upper bounds of the buckets.
    """

    kind = "histogram"

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._children: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def child(self, *values: str) -> Histogram:
        """The histogram of these label values."""
        return self._children.get(values) or self._children.setdefault(values, Histogram(self._bounds))

    def describe(self) -> list[Metric]:
        """The metric without samples."""
        return [HistogramMetricFamily(self.name, self.text, labels=self.labels)]

    def collect(self) -> Iterator[Metric]:
        """The current samples."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for values, histogram in self._children.items():
            reached = 0
            buckets = []
            for bound, count in zip((*self._bounds, float("inf")), histogram.counts, strict=True):
                reached += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), float(reached)))
            family.add_metric(values, buckets, histogram.total)
        yield family
