"""A denial: which tokens are refused although they verify, and until when that has to be remembered."""

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

_KEY_BYTES = 15  # the most that fits the same 48 bytes of memory as a shorter one
_CUT_OFF = struct.Struct(">d")


class Scope(StrEnum):
    """What a denial is about. Values are stored; a version that does not know one skips the entry."""

    TOKEN = "token"
    """One token, by ``issuer`` and ``jti``."""
    DIGEST = "digest"
    """One token without ``jti``, by the SHA-256 of its signing input."""
    SUBJECT = "subject"
    """The tokens of a raw ``sub`` of one issuer, issued before an instant."""
    ACTOR = "actor"
    """The tokens of an Actor (type and id) of every issuer, issued before an instant."""
    ISSUER = "issuer"
    """Every token of an issuer, issued before an instant."""


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """One entry of the deny list. Times are seconds since the epoch. Made by :func:`make_entry`.

    ``issuer`` is empty for ACTOR. ``name`` is the ``jti``, the digest (lower-case hex), the ``sub``, or
    ``<TYPE>:<id>`` for ACTOR; empty for ISSUER. ``issued_before`` is None for TOKEN and DIGEST, else exclusive: a token
    whose ``iat`` is earlier is refused, and one without ``iat``. ``expires_at``: from then on no token that it
    concerns can be valid any more, and the entry may go; None: never. ``version`` is given by the store: of two words
    about one id the one with the higher version counts.
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
    """A denial that was taken off the list. It is kept until ``until``, so that no copy brings the denial back."""

    id: str
    version: int
    until: float = field(compare=False)


def entry_key(scope: Scope, issuer: str, name: str) -> bytes:
    """What a denial is about, as 15 octets that tell any two such things apart."""
    about = f"{len(issuer)}:{issuer}{name}".encode("utf-8", "surrogatepass")
    return blake2b(about, digest_size=_KEY_BYTES, person=scope.encode("ascii")).digest()


def entry_id(key: bytes, issued_before: float | None) -> str:
    """The id of a denial: made of what it is about and of its cut-off, so that to repeat a revocation repeats its id.

    An entry can therefore be found by its id without an index of ids.
    """
    return key.hex() if issued_before is None else key.hex() + _CUT_OFF.pack(issued_before).hex()


def parse_entry_id(text: str) -> tuple[bytes, float | None] | None:
    """What :func:`entry_id` was made of; None for other ids, which are good as well but take more memory."""
    try:
        octets = bytes.fromhex(text)
        if len(octets) == _KEY_BYTES:
            return octets, None
        return octets[:_KEY_BYTES], float(_CUT_OFF.unpack(octets[_KEY_BYTES:])[0])
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
    """A denial with its proper id. See :class:`RevocationEntry` for what the scopes ask of the other values."""
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


def actor_name(actor_type: str, actor_id: str) -> str:
    """``name`` of a denial about an Actor."""
    return f"{actor_type}:{actor_id}"
