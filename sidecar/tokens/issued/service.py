"""Management of issued tokens: mint, list, show, revoke, with authorization. API and command line both use it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claims import actor_name
from sidecar.identity.names import folded
from sidecar.logs import AUDIT
from sidecar.store.base import Batch, Page, RecordQuery, Store, WriteBatch
from sidecar.store.pages import all_records
from sidecar.store.record import NO_OWNER, TOKEN_KINDS, Owner, TokenKind, TokenRecord, hash_token
from sidecar.tokens.datahub import FORMAT
from sidecar.tokens.issued.copies import BotTokenCopies
from sidecar.tokens.issued.lifetime import parse_lifetime
from sidecar.tokens.issued.mint import Minted, Minter, TokenRequest
from sidecar.tokens.jwt.policy import DATAHUB_PROVIDER, OWN_PROVIDER, SYSTEM_PROVIDER
from sidecar.tokens.submitted import SubmittedToken

_audit = logging.getLogger(AUDIT)

_NOT_VERBATIM = (
    "Issued tokens carry names in lower case without @, which is another user in DataHub; "
    "to allow other names, set principal: verbatim"
)
REPLACE_IDLE = (
    "replace has no effect: tokens of bots in OpenMetadata's format are written to the secrets manager only with "
    "tokens.botTokensInVault"
)
_DEFAULT_EXPIRY = {TokenKind.BOT: "30", TokenKind.PERSONAL: "30", TokenKind.SESSION: "P1D"}


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of the API.

    ``is_own`` marks issued tokens; ``record`` is the record of the token, if it has one. ``session_id`` is the id of
    the browser session whose cookie is the credential; empty: the credential is no session.
    """

    actor: Actor
    is_own: bool = False
    record: TokenRecord | None = None
    session_id: str = ""

    @property
    def is_system_client(self) -> bool:
        """Whether this is DataHub's system client, which creates sessions for users that DataHub has authenticated."""
        return self.is_own and self.actor.provider == SYSTEM_PROVIDER

    @property
    def is_exchanged(self) -> bool:
        """Whether the token endpoint has issued the caller's token."""
        return self.record is not None and self.record.kind is TokenKind.EXCHANGED

    @property
    def name(self) -> str:
        """The caller's name in logs and entries."""
        return f"{self.actor.type}:{self.actor.id}"

    @property
    def identity_key(self) -> Owner | None:
        """The identity by which the caller's tokens are found. None: it is not unique.

        None for a bot and for an exchanged token: both manage no tokens, and the bearer of the latter may be an agent
        that acts for the person.
        """
        actor, record = self.actor, self.record
        if actor.is_bot or self.is_exchanged:
            return None
        if record is not None and record.owner.issuer:
            return record.owner
        if not actor.issuer or not actor.subject:
            return None
        return Owner(actor.issuer, actor.provider, actor.subject, actor.id)

    def may_manage(self, record: TokenRecord) -> bool:
        """Whether the caller may see and revoke the token of ``record``."""
        if self.actor.is_admin or (self.record is not None and self.record.id == record.id):
            return True
        owner = self.identity_key
        return owner is not None and owner.is_same_as(record.owner)


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The token that a caller requests. None and empty: not specified.

    ``id`` is that of the new record: a second request with the same id creates nothing.
    """

    name: str
    kind: TokenKind
    actor_id: str | None = None
    actor_type: ActorType | None = None
    expiry: str | None = None
    description: str = ""
    roles: tuple[str, ...] | None = None
    allow_impersonation: bool = False
    format: str = "openmetadata"
    replace_person: bool = False
    id: str = ""
    replace: bool = False


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Configured rules for minting. Names are in lower case, times in seconds.

    ``is_bot_name`` recognises registered bot names; ``reserved`` names cannot be used. ``provider_of`` returns the
    provider whose keys verify the tokens of an issuer. ``verbatim``: ids of people may contain capital letters and be
    addresses.
    """

    issuer: str
    admin_names: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset()
    allow_never_expiring: bool = False
    max_lifetime: float | None = None
    is_bot_name: Callable[[str], bool] = field(default=lambda _name: False)
    provider_of: Callable[[str], str] = field(default=lambda _issuer: "")
    verbatim: bool = False


