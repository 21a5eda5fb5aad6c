"""DataHub's bearer tokens: minted by DataHub's servers, or by this sidecar in the same form."""

from collections.abc import Awaitable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Literal

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Outcome, Rejected
from sidecar.clock import Clock, earliest_of, latest_of
from sidecar.concurrency import Steps, run_steps
from sidecar.config.settings import Model
from sidecar.errors import AFTER_SIGNATURE, Cause, Misconfigured, Problem, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import RequestContext, Scheme
from sidecar.secrets.value import Secret
from sidecar.secrets.well_known import is_well_known
from sidecar.store.record import TokenRecord
from sidecar.store.replica.revocation_list import RevocationKeys, revocation_keys
from sidecar.tokens.datahub import (
    DEFAULT_ISSUER,
    FORMAT,
    DataHubToken,
    SharedKey,
    Version,
    datahub_hash,
    is_datahub,
    verify_datahub,
)
from sidecar.tokens.issued.records import RecordLookup, recorded_actor
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import DATAHUB_PROVIDER, OWN_PROVIDER
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import VerifiedClaims

DATAHUB = DATAHUB_PROVIDER
"""Name of this authenticator and of its provider in Actors, logs, metrics and ``adminPrincipals``."""


class DataHubTokenOptions(Model):
    """Options under DataHub's names; the defaults come from ``authentication.tokenService``."""

    signing_key: Secret | None = None
    """Key for HS256: the UTF-8 bytes of the configured text."""
    salt: Secret | None = None
    """Salt of DataHub's token hashes."""
    signing_alg: Literal["HS256"] = "HS256"
    """The only algorithm that DataHub uses."""


@dataclass(frozen=True, slots=True)
class DataHubTokenPolicy:
    """Validation settings for DataHub tokens.

    ``own_issuer`` is the ``iss`` of DataHub tokens minted by this sidecar (empty: it mints none). Those need a record
    if ``require_own_record`` is set and may live for at most ``max_own_lifetime`` seconds; ``own_leeway`` is the
    tolerance for their ``exp``, ``own_early`` the tolerance for ``iat`` and ``nbf``. ``require_record`` requires a
    record for every version 2 token. ``records`` is None if there is no record store. ``providers`` are the issuers
    with keys of their own: a token that names one of them is rejected.

    ``reserved`` ids are rejected (in lower case), and so are ids that start with one of ``namespaces`` (in lower case)
    and a slash, because those are Actors of other providers. ``admin_names`` are the names of ``adminPrincipals``,
    spelled like Actor ids. ``forwards_token``: tokens minted by the upstream DataHub are forwarded to it unchanged.
    """

    key: SharedKey
    salt: Secret
    issuer: str = DEFAULT_ISSUER
    own_issuer: str = ""
    records: RecordLookup | None = None
    require_record: bool = False
    require_own_record: bool = True
    max_own_lifetime: float | None = None
    own_leeway: float = 0.0
    own_early: float = 0.0
    providers: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    admin_names: frozenset[str] = frozenset()
    forwards_token: bool = False


