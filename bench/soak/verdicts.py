"""Compares responses with the expected ones."""

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from bench.soak.people import Person
from bench.soak.world import Faults

NO_ANSWER = 0
"""The status of a connection that ended before its response."""
_BROKEN_SERVICE = frozenset({502, 504, NO_ANSWER})
_MOST_TOLD = 30


@dataclass
class Ledger:
    """All responses, counted by traffic and status, with descriptions of wrong ones."""

    faults: Faults
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def enter(
        self, traffic: str, status: int, deserved: Collection[int], started: float, *, person: Person, forwards: bool
    ) -> bool:
        """Compare ``status`` with the expected ones. Returns whether the request succeeded.

        ``started``: when the request was sent. ``forwards``: it needs the upstream, which may be failing.
        """
        finished = time.time()
        self.counts[traffic, status] += 1
        allowed = set(deserved)
        if forwards and self.faults.overlap("service", started, finished):
            allowed |= _BROKEN_SERVICE
        if forwards and person.ending < finished:
            allowed.add(NO_ANSWER)  # a revocation ends in-flight requests
        # Its key must be fetched: the provider may be down, and all slots for undecided requests may be in use.
        if person.kind == "unknown_kid" and any(
            self.faults.overlap(n, started, finished) for n in ("provider", "bodies")
        ):
            allowed.add(503)
        if status not in allowed:
            self.blame(traffic, f"{status} for {person.kind} {person.name}, expected {sorted(allowed)}")
        return status == 200

    def blame(self, traffic: str, text: str) -> None:
        """Record a wrong result."""
        self.wrong[traffic] += 1
        if len(self.told) < _MOST_TOLD:
            self.told.append(f"{time.time():.3f} {traffic}: {text}")
