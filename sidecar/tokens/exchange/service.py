"""The grants of the token endpoint (RFC 6749 section 4.4, RFC 7523, RFC 8693)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidecar.clock import Clock, latest_of
from sidecar.config.settings import TokenBotsSettings, TokenEndpointSettings
from sidecar.errors import Cause, Failed, Refused, quoted
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claims import actor_name
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.store.replica.revocation_list import Source
from sidecar.tokens.exchange.assertions import MIN_LEFT, parse_assertion, source_of
from sidecar.tokens.exchange.clients import Client, RequestRate, WrongSecrets, has_secret
from sidecar.tokens.exchange.issue import Entitlement, Issued, TokenIssuer
from sidecar.tokens.exchange.refusal import (
    INVALID_SCOPE,
    INVALID_TARGET,
    UNAUTHORIZED_CLIENT,
    UNSUPPORTED_GRANT_TYPE,
    GrantRefused,
    bad_client,
    bad_grant,
    invalid_request,
)
from sidecar.tokens.exchange.workloads import Workload, Workloads

CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GRANTS = (CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE)
CLIENT_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TYPE = "urn:ietf:params:oauth:token-type:"
ACCESS_TOKEN_TYPE = f"{_TYPE}access_token"
_WORKLOAD_TYPES = frozenset({f"{_TYPE}jwt", f"{_TYPE}id_token"})
_SUBJECT_TYPES = _WORKLOAD_TYPES | {ACCESS_TOKEN_TYPE}
_REQUESTED_TYPES = frozenset({ACCESS_TOKEN_TYPE, f"{_TYPE}jwt"})
_MAX_SCOPES = 100


@dataclass(frozen=True, slots=True)
class BasicClient:
    """The client of ``Basic``, and its secret in each reading."""

    id: str
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A request. ``fields`` are the non-empty fields of the form. ``address`` is that of the caller."""

    fields: Mapping[str, str] = field(repr=False)
    basic: BasicClient | None = None
    address: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """An accepted token, as the subject of an exchange or the secret of a bot.

    ``digest`` is the SHA-256 of its signing input. ``is_own``: an issued token, with its ``record``. ``is_bound``:
    it is bound to a certificate. ``owner`` is whose token it is.
    """

    actor: Actor
    claims: Mapping[str, Any]
    digest: str
    owner: Owner
    is_own: bool
    record: TokenRecord | None
    is_bound: bool


class Subjects(Protocol):
    """Validates tokens as if they authenticated a request."""

    async def validate(self, token: str) -> Subject:
        """The accepted ``token``. Raises Refused, and Unavailable."""


