"""The encoding of records and entries in Redis. Values that are read are validated.

A value is the version that the store assigned, as 16 hexadecimal digits, and a JSON array that begins with the version
of the format. The digits followed by the id are the member of sorted sets, which are therefore in the order of writes.
Values from before stores assigned versions begin with the microsecond of creation, which is read as the version.
"""

import json
import re
from math import isfinite
from typing import Any

import orjson

from sidecar.identity.actor import ActorType
from sidecar.store.record import Current, Owner, TokenKind, TokenRecord
from sidecar.store.revocation_entry import Removal, RevocationEntry, Scope

_VERSION = 1
STAMP = 16
"""Number of digits at the start of a value, and of a member of a sorted set."""
_ID = re.compile(r"[!-~]{1,200}")
_PLACE = re.compile(r"[0-9a-f]{16}[!-~]{1,200}")
LATEST_VERSION = 2**53 - 2**40
"""Versions are microseconds since the epoch or a little more, and exact numbers in Lua; a higher one is damaged."""
_DAMAGED = (ValueError, TypeError, KeyError, RecursionError, OverflowError)


def sort_key(version: int, entry_id: str) -> str:
    """Where an entry stands in sorted sets."""
    return f"{version:016x}{entry_id}"


def check_id(entry_id: str) -> str:
    """``entry_id``. Raises ValueError for one that cannot be stored."""
    if not _ID.fullmatch(entry_id):
        raise ValueError("not an id that can be stored")
    return entry_id


def read_version(value: bytes | str) -> int:
    """The version that a value or a place begins with. Raises ValueError."""
    version = int(value[:STAMP], 16)
    if not 0 <= version < LATEST_VERSION:
        raise ValueError("not a version")
    return version


def is_id(text: str) -> bool:
    """Whether ``text`` can be the id of an entry."""
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


def record_text(record: TokenRecord) -> str:
    """Everything about ``record`` that never changes, without the version."""
    owner = record.owner
    return _json(
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
    """The record, or None if it cannot be decoded. A revocation time that cannot be decoded counts as revoked."""
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
            version=read_version(value),
            last_used_at=_stored_time(used, None),
            revoked_at=_stored_time(revoked, created_at),
        )
    except _DAMAGED:
        return None


def read_end(value: bytes | str) -> float:
    """The revocation time of a record; 0 if it cannot be decoded: the record is revoked all the same."""
    return _stored_time(value, 0.0) or 0.0


def entry_text(entry: RevocationEntry) -> str:
    """``entry``, all but its id and its version."""
    return _json(
        [
            _VERSION,
            entry.scope.value,
            entry.issuer,
            entry.name,
            entry.created_at,
            entry.issued_before,
            entry.expires_at,
            entry.reason,
            entry.created_by,
        ]
    )


def read_entry(entry_id: str, value: bytes | str) -> RevocationEntry | None:
    """The entry, or None if it cannot be decoded."""
    try:
        version, scope, issuer, name, created, before, expires, reason, by = _parse(value[STAMP:])
        if version != _VERSION:
            return None
        return RevocationEntry(
            id=entry_id,
            scope=Scope(scope),
            issuer=_text(issuer),
            name=_text(name),
            created_at=_time(created),
            issued_before=None if before is None else _time(before),
            expires_at=None if expires is None else _time(expires),
            reason=_text(reason),
            created_by=_text(by),
            version=read_version(value),
        )
    except _DAMAGED:
        return None


def read_removal(entry_id: str, value: bytes | str) -> Removal | None:
    """The removal of an entry (version, then until when it is kept), or None if it cannot be decoded."""
    try:
        return Removal(entry_id, read_version(value), _time(float(value[STAMP:])))
    except _DAMAGED:
        return None


def read_current(bot: str, at: bytes | str) -> Current | None:
    """The current token of a bot, whose member of sorted sets is ``at``; None if it cannot be decoded."""
    try:
        text = at.decode("ascii") if isinstance(at, bytes) else at
        return Current(bot, read_version(text), check_id(text[STAMP:]))
    except _DAMAGED:
        return None


def read_changes(text: bytes) -> tuple[list[RevocationEntry], list[str], int]:
    """Revocation entries, ids of removed ones, and how many could not be decoded."""
    if not text:
        return [], [], 0
    try:
        written, removed = _parse(text)
        entries = [read_entry(_text(entry_id), _text(value)) for entry_id, value in written]
        return [entry for entry in entries if entry], list(map(_text, removed)), entries.count(None)
    except _DAMAGED:
        return [], [], 1


def read_pairs(text: bytes) -> list[tuple[str, str]]:
    """Pairs of texts in JSON of Redis's making. Raises ValueError."""
    try:
        return [(_text(name), _text(value)) for name, value in _parse(text or b"[]")]
    except _DAMAGED as error:
        raise ValueError("not a list of pairs") from error


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
    """Raises ValueError. Only the slower parser accepts a lone surrogate, which a hostile claim may contain."""
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
