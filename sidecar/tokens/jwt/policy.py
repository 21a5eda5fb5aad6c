"""Builds validation and principal policies from the configuration. Used at start only."""

from collections.abc import Callable, Iterable

from sidecar.config.providers import Provider, own_early, own_leeway
from sidecar.config.settings import ASYMMETRIC_ALGORITHMS, AuthorizerConfiguration, JwtTokenConfiguration
from sidecar.errors import Misconfigured, Problem
from sidecar.identity.actor import ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.delegation import DelegationPolicy
from sidecar.tokens.jwt.jose import ED25519_NAMES
from sidecar.tokens.jwt.verify import ValidationPolicy

OWN_PROVIDER = "own"
"""Provider name of this sidecar's issuer in logs, metrics and Actors."""
SYSTEM_PROVIDER = "system"
"""Provider name of DataHub's system client."""
DATAHUB_PROVIDER = "datahub"
"""Provider name of DataHub's own tokens."""


def provider_validation(provider: Provider, issuer: str | None) -> ValidationPolicy:
    """The validation policy of ``provider``; ``issuer`` is the spelling found by discovery, None before that.

    Raises Misconfigured for an invalid claim path.
    """
    issuers: frozenset[str] | None = None
    if issuer is not None:
        issuers = frozenset({issuer})
    elif provider.issuer is not None:
        issuers = frozenset({provider.issuer, *provider.issuer_aliases})
    return ValidationPolicy(
        issuers=issuers,
        algorithms=_both_names(provider.algorithms),
        audiences=provider.audiences,
        required_claims=tuple(
            (_path(provider, "requiredClaims", text), values) for text, values in provider.required_claims.items()
        ),
        max_lifetime=provider.max_token_lifetime,
        leeway=provider.clock_skew,
        early=provider.early,
        require_expiry=provider.require_expiry,
    )


def issued_validation(
    configuration: JwtTokenConfiguration, max_lifetime: float | None = None, exchanged: Iterable[str] = ()
) -> ValidationPolicy:
    """The validation policy of issued tokens; ``max_lifetime`` is in seconds.

    ``exchanged``: audiences of tokens of the token endpoint; which of them a token may have depends on its record.
    ``exp`` may be absent: whether such a token is accepted depends on its record.
    """
    return ValidationPolicy(
        issuers=frozenset({configuration.jwtissuer}),
        algorithms=frozenset(ASYMMETRIC_ALGORITHMS),
        audiences=frozenset({configuration.audience, *exchanged} if configuration.audience else ()),
        max_lifetime=max_lifetime,
        leeway=own_leeway(configuration),
        early=own_early(configuration),
        require_expiry=False,
    )


def provider_policy(
    provider: Provider,
    authorizer: AuthorizerConfiguration,
    reserved: Iterable[str],
    is_bot_name: Callable[[str], bool],
    authenticator: str,
) -> PrincipalPolicy:
    """How ``provider``'s claims map to an Actor.

    ``reserved`` names are not available to foreign tokens; ``is_bot_name`` recognises registered bot names. Raises
    Misconfigured for an invalid claim path.
    """

    def path(key: str, text: str) -> ClaimPath | None:
        return _path(provider, key, text) if text else None

    domain, allowed, enforced = provider.principal_domain, provider.allowed_domains, provider.enforce_domain

    return PrincipalPolicy(
        provider=provider.name,
        principal_claims=tuple(_path(provider, "jwtPrincipalClaims", text) for text in provider.principal_claims),
        username_claim=path("jwtPrincipalClaimsMapping", provider.username_claim),
        email_claim=path("jwtPrincipalClaimsMapping", provider.email_claim),
        address_claim=path("emailClaim", provider.address_claim),
        verbatim=provider.principal == "verbatim",
        needs_verified=provider.needs_verified,
        principal_domain=(authorizer.principal_domain if domain is None else domain).lower(),
        allowed_domains=_lower(authorizer.allowed_domains if allowed is None else allowed),
        enforce_domain=authorizer.enforce_principal_domain if enforced is None else enforced,
        namespaced=provider.namespaced,
        groups_claim=path("groupsClaim", provider.groups_claim),
        roles_claim=path("rolesClaim", provider.roles_claim),
        actor_type=ActorType(provider.actor_type),
        service_claim=path("actorType", provider.service_claim),
        service_values=provider.service_values,
        reserved=_lower(reserved),
        is_bot_name=is_bot_name,
        admin_names=admin_names(authorizer),
        flat=provider.is_flat and provider.issuer is not None,
        may_be_admin=provider.may_be_admin,
        own_issuer=provider.is_own,
        authenticator=authenticator,
        delegation=DelegationPolicy(
            tuple(_path(provider, "clientClaims", text) for text in provider.client_claims), provider.trusts_act
        ),
    )


def issued_policy(
    principal_claims: Iterable[str],
    authorizer: AuthorizerConfiguration,
    authenticator: str,
    admin_providers: Iterable[str] = (),
    *,
    verbatim: bool = False,
) -> PrincipalPolicy:
    """How claims of issued tokens without a record map to an Actor (``tokens.requireRecord: false``).

    ``admin_providers`` names the providers whose Actors may match a bare name in ``adminPrincipals``.
    """
    return PrincipalPolicy(
        provider=OWN_PROVIDER,
        principal_claims=tuple(map(ClaimPath, principal_claims)),
        verbatim=verbatim,
        principal_domain=authorizer.principal_domain.lower(),
        roles_claim=ClaimPath("roles"),
        admin_names=admin_names(authorizer),
        admin_providers=frozenset({OWN_PROVIDER, *admin_providers}),
        own_issuer=True,
        authenticator=authenticator,
        delegation=DelegationPolicy(trusts_act=True),
    )


def admin_names(authorizer: AuthorizerConfiguration) -> frozenset[str]:
    """The names in ``adminPrincipals``, in the spelling of Actor ids.

    The provider prefix keeps its case, and so does a DataHub user's name: DataHub distinguishes case.
    """
    parted = (name.partition("/") for name in authorizer.admin_principals)
    return frozenset(
        f"{head}/{rest if head == DATAHUB_PROVIDER else rest.lower()}" if slash else head.lower()
        for head, slash, rest in parted
    )


def _both_names(algorithms: frozenset[str]) -> frozenset[str]:
    return algorithms if ED25519_NAMES.isdisjoint(algorithms) else algorithms | ED25519_NAMES


def _lower(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _path(provider: Provider, key: str, text: str) -> ClaimPath:
    try:
        return ClaimPath(text)
    except ValueError:
        where = f"authenticationConfiguration.providers[{provider.name}].{key}"
        raise Misconfigured(
            [Problem(where, "a claim path consists of names joined by dots; quote names that contain dots")]
        ) from None
