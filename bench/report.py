"""Medians of the rounds, and what they are beside Envoy's."""

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load import Measured

TARGETS = {"check": 1.5, "forward": 0.8}
"""Least sidecar rate per scenario, as a multiple of Envoy's without its token cache."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant in one scenario: medians over the rounds, and the share of its core that it used."""

    scenario: str
    contestant: str
    rate: float
    slowest: float
    fastest: float
    p50_ms: float
    p99_ms: float
    cpu: float


def summarise(scenario: str, contestant: str, rounds: Sequence[Measured], cpu: Sequence[float]) -> Row:
    """The medians of one contestant's rounds."""
    rates = [measured.rate for measured in rounds]
    return Row(
        scenario,
        contestant,
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(measured.p50_ms for measured in rounds),
        statistics.median(measured.p99_ms for measured in rounds),
        statistics.median(cpu),
    )


def ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Per scenario: the sidecar's rate over that of every other contestant."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        own = next((r.rate for r in rows if r.scenario == row.scenario and r.contestant == "sidecar"), None)
        if own is not None and row.contestant != "sidecar":
            found.setdefault(row.scenario, {})[row.contestant] = own / row.rate
    return found


def as_text(rows: Sequence[Row]) -> str:
    """The table and the ratios for a terminal."""
    lines = [
        f"{'scenario':<12} {'contestant':<14} {'req/s':>8} {'(min - max)':>17} {'p50 ms':>7} {'p99 ms':>7} {'cpu':>5}"
    ]
    for row in rows:
        span = f"({row.slowest:,.0f} - {row.fastest:,.0f})"
        lines.append(
            f"{row.scenario:<12} {row.contestant:<14} {row.rate:>8,.0f} {span:>17} "
            f"{row.p50_ms:>7.2f} {row.p99_ms:>7.2f} {row.cpu:>5.0%}"
        )
    lines.append("")
    for scenario, others in ratios(rows).items():
        beside = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in others.items())
        lines.append(f"{scenario}: sidecar = {beside}{_verdict(scenario, others)}")
    return "\n".join(lines)


def _verdict(scenario: str, others: Mapping[str, float]) -> str:
    target = TARGETS.get(scenario)
    if target is None or "envoy" not in others:
        return ""
    return f"  [target {target:.2f} x envoy: {'met' if others['envoy'] >= target else 'MISSED'}]"


def write(folder: Path, rows: Sequence[Row], conditions: Mapping[str, object]) -> Path:
    """Keep the result as JSON under ``folder``, named by time; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    document = {
        "conditions": {**conditions, **machine},
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
