"""Tokens that we mint for the service behind, remembered until half of their life is over."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

LIFETIME = 300
"""Seconds; short, because nothing can revoke them."""


_MAX_BYTES = 16 * 1024 * 1024
# What an entry takes beside its text.
_ENTRY_BYTES = 400


class TokenCache:
    """Token texts by what they carry. At most ``size`` are remembered, in about ``max_bytes`` of memory.

    The least recently used leave first.
    """

    def __init__(self, size: int = 10_000, max_bytes: int = _MAX_BYTES) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tokens: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    def get(self, key: Hashable, now: float, mint: Callable[[int], str]) -> str:
        """The token that carries ``carried``; ``mint`` makes it for an ``iat`` when there is none young enough."""
        known = self._tokens.get(key)
        # a clock that was set back must not keep a token that is not valid yet for others
        if known is None or not known[0] <= now < known[0] + LIFETIME / 2:
            if known is not None:
                self._bytes -= _entry_size(known[1])
            known = (int(now), mint(int(now)))
            self._tokens[key] = known
            self._bytes += _entry_size(known[1])
        self._tokens.move_to_end(key)
        while len(self._tokens) > self._size or self._bytes > self._max_bytes:
            self._bytes -= _entry_size(self._tokens.popitem(last=False)[1][1])
        return known[1]


def _entry_size(text: str) -> int:
    """Memory of an entry: what it carries is in the text again, in base64url."""
    return _ENTRY_BYTES + 2 * len(text)
