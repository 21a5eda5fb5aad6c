"""A denial: which tokens are refused although they verify, and until when that has to be remembered."""

from dataclasses import dataclass
from enum import StrEnum


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
class Denial:
    """One entry of the deny list. Times are seconds since the epoch.

    ``issuer`` is empty for ACTOR. ``name`` is the ``jti``, the digest (lower-case hex), the ``sub``, or
    ``<TYPE>:<id>`` for ACTOR; empty for ISSUER. ``issued_before`` is None for TOKEN and DIGEST, else exclusive: a token
    whose ``iat`` is earlier is refused, and one without ``iat``. ``expires_at``: from then on no token that it
    concerns can be valid any more, and the entry may go; None: never.
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
