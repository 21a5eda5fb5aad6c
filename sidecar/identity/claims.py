"""Maps verified claims to an Actor: OpenMetadata's rules for name and e-mail address, with its gaps closed.

The first claim that is *present* decides. If it is not a usable name, the token is rejected; later claims are not
tried.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claim_path import ABSENT, ClaimPath
from sidecar.identity.delegation import OWN_CLIENTS, DelegationPolicy, read_delegation
from sidecar.identity.names import ParsedName, folded, malformed_principal, parse_address, parse_name

MAX_GROUPS = 1000
"""Maximum number of groups or roles read from one token."""

_VERIFIED = ClaimPath("email_verified")
_IS_BOT = ClaimPath("isBot")
_EMAIL = ClaimPath("email")


def _no_bots(_name: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class PrincipalPolicy:
    """How the claims of one provider map to an Actor. Domains and names are in lower case.

    ``principal_claims`` are tried in order, unless ``username_claim`` and ``email_claim`` (both or neither) replace
    them. ``own_issuer``: the tokens come from this sidecar or the metadata server, so ``isBot`` is honoured, domains
    and reserved names are not checked, and bare names may be admin. ``flat`` is the flat form's ``authority``;
    ``may_be_admin`` is the option of other providers. ``reserved`` and ``is_bot_name`` name the Actors that foreign
    tokens must not become. ``admin_providers``: providers whose Actors' issued tokens may be admin by a bare name.
    ``service_claim``, if set, decides the Actor's type: one of ``service_values`` means SERVICE. ``delegation``: how
    client and acting party are read.
    """

    provider: str
    principal_claims: tuple[ClaimPath, ...] = ()
    username_claim: ClaimPath | None = None
    email_claim: ClaimPath | None = None
    address_claim: ClaimPath | None = _EMAIL
    verbatim: bool = False
    needs_verified: bool = False
    principal_domain: str = ""
    allowed_domains: frozenset[str] = frozenset()
    enforce_domain: bool = False
    namespaced: bool = False
    groups_claim: ClaimPath | None = None
    roles_claim: ClaimPath | None = None
    actor_type: ActorType = ActorType.USER
    service_claim: ClaimPath | None = None
    service_values: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset()
    is_bot_name: Callable[[str], bool] = _no_bots
    admin_names: frozenset[str] = frozenset()
    admin_providers: frozenset[str] = frozenset()
    flat: bool = False
    may_be_admin: bool = False
    own_issuer: bool = False
    authenticator: str = ""
    delegation: DelegationPolicy = OWN_CLIENTS


@dataclass(slots=True)
class _Principal:
    """``name`` as displayed; ``full`` is the whole text of the claim in lower case.

    ``domain`` is that of the deciding address, or the configured one; ``domain_in_token`` tells which. ``address`` is
    the token's own e-mail address if it is trusted, ``email`` the displayed one.
    """

    name: str
    full: str
    domain: str
    email: str
    address: str
    domain_in_token: bool
    email_in_token: bool


_LATEST = 2**53


def make_actor(claims: Mapping[str, Any], policy: PrincipalPolicy) -> Actor:
    """The Actor for verified ``claims`` (``iss``, ``sub``, ``jti``, ``iat``, ``exp`` have their types).

    Raises Refused: PRINCIPAL_INVALID, DOMAIN_NOT_ALLOWED or PRINCIPAL_RESERVED.
    """
    is_bot = policy.own_issuer and _IS_BOT.find(claims) is True
    principal = _principal(claims, policy, is_bot=is_bot)
    if policy.enforce_domain and not policy.own_issuer:
        _check_domain(principal, policy)
    namespace = f"{policy.provider}/" if policy.namespaced else ""
    actor_id = f"{namespace}{principal.name}"
    compared = folded(actor_id)
    if not policy.own_issuer and (compared in policy.reserved or policy.is_bot_name(compared)):
        raise Refused(Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)
    delegation = read_delegation(claims, policy.delegation)
    return Actor(
        type=ActorType.SERVICE if is_bot else _actor_type(claims, policy),
        id=actor_id,
        full_id=f"{namespace}{principal.full}",
        issuer=claims.get("iss", ""),
        provider=policy.provider,
        subject=claims.get("sub", ""),
        email=principal.email,
        email_in_token=principal.email_in_token,
        domain=principal.domain,
        groups=_text_list(claims, policy.groups_claim),
        roles=_text_list(claims, policy.roles_claim),
        token_id=claims.get("jti", ""),
        issued_at=claims.get("iat"),
        expires_at=claims.get("exp"),
        is_bot=is_bot,
        is_admin=_is_admin(principal, policy),
        authenticator=policy.authenticator,
        acr=acr if isinstance(acr := claims.get("acr"), str) else "",
        authenticated_at=_moment(claims.get("auth_time")),
        client=delegation.client,
        scopes=delegation.scopes,
        audiences=delegation.audiences,
        acting=delegation.acting,
        is_delegated=delegation.is_delegated,
    )


def _moment(value: Any) -> float | None:
    """A time claim that no check has read before; None: absent, or no time."""
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST
    return float(value) if is_time else None


def _principal(claims: Mapping[str, Any], policy: PrincipalPolicy, *, is_bot: bool) -> _Principal:
    if policy.username_claim is not None and policy.email_claim is not None and not is_bot:
        principal = _principal_from_mapping(claims, policy.username_claim, policy.email_claim, policy)
    else:
        principal = _principal_from_list(claims, policy)
    if "/" in principal.name and not policy.namespaced:
        # Only a configured namespace may precede a slash, for metadata servers too: a user who registers there as
        # corp/sam@example.com is not the user sam of corp.
        raise malformed_principal("a slash in the name")
    return principal


def _principal_from_mapping(
    claims: Mapping[str, Any], username: ClaimPath, email: ClaimPath, policy: PrincipalPolicy
) -> _Principal:
    name, address = _parse_claim(username.find(claims)), _parse_claim(email.find(claims))
    if not address.domain:
        raise malformed_principal("the mapped e-mail claim is not an e-mail address")
    _check_email_verified(claims, policy)
    return _Principal(
        name.text if policy.verbatim else name.local,
        name.address or name.local,
        address.domain,
        email=address.address,
        address=address.address,
        domain_in_token=True,
        email_in_token=True,
    )


def _principal_from_list(claims: Mapping[str, Any], policy: PrincipalPolicy) -> _Principal:
    value: object = ABSENT
    for path in policy.principal_claims:
        value = path.find(claims)
        if value is not ABSENT:
            break
    name = _parse_claim(value)
    if name.domain:
        _check_email_verified(claims, policy)
    stated = _stated_address(claims, policy, name)
    address = stated if stated and (name.domain or _is_verified(claims, policy)) else ""
    email = address or name.address
    if not stated and not name.domain and policy.principal_domain:
        email = f"{name.local}@{policy.principal_domain}"
    elif stated and not address:
        email = ""
    return _Principal(
        name.text if policy.verbatim else name.local,
        name.address or name.local,
        name.domain or policy.principal_domain,
        email=email,
        address=address,
        domain_in_token=bool(name.domain),
        email_in_token=bool(address or (name.domain and not stated)),
    )


def _stated_address(claims: Mapping[str, Any], policy: PrincipalPolicy, name: ParsedName) -> str:
    """The address in the token's own claim, in lower case; empty: none. Most providers name the caller by it."""
    if policy.address_claim is None:
        return ""
    value = policy.address_claim.find(claims)
    return name.address if value == name.text else parse_address(value)


