"""From verified claims to an Actor: OpenMetadata's rules for name and e-mail, without their holes.

The first *present* claim decides; when it is no usable name the token is refused, nothing falls through to the next.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claim_path import ABSENT, ClaimPath

MAX_PRINCIPAL = 512
"""Longest text of a principal claim; a Kubernetes service account's ``sub`` can reach 338 characters."""
MAX_GROUPS = 1000
"""Most groups or roles that are read from one token."""

# The one character outside ASCII whose lower case is an ASCII letter (k): it could imitate another's name.
_KELVIN = "\u212a"
_VERIFIED = ClaimPath("email_verified")
_IS_BOT = ClaimPath("isBot")


def _no_bots(_name: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class PrincipalPolicy:
    """How the claims of one provider name an Actor. Domains and names are given in lower case.

    ``principal_claims`` are asked in order, unless ``username_claim`` and ``email_claim`` (both or neither) replace
    them. ``own_issuer``: the tokens come from ourselves or from the metadata server, so ``isBot`` counts, domains and
    reserved names do not, and bare names may be admin. ``flat`` is the flat form's ``authority``; ``may_be_admin``
    the option of other providers. ``reserved`` and ``is_bot_name`` name the Actors that foreign tokens may not become.
    ``admin_providers``: whose Actors' own tokens may be admin by a bare name.
    ``service_claim`` decides the Actor's type where set: one of ``service_values`` means SERVICE.
    """

    provider: str
    principal_claims: tuple[ClaimPath, ...] = ()
    username_claim: ClaimPath | None = None
    email_claim: ClaimPath | None = None
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


@dataclass(slots=True)
class _Principal:
    name: str
    email: str
    email_in_token: bool

    @property
    def domain(self) -> str:
        return self.email.partition("@")[2]


def make_actor(claims: Mapping[str, Any], policy: PrincipalPolicy) -> Actor:
    """The Actor that verified ``claims`` name (``iss``, ``sub``, ``jti``, ``iat``, ``exp`` are of their types).

    Raises Refused: PRINCIPAL_INVALID, DOMAIN_NOT_ALLOWED or PRINCIPAL_RESERVED.
    """
    is_bot = policy.own_issuer and _IS_BOT.find(claims) is True
    principal = _principal(claims, policy, is_bot=is_bot)
    if policy.enforce_domain and not policy.own_issuer:
        _check_domain(principal, policy)
    actor_id = f"{policy.provider}/{principal.name}" if policy.namespaced else principal.name
    if not policy.own_issuer and (actor_id in policy.reserved or policy.is_bot_name(actor_id)):
        raise Refused(Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)
    return Actor(
        type=ActorType.SERVICE if is_bot else _actor_type(claims, policy),
        id=actor_id,
        issuer=claims.get("iss", ""),
        provider=policy.provider,
        subject=claims.get("sub", ""),
        email=principal.email,
        email_in_token=principal.email_in_token,
        domain=principal.domain,
        groups=_names(claims, policy.groups_claim),
        roles=_names(claims, policy.roles_claim),
        token_id=claims.get("jti", ""),
        issued_at=claims.get("iat"),
        expires_at=claims.get("exp"),
        is_bot=is_bot,
        is_admin=_is_admin(principal, policy),
        authenticator=policy.authenticator,
    )


def _principal(claims: Mapping[str, Any], policy: PrincipalPolicy, *, is_bot: bool) -> _Principal:
    if policy.username_claim is not None and policy.email_claim is not None and not is_bot:
        principal = _mapped_principal(claims, policy.username_claim, policy.email_claim)
    else:
        principal = _listed_principal(claims, policy)
    if "/" in principal.name and not policy.namespaced:
        # Only a namespace of our own making may stand before a slash. A metadata server is no exception: who signs
        # up there as corp/sam@example.com is not the Sam of corp.
        raise _malformed("a slash in the name")
    return principal


def _mapped_principal(claims: Mapping[str, Any], username: ClaimPath, email: ClaimPath) -> _Principal:
    name, _, _ = _parts(username.find(claims))
    address = email.find(claims)
    _, domain, address = _parts(address)
    if not domain:
        raise _malformed("the mapped e-mail is no address")
    _check_email_verified(claims)
    return _Principal(name, address, email_in_token=True)


def _listed_principal(claims: Mapping[str, Any], policy: PrincipalPolicy) -> _Principal:
    deciding: object = ABSENT
    for path in policy.principal_claims:
        deciding = path.find(claims)
        if deciding is not ABSENT:
            break
    name, domain, address = _parts(deciding)
    if domain:
        _check_email_verified(claims)
        return _Principal(name, address, email_in_token=True)
    made_up = f"{name}@{policy.principal_domain}" if policy.principal_domain else ""
    return _Principal(name, made_up, email_in_token=False)


def actor_name(text: str) -> str:
    """``text`` as an Actor id that a token can carry, in lower case but for a provider's name before a slash.

    Raises Refused(PRINCIPAL_INVALID).
    """
    name, domain, _ = _parts(text)
    if domain:
        raise _malformed("an Actor id is a name, not an address")
    namespace, slash, _ = text.partition("/")
    return f"{namespace}/{name.partition('/')[2]}" if slash else name


def _parts(value: object) -> tuple[str, str, str]:
    """Local part, domain (empty without ``@``) and whole of a principal, in lower case. Raises Refused."""
    if value is ABSENT:
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MISSING)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PRINCIPAL:
        raise _malformed("not a string, empty or too long")
    if " " in value or not value.isprintable() or _KELVIN in value:
        # isprintable() is False for control, format and surrogate characters and for every other white space
        raise _malformed("white space or a character that does not show")
    whole = value.lower()
    name, at, domain = whole.partition("@")
    if not name or "@" in domain or (at and not domain):
        raise _malformed("not one name, or one name at one domain")
    return name, domain, whole


