"""The composition root: Settings in, running listeners out. The only file that knows everyone."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiohttp import web

from sidecar import __version__
from sidecar.access.decide import Decider, Guests
from sidecar.access.rules import Rules
from sidecar.admin.health import Condition, Health, PartStatus
from sidecar.admin.routes import operations_app
from sidecar.api.jwks import PublishedKeys
from sidecar.api.userinfo import UserInfo
from sidecar.authn.base import Accepted, Authenticator, Gate, Member, Surroundings
from sidecar.authn.bot_check import BotTokenCheck
from sidecar.authn.chain import Chain
from sidecar.authn.datahub_setup import DataHubSetup, datahub_setup
from sidecar.authn.datahub_token import DATAHUB, DataHubTokenAuthenticator, DataHubTrust
from sidecar.authn.gates import RecordGate
from sidecar.authn.guest import Guest, GuestOptions
from sidecar.authn.jwt import Issuer, JwtAuthenticator, foreign_acceptor, own_acceptor
from sidecar.authn.members import Members, open_members
from sidecar.authn.registry import JWT, Planned, plan
from sidecar.authn.system import SYSTEM, SystemAuthenticator
from sidecar.clock import Clock, SystemClock
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider, bot_check_url, has_own_keys
from sidecar.config.settings import RuleSettings, Settings
from sidecar.config.show import as_json
from sidecar.dataplane.check import CheckEndpoint
from sidecar.dataplane.dialects import Envoy, ForwardAuth, Nginx
from sidecar.dataplane.identity_headers import Credentials, IdentityHeaders
from sidecar.dataplane.proxy.forward import Forwarder, ForwardLimits
from sidecar.dataplane.proxy.hop_headers import RequestHeaders
from sidecar.dataplane.proxy.pool import UpstreamPool, endpoint_of
from sidecar.dataplane.routes import PublicRoutes
from sidecar.db import Database, sqlite_path
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.identity.client_certificate import certificate_thumbprint
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.keys.signing import OwnKeys, SigningKey
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from sidecar.tokens.assertion import Assertions
from sidecar.tokens.own import OwnTokens
from sidecar.tokens.policy import (
    OWN_PROVIDER,
    admin_names,
    own_expectations,
    own_policy,
    provider_expectations,
    provider_policy,
)
from sidecar.tokens.published import refuse_published
from sidecar.tokens.records import RecordMirror, SqliteRecords
from sidecar.tokens.upstream import DataHubCredentials, UpstreamCredentials
from sidecar.tokens.verified_cache import VerifiedCache
from sidecar.web.boundary import Boundary, Handler
from sidecar.web.listeners import bind
from sidecar.web.respond import Refusals
from sidecar.web.server import Peers, PublicServer

_log = logging.getLogger("sidecar")
_AUTHENTICATOR = JwtAuthenticator.name
_RESERVED_NAMES = ("anonymous", "guest", "__datahub_system")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens are accepted: everything that judging a credential needs."""

    provider_keys: tuple[ProviderKeys, ...]
    own_keys: OwnKeys | None
    mirror: RecordMirror | None
    issuers: dict[str, Issuer]
    unbound: Issuer | None
    client: ControlClient
    is_bot_name: Callable[[str], bool]
    reserved: frozenset[str]
    datahub: DataHubSetup


class Sidecar:
    """The running parts that outsiders may see. Made by :func:`running`."""

    def __init__(self, health: Health, boundary: Boundary, public: web.ServerRunner) -> None:
        self.health = health
        self._boundary = boundary
        self._public = public

    @property
    def public_addresses(self) -> list[object]:
        """Bound addresses of the public listener, as sockets name them."""
        return list(self._public.addresses)

    async def drain(self, delay: float) -> None:
        """Not ready from now on; keep accepting for ``delay`` seconds, then stop and let work in flight end."""
        self.health.draining = True
        self._boundary.draining = True
        await asyncio.sleep(delay)
        await self._public.cleanup()