class TokenService:
    """Every method raises Unavailable(STORE_UNAVAILABLE) if the store does not answer, without partial effects.

    ``minter`` None: there are no signing keys, so tokens cannot be minted. ``copies`` None: tokens of bots are not
    written to a secrets manager.
    """

    def __init__(
        self,
        store: Store,
        write: WriteBatch,
        minter: Minter | None,
        clock: Clock,
        rules: TokenRules,
        copies: BotTokenCopies | None = None,
    ) -> None:
        self._copies = copies
        self._store = store
        self._write = write
        self._minter = minter
        self._clock = clock
        self._rules = rules

    async def caller(self, actor: Actor, *, is_own: bool, record_id: str | None) -> Caller:
        """The caller of an accepted credential, with the record of its token. Not for browser sessions."""
        record = await self._store.record(record_id) if record_id is not None else None
        return Caller(actor, is_own, record)

    async def mint(self, caller: Caller, spec: TokenSpec) -> Minted:
        """Mint the token that ``caller`` requests. Raises Refused: FORBIDDEN, REQUEST_INVALID or CONFLICT."""
        owner = _minting_owner(caller)
        _check_permission(caller, spec, verbatim=self._rules.verbatim)
        if spec.replace and (self._copies is None or spec.format == FORMAT):
            raise Refused(Reason.REQUEST_INVALID, message=REPLACE_IDLE)
        if self._minter is None:
            raise Refused(Reason.CONFLICT, message="Tokens cannot be minted: no signing key is configured")
        if spec.id and await self._store.record(spec.id) is not None:
            raise AlreadyMintedError
        actor_id, actor_type = self._actor(caller, spec)
        is_self = spec.kind is not TokenKind.BOT and (actor_id, actor_type) == (caller.actor.id, caller.actor.type)
        if not is_self and spec.kind is not TokenKind.BOT:
            # the owner is the token's Actor: its bearer finds this token, and none of the minter's
            owner = Owner(self._rules.issuer, OWN_PROVIDER, actor_id, actor_id)
        actor = caller.actor
        minted = await self._minter.mint(
            TokenRequest(
                name=spec.name,
                kind=spec.kind,
                actor_id=actor_id,
                actor_type=actor_type,
                lifetime=self._lifetime(spec),
                # servers may derive the name from the address, so it must not be another user's
                email=actor.own_address if is_self else "",
                description=spec.description,
                roles=_roles(caller, spec, is_self=is_self),
                allow_impersonation=spec.allow_impersonation,
                is_admin=actor.is_admin if is_self else self._is_admin_bot(spec.kind, actor_id),
                owner=owner,
                format=spec.format,
                minted_by=caller.name,
                replace_person=spec.replace_person,
                id=spec.id,
                replace=spec.replace,
            )
        )
        if spec.id:
            # of two requests at once, the store keeps the record of one: the other token is not valid
            stored = await self._store.record(spec.id)
            if stored is None or stored.token_hash != minted.record.token_hash:
                raise AlreadyMintedError
        return minted

    @property
    def can_mint(self) -> bool:
        """Whether there is a signing key."""
        return self._minter is not None

    @property
    def rules(self) -> TokenRules:
        """The configured rules."""
        return self._rules

    async def revoke_minted_in(self, session: TokenRecord, *, by: str) -> int:
        """Revoke the valid tokens that were minted in a browser session. Returns how many."""
        query = RecordQuery(actor_id=session.name, active=True, now=self._clock.now())
        found = [
            record async for record in all_records(self._store, query) if record.id.startswith(minted_in(session.id))
        ]
        if found:
            now = self._clock.now()
            await self._write(Batch(revoke=tuple((record.id, now) for record in found)))
        for record in found:
            audit_token_revoked(record, by=by)
        return len(found)

    def location(self, record: TokenRecord) -> str | None:
        """The reference under which tokens such as that of ``record`` are in the secrets manager; None: they are not.

        A bot has one: that of its newest token.
        """
        return None if self._copies is None else self._copies.location(record)

    async def may_manage(self, caller: Caller, token: SubmittedToken) -> bool:
        """Whether ``caller`` may introspect and revoke ``token``."""
        if caller.actor.is_admin:
            return True
        record = await self._record_of(token)
        if record is not None:
            return caller.may_manage(record)
        owner = caller.identity_key
        if owner is None or not token.issuer or not token.subject:
            return False
        provider = token.provider or self._rules.provider_of(token.issuer)
        return owner.is_same_as(Owner(token.issuer, provider, token.subject))

    async def reuses_recorded_id(self, token: SubmittedToken, text: str) -> bool:
        """Whether the rejected ``token`` has the ``jti`` of a recorded token, but is a different token."""
        record = await self._record_of(token)
        # hashes of DataHub tokens need DataHub's salt and are compared by its verifier
        return record is not None and record.format != FORMAT and record.token_hash != hash_token(text)

    async def _record_of(self, token: SubmittedToken) -> TokenRecord | None:
        if not token.token_id or token.issuer != self._rules.issuer:
            return None
        return await self._store.record(token.token_id)

    async def page(
        self,
        caller: Caller,
        *,
        actor_id: str | None,
        kind: str | None,
        active: bool | None,
        after: str,
        limit: int,
        mine: bool = False,
    ) -> Page:
        """A page of the tokens that ``caller`` may see; ``mine``: of the caller's own, whatever else an admin may see.

        Raises ValueError for an invalid cursor ``after``.
        """
        owner = provider = None
        if mine or not caller.actor.is_admin:
            identity = caller.identity_key
            if identity is None:
                return Page()
            owner, provider = (identity.issuer, identity.subject), identity.provider
        query = RecordQuery(actor_id, kind, active, owner, provider, self._clock.now())
        return await self._store.records(query, after, limit)

    async def show(self, caller: Caller, token_id: str) -> TokenRecord:
        """The record. Raises Refused(NOT_FOUND), also if the caller may not see it."""
        record = await self._store.record(token_id)
        if record is None or record.kind not in TOKEN_KINDS or not caller.may_manage(record):
            raise Refused(Reason.NOT_FOUND)
        return record

    async def revoke(self, caller: Caller, token_id: str) -> None:
        """Revoke a token; no effect if it is revoked already. Raises Refused(NOT_FOUND) as :meth:`show`."""
        record = await self.show(caller, token_id)
        if record.revoked_at is None:
            await self._write(Batch(revoke=((record.id, self._clock.now()),)))
            audit_token_revoked(record, by=caller.name)

    def _actor(self, caller: Caller, spec: TokenSpec) -> tuple[str, ActorType]:
        """The Actor of the new token. By default, a bot has the name of its token."""
        is_bot = spec.kind is TokenKind.BOT
        if spec.actor_id is None and not is_bot:
            return self._self(caller)
        verbatim = self._rules.verbatim and not is_bot
        try:
            actor_id = actor_name(spec.name if spec.actor_id is None else spec.actor_id, verbatim=verbatim)
        except Refused as refusal:
            what = "a name or a plain e-mail address" if verbatim else "a name without @"
            message = f"The actor's id must be {what}, without white space"
            raise Refused(Reason.REQUEST_INVALID, refusal.cause, message=message) from refusal
        compared = folded(actor_id)
        if verbatim and compared == folded(caller.actor.id) and caller.actor.provider != DATAHUB_PROVIDER:
            actor_id = caller.actor.id  # another spelling of the caller's id: use the caller's own spelling
        if compared in self._rules.reserved:
            raise Refused(Reason.REQUEST_INVALID, Cause.RESERVED_NAME, message="The actor's name is reserved")
        if spec.format == FORMAT and spec.actor_id not in (None, actor_id):
            raise Refused(Reason.REQUEST_INVALID, message=_NOT_VERBATIM)
        if is_bot and compared == folded(caller.actor.id):
            # bot names are reserved: the caller would be rejected from then on
            raise Refused(Reason.CONFLICT, message="The bot has the name of the caller; choose another name")
        if not is_bot and self._rules.is_bot_name(compared):
            raise Refused(Reason.CONFLICT, message="The actor is a bot; set kind to bot")
        return actor_id, spec.actor_type or (ActorType.SERVICE if is_bot else ActorType.USER)

    def _self(self, caller: Caller) -> tuple[str, ActorType]:
        actor = caller.actor
        if caller.is_system_client:
            raise Refused(
                Reason.REQUEST_INVALID,
                message="actor is missing: the system client mints sessions for other users only",
            )
        if not _is_canonical(actor.id, verbatim=self._rules.verbatim):
            raise Refused(Reason.REQUEST_INVALID, message=_NOT_VERBATIM)
        return actor.id, actor.type

    def _lifetime(self, spec: TokenSpec) -> float | None:
        try:
            lifetime = parse_lifetime(spec.expiry or _DEFAULT_EXPIRY[spec.kind])
        except ValueError as error:
            raise Refused(Reason.REQUEST_INVALID, message=f"expiry {error}") from error
        max_lifetime = self._rules.max_lifetime
        if max_lifetime is not None and lifetime is not None and spec.expiry is None:
            return min(lifetime, max_lifetime)
        if lifetime is None and not self._rules.allow_never_expiring:
            raise Refused(
                Reason.REQUEST_INVALID, message="Tokens that never expire are not allowed (tokens.allowNeverExpiring)"
            )
        return lifetime

    def _is_admin_bot(self, kind: TokenKind, actor_id: str) -> bool:
        """Tokens that an admin mints for another person are never admin; those of a bot are if ``adminPrincipals``
        names it.
        """
        return kind is TokenKind.BOT and actor_id in self._rules.admin_names


