"""Mints issued tokens in OpenMetadata's or DataHub's format. The record is on disk before the token is returned."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from sidecar.clock import Clock
from sidecar.concurrency import retrieve
from sidecar.errors import Reason, Refused
from sidecar.identity.actor import ActorType
from sidecar.identity.claims import actor_name
from sidecar.identity.names import folded
from sidecar.keys.signing import SigningKey
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, WriteBatch
from sidecar.store.record import NO_OWNER, Owner, TokenKind, TokenRecord, hash_token
from sidecar.tokens.datahub import FORMAT, DataHubKind, DataHubSecrets, datahub_hash, mint_datahub_token
from sidecar.tokens.issued.copies import BotTokenCopies
from sidecar.tokens.jwt.jose import sign

_audit = logging.getLogger(AUDIT)


ClaimBotName = Callable[[str, str, bool], Awaitable[Sequence[TokenRecord]]]
"""See :meth:`sidecar.tokens.issued.bots.Bots.claim`."""

_TOKEN_TYPES = {
    TokenKind.BOT: "BOT",
    TokenKind.PERSONAL: "PERSONAL_ACCESS",
    TokenKind.SESSION: "OM_USER",
}
_DATAHUB_KINDS = {
    TokenKind.BOT: DataHubKind.SERVICE_ACCOUNT,
    TokenKind.PERSONAL: DataHubKind.PERSONAL,
    TokenKind.SESSION: DataHubKind.SESSION,
}


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The token to mint, already authorized. ``lifetime`` in seconds, None: never expires; ``email`` empty: derived.

    ``format`` is ``openmetadata`` or ``datahub``. ``minted_by`` names the requester, for the audit log.
    ``replace_person``: a bot may take the name of a person, who is rejected from then on. ``replace``: the token of a
    bot overwrites what the secrets manager has under its id, whatever it is.
    ``id``: that of the record; empty: a new one.
    """

    name: str
    kind: TokenKind
    actor_id: str
    actor_type: ActorType
    lifetime: float | None
    email: str = ""
    description: str = ""
    roles: tuple[str, ...] = ()
    allow_impersonation: bool = False
    is_admin: bool = False
    owner: Owner = NO_OWNER
    minted_by: str = ""
    format: str = "openmetadata"
    replace_person: bool = False
    id: str = ""
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token and its record. The text is not stored here and cannot be shown again.

    ``location``: the reference by which it can be read in the secrets manager; None: it is not there.
    """

    token: str
    record: TokenRecord
    location: str | None = None


class Minter:
    """Mints tokens of ``issuer``, signed with the current key of ``signing``, or in DataHub's format with ``datahub``.

    ``verbatim``: ids of people may contain capital letters and be addresses; ids of bots never. ``claim`` returns the
    records to write so that a bot's name is reserved. A bot's older tokens are revoked by a new one unless
    ``keep_bot_tokens``. ``max_lifetime`` limits new tokens, in seconds. ``copies`` writes tokens of bots to
    the secrets manager.
    """

    def __init__(
        self,
        signing: Callable[[], SigningKey],
        write: WriteBatch,
        claim: ClaimBotName,
        clock: Clock,
        metrics: Metrics,
        *,
        issuer: str,
        audience: str,
        principal_domain: str,
        verbatim: bool = False,
        keep_bot_tokens: bool = False,
        max_lifetime: float | None = None,
        datahub: DataHubSecrets | None = None,
        copies: BotTokenCopies | None = None,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._signing = signing
        self._write = write
        self._claim = claim
        self._clock = clock
        self._metrics = metrics
        self._issuer = issuer
        self._audience = audience
        self._principal_domain = principal_domain.lower()
        self._verbatim = verbatim
        self._keep_bot_tokens = keep_bot_tokens
        self._max_lifetime = max_lifetime
        self._datahub = datahub
        self._copies = copies
        self._storing: set[asyncio.Task[str]] = set()
        self._turns: dict[str, asyncio.Lock] = {}
        self._new_id = new_id

    async def mint(self, request: TokenRequest) -> Minted:
        """Mint the token of ``request``.

        Raises Refused(PRINCIPAL_INVALID) for an Actor id that no token can carry, Refused(CONFLICT) for DataHub's
        format without its secrets and for a person's name, Refused(REQUEST_INVALID) for a lifetime that is too long,
        and Unavailable(STORE_UNAVAILABLE) if the record could not be written. For a token that is written to the
        secrets manager too: Refused(CONFLICT) if there is something else, and Unavailable(SECRETS_MANAGER).
        """
        max_lifetime = self._max_lifetime
        if max_lifetime is not None and (request.lifetime is None or request.lifetime > max_lifetime):
            raise Refused(
                Reason.REQUEST_INVALID, message=f"The lifetime exceeds tokens.maxLifetime ({max_lifetime:g} s)"
            )
        actor_id = actor_name(request.actor_id, verbatim=self._verbatim and request.kind is not TokenKind.BOT)
        registrations: Sequence[TokenRecord] = ()
        if request.kind is TokenKind.BOT:
            registrations = await self._claim(actor_id, request.minted_by, request.replace_person)
        token_id = request.id or self._new_id()
        now = self._clock.now()
        issued = int(now)
        expires = None if request.lifetime is None else issued + int(request.lifetime)
        encode = self._datahub_token if request.format == FORMAT else self._openmetadata_token
        token, token_hash = encode(request, actor_id, token_id, issued, expires)
        record = TokenRecord(
            id=token_id,
            token_hash=token_hash,
            name=request.name,
            kind=request.kind,
            actor_id=actor_id,
            actor_type=request.actor_type,
            created_at=now,  # finer than iat, to compare with an issuedBefore in the same second
            expires_at=None if expires is None else float(expires),
            format=request.format,
            description=request.description,
            roles=request.roles,
            allow_impersonation=request.allow_impersonation,
            is_admin=request.is_admin,
            owner=request.owner,
        )
        batch = Batch(add=(*registrations, record), keep_bot_tokens=self._keep_bot_tokens)
        if self._copies is None or not self._copies.keeps(record):
            await self._write(batch)
            self._audit_minted(record, request)
            return Minted(token, record)
        # a caller that goes away must not leave the token between secrets manager and record
        storing = asyncio.create_task(self._store(self._copies, record, token, batch, request), name="store token")
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        storing.add_done_callback(retrieve)
        return Minted(token, record, await asyncio.shield(storing))

    async def _store(
        self, copies: BotTokenCopies, record: TokenRecord, token: str, batch: Batch, request: TokenRequest
    ) -> str:
        """Write the token to the secrets manager and put it on record. Returns the reference to it."""
        async with self._turns.setdefault(record.actor_id, asyncio.Lock()):
            place = await copies.place_for(record.actor_id, overwrite=request.replace)
            version = await copies.store(record, token, self._write, batch, place)
        _audit.info(
            "secret written",
            extra={"event": "secret_written", "secret": place.secret_id, "version": version, "by": request.minted_by},
        )
        self._audit_minted(record, request)
        return f"secret:{place.secret_id}"

    def _audit_minted(self, record: TokenRecord, request: TokenRequest) -> None:
        self._metrics.tokens_issued.labels(request.kind.value).inc()
        _audit.info(
            "token minted",
            extra={
                "event": "token_minted",
                "token_id": record.id,
                "kind": request.kind.value,
                "actor": record.actor_id,
                "admin": request.is_admin,
                "by": request.minted_by,
            },
        )

    def _openmetadata_token(
        self, request: TokenRequest, actor_id: str, token_id: str, issued: int, expires: int | None
    ) -> tuple[str, str]:
        """The token, and the hash for its record."""
        claims = {
            **openmetadata_claims(actor_id, request.email or self._default_email(actor_id), request.roles),
            "iss": self._issuer,
            "isBot": request.kind is TokenKind.BOT,
            "tokenType": _TOKEN_TYPES[request.kind],
            "jti": token_id,
            "iat": issued,
        }
        if self._audience:
            claims["aud"] = self._audience
        if expires is not None:
            claims["exp"] = expires
        key = self._signing()
        token = sign({"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}, claims, key.key)
        return token, hash_token(token)

    def _datahub_token(
        self, request: TokenRequest, actor_id: str, token_id: str, issued: int, expires: int | None
    ) -> tuple[str, str]:
        """The same in DataHub's format; the hash is the one that DataHub's store would contain."""
        if self._datahub is None or not self._issuer:
            text = "set authentication.tokenService and jwtTokenConfiguration.jwtissuer"
            raise Refused(Reason.CONFLICT, message=f"DataHub tokens cannot be minted: {text}")
        token = mint_datahub_token(
            self._datahub.key,
            actor_id=actor_id,
            kind=_DATAHUB_KINDS[request.kind],
            token_id=token_id,
            issuer=self._issuer,
            issued_at=issued,
            expires_at=expires,
        )
        return token, datahub_hash(token, self._datahub.salt)

    def _default_email(self, actor_id: str) -> str:
        if "@" in actor_id:
            return folded(actor_id)
        return f"{actor_id}@{self._principal_domain}" if self._principal_domain else ""


def openmetadata_claims(actor_id: str, email: str, roles: tuple[str, ...]) -> dict[str, object]:
    """The claims in which an OpenMetadata server looks for the name, all set to ``actor_id``."""
    claims: dict[str, object] = {
        "sub": actor_id,
        "username": actor_id,
        "preferred_username": actor_id,
        "roles": list(roles),
    }
    if email:
        claims["email"] = email
    return claims
