"""Aggregates the metrics of several processes: counters are summed, and each gauge has a rule."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sidecar.metrics import MultiprocessMode

_Key = tuple[str, tuple[tuple[str, str], ...]]
Family = Sequence[Any]
"""Name, type, help text, and samples as ``[name, labels, value]``; all are JSON values."""

# of the process collector, which every process has
_OF_PROCESSES: Mapping[str, MultiprocessMode] = {
    "process_virtual_memory_bytes": MultiprocessMode.SUM,
    "process_resident_memory_bytes": MultiprocessMode.SUM,
    "process_open_fds": MultiprocessMode.SUM,
    "process_start_time_seconds": MultiprocessMode.MIN,
    "process_max_fds": MultiprocessMode.MIN,
}


def families(registry: CollectorRegistry) -> list[Family]:
    """All metrics of ``registry`` with their current values."""
    return [
        [metric.name, metric.type, metric.documentation, [[s.name, dict(s.labels), s.value] for s in metric.samples]]
        for metric in registry.collect()
    ]


def value_of(found: Iterable[Family], sample: str) -> float:
    """The value of a sample without labels; 0 if there is none."""
    return next((value for family in found for name, labels, value in family[3] if name == sample), 0.0)


class Totals:
    """Aggregates processes. ``across`` has the rule of each gauge.

    Counts of a process are kept after it has exited, so that no total decreases.
    """

    def __init__(self, across: Mapping[str, MultiprocessMode]) -> None:
        self._across = {**across, **_OF_PROCESSES}
        self._ended: dict[str, dict[_Key, float]] = {}

    def end(self, last: Iterable[Family]) -> None:
        """Add the ``last`` metrics of a process that has exited."""
        for name, kind, _, samples in last:
            if kind != "gauge":
                _add(self._ended.setdefault(name, {}), samples)

    def registry(self, own: Iterable[Family], workers: Sequence[Iterable[Family]]) -> CollectorRegistry:
        """The aggregate, in the order of ``own``: the metrics of the supervisor, which has all of them."""
        by_name = [{family[0]: family[3] for family in worker} for worker in workers]
        metrics = [self._total(family, [samples.get(family[0], ()) for samples in by_name]) for family in own]
        registry = CollectorRegistry()
        registry.register(_Snapshot(metrics))
        return registry

    def _total(self, own: Family, workers: Sequence[Iterable[Any]]) -> Metric:
        name, kind, text, samples = own
        if kind == "gauge":
            rule = self._across.get(name, MultiprocessMode.MAX)
            if rule is MultiprocessMode.SUPERVISOR:
                workers = [samples]
            elif name in _OF_PROCESSES:
                workers = [samples, *workers]
            found = _gauges(workers, rule)
        else:
            found = dict(self._ended.get(name, {}))
            for some in (samples, *workers):
                _add(found, some)
        metric = Metric(name, text, kind)
        for (sample, labels), value in found.items():
            metric.add_sample(sample, dict(labels), value)
        return metric


def _add(totals: dict[_Key, float], samples: Iterable[Any]) -> None:
    for name, labels, value in samples:
        key = (name, tuple(labels.items()))
        totals[key] = totals.get(key, 0.0) + value


def _gauges(processes: Iterable[Iterable[Any]], rule: MultiprocessMode) -> dict[_Key, float]:
    values: dict[_Key, list[float]] = {}
    for samples in processes:
        for name, labels, value in samples:
            values.setdefault((name, tuple(labels.items())), []).append(value)
    return {key: _aggregate([value for value in found if not math.isnan(value)], rule) for key, found in values.items()}


def _aggregate(values: Sequence[float], rule: MultiprocessMode) -> float:
    """NaN means "no value"; the result is NaN only if no process has one."""
    if not values:
        return math.nan
    if rule is MultiprocessMode.SUM:
        return sum(values)
    return min(values) if rule is MultiprocessMode.MIN else max(values)


class _Snapshot(Collector):
    """A collector of fixed metrics."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def describe(self) -> Sequence[Metric]:
        """The metrics."""
        return self._metrics

    def collect(self) -> Iterator[Metric]:
        """The samples."""
        yield from self._metrics
