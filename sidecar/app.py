"""The composition root: Settings in, running listeners out. The only file that knows everyone."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aiohttp import web

from sidecar import __version__
from sidecar.access.decide import Decider, Guests
from sidecar.access.rules import Rules
from sidecar.admin.health import Condition, Health, PartStatus
from sidecar.admin.routes import operations_app, operations_runner
from sidecar.api.body import Bodies
from sidecar.api.door import Door
from sidecar.api.jwks import PublishedKeys
from sidecar.api.routes import api_routes
from sidecar.api.userinfo import UserInfo
from sidecar.authn.base import Accepted, Authenticator, Gate, Member, Surroundings
from sidecar.authn.bot_check import BotTokenCheck
from sidecar.authn.chain import Chain
from sidecar.authn.datahub_setup import DataHubSetup, datahub_setup
from sidecar.authn.datahub_token import DATAHUB, DataHubTokenAuthenticator, DataHubTrust
from sidecar.authn.gates import RevocationGate
from sidecar.authn.guest import Guest, GuestOptions
from sidecar.authn.jwt import Issuer, JwtAuthenticator, foreign_acceptor, own_acceptor
from sidecar.authn.members import Members, open_members
from sidecar.authn.registry import JWT, Planned, plan
from sidecar.authn.system import SYSTEM, SystemAuthenticator
from sidecar.authn.usage_gate import UsageGate
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
from sidecar.dataplane.proxy.watch import StreamWatch
from sidecar.dataplane.routes import PublicRoutes
from sidecar.db import sqlite_path
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.identity.client_certificate import certificate_thumbprint
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.keys.signing import OwnKeys, SigningKey
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from sidecar.store.base import Store
from sidecar.store.mirror import Mirror
from sidecar.store.open import open_store
from sidecar.tokens.assertion import Assertions
from sidecar.tokens.datahub import DataHubSecrets
from sidecar.tokens.deny_rule import DenyRule, IssuerBounds
from sidecar.tokens.mint import Minter, Write
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
from sidecar.tokens.revocations import Revocations
from sidecar.tokens.service import Rules as MintingRules
from sidecar.tokens.service import TokenService
from sidecar.tokens.upstream import DataHubCredentials, UpstreamCredentials
from sidecar.tokens.usage import Usage
from sidecar.tokens.verified_cache import VerifiedCache
from sidecar.web.boundary import Boundary, Handler
from sidecar.web.listeners import bind
from sidecar.web.respond import Refusals
from sidecar.web.server import Peers, PublicServer

_log = logging.getLogger("sidecar")
_AUTHENTICATOR = JwtAuthenticator.name
_FIRST_READING_SECONDS = 1.0
_RESERVED_NAMES = ("anonymous", "guest", "__datahub_system")


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens are accepted: everything that judging a credential needs."""

    provider_keys: tuple[ProviderKeys, ...]
    own_keys: OwnKeys | None
    store: Store
    mirror: Mirror
    issuers: dict[str, Issuer]
    unbound: Issuer | None
    client: ControlClient
    reserved: frozenset[str]
    datahub: DataHubSetup

    def spellings(self, issuer: str) -> tuple[str, ...]:
        """``issuer`` as its tokens spell it, once discovery has told; before that in every spelling accepted."""
        known = self.issuers.get(issuer)
        if known is None:
            return (issuer,)
        exact = known.keys.issuer
        return (exact,) if exact else (issuer, *((known.expectations.issuers or frozenset()) - {issuer}))


