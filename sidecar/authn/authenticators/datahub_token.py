"""Bearer tokens of DataHub's: minted by its servers, or here in their form."""

from dataclasses import dataclass
from hmac import compare_digest
from typing import Literal, Protocol

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Outcome, Rejected
from sidecar.clock import Clock, earliest_of, latest_of
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
from sidecar.tokens.issued.records import recorded_actor
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import DATAHUB_PROVIDER, OWN_PROVIDER
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import VerifiedClaims
from sidecar.tokens.submitted import jwt_digest

DATAHUB = DATAHUB_PROVIDER
"""Name of this authenticator and its provider in Actors, logs, metrics and ``adminPrincipals``."""


class DataHubTokenOptions(Model):
    """Options, by DataHub's names; where they are absent ``authentication.tokenService`` has them."""

    signing_key: Secret | None = None
    """Key of HS256, the octets of its text."""
    salt: Secret | None = None
    """What DataHub hashes its tokens with."""
    signing_alg: Literal["HS256"] = "HS256"
    """DataHub's only algorithm."""


class RecordLookup(Protocol):
    """Where records are looked up."""

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record of that id. Raises Unavailable(STORE_UNAVAILABLE) when nobody can tell."""


@dataclass(frozen=True, slots=True)
class DataHubTokenPolicy:
    """What decides about DataHub tokens.

    ``own_issuer`` is the ``iss`` of those minted here (empty: none are), which need a record with
    ``require_own_record`` and live ``max_own_lifetime`` seconds at most; ``own_leeway`` is the tolerance for their
    ``exp``, ``own_early`` that for ``iat`` and ``nbf``. ``require_record`` demands one of every version 2 token.
    ``records`` None: there are none. ``providers`` are issuers that have keys of their own: this one speaks for none
    of them.
    ``reserved`` ids are nobody's (in lower case), nor is what begins with one of ``namespaces`` (in lower case) and a
    slash: those are the Actors of other providers. ``admin_names`` are those of ``adminPrincipals``, as Actor ids are
    spelled. ``passes_on``: the DataHub behind gets to see the tokens that it has minted itself.
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
    passes_on: bool = False