class GrantService:
    """Answers token requests. ``issuer`` and ``token_url`` are the audiences of assertions of clients.

    ``subject_audiences`` are the audiences of tokens that may be exchanged. ``verbatim``: ids of people may contain
    capital letters and be addresses.
    """

    def __init__(
        self,
        settings: TokenEndpointSettings,
        clients: Sequence[Client],
        workloads: Workloads,
        subjects: Subjects,
        tokens: TokenIssuer,
        bots: "BotCheck",
        clock: Clock,
        *,
        issuer: str,
        default_audience: str,
        subject_audiences: frozenset[str],
        max_bytes: int,
        verbatim: bool = False,
    ) -> None:
        self._settings = settings
        self._clients = {client.id: client for client in clients}
        self._workloads = workloads
        self._subjects = subjects
        self._tokens = tokens
        self._bots = bots
        self._now = latest_of(clock)
        self._assertion_audiences = frozenset({issuer, f"{issuer}/token"})
        self._default_audience = default_audience
        self._subject_audiences = subject_audiences
        self._max_bytes = max_bytes
        self._verbatim = verbatim
        self._wrong_secrets = WrongSecrets(clock)
        self._rate = RequestRate(clock)

    async def grant(self, request: GrantRequest) -> Issued:
        """The token. Raises GrantRefused, RateLimited and Unavailable."""
        fields = request.fields
        grant = fields.get("grant_type", "")
        if not grant:
            raise invalid_request("grant_type is missing")
        if grant not in GRANTS:
            raise GrantRefused(UNSUPPORTED_GRANT_TYPE, Cause.GRANT_UNKNOWN, "The grant type is not supported")
        presented = _count_client_credentials(request)
        if grant == JWT_BEARER:
            if presented:
                raise invalid_request("The assertion is the credential; a second one is not allowed")
            return await self._for_workload(_required(fields, "assertion"), fields, grant)
        if "assertion" in fields:
            raise invalid_request("assertion belongs to the grant type jwt-bearer")
        if grant == TOKEN_EXCHANGE:
            return await self._exchange(request, presented, grant)
        if "subject_token" in fields:
            raise invalid_request("subject_token belongs to the grant type token-exchange")
        if presented and self._is_workload_assertion(fields):
            return await self._for_workload(fields["client_assertion"], fields, grant)
        return await self._for_client(request, grant)

    # --- clients

    async def _for_client(self, request: GrantRequest, grant: str) -> Issued:
        client = await self._authenticate(request)
        if isinstance(client, _BotClient):
            return await self._for_bot(client, request.fields, grant)
        settings = client.client.settings
        if settings.as_ is None:
            raise GrantRefused(
                UNAUTHORIZED_CLIENT,
                Cause.CLIENT_GRANT,
                "The client may not use client_credentials",
                "the client has no as",
                client=client.client.id,
            )
        audience = self._audience(request.fields, settings.audiences, client.client.id)
        entitled = Entitlement(
            client.client.id,
            self._bots.actor_id(settings.as_.bot, client.client.id),
            ActorType.SERVICE,
            audience,
            _scopes(request.fields, settings.scopes, client.client.id),
            self._lifetime(settings.lifetime, audience),
            source=client.assertion,
            one_time=client.assertion,
            expires_at=client.expires_at,
        )
        return await self._tokens.issue(entitled, grant)

    async def _for_bot(self, client: "_BotClient", fields: Mapping[str, str], grant: str) -> Issued:
        bot = client.subject
        audience = self._audience(fields, client.settings.audiences, bot.actor.id)
        entitled = Entitlement(
            bot.actor.id,
            self._bots.actor_id(bot.actor.id, bot.actor.id),
            ActorType.SERVICE,
            audience,
            _scopes(fields, client.settings.scopes, bot.actor.id),
            self._lifetime(None, audience),
            owner=bot.owner,
            source=_source(bot),
            expires_at=bot.actor.expires_at,
        )
        return await self._tokens.issue(entitled, grant)

    async def _authenticate(self, request: GrantRequest) -> "_AuthenticatedClient | _BotClient":
        """The client of the request. Raises GrantRefused(invalid_client) and RateLimited."""
        fields = request.fields
        if "client_assertion" in fields:
            return await self._by_assertion(fields)
        if request.basic is not None:
            identifier, secrets = request.basic.id, request.basic.secrets
            if fields.get("client_id", identifier) != identifier:
                raise invalid_request("client_id differs from the client of the Authorization header")
        else:
            identifier, secrets = fields.get("client_id", ""), (fields.get("client_secret", ""),)
        if not identifier or not secrets[0]:
            raise bad_client(Cause.CREDENTIALS_ABSENT)
        client = self._clients.get(identifier)
        if has_secret(client, secrets):
            assert client is not None  # noqa: S101 - without a client there is no secret
            return _AuthenticatedClient(client)
        if client is None and self._settings.bots is not None and secrets[0].count(".") == 2:
            bot = await self._bot_of(identifier, secrets[0])
            if bot is not None:
                return _BotClient(bot, self._settings.bots)
        known = client is not None
        self._wrong_secrets.note(identifier, request.address, is_known=known)
        raise bad_client(detail="" if known else "no such client", client=identifier if known else "")

    async def _bot_of(self, name: str, token: str) -> Subject | None:
        """The bot ``name`` if ``token`` is its own. Raises Unavailable."""
        try:
            subject = await self._subjects.validate(token)
        except Refused:
            return None
        record = subject.record
        is_token = subject.is_own and record is not None and record.kind is TokenKind.BOT and not subject.is_bound
        return subject if is_token and subject.actor.id == name else None

    async def _by_assertion(self, fields: Mapping[str, str]) -> "_AuthenticatedClient":
        _check_assertion_type(fields)
        try:
            token = parse_assertion(fields["client_assertion"], self._max_bytes)
            client = self._clients.get(token.issuer or "")
            if client is None or client.keys is None:
                raise bad_client(Cause.ISSUER, f"iss is {quoted(token.issuer)}; no client with keys has this id")
            verified = await client.keys.verify(token, self._assertion_audiences)
            if verified.subject != client.id:
                raise bad_client(Cause.CLAIM_TYPE, "sub is not the client", client=client.id)
        except Refused as refusal:
            if isinstance(refusal, GrantRefused):
                raise
            raise bad_client(refusal.cause, refusal.detail) from refusal
        if fields.get("client_id", client.id) != client.id:
            raise bad_client(Cause.CLIENT_WRONG, "client_id is not the sub of the assertion", client=client.id)
        source = source_of(token, verified, client.id)
        return _AuthenticatedClient(client, source, verified.expires_at)

    # --- workloads

    def _is_workload_assertion(self, fields: Mapping[str, str]) -> bool:
        if "client_assertion" not in fields:
            return False
        _check_assertion_type(fields)
        try:
            token = parse_assertion(fields["client_assertion"], self._max_bytes)
        except Refused as refusal:
            raise bad_client(refusal.cause, refusal.detail) from refusal
        return (token.issuer or "") not in self._clients and self._workloads.owns(token)

    async def _for_workload(self, text: str, fields: Mapping[str, str], grant: str) -> Issued:
        workload = await self._workloads.identify(text)
        rule = workload.rule
        if fields.get("client_id", rule.name) not in (rule.name, workload.verified.subject):
            raise bad_client(Cause.CLIENT_WRONG, "client_id is neither the rule nor the sub", client=rule.name)
        settings = rule.settings
        audience = self._audience(fields, settings.audiences, rule.name)
        scopes = _scopes(fields, settings.scopes, rule.name)
        actor_id = self._bots.actor_id(settings.as_.bot, rule.name)
        self._rate.admit(settings.name, settings.per_minute)
        entitled = Entitlement(
            rule.name,
            actor_id,
            ActorType.SERVICE,
            audience,
            scopes,
            self._lifetime(settings.lifetime, audience),
            owner=_workload_owner(workload, actor_id),
            source=workload.source,
            one_time=None if rule.reuse else workload.source,
            expires_at=workload.verified.expires_at,
        )
        try:
            return await self._tokens.issue(entitled, grant)
        except Failed:
            # a token that was used before must not use up the rate of the rule
            self._rate.give_back(settings.name)
            raise

    # --- exchange

    async def _exchange(self, request: GrantRequest, presented: int, grant: str) -> Issued:
        fields = request.fields
        text = _required(fields, "subject_token")
        kind = _required(fields, "subject_token_type")
        if "actor_token" in fields or "actor_token_type" in fields:
            raise invalid_request("actor_token is not supported: the client is the acting party")
        if fields.get("requested_token_type", ACCESS_TOKEN_TYPE) not in _REQUESTED_TYPES:
            raise invalid_request("requested_token_type is not supported")
        if kind not in (_SUBJECT_TYPES if presented else _WORKLOAD_TYPES):
            raise invalid_request("subject_token_type is not supported here")
        if not presented:
            return await self._for_workload(text, fields, grant)
        client = await self._authenticate(request)
        exchange = None if isinstance(client, _BotClient) else client.client.settings.exchange
        if isinstance(client, _BotClient) or exchange is None:
            name = client.subject.actor.id if isinstance(client, _BotClient) else client.client.id
            message = "The client may not exchange tokens"
            raise GrantRefused(UNAUTHORIZED_CLIENT, Cause.CLIENT_GRANT, message, client=name)
        try:
            subject = await self._subjects.validate(text)
        except Refused as refusal:
            raise bad_grant(refusal.cause, refusal.detail, client=client.client.id) from refusal
        self._check_subject(subject, client.client)
        settings = client.client.settings
        audience = self._audience(fields, settings.audiences, client.client.id)
        held = scopes_of(subject.claims)
        allowed = settings.scopes
        if held is not None or not exchange.grant:
            allowed = tuple(scope for scope in settings.scopes if scope in (held or ()))
        ends = [end for end in (subject.actor.expires_at, client.expires_at) if end is not None]
        actor = subject.actor
        entitled = Entitlement(
            client.client.id,
            self._person_id(actor, client.client.id),
            actor.type,
            audience,
            _scopes(fields, allowed, client.client.id),
            self._lifetime(settings.lifetime, audience),
            email=actor.own_address,
            roles=actor.roles,
            acting=client.client.id,
            owner=subject.owner,
            source=_source(subject),
            one_time=client.assertion,
            expires_at=min(ends) if ends else None,
        )
        return await self._tokens.issue(entitled, grant)

    def _check_subject(self, subject: Subject, client: Client) -> None:
        """Raise GrantRefused(invalid_grant) for an accepted token that must not be exchanged by ``client``."""
        exchange = client.settings.exchange
        actor, claims = subject.actor, subject.claims
        wrong = ""
        if exchange is None or actor.provider not in exchange.providers:
            wrong = f"provider {actor.provider} is not in exchange.providers"
        elif "act" in claims or (subject.record is not None and subject.record.kind is TokenKind.EXCHANGED):
            wrong = "the token was exchanged before"
        elif subject.is_bound or "cnf" in claims:
            wrong = "the token is bound to a key or certificate"
        elif subject.is_own and subject.record is None:
            wrong = "the issued token has no record"
        elif actor.is_bot and actor.expires_at is None:
            wrong = "a bot token without exp"
        elif actor.expires_at is not None and actor.expires_at - self._now() < MIN_LEFT:
            wrong = f"the token ends within {MIN_LEFT:g} s"
        elif not self._is_for_client(claims, client):
            wrong = f"aud is {quoted(claims.get('aud'))}, and neither azp nor client_id is the client"
        if wrong:
            raise bad_grant(Cause.SUBJECT_TOKEN, wrong, client=client.id)

    def _is_for_client(self, claims: Mapping[str, Any], client: Client) -> bool:
        """Whether the token was issued for this service or for ``client``: other tokens are not theirs to use."""
        audience = claims.get("aud")
        presented = audience if isinstance(audience, list) else [audience]
        if any(isinstance(item, str) and item in self._subject_audiences for item in presented):
            return True
        return client.id in (claims.get("azp"), claims.get("client_id"))

    def _person_id(self, actor: Actor, client: str) -> str:
        """The id of the Actor, which the token must be able to carry unchanged."""
        try:
            if actor_name(actor.id, verbatim=self._verbatim) == actor.id:
                return actor.id
        except Refused:
            pass
        raise bad_grant(Cause.PRINCIPAL_MALFORMED, "issued tokens carry names in lower case without @", client=client)

    # --- what is asked for

    def _audience(self, fields: Mapping[str, str], allowed: Sequence[str], client: str) -> str:
        """The audience of the token. Raises GrantRefused(invalid_target)."""
        asked = {fields[name] for name in ("resource", "audience") if name in fields}
        accepted = tuple(allowed) or (self._default_audience,)
        if not asked:
            if self._default_audience in accepted:
                return self._default_audience
            if len(accepted) == 1:
                return accepted[0]
        elif len(asked) == 1 and (wanted := asked.pop()) in accepted:
            return wanted
        detail = f"accepted: {quoted(*accepted)}"
        raise GrantRefused(INVALID_TARGET, Cause.TARGET, "The target is not allowed", detail, client=client)

    def _lifetime(self, written: float | None, audience: str) -> float:
        """The lifetime for ``audience``, limited by that of the client or rule."""
        usual = self._settings.audience_lifetimes.get(audience, self._settings.lifetime)
        return usual if written is None else min(usual, written)


