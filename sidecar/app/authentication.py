"""Builds request authentication: token authenticators, the authentication chain with its gates, and the rules."""

from collections.abc import Callable, Iterable
from functools import partial

from sidecar.access.decide import Decider, RuleTable
from sidecar.access.guests import GuestPolicy
from sidecar.access.resources import ResourceRules
from sidecar.access.rules import Resource, Rules
from sidecar.app.issuers import RESERVED_NAMES, IssuerRegistry
from sidecar.authn.authenticators.datahub_system import SYSTEM, SystemAuthenticator
from sidecar.authn.authenticators.datahub_token import DATAHUB, DataHubTokenAuthenticator, DataHubTokenPolicy
from sidecar.authn.authenticators.jwt import JwtAuthenticator
from sidecar.authn.base import Accepted, AuthenticatorContext, AuthenticatorProtocol
from sidecar.authn.chain import Chain
from sidecar.authn.gates import RevocationGate
from sidecar.authn.guest import GuestOptions
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.authn.registry import JWT, AuthenticatorSpec
from sidecar.authn.usage_gate import UsageGate
from sidecar.budget import Budget
from sidecar.clock import Clock
from sidecar.config.credential_mode import Product, credential_mode
from sidecar.config.load import Loaded
from sidecar.config.origins import resource_origins
from sidecar.config.providers import OwnIssuers, Provider, default_principal, member_issuer, own_early, own_leeway
from sidecar.config.resources import accepted_audiences, resource_urls, server_flow_rules
from sidecar.config.settings import Settings
from sidecar.identity.client_certificate import certificate_thumbprint
from sidecar.identity.cookies import OwnCookies
from sidecar.identity.server_names import (
    DATAHUB_SYSTEM_CLIENT,
    NO_SERVER_NAMES,
    OPENMETADATA_BOT_SUFFIXES,
    OPENMETADATA_BOTS,
    ServerNames,
)
from sidecar.identity.token_sources import TokenHeader, TokenSources
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from sidecar.tokens.issued.usage import UsageRecorder
from sidecar.tokens.jwt.policy import (
    admin_names,
    provider_policy,
)
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.well_known import reject_well_known


def build_authenticators(
    loaded: Loaded,
    registry: IssuerRegistry,
    cache: VerifiedCache[Accepted],
    clock: Clock,
    note_issuers: Callable[[tuple[str, ...]], None] | None = None,
) -> dict[str, AuthenticatorProtocol]:
    """The authenticators that need ``registry``, by name: JWT, DataHub tokens, DataHub system client.

    ``cache`` holds verified tokens. ``note_issuers`` receives issuers of accepted tokens that are not configured.
    """
    settings = loaded.settings
    max_bytes = settings.server.limits.max_token_bytes
    built: dict[str, AuthenticatorProtocol] = {
        JWT: JwtAuthenticator(
            registry.issuers,
            unbound=registry.unbound,
            own_names=OwnIssuers(settings),
            cache=cache,
            clock=clock,
            max_token_bytes=max_bytes,
            refuse=None if settings.allow_published_secrets else reject_well_known,
            seen=note_issuers,
        )
    }
    datahub_policy = _datahub_policy(loaded, registry)
    if datahub_policy is not None:
        built[DATAHUB] = DataHubTokenAuthenticator(datahub_policy, cache=cache, clock=clock, max_token_bytes=max_bytes)
    if registry.datahub.system_client is not None:
        built[SYSTEM] = SystemAuthenticator(*registry.datahub.system_client)
    return built


def _datahub_policy(loaded: Loaded, registry: IssuerRegistry) -> DataHubTokenPolicy | None:
    if registry.datahub.key is None or not registry.datahub.accepts_tokens:
        return None
    settings = loaded.settings
    authentication = settings.authentication
    return DataHubTokenPolicy(
        registry.datahub.key,
        registry.datahub.salt,
        issuer=authentication.token_service.issuer,
        own_issuer=settings.jwt_token_configuration.jwtissuer,
        records=registry.mirror,
        require_record=authentication.require_record,
        require_own_record=settings.tokens.require_record,
        max_own_lifetime=settings.tokens.max_lifetime,
        own_leeway=own_leeway(settings.jwt_token_configuration),
        own_early=own_early(settings.jwt_token_configuration),
        providers=frozenset(registry.issuers)
        - {authentication.token_service.issuer, settings.jwt_token_configuration.jwtissuer},
        # DataHub names its guest itself: its user interface creates a session for the guest
        reserved=frozenset({"anonymous", authentication.system_client_id.lower()}),
        namespaces=frozenset(provider.name.lower() for provider in loaded.providers if provider.namespaced),
        admin_names=admin_names(settings.authorizer_configuration),
        forwards_token=credential_mode(settings).mints is Product.DATAHUB,
    )


def _no_bots(_name: str) -> bool:
    return False


