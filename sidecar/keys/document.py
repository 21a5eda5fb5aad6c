"""JSON documents from outside, read strictly."""

import json
from typing import Any, NoReturn

from sidecar.errors import SidecarError


class DocumentError(SidecarError):
    """A document cannot be used; the text repeats none of it.

    ``kind`` is bounded: ``not_json`` or ``useless``, and of a file ``unreadable``, ``timeout`` or ``too_large``.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def parse_object(document: bytes) -> dict[str, Any]:
    """The one JSON object that ``document`` is: UTF-8, finite numbers, bounded depth.

    One byte order mark before it is skipped (RFC 8259 8.1).

    An object with a repeated member says two things at once: it is read as null, so that inside a list only that
    entry is lost. Raises DocumentError.
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