@dataclass(frozen=True, slots=True)
class _AuthenticatedClient:
    """A client, with the assertion that authenticated it and the end of that."""

    client: Client
    assertion: Source | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class _BotClient:
    """A bot that is a client with its own token."""

    subject: Subject
    settings: TokenBotsSettings


class BotCheck(Protocol):
    """Which bots tokens are issued for."""

    def actor_id(self, name: str, client: str) -> str:
        """The Actor id of the bot ``name``. Raises GrantRefused(invalid_grant) unless it is registered and allowed."""


def scopes_of(claims: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The scopes of a token (``scope``, or ``scp`` as text or list; of both, those in both). None: it says nothing."""
    stated = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        if value is None:
            continue
        words = value.split(" ") if isinstance(value, str) else value if isinstance(value, list) else []
        stated.append(dict.fromkeys(word for word in words if isinstance(word, str) and word))
    if not stated:
        return None
    return tuple(word for word in stated[0] if all(word in other for other in stated))


def _scopes(fields: Mapping[str, str], allowed: Sequence[str], client: str) -> tuple[str, ...]:
    """The scopes of the token: those that are allowed, of those that are asked for. Raises GrantRefused."""
    if "scope" not in fields:
        return tuple(allowed)
    asked = fields["scope"].split(" ")
    if len(asked) > _MAX_SCOPES:
        raise GrantRefused(INVALID_SCOPE, Cause.SCOPE, "The scope is not valid", client=client)
    granted = tuple(dict.fromkeys(scope for scope in asked if scope in allowed))
    if not granted:
        detail = f"allowed: {quoted(*allowed)}"
        raise GrantRefused(INVALID_SCOPE, Cause.SCOPE, "None of the requested scopes is allowed", detail, client=client)
    return granted


def _source(subject: Subject) -> Source:
    """``subject`` as the source of the token that is issued for it."""
    actor, claims = subject.actor, subject.claims
    session = claims.get("sid")
    return Source(
        actor.issuer,
        actor.subject,
        actor.token_id or subject.digest,
        is_digest=not actor.token_id,
        session=session if isinstance(session, str) else "",
        issued_at=actor.issued_at,
    )


def _workload_owner(workload: Workload, bot: str) -> Owner:
    source = workload.source
    return Owner(source.issuer, workload.rule.source.name, source.subject, bot)


def _count_client_credentials(request: GrantRequest) -> int:
    """The number of client credentials. Raises GrantRefused(invalid_request) for more than one."""
    fields = request.fields
    presented = (request.basic is not None) + ("client_secret" in fields) + ("client_assertion" in fields)
    if presented > 1:
        raise invalid_request("The request has more than one client credential")
    if "client_assertion_type" in fields and "client_assertion" not in fields:
        raise invalid_request("client_assertion is missing")
    return presented


def _check_assertion_type(fields: Mapping[str, str]) -> None:
    if fields.get("client_assertion_type") != CLIENT_ASSERTION_TYPE:
        raise invalid_request("client_assertion_type is missing or not supported")


def _required(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name)
    if not value:
        raise invalid_request(f"{name} is missing")
    return value
