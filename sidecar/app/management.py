"""How tokens and revocations are managed: what mints, what denies, and their routes."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial

from sidecar.access.decide import Decider
from sidecar.api.body import BodyReader
from sidecar.api.caller import CallerAuthentication
from sidecar.api.routes import api_routes
from sidecar.app.datahub import DataHubSetup
from sidecar.app.issuers import IssuerRegistry
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.datahub_token import DATAHUB
from sidecar.authn.authenticators.kubernetes import KubernetesOptions
from sidecar.authn.base import Authenticator
from sidecar.authn.registry import JWT, build_specs
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.providers import has_own_keys, own_early, own_leeway, takes_verbatim_names
from sidecar.config.settings import Settings
from sidecar.keys.signing import SigningKeys
from sidecar.metrics import Metrics
from sidecar.store.base import RecordQuery, Store
from sidecar.tokens.datahub import DataHubSecrets
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.mint import Minter, WriteBatch
from sidecar.tokens.issued.service import TokenRules as MintingRules
from sidecar.tokens.issued.service import TokenService
from sidecar.tokens.jwt.policy import admin_names
from sidecar.tokens.revocation.retention import IssuerBounds, RetentionPolicy
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.dispatcher import Handler
from sidecar.web.error_responses import ErrorResponses

_PAGE = 500


def _never_seen(_name: str) -> bool:
    return False


def management_routes(
    loaded: Loaded,
    trust: IssuerRegistry,
    bots: BotRegistry,
    decider: Decider,
    refusals: ErrorResponses,
    ground: ProcessContext,
    started: Sequence[Authenticator],
) -> tuple[dict[str, tuple[str, Handler]], dict[str, tuple[str, Handler]]]:
    """The routes by which tokens and revocations are managed: by exact path, and by the path above an id."""
    settings, metrics, clock = loaded.settings, ground.metrics, ground.clock
    server = settings.server
    write = trust.mirror.write
    minter = None
    if trust.own_keys is not None:
        minter = build_minter(loaded, trust.own_keys, trust.datahub, write, bots, clock, metrics)
    rules = MintingRules(
        settings.jwt_token_configuration.jwtissuer,
        admin_names=admin_names(settings.authorizer_configuration),
        reserved=trust.reserved,
        allow_never_expiring=settings.tokens.allow_never_expiring,
        max_lifetime=settings.tokens.max_lifetime,
        is_bot_name=trust.mirror.is_bot_name,
        provider_of=trust.provider_of,
        verbatim=takes_verbatim_names(settings, loaded.providers),
    )
    tokens = TokenService(trust.store, write, minter, clock, rules)

    async def others() -> frozenset[str]:
        found = {record.owner.issuer for record in trust.mirror.records()}
        return frozenset(found.union(ground.issuers.names(), *(member.issuers for member in started)))

    revocations = build_revocations(loaded, trust.store, write, clock, trust.spellings, others)
    door = CallerAuthentication(decider, tokens, server.limits.max_token_bytes)
    return api_routes(
        server.prefix,
        door,
        refusals,
        tokens,
        revocations,
        bots,
        BodyReader(server.limits.body_timeout, decider.undecided),
    )


def build_door(settings: Settings, trust: IssuerRegistry, decider: Decider, clock: Clock) -> CallerAuthentication:
    """What judges tokens that are handed over, for commands: nothing is minted behind it."""
    rules = MintingRules(settings.jwt_token_configuration.jwtissuer)
    tokens = TokenService(trust.store, trust.mirror.write, None, clock, rules)
    return CallerAuthentication(decider, tokens, settings.server.limits.max_token_bytes)


def build_bots(
    settings: Settings,
    store: Store,
    write: WriteBatch,
    clock: Clock,
    reserved: Iterable[str],
    is_person_seen: Callable[[str], bool] = _never_seen,
) -> BotRegistry:
    """The names that are kept for bots in ``store``; ``is_person_seen`` as in
    :class:`sidecar.tokens.issued.bots.Bots`.
    """
    names = admin_names(settings.authorizer_configuration)
    return BotRegistry(store, write, clock, admin_names=names, reserved=reserved, is_person_seen=is_person_seen)


def build_minter(
    loaded: Loaded,
    own_keys: SigningKeys,
    datahub: DataHubSetup,
    write: WriteBatch,
    bots: BotRegistry,
    clock: Clock,
    metrics: Metrics,
) -> Minter:
    """What mints with ``own_keys`` and ``datahub``'s secrets, as ``loaded`` says; ``write`` writes the records."""
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
    )


def build_revocations(
    loaded: Loaded,
    store: Store,
    write: WriteBatch,
    clock: Clock,
    spellings: Callable[[str], tuple[str, ...]] | None = None,
    others: Callable[[], Awaitable[Collection[str]]] | None = None,
) -> RevocationService:
    """The deny list of ``store``, with what ``loaded`` says of how long tokens live.

    ``spellings`` gives an issuer as its tokens may spell it; None: in every way that ``loaded`` accepts. ``others``
    gives the issuers that are known besides those that ``loaded`` names; None: those of the records in ``store``.
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
        bounds[own_issuer] = IssuerBounds(loaded.settings.tokens.max_lifetime, max(own_leeway(own), own_early(own)))
    rule = RetentionPolicy(
        bounds,
        spellings or (lambda issuer: accepted.get(issuer, (issuer,))),
        unbound,
        has_never_expiring=_has_endless(loaded),
    )
    verbatim = takes_verbatim_names(loaded.settings, loaded.providers)
    named = _named_by_members(loaded)

    async def known_issuers() -> frozenset[str]:
        return named.union(await (others or partial(_owners, store))())

    return RevocationService(
        store, write, clock, rule, own_issuer=own_issuer, other_issuers=known_issuers, verbatim=verbatim
    )


def _named_by_members(loaded: Loaded) -> frozenset[str]:
    """Issuers that are no provider's and no keys' of ours: DataHub's own, and a cluster's where it is written."""
    planned = build_specs(loaded.authenticators)
    found = {item.options.issuer for item in planned if isinstance(item.options, KubernetesOptions)}
    if any(item.type_name == DATAHUB for item in planned):
        found.add(loaded.settings.authentication.token_service.issuer)
    return frozenset(found - {""})


async def _owners(store: Store) -> frozenset[str]:
    """Where the owners of the tokens on record come from."""
    found: set[str] = set()
    after = ""
    while True:
        page = await store.records(RecordQuery(), after, _PAGE)
        found.update(record.owner.issuer for record in page.records)
        after = page.after
        if not after:
            return frozenset(found)


def _has_endless(loaded: Loaded) -> bool:
    """Whether anybody comes in by what never ends by itself: only JWTs of issuers have a longest life."""
    system_client = loaded.settings.authentication.enabled and loaded.settings.authentication.system_client_secret
    return bool(system_client) or any(member.type_name != JWT for member in build_specs(loaded.authenticators))