@asynccontextmanager
async def running(loaded: Loaded, clock: Clock | None = None) -> AsyncIterator[Sidecar]:
    """Both listeners up while the context lasts; everything is closed in reverse order after it.

    Raises Misconfigured when the configuration cannot be served. Needs no identity provider to be there.
    """
    settings = loaded.settings
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        trust = await open_trust(loaded, metrics, clock or SystemClock(), stack)
        verifiers = build_verifiers(settings, trust, metrics, clock or SystemClock())
        surroundings = partial(
            member_surroundings,
            loaded=loaded,
            client=trust.client,
            metrics=metrics,
            clock=clock or SystemClock(),
            reserved=trust.reserved,
            is_bot_name=trust.is_bot_name,
        )
        members = await open_members(plan(loaded.members), verifiers, surroundings, stack)
        if SYSTEM in verifiers:
            members = replace(members, authenticators=(verifiers[SYSTEM], *members.authenticators))
        decider = build_decider(settings, trust, members, metrics)
        health = _health(trust, members, settings)
        refusals = Refusals(settings.server.realm)
        routes = _routes(settings, trust, members, decider, refusals, metrics, clock or SystemClock(), stack)
        server = settings.server
        boundary = Boundary(routes, refusals, metrics, server.limits, log_access=settings.logging.access)
        public_server = PublicServer(
            boundary,
            limits=server.limits,
            peers=Peers(server.trusted_proxies),
            parse_failure=refusals.refuse_unparsed,
        )
        operations = web.AppRunner(
            operations_app(metrics, health, partial(as_json, loaded)), access_log=None, shutdown_timeout=1.0
        )
        await operations.setup()
        stack.push_async_callback(operations.cleanup)
        await bind(operations, server.admin_listen, "server.adminListen")
        public = web.ServerRunner(public_server, shutdown_timeout=server.drain_timeout)
        await public.setup()
        stack.push_async_callback(public.cleanup)
        await bind(public, server.listen, "server.listen")
        _log.info("listening", extra={"version": __version__, "public": server.listen, "admin": server.admin_listen})
        yield Sidecar(health, boundary, public)


async def serve(loaded: Loaded) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once."""
    stop = asyncio.Event()
    at_once = asyncio.Event()

    def on_signal() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with running(loaded) as sidecar:
        await stop.wait()
        _log.info("draining", extra={"seconds": loaded.settings.server.drain_delay})
        draining = asyncio.create_task(sidecar.drain(loaded.settings.server.drain_delay))
        hurried = asyncio.create_task(at_once.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        hurried.cancel()
        await asyncio.gather(draining, hurried, return_exceptions=True)
    _log.info("stopped")


async def open_trust(loaded: Loaded, metrics: Metrics, clock: Clock, stack: AsyncExitStack) -> Trust:
    """Keys and records as ``loaded`` names them; ``stack`` closes them. Raises Misconfigured, Unavailable."""
    settings = loaded.settings
    planned = plan(loaded.members)
    datahub = datahub_setup(settings, planned)
    reserved = _reserved_names(planned) | {settings.authentication.system_client_id}
    mirror, is_bot_name = None, _no_bots
    own_keys = await _open_own_keys(settings, stack)
    if own_keys is not None:
        mirror = await _open_mirror(settings, metrics, clock, stack)
        is_bot_name = mirror.is_bot_name
    client = ControlClient(settings.keys.ca_file)
    stack.push_async_callback(client.aclose)
    issuers: dict[str, Issuer] = {}
    unbound: Issuer | None = None
    provider_keys: list[ProviderKeys] = []
    for provider in loaded.providers:
        keys = ProviderKeys(
            provider,
            settings.keys,
            client,
            metrics,
            clock,
            _cache_dir(settings),
            allow_published=settings.allow_published_secrets,
        )
        await keys.start()
        stack.push_async_callback(keys.aclose)
        provider_keys.append(keys)
        bots = _bot_check(settings, client, clock) if provider.is_own else None
        issuer = _provider_issuer(provider, keys, settings, reserved, is_bot_name, bots)
        if provider.issuer is None:
            unbound = issuer
        else:
            issuers.update(dict.fromkeys((provider.issuer, *provider.issuer_aliases), issuer))
    if own_keys is not None and mirror is not None:
        issuers[settings.jwt_token_configuration.jwtissuer] = _own_issuer(own_keys, mirror, settings)
    return Trust(tuple(provider_keys), own_keys, mirror, issuers, unbound, client, is_bot_name, reserved, datahub)


def _reserved_names(planned: Iterable[Planned]) -> frozenset[str]:
    """Names that no credential of others may carry; the guest's own name is one of them."""
    guests = {item.options.guest_user for item in planned if isinstance(item.options, GuestOptions)}
    return frozenset({*_RESERVED_NAMES, *guests})


