"""Strict parsing of fetched JSON documents."""

import json
from typing import Any, NoReturn

from sidecar.errors import SidecarError


class DocumentError(SidecarError):
    """A document cannot be used; of its content, the text repeats at most the issuer of a discovery document.

    ``kind`` is one of a fixed set: ``not_json`` or ``useless``, and for files ``unreadable``, ``timeout`` or
    ``too_large``.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def parse_object(document: bytes) -> dict[str, Any]:
    """The JSON object in ``document``: UTF-8, finite numbers, limited depth.

    One leading byte order mark is skipped (RFC 8259 section 8.1). An object with a repeated member is ambiguous and is
    read as null, so that inside a list only that entry is lost. Raises DocumentError.
    """
    try:
        value = json.loads(
            document.decode("utf-8-sig"), object_pairs_hook=_unambiguous, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise DocumentError("not_json", "not a JSON document") from error
    if not isinstance(value, dict):
        raise DocumentError("not_json", "not one JSON object with distinct members")
    return value


def _unambiguous(members: list[tuple[str, Any]]) -> dict[str, Any] | None:
    value = dict(members)
    return value if len(value) == len(members) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
