"""An entry of the revocation list: which tokens are rejected although they verify, and until when it is kept."""

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

_KEY_BYTES = 15  # the most that fits the same 48 bytes of memory as a shorter one
_CUT_OFF = struct.Struct(">d")


class Scope(StrEnum):
    """What an entry refers to. Values are stored; a version that does not know one skips the entry."""

    TOKEN = "token"
    """One token, by ``issuer`` and ``jti``."""
    DIGEST = "digest"
    """One token without ``jti``, by the SHA-256 of its signing input."""
    SUBJECT = "subject"
    """The tokens of a raw ``sub`` of one issuer, issued before a time."""
    ACTOR = "actor"
    """The tokens of an Actor (type and id) of every issuer, issued before a time."""
    ISSUER = "issuer"
    """Every token of an issuer, issued before a time."""
    SESSION = "session"
    """One session at an issuer, by its ``sid``: browser sessions and tokens of the issuer that belong to it."""
    SUBJECT_SESSIONS = "subject_sessions"
    """The browser sessions of a raw ``sub`` of one issuer and the issuer's tokens for it, issued before a time; not the
    tokens that the sidecar issued."""


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """One entry of the revocation list. Times are seconds since the epoch. Created by :func:`make_entry`.

    ``issuer`` is empty for ACTOR. ``name`` is the ``jti``, the digest (lower-case hex), the ``sub``, the ``sid``, or
    ``<TYPE>:<id>`` for ACTOR; empty for ISSUER. ``issued_before`` is None for TOKEN, DIGEST and SESSION, else
    exclusive: it matches tokens with an earlier ``iat``, and tokens without ``iat``. After ``expires_at`` no matching
    token can be valid and the entry may be removed; None: never. ``version`` is given by the store: of two states of
    one id, the higher version counts.
    """

    id: str
    scope: Scope
    issuer: str
    name: str
    created_at: float
    issued_before: float | None = None
    expires_at: float | None = None
    reason: str = ""
    created_by: str = ""
    version: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Removal:
    """An entry that was taken off the list. It is kept until ``until``, so that no copy brings the entry back."""

    id: str
    version: int
    until: float = field(compare=False)


def entry_key(scope: Scope, issuer: str, name: str) -> bytes:
    """What an entry refers to, as 15 bytes that identify it uniquely."""
    text = f"{len(issuer)}:{issuer}{name}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=_KEY_BYTES, person=scope.encode("ascii")).digest()


def entry_id(key: bytes, issued_before: float | None) -> str:
    """The id of an entry, derived from its key and its cut-off: repeating a revocation gives the same id.

    So an entry can be found by its id without an index of ids.
    """
    return key.hex() if issued_before is None else key.hex() + _CUT_OFF.pack(issued_before).hex()


def parse_entry_id(text: str) -> tuple[bytes, float | None] | None:
    """The arguments of :func:`entry_id`; None for other ids, which are valid but take more memory."""
    try:
        content = bytes.fromhex(text)
        if len(content) == _KEY_BYTES:
            return content, None
        return content[:_KEY_BYTES], float(_CUT_OFF.unpack(content[_KEY_BYTES:])[0])
    except (ValueError, struct.error):
        return None


def make_entry(
    scope: Scope,
    issuer: str,
    name: str,
    created_at: float,
    *,
    issued_before: float | None = None,
    expires_at: float | None = None,
    reason: str = "",
    created_by: str = "",
) -> RevocationEntry:
    """An entry with its derived id. See :class:`RevocationEntry` for the values of each scope."""
    return RevocationEntry(
        entry_id(entry_key(scope, issuer, name), issued_before),
        scope,
        issuer,
        name,
        created_at,
        issued_before,
        expires_at,
        reason,
        created_by,
    )


def actor_entry_name(actor_type: str, actor_id: str) -> str:
    """``name`` of an entry for an Actor."""
    return f"{actor_type}:{actor_id}"
