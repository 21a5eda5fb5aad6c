"""Medians of the rounds, and their ratios to Envoy's."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.load import Measured
from bench.processes import BenchError

TARGETS = {
    "check": {"envoy": 2.0, "envoy + cache": 1.0},
    "forward": {"envoy": 1.2, "envoy + cache": 1.0},
    "first sight": {"envoy": 0.7},
    "session": {"token": 0.9},
}
BASELINE = "baseline"
TOKEN = "token"
MIN_OF_BASELINE = 0.97
"""Smallest rate of the sidecar, as a multiple of the same scenario in another checkout (``--baseline``)."""
"""Smallest rate of the sidecar per scenario, as a multiple of each Envoy's."""
MOST_P99 = 1.5
"""Longest 99th percentile at half load, as a multiple of Envoy's without its token cache."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant in one scenario: medians over the rounds.

    ``cpu`` is the share of its core that it got. ``per_cpu_second`` is requests per second of processor time: the cost,
    also if other programs used the core. ``half_load_p99_ms`` is the 99th percentile at
    half of the rate of Envoy without its token cache. ``user_us`` and ``system_us`` are microseconds of
    processor time per request in user and kernel mode.
    """

    scenario: str
    contestant: str
    rate: float
    slowest: float
    fastest: float
    p50_ms: float
    p99_ms: float
    cpu: float
    per_cpu_second: float
    half_load_p99_ms: float
    user_us: float
    system_us: float


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Processor time of one round: ``share`` of the core, and seconds in user and kernel mode."""

    share: float
    user: float
    system: float


def summarise(
    scenario: str,
    contestant: str,
    rounds: Sequence[Measured],
    cpu: Sequence[CpuTime],
    half_load: Sequence[Measured],
) -> Row:
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
        statistics.median(used.share for used in cpu),
        statistics.median(measured.rate / used.share for measured, used in zip(rounds, cpu, strict=True)),
        statistics.median(measured.p99_ms for measured in half_load),
        statistics.median(_per_request(used.user, used, measured) for measured, used in zip(rounds, cpu, strict=True)),
        statistics.median(
            _per_request(used.system, used, measured) for measured, used in zip(rounds, cpu, strict=True)
        ),
    )


def _per_request(part: float, used: CpuTime, measured: Measured) -> float:
    """Microseconds per request for ``part`` of the processor time; the exact total is split in proportion to ticks."""
    ticks = used.user + used.system
    return used.share / measured.rate * 1e6 * (part / ticks if ticks else 0.0)


def ratios(rows: Sequence[Row], measure: Callable[[Row], float] = lambda row: row.rate) -> dict[str, dict[str, float]]:
    """Per scenario: the ratio of ``measure`` for the sidecar to that for every other contestant."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        own = next((measure(r) for r in rows if r.scenario == row.scenario and r.contestant == "sidecar"), None)
        if own is not None and row.contestant != "sidecar":
            found.setdefault(row.scenario, {})[row.contestant] = own / measure(row)
    return found


def as_text(rows: Sequence[Row]) -> str:
    """The table and the ratios as text."""
    lines = [
        _line(
            "scenario",
            "contestant",
            "req/s",
            "(min - max)",
            "p50 ms",
            "p99 ms",
            "cpu",
            "req/cpu-s",
            "half p99",
            "user us",
            "sys us",
        )
    ]
    lines += map(_row_line, rows)
    lines.append("")
    costs = ratios(rows, lambda row: row.per_cpu_second)
    waits = ratios(rows, lambda row: row.half_load_p99_ms)
    for scenario, others in ratios(rows).items():
        for name, ratio in others.items():
            target = MIN_OF_BASELINE if name == BASELINE else TARGETS.get(scenario, {}).get(name)
            verdict = "" if target is None else f"  [target {target:.2f}: {'met' if ratio >= target else 'MISSED'}]"
            lines.append(f"{scenario}: {ratio:.2f} x {name} (per cpu second {costs[scenario][name]:.2f}){verdict}")
        wait = waits[scenario].get("envoy")
        if wait is None:
            continue
        verdict = f"[target {MOST_P99:.2f}: {'met' if wait <= MOST_P99 else 'MISSED'}]"
        lines.append(f"{scenario}: p99 at half load {wait:.2f} x envoy  {verdict}")
    if any(row.cpu < 0.85 for row in rows):
        lines.append("Other programs used the core (see cpu): compare the numbers per cpu second, or repeat the run.")
    return "\n".join(lines)


def _row_line(row: Row) -> str:
    return _line(
        row.scenario,
        row.contestant,
        f"{row.rate:,.0f}",
        f"({row.slowest:,.0f} - {row.fastest:,.0f})",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.cpu:.0%}",
        f"{row.per_cpu_second:,.0f}",
        f"{row.half_load_p99_ms:.2f}",
        f"{row.user_us:.1f}",
        f"{row.system_us:.1f}",
    )


def _line(scenario: str, contestant: str, *numbers: str) -> str:
    widths = (8, 17, 7, 7, 5, 10, 9, 8, 7)
    cells = (number.rjust(width) for number, width in zip(numbers, widths, strict=True))
    return f"{scenario:<14} {contestant:<14} {' '.join(cells)}"


def newest(folder: Path) -> dict[str, Any]:
    """The newest result. Raises BenchError if there is none."""
    paths = sorted(folder.glob("*Z.json"))
    if not paths:
        raise BenchError("nothing has been measured yet: python -m bench")
    document: dict[str, Any] = json.loads(paths[-1].read_text())
    return document


def write(folder: Path, rows: Sequence[Row], conditions: Mapping[str, object]) -> Path:
    """Save the result as JSON in ``folder``, named by time; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    document = {
        "conditions": {**conditions, **machine},
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows),
        "ratios_per_cpu_second": ratios(rows, lambda row: row.per_cpu_second),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
