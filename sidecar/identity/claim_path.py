"""Paths to claims: ``email``, ``realm_access.roles``, ``resource_access."my.client".roles``."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

ABSENT: Final = object()
"""Result of :meth:`ClaimPath.find` for an absent claim; ``null`` is a value."""

_MAX_CACHED_NAMES = 64
_STEP = re.compile(r'"([^"]+)"|([^".]+)')


class ClaimPath:
    """A compiled path. Dots separate names; quoted names may contain dots; a claim with the literal name takes
    precedence.
    """

    __slots__ = ("_folded", "_is_literal", "_steps", "text")

    def __init__(self, text: str) -> None:
        """Raises ValueError for an empty path, an empty name or an unbalanced quote."""
        self.text = text
        self._steps = _steps(text)
        self._folded = text.casefold()
        self._is_literal = self._steps == (text,)

    @property
    def first(self) -> str:
        """The name of the claim at which the path begins."""
        return self._steps[0]

    def find(self, claims: Mapping[str, Any]) -> Any:
        """The value, or :data:`ABSENT`. Exact names take precedence over names in other case (as in OpenMetadata)."""
        literal = claims.get(self.text, ABSENT)
        if literal is not ABSENT:
            return literal
        spelled = _names(claims).get(self._folded)
        if spelled is not None:
            return claims[spelled]
        if self._is_literal:
            return ABSENT
        value: Any = claims
        for step in self._steps:
            if not isinstance(value, Mapping):
                return ABSENT
            value = _member(value, step)
        return value

    def find_exact(self, claims: Mapping[str, Any]) -> Any:
        """The value, or :data:`ABSENT`. Names in other case are other names."""
        value: Any = claims
        for step in self._steps:
            if not isinstance(value, Mapping) or step not in value:
                return ABSENT
            value = value[step]
        return value

    def __repr__(self) -> str:
        return f"ClaimPath({self.text!r})"


def _steps(text: str) -> tuple[str, ...]:
    steps = []
    position = 0
    while True:
        match = _STEP.match(text, position)
        if match is None:
            raise ValueError(f"not a claim path: {text!r}")
        steps.append(match[1] or match[2])
        position = match.end()
        if position == len(text):
            return tuple(steps)
        if text[position] != ".":
            raise ValueError(f"not a claim path: {text!r}")
        position += 1


def _member(claims: Mapping[str, Any], name: str) -> Any:
    value = claims.get(name, ABSENT)
    if value is not ABSENT:
        return value
    spelled = _names(claims).get(name.casefold())
    return ABSENT if spelled is None else claims[spelled]


def _names(claims: Mapping[str, Any]) -> Mapping[str, str]:
    """The first name of a claim for each spelling without case."""
    names = tuple(claims)
    return _fold(names) if len(names) <= _MAX_CACHED_NAMES else _fold.__wrapped__(names)


@lru_cache(maxsize=256)  # the tokens of a provider have the same names
def _fold(names: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.casefold(), name)
    return found
