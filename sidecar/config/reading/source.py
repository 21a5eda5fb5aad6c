"""Reads YAML files into trees: scalars stay text, every value has its line, and only plain data is allowed."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

import yaml

from sidecar.config.reading.placeholders import (
    Expansion,
    Masked,
    Opening,
    Placeholder,
    PlaceholderError,
    Token,
    mask,
    unmasked,
)
from sidecar.config.reading.tree import Block, Items, Leaf, Node, Origin, Path, dotted, printable
from sidecar.errors import Problem

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# Parser messages of common mistakes, and their explanation.
_SUGGESTIONS: Mapping[str, str] = {
    "'\\t'": "there is a tab; indent with spaces",
    "<block end>": "the indentation of this line differs from that of its block",
    "mapping values are not allowed": (
        "a second colon, or a line that is indented too deep; put text with a colon in quotes"
    ),
    "could not find expected ':'": "this line, or the one above, has no colon after its name",
    "but got '<stream end>'": "a bracket or brace is never closed",
    "unexpected end of stream": "a quote is never closed",
    "expected '<document start>'": "this line is no name: value, or does not belong to what is above it",
    "cannot start any token": "a value begins with a character that YAML reserves; put it in quotes",
    "expected alphabetic or numeric": "* and & begin an alias or an anchor; put the value in quotes",
    "found undefined alias": "* begins an alias; put the value in quotes",
}
# None of them begins a value that is meant.
_TYPOGRAPHIC_QUOTES = ("\u201c", "\u201d", "\u201e", "\u2018", "\u2019", "\u00ab")
_BRACED_URL = re.compile(r"\s*\{\s*(https?://[^\s{},\"']+)\s*\}\s*")
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 40
_MAX_NODES = 100_000


@dataclass(frozen=True, slots=True)
class _Scalar:
    text: str
    style: str | None
    in_list: bool
    line: int


@dataclass(frozen=True, slots=True)
class _List:
    values: tuple["_Raw", ...]
    flow: bool
    line: int


@dataclass(frozen=True, slots=True)
class _Map:
    entries: tuple[tuple["_Raw", "_Raw"], ...]
    line: int


@dataclass(frozen=True, slots=True)
class _Fault:
    """A value that cannot be read. It is reported only if the value is needed."""

    message: str
    line: int


_Raw = _Scalar | _List | _Map | _Fault


class SourceError(ValueError):
    """Text that is not supported YAML; ``line`` starts at 1 and is 0 if unknown."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def compose(text: str, *, bare: bool = False) -> _Raw:
    """The one YAML document in ``text``. Tags, endless aliases and the like become faults at their position.

    ``bare``: the text is a value inside a document, so anchors and document markers are faults too. Raises SourceError.
    """
    try:
        return _Composer(yaml.parse(text, yaml.SafeLoader), bare=bare).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = str(error.problem or error.context)
        why = next((meant for words, meant in _SUGGESTIONS.items() if words in said), said)
        raise SourceError(f"is not YAML: {why}", mark.line + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        raise SourceError("contains a control character", text.count("\n", 0, error.position) + 1) from None


class _Composer:
    """Composes raw nodes from events. PyYAML's composer is not used: it loses explicit tags and retypes scalars."""

    def __init__(self, events: Iterator[yaml.Event], *, bare: bool) -> None:
        self._events = events
        self._bare = bare
        self._anchors: dict[str, _Raw] = {}

    def document(self) -> _Raw:
        next(self._events)  # stream start
        start = next(self._events)
        if not isinstance(start, yaml.DocumentStartEvent):
            return _Scalar("", None, False, 1)
        if self._bare and start.explicit:
            raise SourceError("contains a document marker", 1)
        root = self._node(next(self._events), 0, in_list=False)
        next(self._events)  # document end
        more = next(self._events)
        if not isinstance(more, yaml.StreamEndEvent):
            raise SourceError("contains more than one YAML document", _line(more))
        return root

    def _node(self, event: yaml.Event, depth: int, *, in_list: bool) -> _Raw:
        line = _line(event)
        if depth > _MAX_DEPTH:
            raise SourceError("is nested too deeply", line)
        if isinstance(event, yaml.AliasEvent):
            return self._anchors.get(str(event.anchor), _Fault("is an alias without an anchor, or of itself", line))
        if isinstance(event, yaml.ScalarEvent):
            node: _Raw = _Scalar(event.value, event.style, in_list, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, depth, line)
        else:
            node = self._map(depth, line)
        if getattr(event, "tag", None) is not None:
            node = _Fault("has a YAML tag; tags are not supported, write plain values", line)
        return self._anchored(event, node, line)

    def _anchored(self, event: yaml.Event, node: _Raw, line: int) -> _Raw:
        if not isinstance(event, yaml.NodeEvent) or event.anchor is None:
            return node
        if self._bare:
            return _Fault("has an anchor", line)
        self._anchors[event.anchor] = node
        return node

    def _list(self, start: yaml.SequenceStartEvent, depth: int, line: int) -> _Raw:
        flow = bool(start.flow_style)
        values = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._node(event, depth + 1, in_list=flow))
        return _List(tuple(values), flow, line)

    def _map(self, depth: int, line: int) -> _Raw:
        entries = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1, in_list=False)
            entries.append((key, self._node(next(self._events), depth + 1, in_list=False)))
        return _Map(tuple(entries), line)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def parse_value(text: str) -> str | list[str | None] | None:
    """The value of an environment variable, parsed as YAML: a scalar or a flow list of scalars.

    Raises ValueError for everything else (mappings, nested lists, anchors, tags, block text, several lines); the
    message never contains the value.
    """
    braced = _BRACED_URL.fullmatch(text)  # documentation has placeholders in this form, and a mapping is not supported
    try:
        node = compose(braced[1] if braced else text, bare=True)
    except SourceError:
        raise ValueError("cannot be read as a YAML value; put quotes around it, inside the variable") from None
    if isinstance(node, _List) and node.flow:
        return [_value_scalar(item) for item in node.values]
    if isinstance(node, _Scalar) and node.style is None and len(text.strip().splitlines()) > 1:
        raise ValueError("has several lines; put the placeholder itself in quotes to keep them")
    return _value_scalar(node)


