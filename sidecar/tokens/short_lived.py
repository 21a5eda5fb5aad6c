"""Tokens that we mint for the service behind, remembered until half of their life is over."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

LIFETIME = 300
"""Seconds; short, because nothing can revoke them."""


class ShortLived:
    """Token texts by what they carry. At most ``size`` are remembered, the least recently used leave first."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._tokens: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    def get(self, carried: Hashable, now: float, mint: Callable[[int], str]) -> str:
        """The token that carries ``carried``; ``mint`` makes it for an ``iat`` when there is none young enough."""
        known = self._tokens.get(carried)
        # a clock that was set back must not keep a token that is not valid yet for others
        if known is None or not known[0] <= now < known[0] + LIFETIME / 2:
            known = (int(now), mint(int(now)))
            self._tokens[carried] = known
        self._tokens.move_to_end(carried)
        if len(self._tokens) > self._size:
            self._tokens.popitem(last=False)
        return known[1]
