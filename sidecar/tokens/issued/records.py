"""Own tokens beyond their signature: they must be on record, and the record says who their Actor is."""

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Protocol

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor
from sidecar.identity.claims import PrincipalPolicy, make_actor
from sidecar.identity.names import folded
from sidecar.store.record import TokenKind, TokenRecord, hash_token
from sidecar.tokens.jwt.policy import DATAHUB_PROVIDER
from sidecar.tokens.jwt.verify import VerifiedClaims


class RecordLookup(Protocol):
    """Where records are looked up."""

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record of that id. Raises Unavailable(STORE_UNAVAILABLE) when nobody can tell."""


@dataclass(frozen=True, slots=True)
class IssuedIdentity:
    """Whose token it is. ``record`` must still stand on every later use; None: it has none."""

    actor: Actor
    record: TokenRecord | None


class IssuedTokens:
    """Judges verified tokens of the own issuer by their records.

    ``require_record`` False also accepts tokens without a record, which a server that shares the key has minted;
    ``policy`` then says how their claims name an Actor.
    """

    def __init__(self, records: RecordLookup, policy: PrincipalPolicy, *, require_record: bool) -> None:
        self._records = records
        self._policy = policy
        self._require_record = require_record

    async def identify(self, verified: VerifiedClaims, text: str) -> IssuedIdentity:
        """The Actor of the token ``text`` whose claims are ``verified``.

        Raises Refused (TOKEN_REVOKED, TOKEN_INVALID; PRINCIPAL_INVALID without a record) and
        Unavailable(STORE_UNAVAILABLE).
        """
        record = await self._records.lookup(verified.token_id) if verified.token_id else None
        if record is not None:
            check_record(record, text)
            return IssuedIdentity(recorded_actor(record, verified, self._policy), record)
        if self._require_record:
            raise Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        return IssuedIdentity(make_actor(verified.claims, self._policy), None)


def check_record(record: TokenRecord, text: str) -> None:
    """Raise Refused unless ``record`` is that of the token ``text`` (TOKEN_INVALID) and stands (TOKEN_REVOKED)."""
    if record.kind is TokenKind.BOT_NAME or not compare_digest(record.token_hash, hash_token(text)):
        raise Refused(Reason.TOKEN_INVALID, Cause.RECORD_MISMATCH)
    if record.revoked_at is not None:
        raise Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)


def recorded_actor(record: TokenRecord, verified: VerifiedClaims, policy: PrincipalPolicy) -> Actor:
    """The Actor of the verified token that ``record`` is about; of ``policy`` only the names count."""
    email = _text(verified.claims, "email")
    namespace, slash, name = folded(record.actor_id).rpartition("/")
    is_own = name == email.partition("@")[0]
    is_bot = record.kind is TokenKind.BOT
    return Actor(
        type=record.actor_type,
        id=record.actor_id,
        issuer=verified.issuer,
        provider=policy.provider,
        subject=verified.subject,
        email=email,
        email_in_token=bool(email),
        domain=email.partition("@")[2],
        roles=record.roles,
        token_id=record.id,
        issued_at=verified.issued_at,
        expires_at=verified.expires_at,
        is_bot=is_bot,
        is_admin=record.is_admin and _is_still_named(record, policy),
        may_impersonate=is_bot and record.allow_impersonation,
        authenticator=policy.authenticator,
        # an Actor called by the part before the @ is denied by the address as well
        full_id=f"{namespace}{slash}{email}" if is_own else "",
    )


def _is_still_named(record: TokenRecord, policy: PrincipalPolicy) -> bool:
    """Whether ``adminPrincipals`` name the owner today: who was admin when the token was minted may be one no more."""
    provider, name = record.owner.provider, folded(record.actor_id)
    # DataHub's own tokens name their users exactly: the same id in other letters is another user there
    if f"{provider}/{record.actor_id if provider == DATAHUB_PROVIDER else name}" in policy.admin_names:
        return True
    if name not in policy.admin_names:
        return False
    # A name with its provider's is nobody else's; bots and what the command line mints have no origin to go by.
    is_exact = "/" in name or not provider or record.kind is TokenKind.BOT
    return is_exact or provider in policy.admin_providers


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""
