"""What a configuration file says, before anybody asks what it means: values with the place they came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: file and line (from 1), and the environment variable that supplied it, if one did."""

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
    """A scalar: source text, never retyped; None where nothing or ``null`` is written."""

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
    """The values alone: str, None, list and dict."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, Items):
        return [plain(value) for value in node.values]
    return {key: plain(value) for key, value in node.entries.items()}


def origin_of(node: Node, path: Path) -> Origin:
    """Origin of the deepest written node on the way along ``path``."""
    origin = node.origin
    for part in path:
        child = child_of(node, part)
        if child is None:
            break
        node, origin = child, child.origin
    return origin


def child_of(node: Node, part: str | int) -> Node | None:
    """The member ``part`` of a mapping or list; None when there is no such member."""
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
    """``a.b[0].c``; a name that holds a dot or a bracket is put in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = printable(f'"{part}"' if set(part) & set('.[]" ') else part)
            text += f".{name}" if text else name
    return text


def printable(text: str) -> str:
    """``text`` on one line and without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
