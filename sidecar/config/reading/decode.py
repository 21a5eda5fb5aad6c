"""Decodes a tree into a model. Errors of pydantic get path, line, the nearest valid name and how to fix them.

No message contains an input value, because secrets occur in unexpected places of configurations.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sidecar.config.reading.tree import Block, Items, Node, Path, child_of, dotted, origin_of, plain
from sidecar.errors import Problem
from sidecar.secrets.value import RESOLVER

M = TypeVar("M", bound=BaseModel)
_SENTENCES: Mapping[str, str] = {
    "missing": "is missing; write it",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "tuple_type": "must be a list, such as [one, two]",
    "list_type": "must be a list, such as [one, two]",
    "mapping_type": "must be a block of keys and values",
    "dict_type": "must be a block of keys and values",
    "model_type": "must be a block of keys and values",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
# A block with more names is better looked up.
_MAX_LISTED = 8
# Patterns of the settings in words; patterns of plugins are shown unchanged.
_PATTERNS: Mapping[str, str] = {
    r"^/": "must be a path that begins with /; * and a final /** are the only wildcards, without regular expressions",
    r"^(0?[0-7]{3})?$": "must be a mode in octal, such as 0660",
    r"^(/[A-Za-z0-9._~-]+)+$": "must be a path such as /oauth2: letters, digits and . _ ~ -, no / at its end",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": (
        "must be a name of at most 63 letters, digits and . _ -, the first a letter or digit"
    ),
    r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$": (
        "must be a name of at most 63 letters, digits and . _ -, the first a letter or digit"
    ),
}


def problem_at(
    tree: Node, path: Path, message: str, *, fatal: bool = True, at: Path = (), identifier: str = ""
) -> Problem:
    """A problem at ``path`` (names of the file) with file and line of the value, or of the block that contains it.

    ``at``: the path of ``tree``.
    """
    origin = origin_of(tree, path)
    if origin.variable and origin.variable not in message:
        message = f"{message} (the value of the environment variable {origin.variable})"
    return Problem(dotted((*at, *path)), message, origin.file, origin.line, fatal, identifier)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[M]):
    """``value`` is the decoded tree. What is at the ``broken`` paths could not be decoded and has its defaults."""

    value: M
    problems: tuple[Problem, ...]
    broken: frozenset[Path]

    def concerns_broken(self, path: Path) -> bool:
        """Whether a finding about ``path`` may be caused by a broken value."""
        return any(path[: len(other)] == other or other[: len(path)] == path for other in self.broken)


def decode(model: type[M], tree: Block, resolve_secret: Callable[[str], str]) -> Decoded[M]:
    """As much of ``tree`` as ``model`` can decode, and every problem with the rest. All fields need defaults.

    Call :func:`split_unknown` first: unknown names are not reported here.
    """
    problems: list[Problem] = []
    broken: set[Path] = set()
    rest: Block = tree
    while True:
        try:
            value = model.model_validate(plain(rest), context={RESOLVER: resolve_secret})
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        else:
            return Decoded(value, tuple(problems), frozenset(broken))
        before = len(broken)
        known = frozenset(broken)
        for detail in details:
            path = _path_in(tree, detail["loc"])
            is_gap = detail["type"] == "missing"
            # an error in a block may be caused by values that were removed from it as broken
            is_known = any(path[: len(other)] == other or other[: len(path)] == path for other in known)
            if not is_known and not _follows(detail, details):
                problems.append(problem_at(tree, path, _sentence(detail) + _keys_hint(model, path, detail)))
            broken.add(_removable(path[:-1] if is_gap else path))
        if len(broken) == before:  # no progress: give up on all of it, never loop
            broken.add(())
        rest = _without(tree, broken)


def decode_options(
    model: type[M], options: Block, path: Path, resolve_secret: Callable[[str], str]
) -> tuple[M | None, list[Problem]]:
    """Decodes a block with a ``model`` of its own, such as a plugin's; None if it is invalid.

    ``path`` is the path of the block. ``model`` may have required fields.
    """
    fields: dict[str, Any] = {"options": (model | None, None)}
    holder = create_model("Holder", **fields)
    known, unknown = split_unknown(model, options)
    tree = Block({"options": known}, options.origin)
    assert isinstance(known, Block)  # noqa: S101 - split_unknown keeps the kind of node
    decoded = decode(holder, tree, resolve_secret)
    problems = [
        problem_at(options, below, f"is not a known name; {hint or 'remove it'}", at=path) for below, hint in unknown
    ]
    prefix = dotted(path)
    problems += [
        replace(problem, path=f"{prefix}{problem.path.removeprefix('options')}") for problem in decoded.problems
    ]
    value = getattr(decoded.value, "options")  # noqa: B009 - the holder is made above, mypy cannot see its field
    return (None if problems else value), problems


def _follows(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Whether a list is too short only because its members are invalid."""
    place = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in details
    )


