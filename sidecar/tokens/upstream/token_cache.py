"""Cache of tokens minted for the upstream, until half of their lifetime has passed."""

from collections.abc import Callable, Hashable

from sidecar.lru import BoundedLru

LIFETIME = 300
"""Seconds; short, because these tokens cannot be revoked."""


_MAX_BYTES = 16 * 1024 * 1024
# Memory of an entry without its text.
_ENTRY_BYTES = 400


class TokenCache:
    """Token texts by key: at most ``size`` in about ``max_bytes`` of memory, evicted by LRU."""

    def __init__(self, size: int = 10_000, max_bytes: int = _MAX_BYTES) -> None:
        self._tokens: BoundedLru[Hashable, tuple[float, str]] = BoundedLru(size, max_bytes, _entry_size)

    def get(self, key: Hashable, now: float, mint: Callable[[int], str]) -> str:
        """The token for ``key``; ``mint`` creates it for an ``iat`` if none is fresh enough."""
        known = self._tokens.get(key)
        # if the clock was set back, a cached token is not yet valid for other hosts
        if known is None or not known[0] <= now < known[0] + LIFETIME / 2:
            known = (int(now), mint(int(now)))
            self._tokens.put(key, known)
        else:
            self._tokens.touch(key)
        return known[1]


def _entry_size(entry: tuple[float, str]) -> int:
    """Memory of an entry: its key is about the size of the text."""
    return _ENTRY_BYTES + 2 * len(entry[1])