async def _open_own_keys(settings: Settings, stack: AsyncExitStack) -> OwnKeys | None:
    configuration = settings.jwt_token_configuration
    if not has_own_keys(configuration):
        return None
    keys = OwnKeys(configuration, allow_published=settings.allow_published_secrets)
    await keys.start()
    stack.push_async_callback(keys.aclose)
    return keys


def _no_bots(name: str) -> bool:
    return False


async def _open_mirror(settings: Settings, metrics: Metrics, clock: Clock, stack: AsyncExitStack) -> RecordMirror:
    database = await Database.open(sqlite_path(settings.store.url.reveal()), metrics)
    stack.push_async_callback(database.aclose)
    mirror = RecordMirror(SqliteRecords(database), clock, metrics)
    await mirror.start()
    stack.push_async_callback(mirror.aclose)
    return mirror


def _cache_dir(settings: Settings) -> Path | None:
    if settings.keys.cache_dir:
        return Path(settings.keys.cache_dir)
    url = settings.store.url.reveal()
    return sqlite_path(url).parent / "keys" if url.startswith("sqlite:") else None


def _provider_issuer(
    provider: Provider,
    keys: ProviderKeys,
    settings: Settings,
    reserved: frozenset[str],
    is_bot_name: Callable[[str], bool],
    bots: BotTokenCheck | None,
) -> Issuer:
    policy = provider_policy(provider, settings.authorizer_configuration, reserved, is_bot_name, _AUTHENTICATOR)
    bound = settings.server.client_certificates != "none"
    expectations = replace(provider_expectations(provider, None), bound_to_certificates=bound)
    accept = foreign_acceptor(policy, provider.clock_skew, is_own=provider.is_own, bots=bots)
    return Issuer(provider.name, keys, expectations, accept)


def _bot_check(settings: Settings, client: ControlClient, clock: Clock) -> BotTokenCheck | None:
    flat = settings.authentication_configuration
    if flat.bot_token_check is None:
        return None
    return BotTokenCheck(
        client,
        bot_check_url(flat.bot_token_check.url),
        clock,
        cache=flat.bot_token_check.cache,
        allow_insecure=flat.allow_insecure_urls,
    )


def _own_issuer(keys: OwnKeys, mirror: RecordMirror, settings: Settings) -> Issuer:
    configuration = settings.jwt_token_configuration
    claims = settings.authentication_configuration.jwt_principal_claims
    policy = own_policy(claims, settings.authorizer_configuration, _AUTHENTICATOR)
    tokens = OwnTokens(mirror, policy, require_record=settings.tokens.require_record)
    accept = own_acceptor(tokens, configuration.clock_skew)
    return Issuer(OWN_PROVIDER, keys, own_expectations(configuration), accept)


def build_verifiers(settings: Settings, trust: Trust, metrics: Metrics, clock: Clock) -> dict[str, Authenticator]:
    """What verifies tokens and DataHub's secrets, over ``trust``, by name."""
    cache: VerifiedCache[Accepted] = VerifiedCache(settings.tokens.cache_entries, metrics)
    longest = settings.server.limits.max_token_bytes
    made: dict[str, Authenticator] = {
        JWT: JwtAuthenticator(
            trust.issuers,
            unbound=trust.unbound,
            cache=cache,
            clock=clock,
            max_token_bytes=longest,
            refuse=None if settings.allow_published_secrets else refuse_published,
        )
    }
    datahub = _datahub_trust(settings, trust)
    if datahub is not None:
        made[DATAHUB] = DataHubTokenAuthenticator(datahub, cache=cache, clock=clock, max_token_bytes=longest)
    if trust.datahub.system_client is not None:
        made[SYSTEM] = SystemAuthenticator(*trust.datahub.system_client)
    return made


