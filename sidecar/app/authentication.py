"""Who judges a request: verifiers, the chain of authenticators and its gates, the rules."""

from collections.abc import Callable
from functools import partial

from sidecar.access.decide import Decider, GuestPolicy
from sidecar.access.rules import Rules
from sidecar.app.issuers import RESERVED_NAMES, IssuerRegistry
from sidecar.authn.authenticators.datahub_system import SYSTEM, SystemAuthenticator
from sidecar.authn.authenticators.datahub_token import DATAHUB, DataHubTokenAuthenticator, DataHubTokenPolicy
from sidecar.authn.authenticators.guest import Guest
from sidecar.authn.authenticators.jwt import JwtAuthenticator
from sidecar.authn.base import Accepted, AuthenticatorContext, AuthenticatorProtocol
from sidecar.authn.chain import Chain
from sidecar.authn.gates import RevocationGate
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.authn.registry import JWT
from sidecar.authn.usage_gate import UsageGate
from sidecar.budget import Budget
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.providers import OwnIssuers, Provider, default_principal, member_issuer, own_early, own_leeway
from sidecar.config.settings import RuleSettings, Settings
from sidecar.identity.client_certificate import certificate_thumbprint
from sidecar.identity.server_names import (
    DATAHUB_SYSTEM_CLIENT,
    NO_SERVER_NAMES,
    OPENMETADATA_BOT_SUFFIXES,
    OPENMETADATA_BOTS,
    ServerNames,
)
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from sidecar.tokens.issued.usage import Usage
from sidecar.tokens.jwt.policy import (
    admin_names,
    provider_policy,
)
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.well_known import refuse_well_known


def build_authenticators(
    loaded: Loaded,
    trust: IssuerRegistry,
    cache: VerifiedCache[Accepted],
    clock: Clock,
    seen: Callable[[tuple[str, ...]], None] | None = None,
) -> dict[str, AuthenticatorProtocol]:
    """What verifies tokens and DataHub's secrets, over ``trust``, by name. ``cache`` remembers what it found.

    ``seen`` gets the issuers of accepted tokens that no configuration names.
    """
    settings = loaded.settings
    longest = settings.server.limits.max_token_bytes
    made: dict[str, AuthenticatorProtocol] = {
        JWT: JwtAuthenticator(
            trust.issuers,
            unbound=trust.unbound,
            own_names=OwnIssuers(settings),
            cache=cache,
            clock=clock,
            max_token_bytes=longest,
            refuse=None if settings.allow_published_secrets else refuse_well_known,
            seen=seen,
        )
    }
    datahub = _datahub_trust(loaded, trust)
    if datahub is not None:
        made[DATAHUB] = DataHubTokenAuthenticator(datahub, cache=cache, clock=clock, max_token_bytes=longest)
    if trust.datahub.system_client is not None:
        made[SYSTEM] = SystemAuthenticator(*trust.datahub.system_client)
    return made


def _datahub_trust(loaded: Loaded, trust: IssuerRegistry) -> DataHubTokenPolicy | None:
    if trust.datahub.key is None or not trust.datahub.accepts_tokens:
        return None
    settings = loaded.settings
    block = settings.authentication
    return DataHubTokenPolicy(
        trust.datahub.key,
        trust.datahub.salt,
        issuer=block.token_service.issuer,
        own_issuer=settings.jwt_token_configuration.jwtissuer,
        records=trust.mirror,
        require_record=block.require_record,
        require_own_record=settings.tokens.require_record,
        max_own_lifetime=settings.tokens.max_lifetime,
        own_leeway=own_leeway(settings.jwt_token_configuration),
        own_early=own_early(settings.jwt_token_configuration),
        providers=frozenset(trust.issuers) - {block.token_service.issuer, settings.jwt_token_configuration.jwtissuer},
        # the guest is DataHub's own to name: its user interface gives him a session
        reserved=frozenset({"anonymous", block.system_client_id.lower()}),
        namespaces=frozenset(provider.name.lower() for provider in loaded.providers if provider.namespaced),
        admin_names=admin_names(settings.authorizer_configuration),
        passes_on=settings.upstream is not None and settings.upstream.credentials == DATAHUB,
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
    """What the member ``name`` of the chain is given; ``reserved`` and ``is_bot_name`` as in the trust."""
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


def build_decider(
    settings: Settings,
    trust: IssuerRegistry,
    members: AuthenticatorSet,
    metrics: Metrics,
    clock: Clock,
    usage: Usage | None = None,
    kind: type[Decider] = Decider,
    undecided: Budget | None = None,
) -> Decider:
    """What judges every request, over ``trust`` and the chain's ``members``. ``usage`` notes which tokens are used.

    ``kind`` is a decider, perhaps one that also tells others what it decides. ``undecided``: see there.
    """
    chain = Chain(
        members.authenticators,
        (revocation_gate(settings, trust, clock),),
        metrics,
        skippable=members.skippable,
        headers=members.headers,
        certificate=partial(certificate_thumbprint, dialect=settings.server.client_certificates),
        clock=clock,
        use=None if usage is None else UsageGate(usage),
    )
    return kind(
        Rules(settings.rules),
        chain,
        deadline=settings.server.check_deadline,
        public_preflight=settings.cors.preflight == "public",
        guests=None if members.guest is None else _guests(members.guest),
        undecided=undecided,
    )


def revocation_gate(settings: Settings, trust: IssuerRegistry, clock: Clock) -> RevocationGate:
    """What asks ``trust``'s mirror whether a credential still stands."""
    revocation = settings.revocation
    return RevocationGate(
        trust.mirror,
        clock,
        max_staleness=revocation.max_staleness,
        deny_when_stale=revocation.on_stale == "deny",
        server_names=server_names(settings),
    )


def server_names(settings: Settings) -> ServerNames:
    """Names that the server behind would take for its own bots or its system client, whoever issued the token.

    With ``passthrough`` the server judges the caller's token itself, and with ``none`` it is presented nothing.
    """
    upstream = settings.upstream
    if upstream is None:
        return NO_SERVER_NAMES
    if upstream.credentials == "openmetadata":
        return ServerNames((*OPENMETADATA_BOTS, *upstream.server_bots), OPENMETADATA_BOT_SUFFIXES)
    if upstream.credentials in ("datahub", "datahubHeader"):
        return ServerNames((DATAHUB_SYSTEM_CLIENT, settings.authentication.system_client_id))
    return NO_SERVER_NAMES


def _guests(guest: Guest) -> GuestPolicy:
    limits = Rules(RuleSettings(path=path, methods=guest.methods, access="guest") for path in guest.paths)
    return GuestPolicy(guest.accepted, limits)
