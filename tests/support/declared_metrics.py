"""What the sidecar may export: every metric of its own by name, with its labels and its type."""

from dataclasses import dataclass

from prometheus_client.metrics import MetricWrapperBase

from sidecar.counters import CounterVec, HistogramVec
from sidecar.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Declared:
    """``kind`` is ``counter``, ``gauge`` or ``histogram``."""

    labels: tuple[str, ...]
    kind: str


def declared_metrics() -> dict[str, Declared]:
    """By the names under which they are documented; a counter's ends in ``_total``."""
    found: dict[str, Declared] = {}
    for collector in Metrics().registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            assert collector._type is not None
            name = f"{collector._name}_total" if collector._type == "counter" else collector._name
            found[name] = Declared(tuple(collector._labelnames), collector._type)
        elif isinstance(collector, CounterVec | HistogramVec):
            found[collector.name] = Declared(collector.labels, collector.kind)
    return found
