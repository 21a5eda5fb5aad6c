"""The effective configuration: every value with its origin, secrets masked."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sidecar.config.load import Loaded
from sidecar.config.reading.decode import fields_by_name
from sidecar.config.reading.tree import Path, dotted, printable
from sidecar.config.settings import UNUSED, OutboundSettings
from sidecar.secrets.value import Secret

_SAFE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_PLAIN_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_DEFAULT = "default"
_PROXY_WORDS = ("environment", "none")
"""Values of ``outbound.proxy`` that are words; only a URL may hold a password."""


def as_json(loaded: Loaded) -> dict[str, Any]:
    """``settings`` as nested names and values, ``sources`` as path to origin; values without an origin are defaults."""
    return {"settings": _value(loaded.settings), "sources": dict(loaded.sources)}


def as_yaml(loaded: Loaded) -> str:
    """A configuration file equivalent to ``loaded``, with secrets masked and the origin of each value as a comment."""
    return "\n".join(_block(_value(loaded.settings), (), loaded.sources, "")) + "\n"


def _value(value: object) -> Any:
    if isinstance(value, BaseModel):
        return {
            name: _shown(value, attribute)
            for attribute, (name, field) in zip(
                type(value).model_fields, fields_by_name(type(value)).items(), strict=True
            )
            if field.description != UNUSED
        }
    if isinstance(value, Mapping):
        return {str(name): _value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return repr(value) if isinstance(value, Secret) else value


def _shown(model: BaseModel, attribute: str) -> Any:
    value = getattr(model, attribute)
    if isinstance(model, OutboundSettings) and attribute == "proxy" and value.reveal() in _PROXY_WORDS:
        return value.reveal()
    return _value(value)


def _block(block: Mapping[str, Any], path: Path, sources: Mapping[str, str], indent: str) -> Iterator[str]:
    for name, value in block.items():
        yield from _entry(f"{indent}{_scalar(name)}:", value, (*path, name), sources, indent)


def _entry(head: str, value: Any, path: Path, sources: Mapping[str, str], indent: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield head
        yield from _block(value, path, sources, f"{indent}  ")
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
        yield head
        for index, item in enumerate(value):
            yield from _item(item, (*path, index), sources, f"{indent}  ")
    else:
        yield f"{head} {_inline(value)}  # {_source(path, value, sources)}"


def _item(item: Any, path: Path, sources: Mapping[str, str], indent: str) -> Iterator[str]:
    if not isinstance(item, Mapping):
        yield f"{indent}- {_inline(item)}  # {_source(path, item, sources)}"
        return
    for number, line in enumerate(_block(item, path, sources, f"{indent}  ")):
        yield line if number else f"{indent}- {line.removeprefix(f'{indent}  ')}"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A YAML scalar that is parsed as ``value``; ``${`` is escaped, so that it is not a placeholder."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _SAFE.fullmatch(value) and value.lower() not in _PLAIN_WORDS:
        return value
    return f'"{"".join(map(_character, value))}"'.replace("${", "$${")


def _character(character: str) -> str:
    """One character inside a double-quoted YAML scalar; what is not plain ASCII is escaped."""
    if " " <= character <= "~":
        return f"\\{character}" if character in '"\\' else character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _source(path: Path, value: Any, sources: Mapping[str, str]) -> str:
    own = sources.get(dotted(path))
    if own is None and isinstance(value, list):
        places = [sources[place] for index in range(len(value)) if (place := dotted((*path, index))) in sources]
        own = places[0] if places else None
    return printable(own) if own is not None else _DEFAULT  # a line break in a file's name must not end the comment
