"""Builds the token endpoint of a configuration."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from sidecar.access.decide import Decider
from sidecar.api.body import BodyReader
from sidecar.api.jwks import PublishedKeys
from sidecar.api.token_endpoint import (
    MAX_FORM_BYTES,
    AuthorizeEndpoint,
    SubjectTokens,
    TokenEndpoint,
    server_metadata,
)
from sidecar.app.authentication import revocation_gate
from sidecar.app.issuers import IssuerRegistry
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.kubernetes import Kubernetes
from sidecar.authn.base import Accepted, Authenticator
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider, takes_verbatim_names
from sidecar.config.reading.urls import split_url
from sidecar.config.resources import accepted_audiences
from sidecar.config.settings import ASYMMETRIC_ALGORITHMS, Settings, TokenClientSettings, TokenEndpointSettings
from sidecar.config.token_endpoint import default_audience, endpoint_issuer
from sidecar.errors import Failed, Misconfigured, Problem
from sidecar.identity.actor import Actor
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.store.replica.revocation_list import RevocationKeys
from sidecar.tokens.exchange.assertions import AssertionSource, KeyedAssertions
from sidecar.tokens.exchange.bots import RegisteredBots
from sidecar.tokens.exchange.clients import Client
from sidecar.tokens.exchange.issue import TokenIssuer
from sidecar.tokens.exchange.service import GrantService
from sidecar.tokens.exchange.workloads import WorkloadRule, Workloads
from sidecar.tokens.issued.service import TokenService
from sidecar.tokens.jwt.policy import admin_names
from sidecar.web.client_address import client_address
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import TaskFunction
from sidecar.web.request import connection_of
from sidecar.web.server import TrustedPeers

_ROUTE = "token"
_METADATA = "/.well-known/oauth-authorization-server"


async def token_routes(
    loaded: Loaded,
    registry: IssuerRegistry,
    tokens: TokenService,
    decider: Decider,
    error_responses: ErrorResponses,
    context: ProcessContext,
    authenticators: Sequence[Authenticator],
    stack: AsyncExitStack,
) -> dict[str, tuple[str, TaskFunction]]:
    """The routes of the token endpoint, by path; none if it is not enabled."""
    settings, endpoint = loaded.settings, loaded.settings.token_endpoint
    if not endpoint.enabled:
        return {}
    issuer, prefix = endpoint_issuer(settings), settings.server.prefix
    limits, clock = settings.server.limits, context.clock
    workloads = build_workloads(loaded, registry, authenticators, clock)
    grants = GrantService(
        endpoint,
        [await _client(client, settings, registry, context, stack) for client in endpoint.clients],
        workloads,
        SubjectTokens(decider, tokens, limits.max_token_bytes),
        _issuer(settings, registry, context),
        RegisteredBots(registry.mirror.is_bot_name, registry.reserved | admin_names(settings.authorizer_configuration)),
        clock,
        issuer=issuer,
        default_audience=default_audience(endpoint),
        subject_audiences=frozenset(endpoint.audiences).union(
            *(accepted_audiences(settings, resource) for resource in settings.resources)
        ),
        max_bytes=limits.max_token_bytes,
        verbatim=takes_verbatim_names(settings, loaded.providers),
    )
    bodies = BodyReader(limits.body_timeout, decider.undecided_bodies, MAX_FORM_BYTES)
    peers = TrustedPeers(settings.server.trusted_proxies)

    def address_of(request: web.BaseRequest) -> str:
        connection = connection_of(request)
        forwarded = request.headers.getall("X-Forwarded-For", [])
        return client_address(connection.peer, forwarded, peers, trusted=connection.trusted)

    document = server_metadata(issuer, _scopes(endpoint))
    metadata = PublishedKeys(lambda: document, "application/json", is_for_pages=True)
    endpoint_route = TokenEndpoint(grants, decider, bodies, error_responses, address_of, context.metrics)
    public = split_url(settings.server.public_url)
    base = "" if public is None else public.path.rstrip("/")
    return {
        f"{prefix}/token": (_ROUTE, endpoint_route),
        f"{prefix}/authorize": (_ROUTE, AuthorizeEndpoint()),
        f"{prefix}/.well-known/openid-configuration": ("metadata", metadata),
        f"{_METADATA}{prefix}": ("metadata", metadata),
        f"{_METADATA}{base}{prefix}": ("metadata", metadata),
    }


def build_workloads(
    loaded: Loaded, registry: IssuerRegistry, authenticators: Sequence[Authenticator], clock: Clock
) -> Workloads:
    """The workload rules, with the keys of ``registry`` and of the ``kubernetes`` members of ``authenticators``."""
    settings = loaded.settings
    sources: dict[str, AssertionSource] = {}
    for keys in registry.provider_keys:
        provider = next(one for one in loaded.providers if one.name == keys.provider.name)
        sources[provider.name] = KeyedAssertions(provider, keys, clock)
    sources |= {member.name: member for member in authenticators if isinstance(member, Kubernetes)}
    rules = []
    for index, rule in enumerate(settings.token_endpoint.workloads):
        source = sources.get(rule.provider)
        if source is None:
            text = f"no provider and no running authenticator is named {rule.provider}"
            raise Misconfigured([Problem(f"tokenEndpoint.workloads[{index}].provider", text)])
        reuse = isinstance(source, Kubernetes) if rule.reuse is None else rule.reuse
        rules.append(WorkloadRule(rule, source, audience=rule.audience or endpoint_issuer(settings), reuse=reuse))
    return Workloads(rules, settings.server.limits.max_token_bytes)


def _issuer(settings: Settings, registry: IssuerRegistry, context: ProcessContext) -> TokenIssuer:
    own_keys = registry.own_keys
    assert own_keys is not None  # noqa: S101 - check_token_endpoint requires own keys
    gate = revocation_gate(settings, registry, context.clock)

    def refused(actor: Actor, keys: RevocationKeys) -> Failed | None:
        return gate.check(Accepted(actor, is_own=True, revocation_keys=keys))

    return TokenIssuer(
        lambda: own_keys.signing,
        registry.mirror.write,
        registry.mirror,
        refused,
        context.clock,
        context.metrics,
        issuer=settings.jwt_token_configuration.jwtissuer,
        principal_domain=settings.authorizer_configuration.principal_domain,
        max_lifetime=settings.tokens.max_lifetime,
    )


def client_keys(client: TokenClientSettings) -> Provider | None:
    """The source of the keys of ``client``; None: it has no keys."""
    url = client.jwks or client.jwks_url
    algorithms = frozenset(ASYMMETRIC_ALGORITHMS)
    if not url:
        return None
    return Provider(
        f"client-{client.id}",
        client.id,
        key_urls=(url,),
        algorithms=algorithms,
        keys_setting="tokenEndpoint.clients.jwks",
    )


def endpoint_lines(settings: Settings) -> list[str]:
    """What clients and platforms need to know, for ``sidecar check``."""
    endpoint, issuer = settings.token_endpoint, endpoint_issuer(settings)
    if not endpoint.enabled:
        return []
    lines = [
        f"Token endpoint: {issuer}/token (metadata: issuer {issuer})",
        f"  audiences: {', '.join(endpoint.audiences)}; default: {default_audience(endpoint)}",
    ]
    lines += [f"  client {client.id}" for client in endpoint.clients]
    lines += [
        f"  workload {rule.name}: tokens of {rule.provider} with aud {rule.audience or issuer}"
        for rule in endpoint.workloads
    ]
    return [*lines, *(["  bots with their own tokens"] if endpoint.bots is not None else [])]


async def _client(
    client: TokenClientSettings,
    settings: Settings,
    registry: IssuerRegistry,
    context: ProcessContext,
    stack: AsyncExitStack,
) -> Client:
    provider = client_keys(client)
    if provider is None:
        return Client(client)
    keys = ProviderKeys(
        provider,
        settings.keys,
        registry.client,
        context.metrics,
        context.clock,
        None,
        allow_published=settings.allow_published_secrets,
    )
    stack.push_async_callback(keys.aclose)
    await keys.start()
    return Client(client, KeyedAssertions(provider, keys, context.clock))


def _scopes(endpoint: TokenEndpointSettings) -> tuple[str, ...]:
    found = [scope for client in endpoint.clients for scope in client.scopes]
    found += [scope for rule in endpoint.workloads for scope in rule.scopes]
    found += endpoint.bots.scopes if endpoint.bots is not None else ()
    return tuple(dict.fromkeys(found))
