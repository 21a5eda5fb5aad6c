"""Alive, ready, and if not, what is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class Condition(Enum):
    """State of one part. PENDING: has not had its first try. DEGRADED: works on what it last knew."""

    PENDING = "pending"
    USABLE = "usable"
    DEGRADED = "degraded"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part's state, by name, with one sentence for people."""

    name: str
    condition: Condition
    text: str = ""


Read = Callable[[], PartStatus]


class Health:
    """Ready means: every kind of credential has had its first try and one of them is usable, every other part is
    usable or degraded, and the process is not draining.
    """

    def __init__(self, credentials: Sequence[Read], required: Sequence[Read]) -> None:
        self._credentials = tuple(credentials)
        self._required = tuple(required)
        self.draining = False

    def report(self) -> tuple[bool, dict[str, object]]:
        """Whether the process is ready, and the state of every part."""
        credentials = [read() for read in self._credentials]
        required = [read() for read in self._required]
        tried = all(part.condition is not Condition.PENDING for part in credentials)
        usable = any(part.condition in (Condition.USABLE, Condition.DEGRADED) for part in credentials)
        standing = all(part.condition in (Condition.USABLE, Condition.DEGRADED) for part in required)
        ready = tried and (usable or not credentials) and standing and not self.draining
        failing = [
            part.name for part in (*credentials, *required) if part.condition in (Condition.PENDING, Condition.UNUSABLE)
        ]
        return ready, {
            "ready": ready,
            "draining": self.draining,
            "failing": failing,
            "parts": {
                part.name: {"state": part.condition.value, **({"text": part.text} if part.text else {})}
                for part in (*credentials, *required)
            },
        }
