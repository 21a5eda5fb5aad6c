"""Builds the routes of the public listener: checks, forwarding, published keys, the API."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from sidecar.access.decide import Decider
from sidecar.admin.health import Health
from sidecar.api.jwks import PublishedKeys
from sidecar.api.resource_metadata import ResourceMetadata
from sidecar.api.userinfo import UserInfoEndpoint
from sidecar.app.issuers import IssuerRegistry
from sidecar.app.login import Login, LoginPages, build_pages
from sidecar.app.management import management_routes
from sidecar.app.pages import page_routes
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.datahub_system import SYSTEM
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.clock import Clock
from sidecar.config.credential_mode import Product, credential_mode
from sidecar.config.load import Loaded
from sidecar.config.origins import websocket_origins
from sidecar.config.providers import NAMELESS
from sidecar.config.resources import authorization_servers, metadata_paths, resource_issuers, resource_urls
from sidecar.config.settings import Settings
from sidecar.config.token_endpoint import endpoint_issuer
from sidecar.dataplane.check import CheckEndpoint, UntrustedPeers
from sidecar.dataplane.dialects import Envoy, ForwardAuth, Nginx
from sidecar.dataplane.identity_headers import IdentityHeaders, UpstreamCredentialSource, normal_name
from sidecar.dataplane.proxy.forward import Forwarder, ForwardLimits
from sidecar.dataplane.proxy.hop_headers import RequestHeaders
from sidecar.dataplane.proxy.pool import UpstreamPool, endpoint_of
from sidecar.dataplane.proxy.stream_watch import StreamWatch
from sidecar.dataplane.routes import PublicRoutes
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.identity.server_names import OPENMETADATA_ADMIN
from sidecar.keys.signing import SigningKey
from sidecar.metrics import Metrics
from sidecar.tokens.datahub import ROOT_USER
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.service import TokenService
from sidecar.tokens.jwt.policy import admin_names
from sidecar.tokens.upstream.assertion import IdentityAssertions
from sidecar.tokens.upstream.credentials import DataHubCredentials, OpenMetadataCredentials
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import Handler, TaskFunction, TaskHandler


def public_routes(
    loaded: Loaded,
    registry: IssuerRegistry,
    bots: BotRegistry,
    tokens: TokenService,
    token_endpoint: Mapping[str, tuple[str, TaskFunction]],
    authenticators: AuthenticatorSet,
    decider: Decider,
    error_responses: ErrorResponses,
    context: ProcessContext,
    watch: StreamWatch,
    stack: AsyncExitStack,
    login: Login | None,
    health: Health,
    *,
    traced: bool,
) -> PublicRoutes:
    settings, metrics, clock = loaded.settings, context.metrics, context.clock
    prefix = settings.server.prefix
    assertions = _assertions(settings, context)
    sizes = settings.identity_headers
    build_headers = partial(
        IdentityHeaders,
        strip=(
            *settings.identity_headers.strip,
            *_consumed_headers(settings, authenticators),
            *(header.name for header in settings.authentication.token_headers if not header.forward),
        ),
        max_bytes=settings.identity_headers.max_bytes,
        assertion=assertions,
        credential=_upstream_credentials(settings, registry, clock),
        datahub_actor=credential_mode(settings).sends_actor_header,
        admin_names=_datahub_admins(settings),
        metrics=metrics,
    )
    identity_headers = build_headers(max_total_bytes=sizes.total_bytes)
    nginx_headers = build_headers(max_total_bytes=sizes.nginx_total_bytes, variant="-nginx")
    pages = None if login is None else build_pages(login, loaded, decider, error_responses, registry, context)
    check = partial(
        CheckEndpoint,
        decider=decider,
        refusals=error_responses,
        untrusted=UntrustedPeers(metrics),
        login=None if pages is None else pages.challenge,
        cookies=None if login is None else login.cookies,
    )
    exact: dict[str, tuple[str, Handler]] = {
        f"{prefix}/auth": ("check", check(Nginx(), identity_headers=nginx_headers)),
        f"{prefix}/forward_auth": ("check", check(ForwardAuth(), identity_headers=identity_headers)),
        f"{prefix}/userinfo": ("userinfo", TaskHandler(UserInfoEndpoint(decider, error_responses))),
    }
    own_keys = registry.own_keys
    if own_keys is not None:
        published = TaskHandler(PublishedKeys(own_keys.public_key_set))
        for path in (f"{prefix}/jwks", *settings.jwt_token_configuration.jwks_paths):
            exact[path] = ("jwks", published)
    if assertions is not None:
        exact[f"{prefix}/assertion/jwks"] = (
            "jwks",
            TaskHandler(PublishedKeys(lambda: (assertions.jwks, assertions.etag))),
        )
    exact |= _resource_metadata(loaded)
    upstream = _forwarder(
        settings, decider, identity_headers, error_responses, metrics, watch, stack, login, pages, traced=traced
    )
    services, managing, below = management_routes(
        loaded,
        registry,
        bots,
        tokens,
        decider,
        error_responses,
        context,
        authenticators.started,
        None if login is None else login.sessions,
    )
    if login is not None and pages is not None:
        more, more_below = page_routes(login, pages, loaded, decider, error_responses, services, health, clock)
        managing, below = {**managing, **more, **pages.exact}, {**below, **more_below, **pages.below}
    return PublicRoutes(
        prefix=prefix,
        exact={**exact, **_in_task({**managing, **token_endpoint})},
        below=_in_task(below),
        envoy=check(Envoy(), identity_headers=identity_headers),
        upstream=upstream,
    )


def _resource_metadata(loaded: Loaded) -> dict[str, tuple[str, Handler]]:
    """The metadata of the protected resources that the upstream does not describe itself, by path."""
    settings = loaded.settings
    issuers = resource_issuers(loaded.providers)
    if settings.token_endpoint.enabled:
        # the last: clients that log people in use the first one only
        issuers.append(endpoint_issuer(settings))
    routes: dict[str, tuple[str, Handler]] = {}
    for item in settings.resources:
        if item.metadata == "server":
            continue
        document = ResourceMetadata(
            resource_urls(settings, item.path).identifier,
            authorization_servers(item, issuers),
            item.scopes_supported or item.scopes,
            item.name,
            binds_certificates=settings.server.client_certificates != "none",
        )
        routes |= dict.fromkeys(metadata_paths(settings, item.path), ("resource_metadata", document))
    return routes


def _in_task(routes: Mapping[str, tuple[str, TaskFunction]]) -> dict[str, tuple[str, Handler]]:
    return {path: (name, TaskHandler(function)) for path, (name, function) in routes.items()}


def _consumed_headers(settings: Settings, authenticators: AuthenticatorSet) -> tuple[str, ...]:
    """Credential headers that are not forwarded to the upstream."""
    return () if credential_mode(settings).keeps_credentials else authenticators.headers


def _assertions(settings: Settings, context: ProcessContext) -> IdentityAssertions | None:
    if not settings.identity_headers.assertion:
        return None
    upstream_url = settings.upstream.url if settings.upstream else ""
    audience = settings.identity_headers.assertion_audience or upstream_url or settings.server.public_url
    issuer = settings.jwt_token_configuration.jwtissuer or NAMELESS
    return IdentityAssertions(issuer, audience, context.clock, context.assertion_key)


def _upstream_credentials(
    settings: Settings, registry: IssuerRegistry, clock: Clock
) -> UpstreamCredentialSource | None:
    mints = credential_mode(settings).mints
    client_id = settings.authentication.system_client_id
    if mints is Product.DATAHUB and registry.datahub.key is not None:
        return DataHubCredentials(
            registry.datahub.key,
            clock,
            issuer=settings.authentication.token_service.issuer,
            authenticator=SYSTEM,
            system_client=registry.datahub.system_client,
            # the upstream treats any caller with this name as the system client, also in a session
            admin_names=_datahub_admins(settings) | {client_id, client_id.lower()},
        )
    upstream = settings.upstream
    if upstream is None or mints is not Product.OPENMETADATA:
        return None
    own_keys = registry.own_keys
    if own_keys is None or not own_keys.has_rsa:
        text = "openmetadata needs an own RSA key: configure one in jwtTokenConfiguration"
        raise Misconfigured([Problem("upstream.credentials", text)])

    def signing() -> SigningKey:
        key = own_keys.signing_rsa
        if key is None:  # a key reload removed the last RSA key
            raise Unavailable(Cause.KEYS_UNAVAILABLE, "no own RSA key")
        return key

    return OpenMetadataCredentials(
        signing,
        clock,
        issuer=settings.jwt_token_configuration.jwtissuer,
        algorithm=upstream.token_validation_algorithm,
        principal_domain=settings.authorizer_configuration.principal_domain,
        principal_claims=settings.authentication_configuration.jwt_principal_claims,
        # the default admin of the upstream is an admin whatever is configured here
        admin_names=admin_names(settings.authorizer_configuration) | {OPENMETADATA_ADMIN},
    )


def _datahub_admins(settings: Settings) -> frozenset[str]:
    """Names of admins in a DataHub upstream. Its root user is an admin whatever is configured here."""
    return admin_names(settings.authorizer_configuration) | {ROOT_USER}


def _forwarder(
    settings: Settings,
    decider: Decider,
    identity_headers: IdentityHeaders,
    error_responses: ErrorResponses,
    metrics: Metrics,
    watch: StreamWatch,
    stack: AsyncExitStack,
    login: Login | None,
    pages: LoginPages | None,
    *,
    traced: bool,
) -> Forwarder | None:
    upstream = settings.upstream
    if upstream is None or not upstream.url:
        return None
    try:
        endpoint = endpoint_of(upstream.url, upstream.ca_file)
    except (ValueError, OSError) as error:
        raise Misconfigured([Problem("upstream", f"cannot be used: {error}")]) from error
    pool = UpstreamPool(
        endpoint, connect_timeout=upstream.connect_timeout, keepalive_timeout=upstream.keepalive_timeout
    )
    stack.callback(pool.close)
    limits = settings.server.limits
    return Forwarder(
        decider=decider,
        identity_headers=identity_headers,
        request_headers=RequestHeaders(
            is_identity=identity_headers.is_stripped,
            keep_authorization=credential_mode(settings).keeps_credentials,
            keep_trace=not traced,
            credential_headers=(
                *decider.credential_headers,
                *(header.name for header in settings.authentication.token_headers),
            ),
            token_headers=[normal_name(header.name) for header in settings.authentication.token_headers],
            token_protocols=settings.authentication.websocket_tokens.subprotocol,
            cookies=None if login is None else login.cookies,
        ),
        pool=pool,
        refusals=error_responses,
        metrics=metrics,
        limits=ForwardLimits(upstream.response_timeout, limits.body_timeout, limits.max_body_bytes),
        public_url=settings.server.public_url,
        websocket_origins=websocket_origins(settings),
        watch=watch,
        login=None if pages is None else pages.challenge,
        cookies=None if login is None else login.cookies,
        protects_pages=settings.login.protect_pages == "noStore",
    )
