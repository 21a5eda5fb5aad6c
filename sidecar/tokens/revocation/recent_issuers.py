"""Issuers whose tokens this process accepted in the last 24 hours, independent of the configuration."""

from collections.abc import Iterable

from sidecar.clock import Clock

RETENTION = 86_400.0
_MAX_ISSUERS = 1000


class RecentIssuers:
    """Issuers by the time of the last accepted token; at most 1,000, the oldest are evicted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def note(self, issuers: Iterable[str]) -> None:
        """Tokens of ``issuers`` were accepted now."""
        now = self._clock.monotonic()
        for issuer in issuers:
            self._seen.pop(issuer, None)
            self._seen[issuer] = now
        while len(self._seen) > _MAX_ISSUERS:
            del self._seen[next(iter(self._seen))]

    def names(self) -> frozenset[str]:
        """The issuers of the last 24 hours."""
        since = self._clock.monotonic() - RETENTION
        return frozenset(issuer for issuer, seen in self._seen.items() if seen >= since)
