"""A parsed configuration file, not validated: values with their origin."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a value: file, line (from 1), and the environment variable that supplied it, if any."""

    file: str = ""
    line: int = 0
    variable: str = ""
    imported: bool = False

    def __str__(self) -> str:
        if self.variable:
            return f"environment {self.variable}"
        return f"{'import ' if self.imported else ''}{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar: its text, never retyped; None if it is empty or ``null``."""

    value: str | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple["Node", ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Block:
    """A mapping. A child's origin is the line of its key."""

    entries: Mapping[str, "Node"]
    origin: Origin


Node = Leaf | Items | Block


def merge(lower: Node, upper: Node) -> Node:
    """``upper`` over ``lower``: mappings are merged key by key, anything else is replaced.

    An empty section (a key without value) over a mapping changes nothing.
    """
    if not isinstance(lower, Block):
        return upper
    if isinstance(upper, Leaf) and upper.value is None:
        return lower
    if not isinstance(upper, Block):
        return upper
    entries = dict(lower.entries)
    for key, node in upper.entries.items():
        entries[key] = merge(entries[key], node) if key in entries else node
    return Block(entries, upper.origin)


def plain(node: Node) -> object:
    """The values without origins: str, None, list and dict."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, Items):
        return [plain(value) for value in node.values]
    return {key: plain(value) for key, value in node.entries.items()}


def origin_of(node: Node, path: Path) -> Origin:
    """Origin of the deepest existing node along ``path``."""
    origin = node.origin
    for part in path:
        child = child_of(node, part)
        if child is None:
            break
        node, origin = child, child.origin
    return origin


def child_of(node: Node, part: str | int) -> Node | None:
    """The member ``part`` of a mapping or list, or None."""
    if isinstance(node, Block) and isinstance(part, str):
        return node.entries.get(part)
    if isinstance(node, Items) and isinstance(part, int) and 0 <= part < len(node.values):
        return node.values[part]
    return None


def leaves(node: Node, path: Path = ()) -> Iterator[tuple[Path, Leaf]]:
    """Every scalar below ``node`` with its path."""
    if isinstance(node, Leaf):
        yield path, node
    elif isinstance(node, Items):
        for index, value in enumerate(node.values):
            yield from leaves(value, (*path, index))
    else:
        for key, value in node.entries.items():
            yield from leaves(value, (*path, key))


def dotted(path: Sequence[str | int]) -> str:
    """``a.b[0].c``; names with a dot or bracket are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = printable(f'"{part}"' if set(part) & set('.[]" ') else part)
            text += f".{name}" if text else name
    return text


def printable(text: str) -> str:
    """``text`` on one line, without control characters of terminals."""
    return "".join(character if character.isprintable() else "?" for character in text)