def _check_email_verified(claims: Mapping[str, Any]) -> None:
    verified = _VERIFIED.find(claims)
    if verified is False or (isinstance(verified, str) and verified.strip().lower() == "false"):
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.EMAIL_UNVERIFIED)


def _check_domain(principal: _Principal, policy: PrincipalPolicy) -> None:
    """OpenMetadata's rule: allowed domains replace the principal domain; a name without a domain belongs to none."""
    domain = principal.domain if principal.email_in_token else ""
    if domain not in (policy.allowed_domains or {policy.principal_domain}) or not domain:
        raise Refused(Reason.DOMAIN_NOT_ALLOWED, Cause.DOMAIN)


def _is_admin(principal: _Principal, policy: PrincipalPolicy) -> bool:
    """Rules of ``adminPrincipals``: a bare name counts only where nobody else can hand out that name."""
    is_named = principal.name in policy.admin_names
    is_named_with_provider = f"{policy.provider}/{principal.name}" in policy.admin_names
    if policy.own_issuer or not (is_named or is_named_with_provider):
        return is_named
    at_home = principal.domain in policy.allowed_domains or principal.domain == policy.principal_domain
    if _is_named_by_address(principal, policy) and not at_home and (policy.allowed_domains or policy.principal_domain):
        return False
    if is_named_with_provider:
        return True
    if "/" in principal.name:
        return False
    if not principal.email_in_token:
        return policy.flat
    # Beside a mapped name stands an address of another name: it says nothing about who may be called so.
    is_own_address = principal.email == f"{principal.name}@{principal.domain}"
    return at_home and (policy.flat or (policy.may_be_admin and is_own_address))


def _is_named_by_address(principal: _Principal, policy: PrincipalPolicy) -> bool:
    """Whether the name is the local part of an address, which is another person's at every other domain."""
    return principal.email_in_token and policy.username_claim is None


def _actor_type(claims: Mapping[str, Any], policy: PrincipalPolicy) -> ActorType:
    if policy.service_claim is None:
        return policy.actor_type
    found = claim_texts(policy.service_claim.find(claims))
    return ActorType.USER if policy.service_values.isdisjoint(found) else ActorType.SERVICE


def claim_texts(value: object) -> list[str]:
    """The texts that a configured value is compared with: ``value`` itself or each member of a list.

    Numbers and booleans stand for their JSON text; objects, lists in lists, null and :data:`ABSENT` for nothing.
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


def _names(claims: Mapping[str, Any], path: ClaimPath | None) -> tuple[str, ...]:
    if path is None:
        return ()
    value = path.find(claims)
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(dict.fromkeys(name for name in found[:MAX_GROUPS] if isinstance(name, str) and name))


def _malformed(detail: str) -> Refused:
    return Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, detail)