def _removable(path: Path) -> Path:
    """The deepest key at or above ``path``. Members of a list are not removed: that would shift the others."""
    while path and not isinstance(path[-1], str):
        path = path[:-1]
    return path


def _without(tree: Block, paths: Collection[Path], at: Path = ()) -> Block:
    entries: dict[str, Node] = {}
    for name, node in tree.entries.items():
        below = (*at, name)
        if not any(below[: len(path)] == path for path in paths):
            entries[name] = _pruned(node, paths, below)
    return Block(entries, tree.origin)


def _pruned(node: Node, paths: Collection[Path], at: Path) -> Node:
    if isinstance(node, Block):
        return _without(node, paths, at)
    if isinstance(node, Items):
        return Items(tuple(_pruned(value, paths, (*at, i)) for i, value in enumerate(node.values)), node.origin)
    return node


def _path_in(tree: Node, location: Iterable[str | int]) -> Path:
    """pydantic's location without the parts that name a branch of a union."""
    path: tuple[str | int, ...] = ()
    node: Node | None = tree
    for part in location:
        if isinstance(part, str) and part.startswith(("<", "[")):
            continue
        path = (*path, part)
        node = None if node is None else child_of(node, part)
    return path


def _keys_hint(model: type[BaseModel], path: Path, detail: ErrorDetails) -> str:
    """Keys of the block that is missing at ``path``: often a blank after a colon is missing, or the indentation."""
    if detail["type"] != "model_type":
        return ""
    found: list[type[BaseModel]] = [model]
    for part in path:
        if isinstance(part, str):
            known = (fields_by_name(one).get(part) for one in found)
            found = [inner for info in known if info is not None for inner in models_in(info.annotation)]
    names = [name for one in found for name in fields_by_name(one)]
    return f", such as {dotted(path).rpartition('.')[2]}: {{{names[0]}: ...}}" if names else ""


def _sentence(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']}"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"]) or f"must match {context['pattern']}"
    return _SENTENCES.get(kind) or detail["msg"][:1].lower() + detail["msg"][1:]


def fields_by_name(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's fields by their names in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model that ``annotation`` allows, also inside lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return [model for part in parts for model in models_in(part)]


def split_unknown(model: type[BaseModel], tree: Node, path: Path = ()) -> tuple[Node, list[tuple[Path, str]]]:
    """``tree`` without names that ``model`` does not have, and these names with a hint."""
    if isinstance(tree, Items):
        values, unknown = [], []
        for index, value in enumerate(tree.values):
            kept, below = split_unknown(model, value, (*path, index))
            values.append(kept)
            unknown.extend(below)
        return Items(tuple(values), tree.origin), unknown
    if not isinstance(tree, Block):
        return tree, []
    fields = fields_by_name(model)
    entries: dict[str, Node] = {}
    unknown = []
    for name, node in tree.entries.items():
        if name not in fields:
            hint = nearest(name, fields)
            if not hint and path and len(fields) <= _MAX_LISTED:
                hint = f"known here: {', '.join(fields)}"
            unknown.append(((*path, name), hint))
            continue
        inner = models_in(fields[name].annotation)
        entries[name], below = split_unknown(inner[0], node, (*path, name)) if inner else (node, [])
        unknown.extend(below)
    return Block(entries, tree.origin), unknown


def nearest(name: str, valid: Iterable[str]) -> str:
    """``did you mean ...?`` with the valid name that is similar to ``name``; empty if there is none."""
    by_lower = {_bare(candidate): candidate for candidate in valid}
    close = difflib.get_close_matches(_bare(name), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]}?" if close else ""


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").strip().lower()
