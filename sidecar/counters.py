"""Counting on the hot path: plain integers, turned into Prometheus samples only when somebody scrapes.

A library counter takes a lock and checks its labels at every increment; several of them on a request cost more than
the verdict. Everything here belongs to one thread, that of the event loop, which also answers the scrape.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Counter:
    """A count that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1


class CounterVec(Collector):
    """A Prometheus counter made of :class:`Counter`, one for each combination of label values."""

    kind = "counter"

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._children: dict[tuple[str, ...], Counter] = {}
        registry.register(self)

    def child(self, *values: str) -> Counter:
        """The tally of these label values. Take them from bounded sets, and keep the child where you can."""
        return self._children.get(values) or self._children.setdefault(values, Counter())

    def describe(self) -> list[Metric]:
        """What it is called, without samples."""
        return [CounterMetricFamily(self.name, self.text, labels=self.labels)]

    def collect(self) -> Iterator[Metric]:
        """The samples of this moment."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for values, tally in self._children.items():
            family.add_metric(values, tally.value)
        yield family


class Histogram:
    """How many took how long."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """One more, which took ``seconds``."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class HistogramVec(Collector):
    """A Prometheus histogram of seconds made of :class:`Histogram`. ``bounds`` are the buckets' upper ends."""

    kind = "histogram"

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._children: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def child(self, *values: str) -> Histogram:
        """The tally of these label values."""
        return self._children.get(values) or self._children.setdefault(values, Histogram(self._bounds))

    def describe(self) -> list[Metric]:
        """What it is called, without samples."""
        return [HistogramMetricFamily(self.name, self.text, labels=self.labels)]

    def collect(self) -> Iterator[Metric]:
        """The samples of this moment."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for values, tally in self._children.items():
            reached = 0
            buckets = []
            for bound, count in zip((*self._bounds, float("inf")), tally.counts, strict=True):
                reached += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), float(reached)))
            family.add_metric(values, buckets, tally.total)
        yield family
