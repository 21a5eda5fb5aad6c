"""``${NAME:default}`` as in Spring: replaced after YAML parsing, inside texts; defaults may contain placeholders.

A value is always text. A variable that is set, even to an empty value, takes precedence over the default.
Placeholders inside a value are replaced too.
"""

from collections.abc import Mapping

from sidecar.config.reading.placeholders import PlaceholderError
from sidecar.config.reading.tree import Block, Items, Leaf, Node, Origin, Path, dotted
from sidecar.errors import Problem

_OPEN, _CLOSE = "${", "}"
_MAX_DEPTH = 10
_MAX_EXPANSIONS = 200
_MAX_CHARACTERS = 1 << 16


class Expander:
    """Replaces placeholders from one environment. ``used``: names found there since the last reset."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._left = _MAX_EXPANSIONS
        self.used: list[str] = []

    def expand(self, text: str) -> str:
        """``text`` with its placeholders replaced.

        Raises PlaceholderError if one is not closed, has neither value nor default, or refers to itself.
        """
        self._left = _MAX_EXPANSIONS
        self.used = []
        return self._text(text, ())

    def _text(self, text: str, above: tuple[str, ...]) -> str:
        parts: list[str] = []
        position = 0
        while (start := text.find(_OPEN, position)) >= 0:
            end = _closing(text, start + len(_OPEN))
            parts += (text[position:start], self._value(text[start + len(_OPEN) : end], above))
            position = end + len(_CLOSE)
        expanded = "".join((*parts, text[position:]))
        if len(expanded) > _MAX_CHARACTERS:
            raise PlaceholderError("is too long once its placeholders are replaced")
        return expanded

    def _value(self, expression: str, above: tuple[str, ...]) -> str:
        self._left -= 1
        if self._left < 0 or len(above) > _MAX_DEPTH:
            raise PlaceholderError("has too many nested placeholders")
        name, colon, default = expression.partition(":")
        if _OPEN in name:
            raise PlaceholderError("has a placeholder whose name contains placeholders")
        if name in above:
            raise PlaceholderError(f"the variable {name} refers to itself")
        inside = (*above, name)
        if name in self._environ:
            self.used.append(name)
            return self._text(self._environ[name], inside)
        if not colon:
            raise PlaceholderError(f"the variable {name} is not set and has no default")
        return self._text(default, inside)


def _closing(text: str, position: int) -> int:
    """The end of the placeholder that starts before ``position``: braces inside it are balanced."""
    depth = 1
    for index in range(position, len(text)):
        if text.startswith("{", index):
            depth += 1
        elif text.startswith(_CLOSE, index):
            depth -= 1
            if not depth:
                return index
    raise PlaceholderError("has a placeholder that is not closed")


def expand_tree(node: Node, path: Path, expander: Expander, problems: list[Problem]) -> Node:
    """``node`` with the placeholders in its texts replaced; a text that becomes empty is null."""
    if isinstance(node, Block):
        entries = {name: expand_tree(child, (*path, name), expander, problems) for name, child in node.entries.items()}
        return Block(entries, node.origin)
    if isinstance(node, Items):
        values = (expand_tree(child, (*path, index), expander, problems) for index, child in enumerate(node.values))
        return Items(tuple(values), node.origin)
    if node.value is None or _OPEN not in node.value:
        return node
    origin = node.origin
    try:
        text = expander.expand(node.value)
    except PlaceholderError as error:
        problems.append(Problem(dotted(path), str(error), origin.file, origin.line))
        return Leaf(None, origin)
    variables = ", ".join(dict.fromkeys(expander.used))
    return Leaf(text or None, Origin(origin.file, origin.line, variables, origin.imported))
