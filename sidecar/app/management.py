"""How tokens and revocations are managed: what mints, what denies, and their routes."""

from collections.abc import Callable, Iterable

from sidecar.access.decide import Decider
from sidecar.api.body import Bodies
from sidecar.api.door import Door
from sidecar.api.routes import api_routes
from sidecar.app.trust import Trust
from sidecar.authn.datahub_setup import DataHubSetup
from sidecar.authn.registry import JWT, plan
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.providers import has_own_keys
from sidecar.config.settings import Settings
from sidecar.keys.signing import OwnKeys
from sidecar.metrics import Metrics
from sidecar.store.base import Store
from sidecar.tokens.bots import Bots
from sidecar.tokens.datahub import DataHubSecrets
from sidecar.tokens.deny_rule import DenyRule, IssuerBounds
from sidecar.tokens.mint import Minter, Write
from sidecar.tokens.policy import (
    admin_names,
)
from sidecar.tokens.revocations import Revocations
from sidecar.tokens.service import Rules as MintingRules
from sidecar.tokens.service import TokenService
from sidecar.web.boundary import Handler
from sidecar.web.respond import Refusals


def _never_seen(_name: str) -> bool:
    return False


def management_routes(
    loaded: Loaded,
    trust: Trust,
    bots: Bots,
    decider: Decider,
    refusals: Refusals,
    metrics: Metrics,
    clock: Clock,
) -> tuple[dict[str, tuple[str, Handler]], dict[str, tuple[str, Handler]]]:
    """The routes by which tokens and revocations are managed: by exact path, and by the path above an id."""
    settings = loaded.settings
    server = settings.server
    write = trust.mirror.write
    minter = None
    if trust.own_keys is not None:
        minter = build_minter(settings, trust.own_keys, trust.datahub, write, bots, clock, metrics)
    rules = MintingRules(
        settings.jwt_token_configuration.jwtissuer,
        admin_names=admin_names(settings.authorizer_configuration),
        reserved=trust.reserved,
        allow_never_expiring=settings.tokens.allow_never_expiring,
        max_lifetime=settings.tokens.max_lifetime,
        is_bot_name=trust.mirror.is_bot_name,
    )
    tokens = TokenService(trust.store, write, minter, clock, rules)
    revocations = build_revocations(loaded, trust.store, write, clock, trust.spellings)
    door = Door(decider, tokens, server.limits.max_token_bytes)
    return api_routes(server.prefix, door, refusals, tokens, revocations, bots, Bodies(server.limits.body_timeout))


def build_bots(
    settings: Settings,
    store: Store,
    write: Write,
    clock: Clock,
    reserved: Iterable[str],
    is_person_seen: Callable[[str], bool] = _never_seen,
) -> Bots:
    """The names that are kept for bots in ``store``; ``is_person_seen`` as in :class:`sidecar.tokens.bots.Bots`."""
    names = admin_names(settings.authorizer_configuration)
    return Bots(store, write, clock, admin_names=names, reserved=reserved, is_person_seen=is_person_seen)


def build_minter(
    settings: Settings,
    own_keys: OwnKeys,
    datahub: DataHubSetup,
    write: Write,
    bots: Bots,
    clock: Clock,
    metrics: Metrics,
) -> Minter:
    """What mints with ``own_keys`` and ``datahub``'s secrets, as ``settings`` say; ``write`` writes the records."""
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
        keep_bot_tokens=settings.tokens.keep_bot_tokens,
        max_lifetime=settings.tokens.max_lifetime,
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
        bounds[own_issuer] = IssuerBounds(loaded.settings.tokens.max_lifetime, own.clock_skew)
    rule = DenyRule(
        bounds,
        spellings or (lambda issuer: accepted.get(issuer, (issuer,))),
        unbound,
        has_endless=_has_endless(loaded),
    )
    return Revocations(store, write, clock, rule, own_issuer=own_issuer)


def _has_endless(loaded: Loaded) -> bool:
    """Whether anybody comes in by what never ends by itself: only JWTs of issuers have a longest life."""
    system_client = loaded.settings.authentication.enabled and loaded.settings.authentication.system_client_secret
    return bool(system_client) or any(member.word != JWT for member in plan(loaded.members))
