"""A token record: what is stored about an issued token.

The token itself is never stored, only its SHA-256. Times are seconds since the epoch.
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b, sha256
from typing import Any, Self

from sidecar.identity.actor import ActorType
from sidecar.store.timestamps import format_rfc3339


class TokenKind(StrEnum):
    """The kind of a record: a token, with ``BOT_NAME`` a name reserved for a bot, with ``BROWSER`` a login session.

    ``EXCHANGED``: a token that the token endpoint has issued for another credential.
    """

    BOT = "bot"
    PERSONAL = "personal"
    SESSION = "session"
    BOT_NAME = "bot_name"
    BROWSER = "browser"
    EXCHANGED = "exchanged"


MINTED_KINDS = (TokenKind.BOT, TokenKind.PERSONAL, TokenKind.SESSION)
"""The kinds of tokens that callers and commands mint."""
TOKEN_KINDS = (*MINTED_KINDS, TokenKind.EXCHANGED)
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
class ExchangeDetails:
    """What the token endpoint has issued a token for: the part of an EXCHANGED record that other kinds do not have.

    ``client`` is the id of the client or the name of the workload rule, ``acting`` the client that acts for the subject
    (empty: none). The source credential is identified by ``issuer`` and ``token_id``; without a ``jti`` the latter is
    the SHA-256 of its signing input and ``is_digest`` is set; empty: a client has used its secret.
    """

    client: str
    acting: str
    audience: str
    scope: str
    issuer: str
    token_id: str
    is_digest: bool = False

    def encode(self) -> str:
        """The text for the ``description`` of a record."""
        source = [self.issuer, self.token_id, self.is_digest]
        return json.dumps([1, self.client, self.acting, self.audience, self.scope, source], separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> "Self | None":
        """The exchange that ``text`` describes; None if another version wrote it."""
        try:
            version, client, acting, audience, scope, (issuer, token_id, is_digest) = json.loads(text)
        except (ValueError, TypeError):
            return None
        return cls(client, acting, audience, scope, issuer, token_id, is_digest is True) if version == 1 else None

    def as_json(self) -> dict[str, Any]:
        """The exchange as displayed."""
        return {
            "client": self.client,
            "acting": self.acting or None,
            "audience": self.audience,
            "scope": self.scope,
            "source": {"issuer": self.issuer, "digest" if self.is_digest else "id": self.token_id}
            if self.token_id
            else None,
        }


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One issued token. ``expires_at`` None: never; ``revoked_at`` None: not revoked.

    ``version`` is given by the store when the token is minted: it orders the tokens of a bot. An EXCHANGED record has
    its :class:`ExchangeDetails` in ``description``.
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

    @property
    def exchange(self) -> ExchangeDetails | None:
        """What the token was issued for; None for other kinds."""
        return ExchangeDetails.decode(self.description) if self.kind is TokenKind.EXCHANGED else None

    def as_json(self) -> dict[str, Any]:
        """The record as displayed: times in RFC 3339 UTC, no hash."""
        exchange = self.exchange
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind.value,
            "format": self.format,
            "description": "" if self.kind is TokenKind.EXCHANGED else self.description,
            "actor": {"type": self.actor_type.value, "id": self.actor_id},
            "roles": list(self.roles),
            "allowImpersonation": self.allow_impersonation,
            "owner": {"issuer": self.owner.issuer, "provider": self.owner.provider, "id": self.owner.id},
            "createdAt": format_rfc3339(self.created_at),
            "expiresAt": format_rfc3339(self.expires_at),
            "lastUsedAt": format_rfc3339(self.last_used_at),
            "revokedAt": format_rfc3339(self.revoked_at),
            **({} if exchange is None else {"exchange": exchange.as_json()}),
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
