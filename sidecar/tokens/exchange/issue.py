"""Issues the tokens of the token endpoint: one write of the record, which also remembers a used assertion."""

import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol
from uuid import uuid4

from sidecar.clock import Clock
from sidecar.errors import Cause, Failed
from sidecar.identity.actor import Actor, ActorType
from sidecar.keys.signing import SigningKey
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, WriteOnce
from sidecar.store.record import NO_OWNER, ExchangeDetails, Owner, TokenKind, TokenRecord, hash_token
from sidecar.store.replica.revocation_list import RevocationKeys, Source, revocation_keys
from sidecar.tokens.exchange.refusal import bad_grant
from sidecar.tokens.issued.mint import openmetadata_claims
from sidecar.tokens.issued.source import SOURCE_CLAIM, source_claim
from sidecar.tokens.jwt.jose import sign
from sidecar.tokens.jwt.policy import OWN_PROVIDER

_audit = logging.getLogger(AUDIT)
_ID_BYTES = 24


class LocalRecords(Protocol):
    """The local copy of the records."""

    def record(self, token_id: str) -> TokenRecord | None:
        """The record in the copy."""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """A token to issue, already authorized.

    ``client`` is the client or rule; ``acting`` the client that acts for the Actor (empty: none). ``one_time``: an
    assertion that must not be used twice; None: nothing in the request is used up. ``expires_at`` is the end of the
    credentials in the request; None: they have none.
    """

    client: str
    actor_id: str
    actor_type: ActorType
    audience: str
    scopes: tuple[str, ...]
    lifetime: float
    email: str = ""
    roles: tuple[str, ...] = ()
    acting: str = ""
    owner: Owner = NO_OWNER
    source: Source | None = None
    one_time: Source | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token. The text is not stored."""

    token: str = field(repr=False)
    record: TokenRecord
    scope: str
    expires_in: int


def used_assertion_id(assertion: Source) -> str:
    """The id of the record of the only token that is issued for an assertion. It discloses nothing about it."""
    issuer, kind = assertion.issuer, "digest" if assertion.is_digest else "jti"
    text = f"{kind}:{len(issuer)}:{issuer}{assertion.token_id}"
    digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
    return f"x_{base64.urlsafe_b64encode(digest[:_ID_BYTES]).decode()}"


class TokenIssuer:
    """Signs and records tokens. ``max_lifetime`` limits them, in seconds.

    ``gate`` says why an Actor with these keys must not get a token now; None: it may.
    """

    def __init__(
        self,
        signing: Callable[[], SigningKey],
        write: WriteOnce,
        records: LocalRecords,
        gate: Callable[[Actor, RevocationKeys], Failed | None],
        clock: Clock,
        metrics: Metrics,
        *,
        issuer: str,
        principal_domain: str,
        max_lifetime: float | None,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._signing = signing
        self._write = write
        self._records = records
        self._gate = gate
        self._clock = clock
        self._metrics = metrics
        self._issuer = issuer
        self._principal_domain = principal_domain.lower()
        self._max_lifetime = max_lifetime
        self._new_id = new_id

    async def issue(self, entitled: Entitlement, grant: str) -> Issued:
        """Issue the token. ``grant`` is the grant type, for the audit log.

        Raises GrantRefused(invalid_grant) if an assertion was used before or a revocation entry matches, and
        Unavailable(STORE_UNAVAILABLE) if the record could not be written.
        """
        now = self._clock.now()
        self._check_revocations(entitled, now)
        one_time = entitled.one_time
        token_id = self._new_id() if one_time is None else used_assertion_id(one_time)
        if one_time is not None and self._records.record(token_id) is not None:
            raise _replayed(entitled)
        issued = int(now)
        ends = [issued + entitled.lifetime]
        if self._max_lifetime is not None:
            ends.append(issued + self._max_lifetime)
        if entitled.expires_at is not None:
            ends.append(entitled.expires_at)
        expires = int(min(ends))
        scope = " ".join(entitled.scopes)
        token = self._signed(entitled, token_id, issued, expires, scope)
        source = entitled.source
        exchange = ExchangeDetails(
            entitled.client,
            entitled.acting,
            entitled.audience,
            scope,
            "" if source is None else source.issuer,
            "" if source is None else source.token_id,
            is_digest=source is not None and source.is_digest,
        )
        record = TokenRecord(
            id=token_id,
            token_hash=hash_token(token),
            name=entitled.client,
            kind=TokenKind.EXCHANGED,
            actor_id=entitled.actor_id,
            actor_type=entitled.actor_type,
            created_at=now,
            expires_at=float(expires),
            description=exchange.encode(),
            roles=entitled.roles,
            owner=entitled.owner,
        )
        receipt = await self._write(Batch(add=(record,)))
        if not any(added.id == token_id for added in receipt.entries.records):
            raise _replayed(entitled)  # the store had a record of that id: another request was first
        self._metrics.tokens_issued.labels(record.kind.value).inc()
        self._log(entitled, record, grant, scope)
        return Issued(token, record, scope, expires - issued)

    def _check_revocations(self, entitled: Entitlement, now: float) -> None:
        actor = Actor(
            entitled.actor_type, entitled.actor_id, self._issuer, OWN_PROVIDER, entitled.actor_id, issued_at=int(now)
        )
        facts = revocation_keys(actor, owner=entitled.owner, recorded_at=now).with_source(entitled.source)
        failure = self._gate(actor, facts)
        if failure is None:
            return
        if failure.status == 503:
            raise failure
        raise bad_grant(failure.cause, failure.detail, client=entitled.client)

    def _signed(self, entitled: Entitlement, token_id: str, issued: int, expires: int, scope: str) -> str:
        email = entitled.email
        if not email and "@" not in entitled.actor_id and self._principal_domain:
            email = f"{entitled.actor_id}@{self._principal_domain}"
        claims: dict[str, Any] = {
            **openmetadata_claims(entitled.actor_id, email, entitled.roles),
            "iss": self._issuer,
            "isBot": False,
            "tokenType": "OM_USER",
            "jti": token_id,
            "iat": issued,
            "exp": expires,
            "aud": entitled.audience,
            "client_id": entitled.client,
        }
        if scope:
            claims["scope"] = scope
        if entitled.acting:
            claims["act"] = {"sub": entitled.acting}
        if entitled.source is not None:
            claims[SOURCE_CLAIM] = source_claim(entitled.source)
        key = self._signing()
        return sign({"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}, claims, key.key)

    def _log(self, entitled: Entitlement, record: TokenRecord, grant: str, scope: str) -> None:
        source = entitled.source
        _audit.info(
            "token exchanged",
            extra={
                "event": "token_exchanged",
                "token_id": record.id,
                "grant": grant,
                "client": entitled.client,
                "actor": entitled.actor_id,
                "acting": entitled.acting,
                "audience": entitled.audience,
                "scope": scope,
                "source_issuer": "" if source is None else source.issuer,
                "source_subject": "" if source is None else source.subject,
                "source_id": "" if source is None else source.token_id,
            },
        )


def _replayed(entitled: Entitlement) -> Exception:
    return bad_grant(Cause.ASSERTION_REPLAYED, "a token was issued for it before", client=entitled.client)
