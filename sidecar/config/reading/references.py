"""Finds ``secret:``, ``env:`` and ``file:`` in settings that are not secrets, where they would be literal text."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from sidecar.config.reading.finding import Finding
from sidecar.config.reading.tree import Path

_REFERENCE = ("secret:", "env:", "file:")


def misplaced_references(model: BaseModel, path: Path = ()) -> Iterator[Finding]:
    """Findings for every text of ``model`` that looks like a secret reference; ``path`` is the path of the model."""
    for place, value in _texts(model.model_dump(by_alias=True), path):
        if value.startswith("secret:"):
            yield Finding(place, "is no secret, so secret: is not looked up here; write the value itself")
        elif value.startswith(_REFERENCE) and not _may_be_a_file(place, value):
            yield Finding(place, "is not a secret setting, so env: and file: are not resolved here; use ${NAME}")


def _may_be_a_file(place: Path, value: str) -> bool:
    """Whether ``file:`` is allowed: key sets may be files (``publicKeyUrls[0]``, ``publicKeyUrls[0].url``)."""
    # jwks: the keys of a client of the token endpoint
    names_keys = ("publicKeyUrls" in place and place[-1] != "issuer") or place[-1] == "jwks"
    return value.startswith("file:") and names_keys


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
