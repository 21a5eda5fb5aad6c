"""``${VAR:-default}`` as in OpenMetadata, except that a value cannot become YAML structure.

Values are not inserted into the text of the file. :func:`mask` replaces each placeholder by an opaque marker before
the YAML is parsed; afterwards the reader replaces the markers in scalars. The grammar is that of OpenMetadata's
substitutor: a placeholder ends at its first ``}``, names cannot be nested, ``$${`` is a literal ``${``, a variable that
is set (even to an empty value) takes precedence over the default, ``${VAR}`` without a value stays unchanged, and
placeholders inside values are replaced.
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
    """An invalid placeholder. The message has the name of the variable, never its value."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """``${name:-default}``, written as ``text``; ``default`` is None if there is none."""

    name: str
    default: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Opening:
    """A ``${`` that is not a placeholder: ``escaped`` by a preceding ``$``, or not closed on its line."""

    escaped: bool


Token = str | Placeholder | Opening


def tokens(text: str) -> Iterator[Token]:
    """``text`` split into literal text, placeholders and stray openings; only the escaping ``$`` is lost."""
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
    if _OPEN in name:  # nested names are not supported: the whole expression is one unknown variable
        return Placeholder(expression, None, text)
    return Placeholder(name, default if separator else None, text)


@dataclass(frozen=True, slots=True)
class Masked:
    """Text with markers instead of placeholders, and the placeholder of each marker."""

    text: str
    table: Mapping[str, Placeholder | Opening]
    pattern: re.Pattern[str]

    def split(self, scalar: str) -> list[Token]:
        """``scalar`` split at its markers, without empty texts."""
        return [self.table.get(piece, piece) for piece in self.pattern.split(scalar) if piece]


def mask(text: str) -> Masked:
    """Replace every placeholder in ``text`` by a marker: unpredictable letters and digits."""
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
    """``text`` unchanged, without markers."""
    return Masked(text, {}, re.compile("(?!)"))


class Expansion:
    """Replaces placeholders from one environment. Depth and size are limited, in case values refer to each other."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._left = _MAX_EXPANSIONS

    def is_set(self, placeholder: Placeholder) -> bool:
        """Whether the variable is set, even to an empty value."""
        return placeholder.name in self._environ

    def expand(self, placeholder: Placeholder) -> str:
        """The value of ``placeholder``. Raises PlaceholderError for cycles and oversized text."""
        self._left = _MAX_EXPANSIONS
        return self._expand(placeholder, ())

    def _expand(self, placeholder: Placeholder, above: tuple[str, ...]) -> str:
        if placeholder.name in above:
            raise PlaceholderError(f"the variable {above[0]} refers to itself")
        self._left -= 1
        if self._left < 0 or len(above) > 20:
            raise PlaceholderError(f"the variable {above[0]} refers to too many others")
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