class DataHubTokenAuthenticator:
    """Recognises what can only be meant as a DataHub token, and decides on it. Shares its cache with other JWTs."""

    name = DATAHUB

    def __init__(
        self, trust: DataHubTokenPolicy, *, cache: VerifiedCache[Accepted], clock: Clock, max_token_bytes: int
    ) -> None:
        self._trust = trust
        self._own_policy = PrincipalPolicy(OWN_PROVIDER, authenticator=DATAHUB, admin_names=trust.admin_names)
        self._cache = cache
        self._now, self._earliest = latest_of(clock), earliest_of(clock)
        self._max_token_bytes = max_token_bytes

    def recall(self, view: RequestContext) -> Accepted | None:
        """Nothing: what was verified is in ``cache``, from where the JWT authenticator, always there, recalls it."""
        return None

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Verify a token not seen before. Raises Unavailable when its record cannot be had."""
        if view.credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        generation = self._cache.generation
        try:
            token = parse(view.credential.value, self._max_token_bytes)
        except Refused as refusal:
            return Abstained(refusal)
        if not is_datahub(token, self._trust.issuer, self._trust.own_issuer):
            return ABSTAINED
        try:
            accepted = await self._evaluate(token)
        except Refused as refusal:
            return Rejected(refusal, DATAHUB)
        self._cache.put(view.credential.value, accepted, generation)
        return accepted

    async def _evaluate(self, token: Unverified) -> Accepted:
        trust = self._trust
        skew = (
            (trust.own_leeway, trust.own_early) if trust.own_issuer and token.issuer == trust.own_issuer else (0.0, 0.0)
        )
        found = verify_datahub(token, trust.key, self._now(), *skew, earliest=self._earliest())
        with AFTER_SIGNATURE:
            return await self._identified(token, found)

    async def _identified(self, token: Unverified, found: DataHubToken) -> Accepted:
        trust = self._trust
        if found.verified.issuer in trust.providers:
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
        is_own = bool(trust.own_issuer) and found.verified.issuer == trust.own_issuer
        if is_own:
            _check_lifetime(found.verified, trust.max_own_lifetime)
        must_be_on_record = (
            trust.require_own_record if is_own else trust.require_record and found.version is Version.STATEFUL
        )
        record = await self._record(found, token.text) if is_own or must_be_on_record else None
        if record is not None:
            actor = recorded_actor(record, found.verified, self._own_policy)
            facts = revocation_keys(actor, owner=record.owner, recorded_at=record.created_at)
            return self._accepted(found, actor, facts=facts, record_id=record.id, is_own=True)
        if must_be_on_record:
            raise Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        actor = self._actor(found)
        digest = "" if actor.token_id else jwt_digest(token)
        accepted = self._accepted(found, actor, facts=revocation_keys(actor, digest))
        if trust.passes_on and not is_own:
            accepted.forwarded_authorization = f"Bearer {token.text}"
        return accepted

    async def _record(self, found: DataHubToken, text: str) -> TokenRecord | None:
        token_id = found.verified.token_id
        if self._trust.records is None or not token_id:
            return None
        record = await self._trust.records.lookup(token_id)
        if record is None:
            return None
        if record.format != FORMAT or not compare_digest(record.token_hash, datahub_hash(text, self._trust.salt)):
            raise Refused(Reason.TOKEN_INVALID, Cause.RECORD_MISMATCH)
        if record.revoked_at is not None:
            raise Refused(Reason.TOKEN_REVOKED, Cause.RECORD_REVOKED)
        return record

    def _actor(self, found: DataHubToken) -> Actor:
        """The Actor of a token that DataHub has minted: a USER, as everybody is there."""
        verified, actor_id = found.verified, found.actor_id
        lower = actor_id.lower()
        namespace, slash, _ = lower.partition("/")
        if lower in self._trust.reserved or (slash and namespace in self._trust.namespaces):
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
            is_admin=f"{DATAHUB}/{actor_id}" in self._trust.admin_names,
            authenticator=DATAHUB,
        )

    @staticmethod
    def _accepted(
        found: DataHubToken, actor: Actor, *, facts: RevocationKeys, record_id: str | None = None, is_own: bool = False
    ) -> Accepted:
        verified = found.verified
        return Accepted(
            actor,
            verified.key,
            not_before=verified.not_before,
            expires_at=verified.expires_at,
            record_id=record_id,
            is_own=is_own,
            revocation_keys=facts,
        )


def _check_lifetime(verified: VerifiedClaims, longest: float | None) -> None:
    issued, ends = verified.issued_at, verified.expires_at
    if longest is not None and (issued is None or ends is None or ends - issued > longest):
        raise Refused(Reason.TOKEN_INVALID, Cause.LIFETIME)


def check_shared_secrets(
    signing_key: Secret, salt: Secret, place: str, *, needs_salt: bool = True, allow_published: bool
) -> SharedKey:
    """The key, where both can be used. Raises Misconfigured; ``place`` is the path of the block they stand in."""
    problems = []
    if needs_salt and not salt:
        problems.append(Problem(f"{place}.salt", "is empty; set DataHub's own (DATAHUB_TOKEN_SERVICE_SALT)"))
    for name, secret in (("signingKey", signing_key), ("salt", salt)):
        if is_well_known(secret) and not allow_published:
            text = "is DataHub's published default: everybody can sign with it; make your own (openssl rand -base64 32)"
            problems.append(Problem(f"{place}.{name}", text))
    try:
        key = SharedKey(signing_key)
    except ValueError as error:
        problems.append(Problem(f"{place}.signingKey", str(error)))
    if problems:
        raise Misconfigured(problems)
    return key
