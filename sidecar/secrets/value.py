"""A secret value: never printed, compared in constant time, and revealed by one method only."""

import hmac
from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_MASK = "********"
_REFERENCES = ("env:", "file:", "secret:")
RESOLVER = "resolve_secret"
"""Key in pydantic's validation context: a function from the configured text to the secret, which raises ValueError."""


def is_reference(text: str) -> bool:
    """Whether ``text`` is a reference to a secret instead of the secret itself."""
    return text.startswith(_REFERENCES)


class Secret:
    """A string that must not be printed. ``str``, ``repr``, formatting, JSON and pickle never reveal it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it only where the secret is used."""
        return self._text

    def matches(self, presented: str) -> bool:
        """Whether ``presented`` is this secret, in time that does not depend on the position of a difference."""
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
        raise ValueError("must be text, file:/path, env:NAME or secret:<id>")
    resolve = (info.context or {}).get(RESOLVER)
    if resolve is not None:
        return Secret(resolve(value))
    if is_reference(value):
        raise ValueError("is a reference to a secret, which cannot be resolved here")
    return Secret(value)
