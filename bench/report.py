"""Medians of the rounds, and what they are beside Envoy's."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load import Measured

TARGETS = {"check": 1.5, "forward": 0.8}
"""Least sidecar rate per scenario, as a multiple of Envoy's without its token cache."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant in one scenario: medians over the rounds.

    ``cpu`` is the share of its core that it got. ``per_cpu_second`` is requests per second of processor time: what it
    costs, also when something else on the machine took the core away.
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
        statistics.median(measured.rate / share for measured, share in zip(rounds, cpu, strict=True)),
    )


def ratios(rows: Sequence[Row], measure: Callable[[Row], float] = lambda row: row.rate) -> dict[str, dict[str, float]]:
    """Per scenario: what ``measure`` says of the sidecar over what it says of every other contestant."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        own = next((measure(r) for r in rows if r.scenario == row.scenario and r.contestant == "sidecar"), None)
        if own is not None and row.contestant != "sidecar":
            found.setdefault(row.scenario, {})[row.contestant] = own / measure(row)
    return found


def as_text(rows: Sequence[Row]) -> str:
    """The table and the ratios for a terminal."""
    lines = [_line("scenario", "contestant", "req/s", "(min - max)", "p50 ms", "p99 ms", "cpu", "req/cpu-s")]
    lines += map(_row_line, rows)
    lines.append("")
    costs = ratios(rows, lambda row: row.per_cpu_second)
    for scenario, others in ratios(rows).items():
        beside = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in others.items())
        per_cpu = ", ".join(f"{ratio:.2f}" for ratio in costs[scenario].values())
        lines.append(f"{scenario}: sidecar = {beside} (per cpu second {per_cpu}){_verdict(scenario, others)}")
    if any(row.cpu < 0.85 for row in rows):
        lines.append("The core was not theirs alone (see cpu): trust the numbers per cpu second, or run it again.")
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
    )


def _line(scenario: str, contestant: str, *numbers: str) -> str:
    widths = (8, 17, 7, 7, 5, 10)
    cells = (number.rjust(width) for number, width in zip(numbers, widths, strict=True))
    return f"{scenario:<12} {contestant:<14} {' '.join(cells)}"


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
        "ratios_per_cpu_second": ratios(rows, lambda row: row.per_cpu_second),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