def actor_name(text: str, *, verbatim: bool = False) -> str:
    """``text`` as an Actor id that a token can carry. Raises Refused(PRINCIPAL_INVALID).

    The id is in lower case, except for a provider's name before a slash, and is not an address. ``verbatim``:
    unchanged.
    """
    namespace, slash, rest = text.partition("/")
    if slash:
        parse_name(namespace)
    name = parse_name(rest if slash else text)
    if verbatim:
        return text
    if name.domain or "@" in namespace:
        raise malformed_principal("an Actor id must be a name, not an address")
    return f"{namespace}/{name.local}" if slash else name.local


def _parse_claim(value: object) -> ParsedName:
    if value is ABSENT:
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MISSING)
    return parse_name(value)


def _is_verified(claims: Mapping[str, Any], policy: PrincipalPolicy) -> bool:
    """Whether ``email_verified`` is true; unknown values count as false."""
    value = _VERIFIED.find(claims)
    if value is ABSENT or value is None:
        return not policy.needs_verified
    if policy.needs_verified:
        return value is True
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _check_email_verified(claims: Mapping[str, Any], policy: PrincipalPolicy) -> None:
    if _is_verified(claims, policy):
        return
    detail = "email_verified is not true"
    if _VERIFIED.find(claims) in (ABSENT, None):
        detail = (
            f"the token has no email_verified, which provider {policy.provider} requires; if the provider never "
            "sends it, set emailVerified: absentIsVerified"
        )
    raise Refused(Reason.PRINCIPAL_INVALID, Cause.EMAIL_UNVERIFIED, detail)


