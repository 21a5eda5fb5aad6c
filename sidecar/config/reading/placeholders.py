"""``${VAR:-default}`` as OpenMetadata reads it, without letting a value become structure.

The file's text is not pasted into. :func:`mask` swaps each placeholder for an opaque marker before the YAML is read;
the reader hands scalars with markers back and asks for the text behind them. The grammar is that of the substitutor
OpenMetadata uses: a placeholder ends at its first ``}``, names do not nest, ``$${`` stands for a literal ``${``, a
variable that is set (even to nothing) beats the default, ``${VAR}`` without a value stays as it is written, and
placeholders inside values are followed.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_OPEN = "${"
_LINE_BREAK = re.compile("[\r\n\x85\u2028\u2029]")
_MAX_EXPANSIONS = 1000
_MAX_CHARACTERS = 1 << 20


class PlaceholderError(ValueError):
    """A placeholder that cannot be used; the text names the variable, never its value."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """``${name:-default}`` as written in ``text``; ``default`` is None when there is none."""

    name: str
    default: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Opening:
    """A ``${`` that opens nothing: ``escaped`` by a preceding ``$``, or not closed on its line."""

    escaped: bool


Token = str | Placeholder | Opening


def tokens(text: str) -> Iterator[Token]:
    """``text`` cut into literal text, placeholders and stray openings; lossless but for the escaping ``$``."""
    position = 0
    while (start := text.find(_OPEN, position)) >= 0:
        if start > position and text[start - 1] == "$":
            yield text[position : start - 1]
            yield Opening(escaped=True)
            position = start + 2
            continue
        yield text[position:start]
        end = text.find("}", start + 2)
        if end < 0 or _LINE_BREAK.search(text, start, end):
            yield Opening(escaped=False)
            position = start + 2
            continue
        yield _placeholder(text[start : end + 1])
        position = end + 1
    yield text[position:]


def _placeholder(text: str) -> Placeholder:
    expression = text[2:-1]
    name, separator, default = expression.partition(":-")
    if _OPEN in name:  # a nested name is never looked into: the whole expression is one unknown variable
        return Placeholder(expression, None, text)
    return Placeholder(name, default if separator else None, text)


@dataclass(frozen=True, slots=True)
class Masked:
    """Text without placeholders, and what each marker in it stands for."""

    text: str
    table: Mapping[str, Placeholder | Opening]
    pattern: re.Pattern[str]

    def split(self, scalar: str) -> list[Token]:
        """``scalar`` cut at its markers; empty text left out."""
        return [self.table.get(piece, piece) for piece in self.pattern.split(scalar) if piece]


def mask(text: str) -> Masked:
    """Swap every placeholder of ``text`` for a marker: a word of letters and digits that nobody can foresee."""
    nonce = secrets.token_hex(12)
    table: dict[str, Placeholder | Opening] = {}
    parts: list[str] = []
    for token in tokens(text):
        if isinstance(token, str):
            parts.append(token)
        else:
            marker = f"x{nonce}n{len(table)}x"
            table[marker] = token
            parts.append(marker)
    return Masked("".join(parts), table, re.compile(f"(x{nonce}n[0-9]+x)"))


def unmasked(text: str) -> Masked:
    """``text`` as it is, without a marker."""
    return Masked(text, {}, re.compile("(?!)"))


class Expansion:
    """Looks placeholders up in one environment; bounded, so that values which name each other cannot run away."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._left = _MAX_EXPANSIONS

    def is_set(self, placeholder: Placeholder) -> bool:
        """Whether the variable is defined, be it empty."""
        return placeholder.name in self._environ

    def expand(self, placeholder: Placeholder) -> str:
        """The text that stands for ``placeholder``. Raises PlaceholderError for cycles and for endless text."""
        self._left = _MAX_EXPANSIONS
        return self._expand(placeholder, ())

    def _expand(self, placeholder: Placeholder, above: tuple[str, ...]) -> str:
        if placeholder.name in above:
            raise PlaceholderError(f"the variable {above[0]} refers to itself")
        self._left -= 1
        if self._left < 0 or len(above) > 20:
            raise PlaceholderError(f"the variable {above[0]} leads to too many others")
        text = self._environ.get(placeholder.name, placeholder.default)
        if text is None:
            return placeholder.text
        return self._text(text, (*above, placeholder.name))

    def _text(self, text: str, above: tuple[str, ...]) -> str:
        parts: list[str] = []
        length = 0
        for token in tokens(text):
            part = self._token(token, above)
            length += len(part)
            if length > _MAX_CHARACTERS:
                raise PlaceholderError(f"the variable {above[0]} is too long")
            parts.append(part)
        return "".join(parts)

    def _token(self, token: Token, above: tuple[str, ...]) -> str:
        if isinstance(token, str):
            return token
        return _OPEN if isinstance(token, Opening) else self._expand(token, above)
