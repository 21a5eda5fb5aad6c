"""What a session consists of: the value of its cookie, its record, and the sealed content of the record."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
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
_SECRET_BYTES = 32
_ID_BYTES = 18
MAX_CONTENT_BYTES = 32 * 1024
# Of one use, in the ID token only; the others are kept and map to the Actor again after each change of settings.
_DROPPED = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "c_hash", "s_hash", "azp", "sid"})


@dataclass(frozen=True, slots=True)
class SessionContent:
    """The sealed part of a session. Times are seconds since the epoch.

    ``claims`` name the Actor; ``issued_at`` is the ``iat`` of the ID token, by the provider's clock. ``id_token`` is
    the hint for the provider's logout; empty: none is kept.
    """

    provider: str
    issuer: str
    subject: str
    issued_at: float
    claims: Mapping[str, Any]
    sid: str = ""
    acr: str = ""
    authenticated_at: float | None = None
    id_token: str = ""

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


def content_of(
    provider: str, issuer: str, claims: Mapping[str, Any], *, id_token: str, issued_at: float
) -> SessionContent:
    """The content for verified ``claims``, which have a ``sub``."""
    acr, authenticated = claims.get("acr"), claims.get("auth_time")
    sid = claims.get("sid")
    return SessionContent(
        provider,
        issuer,
        claims["sub"],
        issued_at,
        {name: value for name, value in claims.items() if name not in _DROPPED},
        sid=sid if isinstance(sid, str) else "",
        acr=acr if isinstance(acr, str) else "",
        authenticated_at=float(authenticated) if isinstance(authenticated, int | float) else None,
        id_token=id_token,
    )


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


def make_record(
    secret: str, content: SessionContent, actor: Actor, sealer: Sealer, *, now: float, expires_at: float
) -> TokenRecord:
    """The record of a new session. Raises Refused(LOGIN_FAILED) for claims that are too large to keep."""
    identifier = session_id(secret)
    return TokenRecord(
        id=identifier,
        token_hash=hash_token(secret),
        name=actor.id,
        kind=TokenKind.BROWSER,
        actor_id="",
        actor_type=actor.type,
        created_at=now,
        expires_at=expires_at,
        format=_PURPOSE,
        description=sealer.seal(_PURPOSE, _written(content), identifier),
        owner=Owner(SESSION_OWNER, content.provider, person_key(content.issuer, content.subject), actor.id),
    )


def _written(content: SessionContent) -> bytes:
    for id_token in (content.id_token, ""):
        text = json.dumps(
            [
                1,
                content.provider,
                content.issuer,
                content.subject,
                content.issued_at,
                content.claims,
                content.sid,
                content.acr,
                content.authenticated_at,
                id_token,
            ],
            separators=(",", ":"),
        ).encode()
        if len(text) <= MAX_CONTENT_BYTES:
            return text
    raise Refused(Reason.LOGIN_FAILED, Cause.TOKEN_SIZE, f"claims of more than {MAX_CONTENT_BYTES} bytes", status=403)


def read_content(record: TokenRecord, sealer: Sealer) -> SessionContent | None:
    """The content of ``record``; None where no secret of this process opens it, or another version wrote it."""
    opened = sealer.open(_PURPOSE, record.description, record.id)
    if opened is None:
        return None
    version, *fields = json.loads(opened.content)
    return SessionContent(*fields) if version == 1 else None


def describe_session(record: TokenRecord) -> dict[str, Any]:
    """The session as displayed: times in RFC 3339 UTC, neither digest nor content."""
    return {
        "id": record.id,
        "actor": {"type": record.actor_type.value, "id": record.name},
        "provider": record.owner.provider,
        "createdAt": format_rfc3339(record.created_at),
        "expiresAt": format_rfc3339(record.expires_at),
        "lastUsedAt": format_rfc3339(record.last_used_at),
        "endedAt": format_rfc3339(record.revoked_at),
    }