class DataHubTokenAuthenticator:
    """Decides on tokens that can only be DataHub tokens. Shares the cache of verified tokens with the JWT
    authenticator.
    """

    name = DATAHUB

    def __init__(
        self, policy: DataHubTokenPolicy, *, cache: VerifiedCache[Accepted], clock: Clock, max_token_bytes: int
    ) -> None:
        self._policy = policy
        self._own_policy = PrincipalPolicy(OWN_PROVIDER, authenticator=DATAHUB, admin_names=policy.admin_names)
        self._cache = cache
        self._now, self._earliest = latest_of(clock), earliest_of(clock)
        self._max_token_bytes = max_token_bytes

    def recall(self, view: RequestContext) -> Accepted | None:
        """None: the JWT authenticator, which is always configured, recalls verified tokens from the shared cache."""
        return None

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Verify a token that is not in the cache; an awaitable if its record has to be looked up.

        Raises Unavailable if its record cannot be looked up.
        """
        if view.credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        try:
            token = parse(view.credential.value, self._max_token_bytes)
        except Refused as refusal:
            return Abstained(refusal)
        if not is_datahub(token, self._policy.issuer, self._policy.own_issuer):
            return ABSTAINED
        return run_steps(self._verification(token, self._cache.generation))

    def _verification(self, token: Unverified, generation: int) -> Steps[Outcome]:
        policy = self._policy
        is_own = bool(policy.own_issuer) and token.issuer == policy.own_issuer
        skew = (policy.own_leeway, policy.own_early) if is_own else (0.0, 0.0)
        try:
            found = verify_datahub(token, policy.key, self._now(), *skew, earliest=self._earliest())
            with AFTER_SIGNATURE:
                accepted = yield from self._accept(token, found)
        except Refused as refusal:
            return Rejected(refusal, DATAHUB)
        self._cache.put(token.text, accepted, generation)
        return accepted

    def _accept(self, token: Unverified, found: DataHubToken) -> Steps[Accepted]:
        trust = self._policy
        if found.verified.issuer in trust.providers:
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
        is_own = bool(trust.own_issuer) and found.verified.issuer == trust.own_issuer
        if is_own:
            _check_lifetime(found.verified, trust.max_own_lifetime)
        must_be_on_record = (
            trust.require_own_record if is_own else trust.require_record and found.version is Version.STATEFUL
        )
        record = None
        if is_own or must_be_on_record:
            record = yield self._record(found, token.text)
        if record is not None:
            actor = recorded_actor(record, found.verified, self._own_policy)
            facts = revocation_keys(actor, owner=record.owner, recorded_at=record.created_at)
            return self._accepted(found, actor, keys=facts, record_id=record.id, is_own=True)
        if must_be_on_record:
            raise Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        actor = self._actor(found)
        digest = "" if actor.token_id else token.digest
        accepted = self._accepted(found, actor, keys=revocation_keys(actor, digest))
        if trust.forwards_token and not is_own:
            accepted.forwarded_authorization = f"Bearer {token.text}"
        return accepted

    async def _record(self, found: DataHubToken, text: str) -> TokenRecord | None:
        token_id = found.verified.token_id
        if self._policy.records is None or not token_id:
            return None
        record = await self._policy.records.lookup(token_id)
        if record is None:
            return None
        if record.format != FORMAT or not compare_digest(record.token_hash, datahub_hash(text, self._policy.salt)):
            raise Refused(Reason.TOKEN_INVALID, Cause.RECORD_MISMATCH)
        if record.revoked_at is not None:
            raise Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)
        return record

    def _actor(self, found: DataHubToken) -> Actor:
        """The Actor of a token minted by DataHub: type USER, the only type that DataHub knows."""
        verified, actor_id = found.verified, found.actor_id
        lower = actor_id.lower()
        namespace, slash, _ = lower.partition("/")
        if lower in self._policy.reserved or (slash and namespace in self._policy.namespaces):
            raise Refused(Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)
        return Actor(
            ActorType.USER,
            actor_id,
            issuer=verified.issuer,
            provider=DATAHUB,
            subject=verified.subject,
            token_id=verified.token_id,
            issued_at=verified.issued_at,
            expires_at=verified.expires_at,
            is_admin=f"{DATAHUB}/{actor_id}" in self._policy.admin_names,
            authenticator=DATAHUB,
        )

    @staticmethod
    def _accepted(
        found: DataHubToken, actor: Actor, *, keys: RevocationKeys, record_id: str | None = None, is_own: bool = False
    ) -> Accepted:
        verified = found.verified
        return Accepted(
            actor,
            verified.key,
            not_before=verified.not_before,
            expires_at=verified.expires_at,
            record_id=record_id,
            is_own=is_own,
            revocation_keys=keys,
        )


def _check_lifetime(verified: VerifiedClaims, max_lifetime: float | None) -> None:
    issued, expires = verified.issued_at, verified.expires_at
    if max_lifetime is not None and (issued is None or expires is None or expires - issued > max_lifetime):
        raise Refused(Reason.TOKEN_INVALID, Cause.LIFETIME)


def check_shared_secrets(
    signing_key: Secret, salt: Secret, path: str, *, needs_salt: bool = True, allow_published: bool
) -> SharedKey:
    """The signing key, if key and salt are usable. Raises Misconfigured; ``path`` is their configuration block."""
    problems = []
    if needs_salt and not salt:
        text = (
            "is empty; set DATAHUB_TOKEN_SERVICE_SALT to the value that DataHub has, or to one of your own if that "
            "DataHub has none (before 0.8.36)"
        )
        problems.append(Problem(f"{path}.salt", text))
    for name, secret, risk in (
        ("signingKey", signing_key, "anyone can sign with it"),
        ("salt", salt, "anyone knows it"),
    ):
        if is_well_known(secret) and not allow_published:
            text = f"is DataHub's published default: {risk}; make your own (openssl rand -base64 32)"
            problems.append(Problem(f"{path}.{name}", text))
    try:
        key = SharedKey(signing_key)
    except ValueError as error:
        problems.append(Problem(f"{path}.signingKey", str(error)))
    if problems:
        raise Misconfigured(problems)
    return key