class AlreadyMintedError(Refused):
    """A token with the requested id exists: the request is a repetition."""

    def __init__(self) -> None:
        super().__init__(Reason.CONFLICT, message="The token has been created already")


def minted_in(session_id: str) -> str:
    """How the ids of tokens begin that were minted in a browser session. Ids of sessions have one length."""
    return f"{session_id}-"


def audit_token_revoked(record: TokenRecord, *, by: str) -> None:
    """Write the audit log line of a revocation."""
    _audit.info(
        "token revoked",
        extra={
            "event": "token_revoked",
            "token_id": record.id,
            "kind": record.kind.value,
            "actor": record.actor_id,
            "by": by,
        },
    )


def _minting_owner(caller: Caller) -> Owner:
    """The owner of tokens that ``caller`` mints. Raises Refused(FORBIDDEN) for callers that must not mint."""
    actor = caller.actor
    if caller.is_system_client:
        return NO_OWNER  # the system client never owns the tokens it mints
    if actor.is_bot:
        raise _forbidden("bots cannot mint tokens")
    if caller.is_exchanged:
        raise _forbidden("a token of the token endpoint cannot mint tokens")
    if caller.is_own and not actor.is_admin:
        raise _forbidden("an issued token cannot mint tokens")
    if actor.type is not ActorType.USER and not actor.is_admin:
        raise _forbidden("personal tokens are for actors of type USER")
    owner = caller.identity_key
    if owner is None:
        raise _forbidden("a token with iss and sub is required")
    return owner