def _datahub_trust(settings: Settings, trust: Trust) -> DataHubTrust | None:
    if trust.datahub.key is None or not trust.datahub.accepts_tokens:
        return None
    block = settings.authentication
    return DataHubTrust(
        trust.datahub.key,
        trust.datahub.salt,
        issuer=block.token_service.issuer,
        own_issuer=settings.jwt_token_configuration.jwtissuer,
        records=trust.mirror,
        require_record=block.require_record,
        require_own_record=settings.tokens.require_record,
        # the guest is DataHub's own to name: its user interface gives him a session
        reserved=frozenset({"anonymous", block.system_client_id}),
        admin_names=admin_names(settings.authorizer_configuration),
    )


def member_surroundings(
    name: str,
    *,
    loaded: Loaded,
    client: ControlClient,
    metrics: Metrics,
    clock: Clock,
    reserved: frozenset[str] = frozenset(_RESERVED_NAMES),
    is_bot_name: Callable[[str], bool] = _no_bots,
) -> Surroundings:
    """What the member ``name`` of the chain is given; ``reserved`` and ``is_bot_name`` as in the trust."""
    settings = loaded.settings
    authorizer = settings.authorizer_configuration
    own = Provider(name, f"urn:auth-sidecar:{name}", principal_claims=("sub",), groups_claim="groups")
    policy = partial(provider_policy, authorizer=authorizer, reserved=reserved, is_bot_name=is_bot_name)
    return Surroundings(
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
    )


def build_decider(settings: Settings, trust: Trust, members: Members, metrics: Metrics) -> Decider:
    """What judges every request, over ``trust`` and the chain's ``members``."""
    gates: Sequence[Gate] = ()
    if trust.mirror is not None:
        revocation = settings.revocation
        gates = (
            RecordGate(
                trust.mirror,
                max_staleness=revocation.max_staleness,
                deny_when_stale=revocation.on_stale == "deny",
            ),
        )
    chain = Chain(
        members.authenticators,
        gates,
        metrics,
        skippable=members.skippable,
        headers=members.headers,
        certificate=partial(certificate_thumbprint, dialect=settings.server.client_certificates),
    )
    return Decider(
        Rules(settings.rules),
        chain,
        deadline=settings.server.check_deadline,
        public_preflight=settings.cors.preflight == "public",
        guests=None if members.guest is None else _guests(members.guest),
    )


def _guests(guest: Guest) -> Guests:
    limits = Rules(RuleSettings(path=path, methods=guest.methods, access="guest") for path in guest.paths)
    return Guests(guest.accepted, limits)


def _routes(
    settings: Settings,
    trust: Trust,
    members: Members,
    decider: Decider,
    refusals: Refusals,
    metrics: Metrics,
    clock: Clock,
    stack: AsyncExitStack,
) -> PublicRoutes:
    prefix = settings.server.prefix
    assertions = _assertions(settings, clock)
    identity_headers = IdentityHeaders(
        strip=(*settings.identity_headers.strip, *_spent_headers(settings, members)),
        max_bytes=settings.identity_headers.max_bytes,
        assertion=assertions,
        credential=_upstream_credentials(settings, trust, clock),
        datahub_actor=settings.upstream is not None and settings.upstream.credentials == "datahubHeader",
        metrics=metrics,
    )
    check = partial(CheckEndpoint, decider=decider, identity_headers=identity_headers, refusals=refusals)
    exact: dict[str, tuple[str, Handler]] = {
        f"{prefix}/auth": ("check", check(Nginx())),
        f"{prefix}/forward_auth": ("check", check(ForwardAuth())),
        f"{prefix}/userinfo": ("userinfo", UserInfo(decider, refusals)),
    }
    own_keys = trust.own_keys
    if own_keys is not None:
        published = PublishedKeys(own_keys.published)
        for path in (f"{prefix}/jwks", *settings.jwt_token_configuration.jwks_paths):
            exact[path] = ("jwks", published)
    if assertions is not None:
        exact[f"{prefix}/assertion/jwks"] = (
            "jwks",
            PublishedKeys(lambda: (assertions.jwks, assertions.etag)),
        )
    upstream = _forwarder(settings, decider, identity_headers, refusals, metrics, stack)
    return PublicRoutes(prefix=prefix, exact=exact, envoy=check(Envoy()), upstream=upstream)