class Sidecar:
    """The running parts that outsiders may see. Made by :func:`running`."""

    def __init__(self, health: Health, boundary: Boundary, server: PublicServer, public: web.ServerRunner) -> None:
        self.health = health
        self._boundary = boundary
        self._server = server
        self._public = public

    @property
    def public_addresses(self) -> list[object]:
        """Bound addresses of the public listener, as sockets name them."""
        return list(self._public.addresses)

    async def drain(self, delay: float, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
        """Not ready from now on; keep accepting for ``delay`` seconds, then stop.

        Work in flight may take ``timeout`` seconds more to end.
        """
        self.health.draining = True
        self._server.drain()
        await asyncio.sleep(delay)
        for site in self._public.sites:
            await site.stop()
        self._server.leaving.set()
        # aiohttp's own waiting would not read on: an upload under way could not end.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._boundary.idle(), timeout)
        await self._public.cleanup()

    def cut_all(self) -> None:
        """End every client connection at once."""
        self._server.cut_all()


@asynccontextmanager
async def running(loaded: Loaded, clock: Clock | None = None) -> AsyncIterator[Sidecar]:
    """Both listeners up while the context lasts; everything is closed in reverse order after it.

    Raises Misconfigured when the configuration cannot be served. Needs no identity provider to be there.
    """
    settings = loaded.settings
    metrics = Metrics()
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        trust = await open_trust(loaded, metrics, clock, stack)
        # most stores are read in a moment: whoever asks first is then not sent away
        await trust.mirror.tried(_FIRST_READING_SECONDS)
        usage = Usage(trust.store, clock)
        await usage.start()
        stack.push_async_callback(usage.aclose)
        verifiers = build_verifiers(settings, trust, metrics, clock)
        surroundings = partial(
            member_surroundings,
            loaded=loaded,
            client=trust.client,
            metrics=metrics,
            clock=clock,
            reserved=trust.reserved,
            is_bot_name=trust.mirror.is_bot_name,
        )
        members = await open_members(plan(loaded.members), verifiers, surroundings, stack)
        if SYSTEM in verifiers:
            members = replace(members, authenticators=(verifiers[SYSTEM], *members.authenticators))
        decider = build_decider(settings, trust, members, metrics, clock, usage)
        health = _health(trust, members, settings)
        refusals = Refusals(settings.server.realm)
        watch = StreamWatch(_revocation_gate(settings, trust, clock), clock, trust.mirror.changed)
        await watch.start()
        stack.push_async_callback(watch.aclose)
        routes = _routes(loaded, trust, members, decider, refusals, metrics, clock, watch, stack)
        server = settings.server
        boundary = Boundary(routes, refusals, metrics, server.limits, log_access=settings.logging.access)
        public_server = PublicServer(
            boundary,
            limits=server.limits,
            peers=Peers(server.trusted_proxies),
            parse_failure=refusals.refuse_unparsed,
            answer_at_once=boundary.answer_at_once,
        )
        operations = operations_runner(operations_app(metrics, health, partial(as_json, loaded)))
        await operations.setup()
        stack.push_async_callback(operations.cleanup)
        await bind(operations, server.admin_listen, "server.adminListen")
        public = web.ServerRunner(public_server, shutdown_timeout=1.0)
        await public.setup()
        stack.push_async_callback(public.cleanup)
        await bind(public, server.listen, "server.listen")
        _log.info("listening", extra={"version": __version__, "public": server.listen, "admin": server.admin_listen})
        yield Sidecar(health, boundary, public_server, public)


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
        server = loaded.settings.server
        draining = asyncio.create_task(sidecar.drain(server.drain_delay, server.drain_timeout))
        hurried = asyncio.create_task(at_once.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        hurried.cancel()
        await asyncio.gather(draining, hurried, return_exceptions=True)
        sidecar.cut_all()
    _log.info("stopped")


async def open_trust(loaded: Loaded, metrics: Metrics, clock: Clock, stack: AsyncExitStack) -> Trust:
    """Keys, records and revocations as ``loaded`` names them; ``stack`` closes them.

    Raises Misconfigured, and Unavailable when the store's file cannot be opened.
    """
    settings = loaded.settings
    planned = plan(loaded.members)
    datahub = datahub_setup(settings, planned)
    client_id = settings.authentication.system_client_id
    # names out of claims are in lower case
    reserved = _reserved_names(planned) | {client_id, client_id.lower()}
    own_keys = await _open_own_keys(settings, stack)
    store = await open_store(settings.store, metrics, clock)
    stack.push_async_callback(store.aclose)
    mirror = Mirror(store, clock, metrics)
    await mirror.start()
    stack.push_async_callback(mirror.aclose)
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
        issuer = _provider_issuer(provider, keys, settings, reserved, mirror.is_bot_name, bots)
        if provider.issuer is None:
            unbound = issuer
        else:
            issuers.update(dict.fromkeys((provider.issuer, *provider.issuer_aliases), issuer))
    if own_keys is not None:
        issuers[settings.jwt_token_configuration.jwtissuer] = _own_issuer(own_keys, mirror, loaded)
    return Trust(tuple(provider_keys), own_keys, store, mirror, issuers, unbound, client, reserved, datahub)


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


def _own_issuer(keys: OwnKeys, mirror: Mirror, loaded: Loaded) -> Issuer:
    settings = loaded.settings
    may_name_admins = [
        item.name for item in loaded.providers if item.may_be_admin or item.is_own or (item.is_flat and item.issuer)
    ]
    configuration = settings.jwt_token_configuration
    claims = settings.authentication_configuration.jwt_principal_claims
    policy = own_policy(claims, settings.authorizer_configuration, _AUTHENTICATOR, may_name_admins)
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
        providers=frozenset(trust.issuers) - {block.token_service.issuer, settings.jwt_token_configuration.jwtissuer},
        # the guest is DataHub's own to name: its user interface gives him a session
        reserved=frozenset({"anonymous", block.system_client_id}),
        admin_names=admin_names(settings.authorizer_configuration),
    )


def _no_bots(_name: str) -> bool:
    return False


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


def build_decider(
    settings: Settings,
    trust: Trust,
    members: Members,
    metrics: Metrics,
    clock: Clock,
    usage: Usage | None = None,
) -> Decider:
    """What judges every request, over ``trust`` and the chain's ``members``. ``usage`` notes which tokens are used."""
    gates: list[Gate] = [_revocation_gate(settings, trust, clock)]
    if usage is not None:
        gates.append(UsageGate(usage))
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


def _revocation_gate(settings: Settings, trust: Trust, clock: Clock) -> RevocationGate:
    revocation = settings.revocation
    return RevocationGate(
        trust.mirror,
        clock,
        max_staleness=revocation.max_staleness,
        deny_when_stale=revocation.on_stale == "deny",
    )


def _guests(guest: Guest) -> Guests:
    limits = Rules(RuleSettings(path=path, methods=guest.methods, access="guest") for path in guest.paths)
    return Guests(guest.accepted, limits)


def _routes(
    loaded: Loaded,
    trust: Trust,
    members: Members,
    decider: Decider,
    refusals: Refusals,
    metrics: Metrics,
    clock: Clock,
    watch: StreamWatch,
    stack: AsyncExitStack,
) -> PublicRoutes:
    settings = loaded.settings
    prefix = settings.server.prefix
    assertions = _assertions(settings, clock)
    identity_headers = IdentityHeaders(
        strip=(*settings.identity_headers.strip, *_spent_headers(settings, members)),
        max_bytes=settings.identity_headers.max_bytes,
        assertion=assertions,
        credential=_upstream_credentials(settings, trust, clock),
        datahub_actor=settings.upstream is not None and settings.upstream.credentials == "datahubHeader",
        admin_names=admin_names(settings.authorizer_configuration),
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
    upstream = _forwarder(settings, decider, identity_headers, refusals, metrics, watch, stack)
    managing, below = _management(loaded, trust, decider, refusals, metrics, clock)
    return PublicRoutes(
        prefix=prefix, exact={**exact, **managing}, below=below, envoy=check(Envoy()), upstream=upstream
    )


def _management(
    loaded: Loaded, trust: Trust, decider: Decider, refusals: Refusals, metrics: Metrics, clock: Clock
) -> tuple[dict[str, tuple[str, Handler]], dict[str, tuple[str, Handler]]]:
    """The routes by which tokens and revocations are managed: by exact path, and by the path above an id."""
    settings = loaded.settings
    server = settings.server
    write = trust.mirror.write
    minter = None
    if trust.own_keys is not None:
        minter = build_minter(settings, trust.own_keys, trust.datahub, write, clock, metrics)
    rules = MintingRules(
        settings.jwt_token_configuration.jwtissuer,
        admin_names=admin_names(settings.authorizer_configuration),
        reserved=frozenset(_RESERVED_NAMES),
        allow_never_expiring=settings.tokens.allow_never_expiring,
        is_bot_name=trust.mirror.is_bot_name,
    )
    tokens = TokenService(trust.store, write, minter, clock, rules)
    revocations = build_revocations(loaded, trust.store, write, clock, trust.spellings)
    door = Door(decider, tokens, server.limits.max_token_bytes)
    return api_routes(server.prefix, door, refusals, tokens, revocations, Bodies(server.limits.body_timeout))


def build_minter(
    settings: Settings, own_keys: OwnKeys, datahub: DataHubSetup, write: Write, clock: Clock, metrics: Metrics
) -> Minter:
    """What mints with ``own_keys`` and ``datahub``'s secrets, as ``settings`` say; ``write`` writes the records."""
    configuration = settings.jwt_token_configuration
    return Minter(
        lambda: own_keys.signing,
        write,
        clock,
        metrics,
        issuer=configuration.jwtissuer,
        audience=configuration.audience,
        principal_domain=settings.authorizer_configuration.principal_domain,
        keep_bot_tokens=settings.tokens.keep_bot_tokens,
        datahub=None if datahub.key is None else DataHubSecrets(datahub.key, datahub.salt),
    )


def build_revocations(
    loaded: Loaded,
    store: Store,
    write: Write,
    clock: Clock,
    spellings: Callable[[str], tuple[str, ...]] | None = None,
) -> Revocations:
    """The deny list of ``store``, with what ``loaded`` says of how long tokens live.

    ``spellings`` gives an issuer as its tokens may spell it; None: in every way that ``loaded`` accepts.
    """
    own = loaded.settings.jwt_token_configuration
    bounds: dict[str, IssuerBounds] = {}
    accepted: dict[str, tuple[str, ...]] = {}
    unbound: IssuerBounds | None = None
    for provider in loaded.providers:
        known = IssuerBounds(provider.max_token_lifetime, provider.clock_skew)
        if provider.issuer is None:
            unbound = known
        else:
            names = (provider.issuer, *provider.issuer_aliases)
            bounds.update(dict.fromkeys(names, known))
            accepted.update((name, (name, *(other for other in names if other != name))) for name in names)
    own_issuer = own.jwtissuer if has_own_keys(own) else ""
    if own_issuer:
        bounds[own_issuer] = IssuerBounds(None, own.clock_skew)
    rule = DenyRule(bounds, spellings or (lambda issuer: accepted.get(issuer, (issuer,))), unbound)
    return Revocations(store, write, clock, rule, own_issuer=own_issuer)


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
            admin_names=admin_names(settings.authorizer_configuration),
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
        admin_names=admin_names(settings.authorizer_configuration),
    )


def _forwarder(
    settings: Settings,
    decider: Decider,
    identity_headers: IdentityHeaders,
    refusals: Refusals,
    metrics: Metrics,
    watch: StreamWatch,
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
        watch=watch,
    )


def _health(trust: Trust, members: Members, settings: Settings) -> Health:
    credentials: list[Callable[[], PartStatus]] = [partial(_provider_status, keys) for keys in trust.provider_keys]
    names = {authenticator.name for authenticator in members.authenticators}
    if names & {DATAHUB, SYSTEM}:
        credentials.append(lambda: PartStatus("shared secrets of DataHub", Condition.USABLE))
    if trust.own_keys is not None:
        credentials.append(lambda: PartStatus("own keys", Condition.USABLE))
    credentials += [partial(_member_status, member) for member in members.started]
    return Health(credentials, [partial(_mirror_status, trust.mirror, settings)])


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


def _mirror_status(mirror: Mirror, settings: Settings) -> PartStatus:
    name, revocation = "revocation state", settings.revocation
    if not mirror.is_loaded:
        return PartStatus(name, Condition.PENDING, "the store has not been read yet")
    if mirror.age <= revocation.max_staleness:
        return PartStatus(name, Condition.USABLE)
    denied = revocation.on_stale == "deny"
    return PartStatus(name, Condition.UNUSABLE if denied else Condition.DEGRADED, "the store does not answer")