def _value_scalar(node: _Raw) -> str | None:
    if not isinstance(node, _Scalar) or node.style in {"|", ">"}:
        raise ValueError("must be one value or a list in brackets; put quotes around it, inside the variable")
    return None if node.style is None and node.text in _NULLS else node.text


class Document:
    """One file: read once. Blocks are resolved on demand, so that unused blocks cause no errors."""

    def __init__(self, file: str, text: str, *, imported: bool = False, placeholders: bool = True) -> None:
        """``placeholders`` False: ``${`` is ordinary text."""
        self.file = file
        self._imported = imported
        self._masked = mask(text) if placeholders else unmasked(text)
        self._root = compose(self._masked.text)

    def resolve(
        self, environ: Mapping[str, str], *, only: Collection[str] | None = None, ignore: Collection[Path] = ()
    ) -> tuple[Block, list[Problem]]:
        """The file's tree with placeholders replaced, and its problems.

        ``only``: the top-level keys to resolve. Paths in ``ignore`` are not resolved.
        """
        resolver = _Resolver(self.file, self._masked, Expansion(environ), ignore, imported=self._imported)
        root = self._root
        if isinstance(root, _Map) and only is not None:
            picked = ((key, value) for key, value in root.entries if isinstance(key, _Scalar) and key.text in only)
            root = _Map(tuple(picked), root.line)
        node = resolver.node(root, ())
        if isinstance(node, Block):
            return node, resolver.problems
        empty = Block({}, Origin(self.file, 1, imported=self._imported))
        if not isinstance(node, Leaf) or node.value is not None:
            resolver.problems.append(
                Problem("", "must be a mapping of section names, such as server: or upstream:", self.file, 1)
            )
        return empty, resolver.problems