def authenticator_context(
    name: str,
    *,
    loaded: Loaded,
    client: ControlClient,
    metrics: Metrics,
    clock: Clock,
    reserved: frozenset[str] = frozenset(RESERVED_NAMES),
    is_bot_name: Callable[[str], bool] = _no_bots,
) -> AuthenticatorContext:
    """The context of the authenticator ``name``; ``reserved`` and ``is_bot_name`` as in :class:`IssuerRegistry`."""
    settings = loaded.settings
    authorizer = settings.authorizer_configuration
    own = Provider(
        name,
        member_issuer(name),
        principal_claims=("sub",),
        principal=default_principal(settings),
        groups_claim="groups",
    )
    policy = partial(provider_policy, authorizer=authorizer, reserved=reserved, is_bot_name=is_bot_name)
    return AuthenticatorContext(
        name,
        clock,
        client,
        policy(own, authenticator=name),
        {provider.name: provider for provider in loaded.providers},
        {provider.name: policy(provider, authenticator=name) for provider in loaded.providers},
        settings.server.limits.max_token_bytes,
        settings.allow_published_secrets,
        settings.keys,
        metrics,
        settings.outbound.ca_file,
    )


def contexts_of(
    loaded: Loaded, registry: IssuerRegistry, metrics: Metrics, clock: Clock
) -> Callable[[str], AuthenticatorContext]:
    """Makes the context of each authenticator of a running chain, by name."""
    return partial(
        authenticator_context,
        loaded=loaded,
        client=registry.client,
        metrics=metrics,
        clock=clock,
        reserved=registry.reserved,
        is_bot_name=registry.mirror.is_bot_name,
    )


def token_cache(settings: Settings, metrics: Metrics) -> VerifiedCache[Accepted]:
    """The cache of verified tokens, with the limits of ``settings``."""
    return VerifiedCache(settings.tokens.cache_entries, metrics, max_bytes=settings.tokens.cache_bytes)


def build_decider(
    settings: Settings,
    registry: IssuerRegistry,
    authenticators: AuthenticatorSet,
    metrics: Metrics,
    clock: Clock,
    usage: UsageRecorder | None = None,
    guests: GuestPolicy | None = None,
    decider_class: type[Decider] = Decider,
    undecided: Budget | None = None,
    cookies: OwnCookies | None = None,
) -> Decider:
    """The decider for all requests: the chain of ``authenticators``, its gates and the rules.

    ``usage`` records the use of issued tokens. ``guests``: see :func:`guest_policy`. ``decider_class`` may be a
    subclass that traces decisions. ``undecided`` limits the requests that wait for a decision. ``cookies``: those of
    the browser login.
    """
    chain = Chain(
        authenticators.authenticators,
        (revocation_gate(settings, registry, clock),),
        metrics,
        skippable=authenticators.skippable,
        headers=authenticators.headers,
        certificate=partial(certificate_thumbprint, dialect=settings.server.client_certificates),
        clock=clock,
        use=None if usage is None else UsageGate(usage),
    )
    return decider_class(
        build_rules(settings),
        chain,
        deadline=settings.server.check_deadline,
        public_preflight=settings.cors.preflight == "public",
        guests=guests,
        undecided=undecided,
        sources=token_sources(settings, cookies),
    )


def build_rules(settings: Settings) -> RuleTable:
    """The rules of ``settings``, with the requirements of protected resources."""
    rules = Rules(settings.rules, server_flow_rules(settings))
    if not settings.resources:
        return rules
    found = []
    for item in settings.resources:
        urls = resource_urls(settings, item.path)
        scopes, origins = frozenset(item.scopes), resource_origins(settings, item)
        resource = Resource(item.path, urls.metadata, scopes, origins)
        found.append((resource, accepted_audiences(settings, item)))
    return ResourceRules(rules, found)


def token_sources(settings: Settings, cookies: OwnCookies | None = None) -> TokenSources | None:
    """Where credentials are read besides ``Authorization``; None: nowhere else."""
    block = settings.authentication
    headers = [TokenHeader(item.name, frozenset(item.providers), item.ambient) for item in block.token_headers]
    if not block.enabled:
        headers = []
    subprotocol = block.enabled and block.websocket_tokens.subprotocol
    if not headers and not subprotocol and cookies is None:
        return None
    return TokenSources(headers, subprotocol=subprotocol, cookies=cookies)


def revocation_gate(settings: Settings, registry: IssuerRegistry, clock: Clock) -> RevocationGate:
    """The gate that checks credentials against the revocation list in the mirror of ``registry``."""
    revocation = settings.revocation
    return RevocationGate(
        registry.mirror,
        clock,
        max_staleness=revocation.max_staleness,
        deny_when_stale=revocation.on_stale == "deny",
        server_names=server_names(settings),
    )


def server_names(settings: Settings) -> ServerNames:
    """Names that the upstream would treat as its own bots or its system client, whatever the issuer of the token.

    With ``passthrough`` the upstream verifies the caller's token itself; with ``none`` it receives no credential.
    """
    upstream = settings.upstream
    if upstream is None:
        return NO_SERVER_NAMES
    product = credential_mode(settings).names_users_of
    if product is Product.OPENMETADATA:
        return ServerNames((*OPENMETADATA_BOTS, *upstream.server_bots), OPENMETADATA_BOT_SUFFIXES)
    if product is Product.DATAHUB:
        return ServerNames((DATAHUB_SYSTEM_CLIENT, settings.authentication.system_client_id))
    return NO_SERVER_NAMES


def guest_policy(specs: Iterable[AuthenticatorSpec]) -> GuestPolicy | None:
    """The policy for requests without credentials; None: no guest is configured, or it is switched off."""
    for spec in specs:
        if isinstance(spec.options, GuestOptions) and spec.options.enabled:
            return GuestPolicy(spec.options, spec.name)
    return None
