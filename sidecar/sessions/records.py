"""What a session consists of: the value of its cookie, its record, and its content, sealed beside the record.

The record is in the copy of every process, the content in the store alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from math import inf
from typing import Any

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor
from sidecar.identity.claim_path import ClaimPath
from sidecar.sessions.sealing import Sealer, decode_base64url, encode_base64url
from sidecar.store.record import Owner, TokenKind, TokenRecord, hash_token
from sidecar.store.timestamps import format_rfc3339

SESSION_OWNER = "urn:auth-sidecar:session"
"""``owner.issuer`` of every session record, which keeps sessions out of the lists of a person's tokens."""
_PURPOSE = "session"
_VERSION = 1
_SECRET_BYTES = 32
_ID_BYTES = 18
MAX_CONTENT_BYTES = 32 * 1024
# Of one use, in the ID token only; the others are kept and map to the Actor again after each change of settings.
_DROPPED = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "c_hash", "s_hash", "azp", "sid"})


@dataclass(frozen=True, slots=True)
class SessionContent:
    """The sealed part of a session. Times are seconds since the epoch.

    ``claims`` name the Actor; ``issued_at`` is the ``iat`` of the ID token, by the provider's clock. ``id_token`` is
    the hint for the provider's logout; empty: none is kept. ``refresh_token`` is that of the provider, empty: it has
    given none; ``confirmed_at`` is when the provider has confirmed the person last, ``nonce`` that of the login.
    """

    provider: str
    issuer: str
    subject: str
    issued_at: float
    claims: Mapping[str, Any]
    sid: str = ""
    acr: str = ""
    authenticated_at: float | None = None
    nonce: str = field(default="", repr=False)
    confirmed_at: float = 0.0
    refresh_token: str = field(default="", repr=False)
    id_token: str = field(default="", repr=False)

    def actor_claims(self, record: TokenRecord, expires_at: float) -> dict[str, Any]:
        """The claims from which the Actor is made: times and id are those of the session."""
        return {
            **self.claims,
            "iss": self.issuer,
            "sub": self.subject,
            "jti": record.id,
            "iat": self.issued_at,
            "exp": expires_at,
        }


_FIELDS = tuple(item.name for item in fields(SessionContent))


def content_of(
    provider: str,
    issuer: str,
    claims: Mapping[str, Any],
    *,
    issued_at: float,
    confirmed_at: float,
    id_token: str = "",
    refresh_token: str = "",
) -> SessionContent:
    """The content for verified ``claims``, which have a ``sub``."""
    authenticated = claims.get("auth_time")
    return SessionContent(
        provider,
        issuer,
        claims["sub"],
        issued_at,
        kept_claims(claims),
        sid=_text(claims.get("sid")),
        acr=_text(claims.get("acr")),
        authenticated_at=float(authenticated) if isinstance(authenticated, int | float) else None,
        nonce=_text(claims.get("nonce")),
        confirmed_at=confirmed_at,
        refresh_token=refresh_token,
        id_token=id_token,
    )


def kept_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``claims`` that a session keeps."""
    return {name: value for name, value in claims.items() if name not in _DROPPED}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def is_kept(path: ClaimPath) -> bool:
    """Whether a session keeps the claim at which ``path`` begins."""
    return path.first.lower() not in _DROPPED


def is_secret(value: str) -> bool:
    """Whether ``value`` can be the value of one of our cookies: 32 bytes in base64url."""
    data = decode_base64url(value) if len(value) == 43 else None
    return data is not None and len(data) == _SECRET_BYTES


def session_id(secret: str) -> str:
    """The id of the record that belongs to a cookie's value, which it does not disclose."""
    return f"s_{encode_base64url(sha256(secret.encode()).digest()[:_ID_BYTES])}"


def person_key(issuer: str, subject: str) -> str:
    """A name for one subject of one issuer that shows neither."""
    return sha256(f"{len(issuer)}:{issuer}{subject}".encode("utf-8", "surrogatepass")).hexdigest()


def session_owner(issuer: str, provider: str, subject: str) -> Owner:
    """The owner of the sessions of one person at one provider, without a display name."""
    return Owner(SESSION_OWNER, provider, person_key(issuer, subject))


def make_record(secret: str, content: SessionContent, actor: Actor, *, now: float, expires_at: float) -> TokenRecord:
    """The record of a new session."""
    return TokenRecord(
        id=session_id(secret),
        token_hash=hash_token(secret),
        name=actor.id,
        kind=TokenKind.BROWSER,
        actor_id="",
        actor_type=actor.type,
        created_at=now,
        expires_at=expires_at,
        format=_PURPOSE,
        owner=Owner(SESSION_OWNER, content.provider, person_key(content.issuer, content.subject), actor.id),
    )


def seal_content(record_id: str, content: SessionContent, sealer: Sealer) -> str:
    """``content`` as the store keeps it beside the record: it opens for that record only.

    Raises Refused(LOGIN_FAILED) for claims that are too large to keep.
    """
    for kept in (content, replace(content, id_token="")):
        text = json.dumps([_VERSION, *(getattr(kept, name) for name in _FIELDS)], separators=(",", ":")).encode()
        if len(text) <= MAX_CONTENT_BYTES:
            return sealer.seal(_PURPOSE, text, record_id)
    raise Refused(Reason.LOGIN_FAILED, Cause.TOKEN_SIZE, f"claims of more than {MAX_CONTENT_BYTES} bytes", status=403)


def open_content(record_id: str, text: str, sealer: Sealer) -> SessionContent | None:
    """The content; None where no secret of this process opens it, or another version wrote it."""
    opened = sealer.open(_PURPOSE, text, record_id)
    if opened is None:
        return None
    version, *values = json.loads(opened.content)
    return SessionContent(*values) if version == _VERSION else None


def describe_session(record: TokenRecord, *, max_age: float = inf, idle: float | None = None) -> dict[str, Any]:
    """The session as displayed: times in RFC 3339 UTC, neither digest nor content.

    ``max_age`` and ``idle`` are those of the configuration in use. The last use, and with it ``idleUntil``, are those
    that the store has: up to about a minute old.
    """
    expires_at = record.created_at + max_age
    shown = {
        "id": record.id,
        "actor": {"type": record.actor_type.value, "id": record.name},
        "provider": record.owner.provider,
        "createdAt": format_rfc3339(record.created_at),
        "expiresAt": format_rfc3339(expires_at if record.expires_at is None else min(expires_at, record.expires_at)),
        "lastUsedAt": format_rfc3339(record.last_used_at),
        "endedAt": format_rfc3339(record.revoked_at),
    }
    if idle is not None:
        shown["idleUntil"] = format_rfc3339(max(record.created_at, record.last_used_at or 0.0) + idle)
    return shown
