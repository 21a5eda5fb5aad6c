"""A token record: what is known of an own token without its text.

The token itself is never stored, only a SHA-256 of it. Times are seconds since the epoch.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b, sha256
from typing import Any

from sidecar.identity.actor import ActorType
from sidecar.store.timestamps import to_text


class TokenKind(StrEnum):
    """What a record is about: a token, or with ``BOT_NAME`` a name that is kept for a bot."""

    BOT = "bot"
    PERSONAL = "personal"
    SESSION = "session"
    BOT_NAME = "bot_name"


MINTED_KINDS = (TokenKind.BOT, TokenKind.PERSONAL, TokenKind.SESSION)
"""The kinds of tokens."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Where the person or program that a token belongs to comes from."""

    issuer: str = ""
    provider: str = ""
    subject: str = ""
    id: str = ""

    def is_same_as(self, other: "Owner") -> bool:
        """Whether both are one person or program: ``id`` is only what it is called.

        A provider vouches for its own subjects alone, also where two use the name of one issuer.
        """
        mine, others = (self.issuer, self.provider, self.subject), (other.issuer, other.provider, other.subject)
        return mine == others


NOBODY = Owner()
"""Owner of what the command line mints."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One own token. ``expires_at`` None: never; ``revoked_at`` None: not revoked.

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
    owner: Owner = NOBODY
    last_used_at: float | None = None
    revoked_at: float | None = None
    version: int = field(default=0, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The record as it is shown: times RFC 3339 UTC, no hash."""
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
            "createdAt": to_text(self.created_at),
            "expiresAt": to_text(self.expires_at),
            "lastUsedAt": to_text(self.last_used_at),
            "revokedAt": to_text(self.revoked_at),
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
    """What a record keeps of a token's text."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
