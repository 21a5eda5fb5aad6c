"""A token record: what is stored about an issued token.

The token itself is never stored, only its SHA-256. Times are seconds since the epoch.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b, sha256
from typing import Any

from sidecar.identity.actor import ActorType
from sidecar.store.timestamps import format_rfc3339


class TokenKind(StrEnum):
    """The kind of a record: a token, with ``BOT_NAME`` a name reserved for a bot, with ``BROWSER`` a login session."""

    BOT = "bot"
    PERSONAL = "personal"
    SESSION = "session"
    BOT_NAME = "bot_name"
    BROWSER = "browser"


MINTED_KINDS = (TokenKind.BOT, TokenKind.PERSONAL, TokenKind.SESSION)
"""The kinds of tokens."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The identity of the person or program that a token belongs to."""

    issuer: str = ""
    provider: str = ""
    subject: str = ""
    id: str = ""

    def is_same_as(self, other: "Owner") -> bool:
        """Whether both are the same person or program; ``id`` is only a display name.

        Subjects are unique within a provider only, even if two providers use the same issuer name.
        """
        mine, others = (self.issuer, self.provider, self.subject), (other.issuer, other.provider, other.subject)
        return mine == others


NO_OWNER = Owner()
"""Owner of tokens minted on the command line."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One issued token. ``expires_at`` None: never; ``revoked_at`` None: not revoked.

    ``version`` is given by the store when the token is minted: it orders the tokens of a bot.
    """

    id: str
    token_hash: str
    name: str
    kind: TokenKind
    actor_id: str
    actor_type: ActorType
    created_at: float
    expires_at: float | None = None
    format: str = "openmetadata"
    description: str = ""
    roles: tuple[str, ...] = ()
    allow_impersonation: bool = False
    is_admin: bool = False
    owner: Owner = NO_OWNER
    last_used_at: float | None = None
    revoked_at: float | None = None
    version: int = field(default=0, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The record as displayed: times in RFC 3339 UTC, no hash."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind.value,
            "format": self.format,
            "description": self.description,
            "actor": {"type": self.actor_type.value, "id": self.actor_id},
            "roles": list(self.roles),
            "allowImpersonation": self.allow_impersonation,
            "owner": {"issuer": self.owner.issuer, "provider": self.owner.provider, "id": self.owner.id},
            "createdAt": format_rfc3339(self.created_at),
            "expiresAt": format_rfc3339(self.expires_at),
            "lastUsedAt": format_rfc3339(self.last_used_at),
            "revokedAt": format_rfc3339(self.revoked_at),
        }


@dataclass(frozen=True, slots=True)
class Current:
    """The token that has replaced the earlier tokens of a bot. ``bot`` is :func:`bot_key` of the bot's Actor id."""

    bot: str
    version: int
    id: str


def bot_key(actor_id: str) -> str:
    """A name for a bot that tells any two apart, has 32 characters and shows nothing."""
    text = f"{len(actor_id)}:{actor_id}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def hash_token(text: str) -> str:
    """The SHA-256 of a token's text, as stored in its record."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