def read(file: str, *, imported: bool = False, placeholders: bool = True) -> Document:
    """Read ``file``; other arguments as for :class:`Document`. Raises SourceError."""
    try:
        with FilePath(file).open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise SourceError("is too large for a configuration file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        known = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "Latin-1 or Windows-1252"
        raise SourceError(
            f"is not UTF-8 but perhaps {known}; save it as UTF-8", content.count(b"\n", 0, error.start) + 1
        ) from None
    return Document(file, text, imported=imported, placeholders=placeholders)


class _Resolver:
    """Converts raw nodes to a tree; collects all problems."""

    def __init__(
        self, file: str, masked: Masked, expansion: Expansion, ignore: Collection[Path], *, imported: bool
    ) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._masked = masked
        self._expansion = expansion
        self._ignore = ignore
        self._imported = imported
        self._nodes_left = _MAX_NODES

    def node(self, raw: _Raw, path: Path, line: int = 0) -> Node:
        line = line or raw.line
        self._nodes_left -= 1
        if self._nodes_left < 0:
            if self._nodes_left == -1:
                self._report(path, line, "aliases make the file too large")
            return Leaf(None, self._origin(line))
        if path in self._ignore:
            return Leaf(None, self._origin(line))
        match raw:
            case _Scalar():
                return self._scalar(raw, path, line)
            case _List():
                values = (self.node(value, (*path, index)) for index, value in enumerate(raw.values))
                return Items(tuple(values), self._origin(line))
            case _Map():
                return self._map(raw, path, line)
            case _Fault():
                self._report(path, line, raw.message)
                return Leaf(None, self._origin(line))

    def _map(self, raw: _Map, path: Path, line: int) -> Block:
        entries: dict[str, Node] = {}
        for key, value in raw.entries:
            name = self._key(key, path)
            if name is None:
                continue
            if name in entries:
                first = entries[name].origin.line
                self._report((*path, name), key.line, f"is a duplicate of line {first}; keep one")
                continue
            entries[name] = self.node(value, (*path, name), key.line)
        return Block(entries, self._origin(line))

    def _key(self, key: _Raw, path: Path) -> str | None:
        if not isinstance(key, _Scalar):
            self._report(path, key.line, "has a key that is not a plain name")
            return None
        if any(isinstance(token, Placeholder) for token in self._masked.split(key.text)):
            self._report(path, key.line, "has a placeholder as key; placeholders are supported in values only")
            return None
        if key.text == "<<" and key.style is None:
            self._report(path, key.line, "has a merge key (<<); write the keys out")
            return None
        return "".join("${" if isinstance(token, Opening) else str(token) for token in self._masked.split(key.text))

    def _scalar(self, raw: _Scalar, path: Path, line: int) -> Node:
        pieces = self._masked.split(raw.text)
        if all(isinstance(piece, str) for piece in pieces):
            if raw.style is None and raw.text[:1] in _TYPOGRAPHIC_QUOTES:
                message = f"begins with the typographic quote {raw.text[0]}; write a straight one"
                self._report(path, line, message)
            is_null = raw.style is None and raw.text in _NULLS
            return Leaf(None if is_null else raw.text, self._origin(line))
        try:
            if raw.style is None and len(pieces) == 1 and isinstance(pieces[0], Placeholder):
                return self._value(pieces[0], raw, path, line)
            text = "".join(self._text(piece, path, line) for piece in pieces)
        except PlaceholderError as error:
            self._report(path, line, str(error))
            return Leaf(None, self._origin(line))
        variables = [p.name for p in pieces if isinstance(p, Placeholder) and self._expansion.is_set(p)]
        # text that becomes empty is null, like an empty value in a file
        value = None if raw.style is None and not text.strip() else text
        return Leaf(value, self._origin(line, ", ".join(variables)))

    def _text(self, piece: Token, path: Path, line: int) -> str:
        if isinstance(piece, str):
            return piece
        if isinstance(piece, Opening):
            if not piece.escaped:
                raise PlaceholderError("${ is not closed on its line; write $${ for a literal ${")
            return "${"
        self._warn_if_unset(piece, path, line)
        return self._expansion.expand(piece)

    def _value(self, placeholder: Placeholder, raw: _Scalar, path: Path, line: int) -> Node:
        """The value of a plain scalar that is one placeholder, parsed as YAML, unless it is structure."""
        is_set = self._expansion.is_set(placeholder)
        origin = self._origin(line, placeholder.name if is_set else "")
        self._warn_if_unset(placeholder, path, line)
        if not is_set and placeholder.default is None:
            return Leaf(placeholder.text, origin)
        text = self._expansion.expand(placeholder)
        whose = f"the variable {placeholder.name}" if is_set else f"the default of {placeholder.name}"
        try:
            value = parse_value(text)
        except ValueError as error:
            raise PlaceholderError(f"{whose} {error}") from None
        if isinstance(value, list):
            return Items(tuple(Leaf(item, origin) for item in value), origin)
        if raw.in_list and "," in text and value == text.strip():
            raise PlaceholderError(
                f"{whose} contains a comma inside a list in brackets; "
                "put the whole list, with its brackets, into the variable, or quotes around the one value"
            )
        return Leaf(value, origin)

    def _warn_if_unset(self, placeholder: Placeholder, path: Path, line: int) -> None:
        if placeholder.default is None and not self._expansion.is_set(placeholder):
            self._report(
                path, line, f"the variable {placeholder.name} is not set; the placeholder stays unchanged", fatal=False
            )

    def _origin(self, line: int, variable: str = "") -> Origin:
        return Origin(self._file, line, variable, self._imported)

    def _report(self, path: Path, line: int, message: str, *, fatal: bool = True) -> None:
        self.problems.append(Problem(dotted(path), printable(message), self._file, line, fatal))
