"""Records and denials as Redis keeps them: compact, with a version, and distrusted when they are read again.

A value is 16 hexadecimal digits, the microsecond of its creation, and a JSON array that begins with the version. With
the id behind them the digits are the entry's place in sorted sets: in order of time, every place taken only once.
"""

import json
import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

import orjson

from sidecar.identity.actor import ActorType
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.store.revocation_entry import RevocationEntry, Scope

_VERSION = 1
STAMP = 16
"""Digits in front of a value, and of a place."""
_ID = re.compile(r"[!-~]{1,200}")
_PLACE = re.compile(r"[0-9a-f]{16}[!-~]{1,200}")
_LATEST = 2**53  # Lua's numbers are exact up to here
_DAMAGED = (ValueError, TypeError, KeyError, RecursionError, OverflowError)


def sort_key(created_at: float, entry_id: str) -> str:
    """Where an entry stands in sorted sets. Raises ValueError for an id or a time that cannot be stored."""
    stamp = round(created_at * 1_000_000) if isfinite(created_at) else -1
    if not _ID.fullmatch(entry_id) or not 0 <= stamp < _LATEST:
        raise ValueError("not an id and a time that can be stored")
    return f"{stamp:016x}{entry_id}"


def is_id(text: str) -> bool:
    """Whether an entry can have this id."""
    return _ID.fullmatch(text) is not None


def is_sort_key(text: str) -> bool:
    """Whether an entry can stand there."""
    return _PLACE.fullmatch(text) is not None


def parse_sort_key(text: str) -> str:
    """``text`` when it can be a place. Raises ValueError."""
    if not is_sort_key(text):
        raise ValueError("not the mark of a page")
    return text


def write_time(time: float) -> str:
    """A time as text that gives exactly the same number again."""
    return repr(float(time))


def write_record(record: TokenRecord) -> str:
    """Everything about ``record`` that never changes."""
    owner = record.owner
    return sort_key(record.created_at, record.id)[:STAMP] + _json(
        [
            _VERSION,
            record.token_hash,
            record.name,
            record.kind.value,
            record.actor_id,
            record.actor_type.value,
            record.created_at,
            record.expires_at,
            record.format,
            record.description,
            record.roles,
            [record.allow_impersonation, record.is_admin],
            [owner.issuer, owner.provider, owner.subject, owner.id],
        ]
    )


def read_record(
    token_id: str, value: bytes | str, revoked: bytes | str | None, used: bytes | str | None
) -> TokenRecord | None:
    """The record, or None when it cannot be understood. A time of its end that cannot be read ends it at once."""
    try:
        (version, token_hash, name, kind, actor_id, actor_type, created, expires, form, description, roles,
         flags, owner) = _parse(value[STAMP:])  # fmt: skip
        if version != _VERSION:
            return None
        allow_impersonation, is_admin = flags
        created_at = _time(created)
        return TokenRecord(
            id=token_id,
            token_hash=_text(token_hash),
            name=_text(name),
            kind=TokenKind(kind),
            actor_id=_text(actor_id),
            actor_type=ActorType(actor_type),
            created_at=created_at,
            expires_at=None if expires is None else _time(expires),
            format=_text(form),
            description=_text(description),
            roles=tuple(map(_text, roles)),
            allow_impersonation=allow_impersonation is True,
            is_admin=is_admin is True,
            owner=Owner(*map(_text, owner)),
            last_used_at=_stored_time(used, None),
            revoked_at=_stored_time(revoked, created_at),
        )
    except _DAMAGED:
        return None


def write_denial(denial: RevocationEntry) -> str:
    """``denial``, all but its id."""
    return sort_key(denial.created_at, denial.id)[:STAMP] + _json(
        [
            _VERSION,
            denial.scope.value,
            denial.issuer,
            denial.name,
            denial.created_at,
            denial.issued_before,
            denial.expires_at,
            denial.reason,
            denial.created_by,
        ]
    )


def read_denial(denial_id: str, value: bytes | str) -> RevocationEntry | None:
    """The denial, or None when it cannot be understood."""
    try:
        version, scope, issuer, name, created, before, expires, reason, by = _parse(value[STAMP:])
        if version != _VERSION:
            return None
        return RevocationEntry(
            id=denial_id,
            scope=Scope(scope),
            issuer=_text(issuer),
            name=_text(name),
            created_at=_time(created),
            issued_before=None if before is None else _time(before),
            expires_at=None if expires is None else _time(expires),
            reason=_text(reason),
            created_by=_text(by),
        )
    except _DAMAGED:
        return None


def write_changes(denials: Sequence[RevocationEntry], forgiven: Sequence[str]) -> str:
    """What the log says about denials; empty when there is nothing to say."""
    if not denials and not forgiven:
        return ""
    return _json([[[denial.id, write_denial(denial)] for denial in denials], list(forgiven)])


def read_changes(text: bytes) -> tuple[list[RevocationEntry], list[str], int]:
    """Denials, ids of forgiven ones, and how many entries could not be understood."""
    if not text:
        return [], [], 0
    try:
        written, forgiven = _parse(text)
        denials = [read_denial(_text(denial_id), _text(value)) for denial_id, value in written]
        return [denial for denial in denials if denial], list(map(_text, forgiven)), denials.count(None)
    except _DAMAGED:
        return [], [], 1


def read_page(text: bytes) -> list[list[Any]]:
    """Columns of a page in JSON of Redis's making: places, then values, None where there is none."""
    places, *columns = _parse(text) or [[]]
    return [places, *([value or None for value in column] for column in columns)] if places else []


def read_ids(text: bytes) -> list[str]:
    """The ids in a JSON list of Redis's making, which writes an empty one as an object. Raises ValueError."""
    try:
        return [_text(item) for item in _parse(text)]
    except _DAMAGED as error:
        raise ValueError("not a list of ids") from error


def _parse(text: bytes | str) -> Any:
    """Raises ValueError. Only the slower reader knows half a surrogate pair, which a hostile claim may hold."""
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _json(value: list[Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError
    return float(value)


def _stored_time(value: bytes | str | None, damaged: float | None) -> float | None:
    if value is None:
        return None
    try:
        return _time(float(value))
    except ValueError:
        return damaged
