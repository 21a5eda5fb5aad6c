"""Builds token and revocation management: the minter, the services and their routes."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sidecar.access.decide import Decider
from sidecar.api.body import BodyReader
from sidecar.api.browser_sessions import BrowserSessions
from sidecar.api.caller import CallerAuthentication
from sidecar.api.routes import api_routes
from sidecar.app.datahub import DataHubSetup
from sidecar.app.issuers import IssuerRegistry
from sidecar.app.process_context import ProcessContext
from sidecar.app.signals import build_signals
from sidecar.authn.authenticators.datahub_token import DATAHUB
from sidecar.authn.authenticators.kubernetes import KubernetesOptions
from sidecar.authn.base import Authenticator
from sidecar.authn.registry import JWT, build_specs
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider, has_own_keys, own_early, own_leeway, takes_verbatim_names
from sidecar.config.settings import Settings
from sidecar.keys.signing import SigningKeys
from sidecar.login.id_token import MAX_ISSUE_AGE
from sidecar.metrics import Metrics
from sidecar.sessions.service import Sessions
from sidecar.store.base import RecordQuery, Store, WriteBatch
from sidecar.store.pages import all_records
from sidecar.tokens.datahub import DataHubSecrets
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.copies import BotTokenCopies
from sidecar.tokens.issued.mint import Minter
from sidecar.tokens.issued.service import TokenRules as MintingRules
from sidecar.tokens.issued.service import TokenService
from sidecar.tokens.jwt.policy import admin_names
from sidecar.tokens.revocation.retention import IssuerBounds, RetentionPolicy
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import TaskFunction


def _never_seen(_name: str) -> bool:
    return False


def _nowhere(_name: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Services:
    """Management of tokens, revocations and sessions, for the API and the pages. ``sessions`` None: no login."""

    tokens: TokenService
    revocations: RevocationService
    sessions: BrowserSessions | None


def build_tokens(
    loaded: Loaded,
    registry: IssuerRegistry,
    bots: BotRegistry,
    context: ProcessContext,
    copies: BotTokenCopies | None,
) -> TokenService:
    """Management of issued tokens. It cannot mint without own keys."""
    settings, metrics, clock = loaded.settings, context.metrics, context.clock
    write = registry.mirror.write
    minter = None
    if registry.own_keys is not None:
        minter = build_minter(loaded, registry.own_keys, registry.datahub, write, bots, clock, metrics, copies)
    rules = MintingRules(
        settings.jwt_token_configuration.jwtissuer,
        admin_names=admin_names(settings.authorizer_configuration),
        reserved=registry.reserved,
        allow_never_expiring=settings.tokens.allow_never_expiring,
        max_lifetime=settings.tokens.max_lifetime,
        is_bot_name=registry.mirror.is_bot_name,
        provider_of=registry.provider_of,
        verbatim=takes_verbatim_names(settings, loaded.providers),
    )
    return TokenService(registry.store, write, minter, clock, rules, copies)


def management_routes(
    loaded: Loaded,
    registry: IssuerRegistry,
    bots: BotRegistry,
    tokens: TokenService,
    decider: Decider,
    error_responses: ErrorResponses,
    context: ProcessContext,
    authenticators: Sequence[Authenticator],
    sessions: Sessions | None,
) -> tuple[Services, dict[str, tuple[str, TaskFunction]], dict[str, tuple[str, TaskFunction]]]:
    """The services of the API, and its routes: by exact path, and by the path prefix before an id.

    ``sessions`` None: there is no browser login.
    """
    server, clock = loaded.settings.server, context.clock
    write = registry.mirror.write

    async def others() -> frozenset[str]:
        found = {record.owner.issuer for record in registry.mirror.records()}
        return frozenset(found.union(context.issuers.names(), *(member.issuers for member in authenticators)))

    revocations = build_revocations(loaded, registry.store, write, clock, registry.spellings, others)
    caller_authentication = CallerAuthentication(decider, tokens, server.limits.max_token_bytes)
    services = Services(tokens, revocations, None if sessions is None else BrowserSessions(sessions, tokens))
    exact, below = api_routes(
        server.prefix,
        caller_authentication,
        error_responses,
        tokens,
        revocations,
        bots,
        BodyReader(server.limits.body_timeout, decider.undecided_bodies),
        services.sessions,
    )
    signals = build_signals(loaded, registry, revocations, decider, clock, context.metrics)
    return services, exact, {**below, **signals}


def build_caller_authentication(
    settings: Settings, registry: IssuerRegistry, decider: Decider, clock: Clock
) -> CallerAuthentication:
    """Verifies submitted tokens, for commands. It cannot mint."""
    rules = MintingRules(settings.jwt_token_configuration.jwtissuer)
    tokens = TokenService(registry.store, registry.mirror.write, None, clock, rules)
    return CallerAuthentication(decider, tokens, settings.server.limits.max_token_bytes)


def build_bots(
    settings: Settings,
    store: Store,
    write: WriteBatch,
    clock: Clock,
    reserved: Iterable[str],
    copies: BotTokenCopies | None,
    is_person_seen: Callable[[str], bool] = _never_seen,
) -> BotRegistry:
    """The registered bot names in ``store``; ``is_person_seen`` as in
    :class:`sidecar.tokens.issued.bots.BotRegistry`.
    """
    return BotRegistry(
        store,
        write,
        clock,
        admin_names=admin_names(settings.authorizer_configuration),
        reserved=reserved,
        is_person_seen=is_person_seen,
        location=_nowhere if copies is None else copies.location_of,
    )


def build_minter(
    loaded: Loaded,
    own_keys: SigningKeys,
    datahub: DataHubSetup,
    write: WriteBatch,
    bots: BotRegistry,
    clock: Clock,
    metrics: Metrics,
    copies: BotTokenCopies | None,
) -> Minter:
    """A minter that signs with ``own_keys`` and the secrets of ``datahub``; ``write`` writes the records, ``copies``
    tokens of bots to the secrets manager.
    """
    settings = loaded.settings
    configuration = settings.jwt_token_configuration
    return Minter(
        lambda: own_keys.signing,
        write,
        bots.claim,
        clock,
        metrics,
        issuer=configuration.jwtissuer,
        audience=configuration.audience,
        principal_domain=settings.authorizer_configuration.principal_domain,
        verbatim=takes_verbatim_names(settings, loaded.providers),
        keep_bot_tokens=settings.tokens.keep_bot_tokens,
        max_lifetime=settings.tokens.max_lifetime,
        datahub=None if datahub.key is None else DataHubSecrets(datahub.key, datahub.salt),
        copies=copies,
    )


def build_revocations(
    loaded: Loaded,
    store: Store,
    write: WriteBatch,
    clock: Clock,
    spellings: Callable[[str], tuple[str, ...]] | None = None,
    other_issuers: Callable[[], Awaitable[Collection[str]]] | None = None,
) -> RevocationService:
    """The revocation service of ``store``, with the token lifetimes of ``loaded``.

    ``spellings`` returns the spellings of an issuer in its tokens; None: all that ``loaded`` accepts. ``other_issuers``
    returns known issuers that ``loaded`` does not name; None: the issuers of the records in ``store``.
    """
    own = loaded.settings.jwt_token_configuration
    bounds: dict[str, IssuerBounds] = {}
    accepted: dict[str, tuple[str, ...]] = {}
    unbound: IssuerBounds | None = None
    for provider in loaded.providers:
        known = IssuerBounds(_longest_credential(provider, loaded.settings), provider.clock_skew)
        if provider.issuer is None:
            unbound = known
        else:
            names = (provider.issuer, *provider.issuer_aliases)
            bounds.update(dict.fromkeys(names, known))
            accepted.update((name, (name, *(other for other in names if other != name))) for name in names)
    own_issuer = own.jwtissuer if has_own_keys(own) else ""
    if own_issuer:
        bounds[own_issuer] = IssuerBounds(loaded.settings.tokens.max_lifetime, max(own_leeway(own), own_early(own)))
    policy = RetentionPolicy(
        bounds,
        spellings or (lambda issuer: accepted.get(issuer, (issuer,))),
        unbound,
        has_never_expiring=_has_never_expiring(loaded),
        max_session_age=loaded.settings.login.session.max_age,
        least_leeway=own_leeway(own) if loaded.settings.token_endpoint.enabled else 0.0,
    )
    verbatim = takes_verbatim_names(loaded.settings, loaded.providers)
    authenticator_issuers = _authenticator_issuers(loaded)

    async def known_issuers() -> frozenset[str]:
        return authenticator_issuers.union(await (other_issuers or partial(_record_issuers, store))())

    return RevocationService(
        store, write, clock, policy, own_issuer=own_issuer, other_issuers=known_issuers, verbatim=verbatim
    )


def _longest_credential(provider: Provider, settings: Settings) -> float | None:
    """How long after its ``iat`` a credential of ``provider`` can be valid, in seconds; None: without limit.

    A session begins up to MAX_ISSUE_AGE after the ``iat`` of its ID token, and lives on when tokens have expired.
    """
    longest = provider.max_token_lifetime
    if provider.login is None or longest is None:
        return longest
    return max(longest, settings.login.session.max_age + MAX_ISSUE_AGE)


def _authenticator_issuers(loaded: Loaded) -> frozenset[str]:
    """Issuers of authenticators without a provider: DataHub, and the cluster if its issuer is configured."""
    specs = build_specs(loaded.authenticators)
    found = {item.options.issuer for item in specs if isinstance(item.options, KubernetesOptions)}
    if any(item.type_name == DATAHUB for item in specs):
        found.add(loaded.settings.authentication.token_service.issuer)
    return frozenset(found - {""})


async def _record_issuers(store: Store) -> frozenset[str]:
    """Issuers of the owners of the tokens on record."""
    return frozenset({record.owner.issuer async for record in all_records(store, RecordQuery())})


def _has_never_expiring(loaded: Loaded) -> bool:
    """Whether a credential without expiry is accepted: only JWTs have a maximum lifetime."""
    system_client = loaded.settings.authentication.enabled and loaded.settings.authentication.system_client_secret
    return bool(system_client) or any(member.type_name != JWT for member in build_specs(loaded.authenticators))
