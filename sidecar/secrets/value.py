"""A secret prints nowhere, compares in constant time, and is opened by one named method."""

import hmac
from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_MASK = "********"
_REFERENCES = ("env:", "file:", "secret:")
RESOLVER = "resolve_secret"
"""Key of pydantic's validation context: a callable from a setting's text to the secret, raising ValueError."""


def is_reference(text: str) -> bool:
    """Whether ``text`` names the place of a secret instead of being one."""
    return text.startswith(_REFERENCES)


class Secret:
    """Text that must not be printed. ``str``, ``repr``, formatting, JSON and pickling never show it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: call it where the secret is used, and nowhere else."""
        return self._text

    def matches(self, presented: str) -> bool:
        """Whether ``presented`` is this secret, in time that does not depend on where they differ."""
        return hmac.compare_digest(_bytes(self._text), _bytes(presented))

    def __repr__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return _MASK

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._text)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _from_setting,
            json_schema_input_schema=core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(repr),
        )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _from_setting(value: object, info: core_schema.ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text, file:/path or env:NAME")
    resolve = (info.context or {}).get(RESOLVER)
    if resolve is not None:
        return Secret(resolve(value))
    if is_reference(value):
        raise ValueError("names the place of a secret, and nobody is here to look it up")
    return Secret(value)