def _check_domain(principal: _Principal, policy: PrincipalPolicy) -> None:
    """OpenMetadata's rule: allowed domains replace the principal domain; a name without a domain matches none."""
    domain = principal.domain if principal.domain_in_token else ""
    if domain not in (policy.allowed_domains or {policy.principal_domain}) or not domain:
        raise Refused(Reason.DOMAIN_NOT_ALLOWED, Cause.DOMAIN)


def _is_admin(principal: _Principal, policy: PrincipalPolicy) -> bool:
    """Rules of ``adminPrincipals``: a bare name counts only if no other issuer can assign that name."""
    name = principal.name.lower()
    is_named = name in policy.admin_names
    is_named_with_provider = f"{policy.provider}/{name}" in policy.admin_names
    if policy.own_issuer or not (is_named or is_named_with_provider):
        return is_named
    has_home_domain = bool(policy.allowed_domains or policy.principal_domain)
    if _is_named_by_address(principal, policy) and has_home_domain and not _is_home_domain(principal.domain, policy):
        return False
    if is_named_with_provider:
        return True
    if "/" in principal.name:
        return False
    if policy.flat:
        return not principal.domain_in_token or _is_home_domain(principal.domain, policy)
    # Only the address of the same name confirms the name, not an address with another local part.
    local, _, domain = principal.address.partition("@")
    is_own_address = name == (principal.address if policy.verbatim else local)
    return policy.may_be_admin and is_own_address and _is_home_domain(domain, policy)


def _is_home_domain(domain: str, policy: PrincipalPolicy) -> bool:
    return bool(domain) and (domain in policy.allowed_domains or domain == policy.principal_domain)


def _is_named_by_address(principal: _Principal, policy: PrincipalPolicy) -> bool:
    """Whether the name comes from an address: at another domain it belongs to another person."""
    return principal.domain_in_token and policy.username_claim is None


def _actor_type(claims: Mapping[str, Any], policy: PrincipalPolicy) -> ActorType:
    if policy.service_claim is None:
        return policy.actor_type
    found = claim_texts(policy.service_claim.find(claims))
    return ActorType.USER if policy.service_values.isdisjoint(found) else ActorType.SERVICE


def claim_texts(value: object) -> list[str]:
    """The strings to compare with configured values: ``value`` itself, or each item of a list.

    Numbers and booleans become their JSON text; objects, nested lists, null and :data:`ABSENT` are ignored.
    """
    return [
        _scalar_text(item)
        for item in (value if isinstance(value, list) else [value])
        if isinstance(item, str | int | float)
    ]


def _scalar_text(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _text_list(claims: Mapping[str, Any], path: ClaimPath | None) -> tuple[str, ...]:
    if path is None:
        return ()
    value = path.find(claims)
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(dict.fromkeys(name for name in found[:MAX_GROUPS] if isinstance(name, str) and name))
