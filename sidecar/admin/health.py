"""Readiness, and the parts that prevent it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class PartState(Enum):
    """State of one part. PENDING: first attempt not complete. DEGRADED: works with its last known data."""

    PENDING = "pending"
    USABLE = "usable"
    DEGRADED = "degraded"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class PartStatus:
    """The state of one part, with a sentence that explains it."""

    name: str
    condition: PartState
    text: str = ""


Read = Callable[[], PartStatus]


class Health:
    """Ready means: every kind of credential has completed its first attempt and one of them is usable, every other part
    is usable or degraded, and the process is not draining.
    """

    def __init__(self, credentials: Sequence[Read], required: Sequence[Read]) -> None:
        self._credentials = tuple(credentials)
        self._required = tuple(required)
        self.draining = False

    @property
    def is_settled(self) -> bool:
        """Whether every part has completed its first attempt."""
        return all(read().condition is not PartState.PENDING for read in (*self._credentials, *self._required))

    def report(self, *others: PartStatus) -> tuple[bool, dict[str, Any]]:
        """Whether the process is ready, and the state of every part, including ``others``, which are required too."""
        credentials = [read() for read in self._credentials]
        required = [*(read() for read in self._required), *others]
        tried = all(part.condition is not PartState.PENDING for part in credentials)
        usable = any(part.condition in (PartState.USABLE, PartState.DEGRADED) for part in credentials)
        required_ok = all(part.condition in (PartState.USABLE, PartState.DEGRADED) for part in required)
        ready = tried and (usable or not credentials) and required_ok and not self.draining
        failing = [
            part.name for part in (*credentials, *required) if part.condition in (PartState.PENDING, PartState.UNUSABLE)
        ]
        return ready, {
            "ready": ready,
            "draining": self.draining,
            "failing": failing,
            "parts": {part.name: _described(part) for part in (*credentials, *required)},
        }


def _described(part: PartStatus) -> dict[str, str]:
    return {"state": part.condition.value, **({"text": part.text} if part.text else {})}


_BY_SEVERITY = [
    condition.value for condition in (PartState.USABLE, PartState.DEGRADED, PartState.PENDING, PartState.UNUSABLE)
]


def combined(
    reports: Sequence[Mapping[str, Any] | None],
    others: Iterable[PartStatus] = (),
    *,
    is_complete: bool,
    is_draining: bool,
) -> tuple[bool, dict[str, object]]:
    """Combine the reports of several workers; None for a worker that is not running.

    Ready means: ``is_complete``, there are workers, and each of them is ready. Each part has its worst state.
    ``others`` are parts of the supervisor, which do not prevent readiness.
    """
    present = [report for report in reports if report is not None]
    ready = is_complete and not is_draining and bool(present) and all(report["ready"] for report in present)
    parts: dict[str, Mapping[str, str]] = {}
    for report in present:
        for name, part in report["parts"].items():
            if name not in parts or _BY_SEVERITY.index(part["state"]) > _BY_SEVERITY.index(parts[name]["state"]):
                parts[name] = part
    parts.update((part.name, _described(part)) for part in others)
    missing = [f"worker {number}" for number, report in enumerate(reports) if report is None]
    failing = dict.fromkeys(name for report in present for name in report["failing"])
    return ready, {
        "ready": ready,
        "draining": is_draining,
        "failing": [*failing, *missing],
        "parts": parts,
        "workers": [report and {name: report[name] for name in ("pid", "ready", "failing")} for report in reports],
    }
