"""What was answered, beside what should have been."""

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from bench.soak.people import Person
from bench.soak.world import Faults

NO_ANSWER = 0
"""Stands for a connection that ended before its answer did."""
_BROKEN_SERVICE = frozenset({502, 504, NO_ANSWER})
_MOST_TOLD = 30


@dataclass
class Ledger:
    """Every answer, counted by traffic and status; the wrong ones described."""

    faults: Faults
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def enter(
        self, traffic: str, status: int, deserved: Collection[int], started: float, *, person: Person, forwards: bool
    ) -> bool:
        """Compare; whether ``status`` says that the answer is what was asked for.

        ``started``: when the request was sent. ``forwards``: it takes the service behind, which may be broken then.
        """
        finished = time.time()
        self.counts[traffic, status] += 1
        allowed = set(deserved)
        if forwards and self.faults.overlap("service", started, finished):
            allowed |= _BROKEN_SERVICE
        if forwards and person.ending < finished:
            allowed.add(NO_ANSWER)  # a revocation cuts what is under way
        # Its key has to be asked for: the provider may be away, and the places to wait for a verdict may be taken.
        if person.kind == "unknown_kid" and any(
            self.faults.overlap(n, started, finished) for n in ("provider", "bodies")
        ):
            allowed.add(503)
        if status not in allowed:
            self.blame(traffic, f"{status} for {person.kind} {person.name}, deserved {sorted(allowed)}")
        return status == 200

    def blame(self, traffic: str, text: str) -> None:
        """Something is wrong that should not be."""
        self.wrong[traffic] += 1
        if len(self.told) < _MOST_TOLD:
            self.told.append(f"{time.time():.3f} {traffic}: {text}")