def _spent_headers(settings: Settings, members: Members) -> tuple[str, ...]:
    """Headers of credentials that are for the sidecar only."""
    passes = settings.upstream is None or settings.upstream.credentials == "passthrough"
    return () if passes else members.headers


def _assertions(settings: Settings, clock: Clock) -> Assertions | None:
    if not settings.identity_headers.assertion:
        return None
    upstream_url = settings.upstream.url if settings.upstream else ""
    audience = settings.identity_headers.assertion_audience or upstream_url or settings.server.public_url
    return Assertions(settings.jwt_token_configuration.jwtissuer or "auth-sidecar", audience, clock)


def _upstream_credentials(settings: Settings, trust: Trust, clock: Clock) -> Credentials | None:
    upstream = settings.upstream
    if upstream is not None and upstream.credentials == "datahub" and trust.datahub.key is not None:
        return DataHubCredentials(
            trust.datahub.key,
            clock,
            issuer=settings.authentication.token_service.issuer,
            authenticator=SYSTEM,
            system_client=trust.datahub.system_client,
        )
    if upstream is None or upstream.credentials != "openmetadata":
        return None
    own_keys = trust.own_keys
    if own_keys is None or own_keys.signing_rsa is None:
        text = "openmetadata needs an own RSA key: see jwtTokenConfiguration"
        raise Misconfigured([Problem("upstream.credentials", text)])

    def signing() -> SigningKey:
        key = own_keys.signing_rsa
        if key is None:  # a reload took the last RSA key away
            raise Unavailable(Cause.KEYS_UNAVAILABLE, "no own RSA key")
        return key

    return UpstreamCredentials(
        signing,
        clock,
        issuer=settings.jwt_token_configuration.jwtissuer,
        algorithm=upstream.token_validation_algorithm,
        principal_domain=settings.authorizer_configuration.principal_domain,
        principal_claims=settings.authentication_configuration.jwt_principal_claims,
    )


def _forwarder(
    settings: Settings,
    decider: Decider,
    identity_headers: IdentityHeaders,
    refusals: Refusals,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> Handler | None:
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
            is_identity=identity_headers.is_stripped, keep_authorization=upstream.credentials == "passthrough"
        ),
        pool=pool,
        refusals=refusals,
        metrics=metrics,
        limits=ForwardLimits(upstream.response_timeout, limits.body_timeout, limits.max_body_bytes),
        public_scheme="https" if settings.server.public_url.startswith("https:") else "http",
    )


def _health(trust: Trust, members: Members, settings: Settings) -> Health:
    credentials: list[Callable[[], PartStatus]] = [partial(_provider_status, keys) for keys in trust.provider_keys]
    names = {authenticator.name for authenticator in members.authenticators}
    if names & {DATAHUB, SYSTEM}:
        credentials.append(lambda: PartStatus("shared secrets of DataHub", Condition.USABLE))
    if trust.own_keys is not None:
        credentials.append(lambda: PartStatus("own keys", Condition.USABLE))
    credentials += [partial(_member_status, member) for member in members.started]
    required: list[Callable[[], PartStatus]] = []
    if trust.mirror is not None:
        required.append(partial(_mirror_status, trust.mirror, settings))
    return Health(credentials, required)


def _provider_status(keys: ProviderKeys) -> PartStatus:
    status = keys.status()
    name = f"provider {status.provider}"
    if status.usable:
        return PartStatus(name, Condition.DEGRADED if status.problem else Condition.USABLE, status.problem)
    return PartStatus(name, Condition.UNUSABLE if status.tried else Condition.PENDING, status.problem)


def _member_status(member: Member) -> PartStatus:
    name = f"authenticator {member.name}"
    problem = member.problem
    return PartStatus(name, Condition.UNUSABLE if problem else Condition.USABLE, problem)


def _mirror_status(mirror: RecordMirror, settings: Settings) -> PartStatus:
    revocation = settings.revocation
    if mirror.age <= revocation.max_staleness:
        return PartStatus("token records", Condition.USABLE)
    denied = revocation.on_stale == "deny"
    return PartStatus(
        "token records", Condition.UNUSABLE if denied else Condition.DEGRADED, "the store does not answer"
    )
