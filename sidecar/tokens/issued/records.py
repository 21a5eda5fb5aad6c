"""Checks issued tokens against their records: a token must be on record, and the record determines its Actor."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Protocol

from sidecar.errors import Cause, Reason, Refused, quoted
from sidecar.identity.actor import Actor
from sidecar.identity.claims import PrincipalPolicy, make_actor
from sidecar.identity.delegation import read_delegation
from sidecar.identity.names import folded
from sidecar.store.record import TOKEN_KINDS, TokenKind, TokenRecord, hash_token
from sidecar.store.replica.revocation_list import Source
from sidecar.tokens.issued.source import SOURCE_CLAIM, read_source
from sidecar.tokens.jwt.policy import DATAHUB_PROVIDER
from sidecar.tokens.jwt.verify import VerifiedClaims

# Only tokens of the token endpoint have these claims.
_EXCHANGED = frozenset({SOURCE_CLAIM, "client_id"})


class RecordLookup(Protocol):
    """Look-up of token records."""

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record with that id. Raises Unavailable(STORE_UNAVAILABLE) if the store does not answer."""


@dataclass(frozen=True, slots=True)
class IssuedIdentity:
    """The identity of an issued token. ``record`` must be valid on every later use; None: the token has no record.

    ``source`` is the credential that an exchanged token was issued for; None for other tokens. ``is_for_resource``: it
    is accepted only at protected resources that require its audience.
    """

    actor: Actor
    record: TokenRecord | None
    source: Source | None = None
    is_for_resource: bool = False


@dataclass(frozen=True, slots=True)
class OwnAudiences:
    """``aud`` of issued tokens that are accepted here.

    ``minted``: of minted tokens; empty: any, or none. ``exchanged``: of tokens of the token endpoint, which have
    exactly one; those for other servers are not accepted here. ``resources``: of tokens of the token endpoint that are
    accepted at protected resources only.
    """

    minted: str = ""
    exchanged: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()

    def check(self, audience: object, *, is_exchanged: bool) -> None:
        """Raise Refused(TOKEN_INVALID) for the ``aud`` of a token that is not accepted here."""
        accepted: Collection[str] = {self.minted} if self.minted else ()
        if is_exchanged:
            accepted = self.exchanged | self.resources
        presented = audience if isinstance(audience, list) else [audience]
        if (accepted or is_exchanged) and not any(item in accepted for item in presented):
            detail = f"aud is {quoted(*presented)}; expected: {quoted(*sorted(accepted))}"
            raise Refused(Reason.TOKEN_INVALID, Cause.AUDIENCE, detail)


class IssuedTokens:
    """Identifies verified tokens of this sidecar's issuer by their records.

    ``require_record`` False also accepts tokens without a record, minted by a server that shares the key; ``policy``
    then maps their claims to an Actor. Tokens of the token endpoint always need their record.
    """

    def __init__(
        self,
        records: RecordLookup,
        policy: PrincipalPolicy,
        *,
        require_record: bool,
        audiences: OwnAudiences = OwnAudiences(),
    ) -> None:
        self._audiences = audiences
        self._records = records
        self._policy = policy
        self._require_record = require_record

    def for_audience(self, audience: str) -> "IssuedTokens":
        """The same, accepting only tokens with ``audience``."""
        audiences = OwnAudiences(audience, frozenset({audience}))
        return IssuedTokens(self._records, self._policy, require_record=self._require_record, audiences=audiences)

    async def identify(self, verified: VerifiedClaims, text: str) -> IssuedIdentity:
        """The identity of the token ``text`` with the claims ``verified``.

        Raises Refused (TOKEN_REVOKED, TOKEN_INVALID; PRINCIPAL_INVALID without a record) and
        Unavailable(STORE_UNAVAILABLE).
        """
        record = await self._records.lookup(verified.token_id) if verified.token_id else None
        if record is not None:
            check_record(record, text)
            is_exchanged = record.kind is TokenKind.EXCHANGED
            self._audiences.check(verified.claims.get("aud"), is_exchanged=is_exchanged)
            source = read_source(verified.claims) if is_exchanged else None
            is_for_resource = is_exchanged and verified.claims["aud"] not in self._audiences.exchanged
            return IssuedIdentity(recorded_actor(record, verified, self._policy), record, source, is_for_resource)
        if self._require_record or not _EXCHANGED.isdisjoint(verified.claims):
            raise Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        self._audiences.check(verified.claims.get("aud"), is_exchanged=False)
        return IssuedIdentity(make_actor(verified.claims, self._policy), None)


def check_record(record: TokenRecord, text: str) -> None:
    """Raise Refused unless ``record`` is of the token ``text`` (TOKEN_INVALID) and not revoked (TOKEN_REVOKED)."""
    if record.kind not in TOKEN_KINDS or not compare_digest(record.token_hash, hash_token(text)):
        raise Refused(Reason.TOKEN_INVALID, Cause.RECORD_MISMATCH)
    if record.revoked_at is not None:
        raise Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)


def recorded_actor(record: TokenRecord, verified: VerifiedClaims, policy: PrincipalPolicy) -> Actor:
    """The Actor of the verified token of ``record``; only the names in ``policy`` are used."""
    email = _text(verified.claims, "email")
    namespace, slash, name = folded(record.actor_id).rpartition("/")
    is_own = name == email.partition("@")[0]
    is_bot = record.kind is TokenKind.BOT
    delegation = read_delegation(verified.claims, policy.delegation)
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
        # an Actor named by the local part of its address is revoked by the address as well
        full_id=f"{namespace}{slash}{email}" if is_own else "",
        client=delegation.client,
        scopes=delegation.scopes,
        audiences=delegation.audiences,
        acting=delegation.acting,
        is_delegated=delegation.is_delegated,
    )


def _is_still_named(record: TokenRecord, policy: PrincipalPolicy) -> bool:
    """Whether ``adminPrincipals`` names the owner now; it may have changed since the token was minted."""
    provider, name = record.owner.provider, folded(record.actor_id)
    # DataHub compares user names with case: the same id in other case is a different user
    if f"{provider}/{record.actor_id if provider == DATAHUB_PROVIDER else name}" in policy.admin_names:
        return True
    if name not in policy.admin_names:
        return False
    # A name with a provider prefix is unique; tokens of bots and of the command line have no provider to compare.
    is_exact = "/" in name or not provider or record.kind is TokenKind.BOT
    return is_exact or provider in policy.admin_providers


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""