def _check_permission(caller: Caller, spec: TokenSpec, *, verbatim: bool) -> None:
    """Raises Refused if ``spec`` contains anything that ``caller`` may not set."""
    actor = caller.actor
    if actor.is_admin:
        if spec.kind is not TokenKind.BOT and (spec.allow_impersonation or spec.replace_person or spec.replace):
            message = "allowImpersonation, replacePerson and replace require kind bot"
            raise Refused(Reason.REQUEST_INVALID, message=message)
        return
    if caller.is_system_client:
        # in another product's format the user could be an admin there, which DataHub must not decide
        is_session = spec.kind is TokenKind.SESSION and spec.format == FORMAT
        if not is_session or spec.roles is not None or spec.allow_impersonation:
            raise _forbidden("the system client mints sessions of format datahub, without roles")
        return
    if spec.kind is not TokenKind.PERSONAL:
        raise _forbidden(f"kind {spec.kind} requires an admin")
    if not _names_caller(spec, actor, verbatim=verbatim):
        raise _forbidden("another actor requires an admin")
    if spec.roles is not None or spec.allow_impersonation:
        raise _forbidden("roles and allowImpersonation require an admin")


def _names_caller(spec: TokenSpec, actor: Actor, *, verbatim: bool) -> bool:
    """Whether ``spec`` is for ``actor``: its id, or with ``verbatim`` the same id in other case."""
    if spec.actor_type not in (None, actor.type):
        return False
    try:
        if spec.actor_id is None:
            return True
        named = actor_name(spec.actor_id, verbatim=verbatim)
        if verbatim and actor.provider != DATAHUB_PROVIDER:
            return folded(named) == folded(actor.id)
        return named == actor.id
    except Refused:
        return False


def _roles(caller: Caller, spec: TokenSpec, *, is_self: bool) -> tuple[str, ...]:
    """Roles of the new token: at most those of its owner for a personal token, none for another person's."""
    owner_roles = caller.actor.roles if is_self else ()
    if spec.roles is None:
        return owner_roles
    if spec.kind is TokenKind.PERSONAL and not set(spec.roles) <= set(owner_roles):
        raise _forbidden("a personal token has at most its owner's roles")
    return spec.roles


def _is_canonical(actor_id: str, *, verbatim: bool) -> bool:
    """Whether a token can carry ``actor_id`` unchanged."""
    try:
        return actor_name(actor_id, verbatim=verbatim) == actor_id
    except Refused:
        return False


def _forbidden(detail: str) -> Refused:
    return Refused(Reason.FORBIDDEN, Cause.RULE, message=f"Forbidden: {detail}")
