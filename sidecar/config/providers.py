"""Builds one list of providers from both forms of the file: OpenMetadata's flat form, and ``providers``."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.config.credential_mode import Product, credential_mode
from sidecar.config.reading.authority import Authority, read_authority
from sidecar.config.reading.finding import Finding
from sidecar.config.reading.tree import Path
from sidecar.config.reading.urls import (
    address_of,
    fault_of_control_url,
    fault_of_key_url,
    is_file,
    origin,
    split_url,
)
from sidecar.config.settings import (
    DEFAULT_CLIENT_CLAIMS,
    DEFAULT_EMAIL_CLAIM,
    AuthenticationConfiguration,
    ClaimActorType,
    JwtTokenConfiguration,
    KeyUrl,
    PrincipalRule,
    ProviderLoginSettings,
    ProviderSettings,
    ServerSettings,
    Settings,
)
from sidecar.hosts import is_loopback

FLAT_NAME = "default"
OWN_NAME = "openmetadata"
UNBOUND_NAME = "unbound"
# Names of sources of Actors in ``adminPrincipals``, logs and metrics, in lower case.
_RESERVED_NAMES = {
    "own": "the own issuer",
    "system": "DataHub's system client",
    "datahub": "DataHub's own tokens",
    "guest": "the guest",
}
OUR_NAMESPACE = "urn:auth-sidecar:"
NAMELESS = "auth-sidecar"
"""Issuer of assertions if ``jwtissuer`` is not set."""
OPENMETADATA_JWKS_PATHS = ("/api/v1/system/config/jwks", "/api/v1/config/jwks")
LOGGED_IN_USER = "/v1/users/loggedInUser"
_BLOCK = "authenticationConfiguration"
_NO_CLAIMS = "must not be empty; [email, preferred_username, sub]"
_SAME_ALGORITHM = frozenset({"EdDSA", "Ed25519"})


@dataclass(frozen=True, slots=True)
class Provider:
    """One issuer of tokens, independent of the form in the file.

    ``issuer`` is None only for the flat form with ``allowUnboundIssuers``: it then means every issuer that no other
    provider owns. ``issuer_aliases`` are further accepted spellings of ``iss`` (the flat form's ``authority``
    with and without its final slash) until the discovery document has the exact one. ``key_urls`` are bound to the
    issuer; ``candidate_urls`` are used only if the issuer's discovery document has them as ``jwks_uri``.
    ``presumed_url`` is the candidate that is used while there is no such document. ``candidates_are_shared``: unbound
    issuers use them too, so a candidate that the document does not have is not a problem. ``discovery``: the keys are
    found by discovery from ``issuer``. ``is_own`` marks the metadata server's own issuer read from its JWKS: its tokens
    count as issued tokens and need no record. ``clock_skew`` is the tolerance for ``exp``, and for ``nbf`` and
    ``iat`` too unless ``early`` is set. ``is_flat`` marks the flat form's ``authority``.

    ``address_claim`` has the caller's e-mail address if no mapping names it; ``needs_verified``: it is used only with
    ``email_verified: true``. ``is_principal_written``: ``principal`` is configured explicitly. Domains are None if
    those of ``authorizerConfiguration`` apply. ``client_claims`` may name the client of a token; ``trusts_act``: the
    issuer may say who acts for the subject. ``login`` is the registration for browser login. ``bearer``: its tokens
    authenticate requests; if not, only the token endpoint uses them. ``keys_setting`` is the setting with ``key_urls``.
    """

    name: str
    issuer: str | None
    issuer_aliases: tuple[str, ...] = ()
    key_urls: tuple[str, ...] = ()
    candidate_urls: tuple[str, ...] = ()
    presumed_url: str = ""
    candidates_are_shared: bool = False
    discovery: bool = False
    audiences: frozenset[str] = frozenset()
    algorithms: frozenset[str] = frozenset()
    principal_claims: tuple[str, ...] = ()
    username_claim: str = ""
    email_claim: str = ""
    address_claim: str = DEFAULT_EMAIL_CLAIM
    needs_verified: bool = False
    principal: PrincipalRule = "localPart"
    is_principal_written: bool = True
    principal_domain: str | None = None
    enforce_domain: bool | None = None
    allowed_domains: tuple[str, ...] | None = None
    groups_claim: str = ""
    roles_claim: str = "roles"
    client_claims: tuple[str, ...] = DEFAULT_CLIENT_CLAIMS
    trusts_act: bool = False
    required_claims: Mapping[str, frozenset[str]] = field(default_factory=dict)
    max_token_lifetime: float | None = None
    clock_skew: float = 30.0
    early: float | None = None
    service_claim: str = ""
    service_values: frozenset[str] = frozenset()
    actor_type: str = "USER"
    namespaced: bool = False
    may_be_admin: bool = False
    require_expiry: bool = True
    allow_insecure_urls: bool = False
    is_flat: bool = False
    is_own: bool = False
    login: ProviderLoginSettings | None = field(default=None, repr=False)
    bearer: bool = True
    keys_setting: str = "publicKeyUrls"


_DEFAULT_EARLY_SKEW = 5.0


def own_leeway(configuration: JwtTokenConfiguration) -> float:
    """Tolerance for ``exp`` of own tokens, in seconds."""
    return configuration.clock_skew or 0.0


def own_early(configuration: JwtTokenConfiguration) -> float:
    """Tolerance for ``nbf`` and ``iat`` of own tokens, in seconds, because clocks of replicas differ."""
    return _DEFAULT_EARLY_SKEW if configuration.clock_skew is None else configuration.clock_skew


def providers(settings: Settings) -> tuple[tuple[Provider, ...], list[Finding]]:
    """Every provider of ``settings``, in either form, and the problems found.

    If a finding is fatal, do not use the providers.
    """
    findings: list[Finding] = []
    base = _base(settings, findings)
    flat = [*_flat_form(settings, base, findings)]
    findings.extend(_idle(settings, flat))
    found = list(flat)
    for index, entry in enumerate(settings.authentication_configuration.providers):
        path: Path = (_BLOCK, "providers", index)
        found.append(_listed(entry, base, path, findings, bearer=is_bearer(entry, settings)))
        findings.extend(_admins_and_domains(entry, settings, path))
    findings.extend(_namings(found, settings))
    findings.extend(_clashes(found, settings))
    findings.extend(_bot_check(settings, found))
    return tuple(found), findings


def default_principal(settings: Settings) -> PrincipalRule:
    """The default of ``principal``: as configured, else as the upstream names its users."""
    written = settings.authentication_configuration.principal
    if written is not None:
        return written
    return "verbatim" if names_datahub_users(settings) else "localPart"


def takes_verbatim_names(settings: Settings, found: Iterable[Provider]) -> bool:
    """Whether one of ``found`` or the authentication chain names Actors verbatim, so that an id may be an address."""
    return default_principal(settings) == "verbatim" or any(provider.principal == "verbatim" for provider in found)


def names_datahub_users(settings: Settings) -> bool:
    """Whether ``upstream.credentials`` name the Actor to a DataHub server."""
    return credential_mode(settings).names_users_of is Product.DATAHUB


def has_own_keys(configuration: JwtTokenConfiguration) -> bool:
    """Whether own keys are configured, in any way."""
    return configuration.key_secret is not None or bool(
        configuration.key_dir or configuration.rsapublic_key_file_path or configuration.rsaprivate_key_file_path
    )


def server_issuer(configuration: JwtTokenConfiguration) -> str:
    """``iss`` of the metadata server's own tokens; empty: unknown. With own keys, ``jwtissuer`` is the sidecar's."""
    server = configuration.server.jwtissuer
    return server if has_own_keys(configuration) else configuration.jwtissuer or server


def member_issuer(name: str) -> str:
    """Issuer of the Actors of the authenticator ``name``, if they do not come from a token."""
    return f"{OUR_NAMESPACE}{name}"


class OwnIssuers:
    """Issuer names that mean this sidecar, or DataHub's tokens: no other key may sign for them.

    Owners of tokens and revocation entries are identified by the name of their issuer.
    """

    def __init__(self, settings: Settings) -> None:
        jwt = settings.jwt_token_configuration
        self._named = {
            NAMELESS: "the name of the sidecar itself",
            settings.authentication.token_service.issuer: "authentication.tokenService.issuer, of DataHub's own tokens",
            f"{jwt.jwtissuer or NAMELESS}/assertion": "the issuer of the sidecar's assertions",
            jwt.jwtissuer: "jwtTokenConfiguration.jwtissuer, the own issuer",
        }
        self._named.pop("", None)

    def meaning(self, issuer: str) -> str:
        """What ``issuer`` is reserved for; empty: it is not reserved."""
        if issuer.lower().startswith(OUR_NAMESPACE):  # schemes and namespaces of URNs have no case (RFC 8141 3.1)
            return f"a name below {OUR_NAMESPACE}, which are the sidecar's own"
        return self._named.get(issuer, "")


def expand_algorithms(names: Iterable[str]) -> frozenset[str]:
    """``names``, where EdDSA and Ed25519 include each other."""
    given = frozenset(names)
    return given | _SAME_ALGORITHM if given & _SAME_ALGORITHM else given


# --- the list form


def is_bearer(entry: ProviderSettings, settings: Settings) -> bool:
    """Whether tokens of ``entry`` authenticate requests; by default not those of a platform for workloads."""
    if entry.bearer is not None:
        return entry.bearer
    # also while the endpoint is disabled: switching it off must not make credentials of the platform's tokens
    return not any(rule.provider == entry.name for rule in settings.token_endpoint.workloads)


def _listed(entry: ProviderSettings, base: Provider, path: Path, findings: list[Finding], *, bearer: bool) -> Provider:
    """``entry``; values that it omits come from ``base``, the block."""
    urls = [((*path, "publicKeyUrls", index), url) for index, url in enumerate(entry.public_key_urls)]
    if not urls:
        urls = [((*path, "issuer"), entry.issuer)]
    findings.extend(_unsafe(urls, allow_insecure=entry.allow_insecure_urls))
    if fault := _fault_of_issuer(entry.issuer):
        findings.append(Finding((*path, "issuer"), fault))
    if not entry.audiences and bearer:
        findings.append(_no_audience((*path, "audiences")))
    if entry.allow_missing_expiry:
        message = "tokens without exp are valid until their key is withdrawn"
        findings.append(Finding((*path, "allowMissingExpiry"), message, fatal=False))
    username, email = _principal_mapping(entry, base, path, findings)
    kind = entry.actor_type
    verified = entry.email_verified or ("required" if entry.may_be_admin else "absentIsVerified")
    return Provider(
        name=entry.name,
        issuer=entry.issuer,
        key_urls=entry.public_key_urls,
        discovery=not entry.public_key_urls,
        audiences=frozenset(entry.audiences),
        algorithms=expand_algorithms(entry.algorithms),
        principal_claims=entry.jwt_principal_claims or base.principal_claims,
        username_claim=username,
        email_claim=email,
        address_claim=entry.email_claim or base.address_claim,
        needs_verified=verified == "required",
        principal=entry.principal or base.principal,
        is_principal_written=entry.principal is not None or base.is_principal_written,
        principal_domain=entry.principal_domain,
        enforce_domain=entry.enforce_principal_domain,
        allowed_domains=entry.allowed_domains,
        groups_claim=entry.groups_claim,
        roles_claim=entry.roles_claim,
        client_claims=entry.client_claims,
        trusts_act=entry.trust_act,
        required_claims={claim: frozenset(values) for claim, values in entry.required_claims.items()},
        max_token_lifetime=entry.max_token_lifetime,
        clock_skew=entry.clock_skew,
        service_claim=kind.claim if isinstance(kind, ClaimActorType) else "",
        service_values=frozenset(kind.service) if isinstance(kind, ClaimActorType) else frozenset(),
        actor_type="USER" if isinstance(kind, ClaimActorType) else kind,
        namespaced=entry.principal_namespace == "provider",
        may_be_admin=entry.may_be_admin,
        require_expiry=not entry.allow_missing_expiry,
        allow_insecure_urls=entry.allow_insecure_urls,
        login=entry.login,
        bearer=bearer,
    )


def _fault_of_issuer(issuer: str) -> str:
    """Why ``issuer`` is no ``iss`` of any token."""
    before, document, _ = issuer.partition("/.well-known/")
    if document:
        return f"is the address of a document about the issuer; write {before}"
    if re.search(r"[<>{}]", issuer):
        return f"is {issuer}, which still holds a placeholder of the documentation; write the issuer"
    return ""


def _principal_mapping(entry: ProviderSettings, base: Provider, path: Path, findings: list[Finding]) -> tuple[str, str]:
    """The claims of the effective mapping; ``base`` has the block's. A list and a mapping exclude each other."""
    listed, mapped = entry.jwt_principal_claims, entry.jwt_principal_claims_mapping
    if mapped is not None:
        username, email = _mapping(mapped, (*path, "jwtPrincipalClaimsMapping"), findings)
    else:
        username, email = (base.username_claim, base.email_claim) if listed is None else ("", "")
    if listed is not None and mapped:
        message = "has no effect: jwtPrincipalClaimsMapping takes precedence; keep one of the two"
        findings.append(Finding((*path, "jwtPrincipalClaims"), message, idle=True))
    if listed is None and not username and not base.principal_claims:
        findings.append(Finding((*path, "jwtPrincipalClaims"), _NO_CLAIMS))
    if entry.email_claim is not None and email:
        message = f"has no effect: jwtPrincipalClaimsMapping takes the address from {email}; keep one of the two"
        findings.append(Finding((*path, "emailClaim"), message, idle=True))
    return username, email


def _admins_and_domains(entry: ProviderSettings, settings: Settings, path: Path) -> Iterator[Finding]:
    """Domains of ``entry`` that reject every token, or every admin."""
    authorizer = settings.authorizer_configuration
    domain = authorizer.principal_domain if entry.principal_domain is None else entry.principal_domain
    allowed = authorizer.allowed_domains if entry.allowed_domains is None else entry.allowed_domains
    enforced = entry.enforce_principal_domain
    is_enforced = authorizer.enforce_principal_domain if enforced is None else enforced
    # if the block enforces a domain and has none, check_authorizer reports it
    if (
        is_enforced
        and not (domain or allowed)
        and (authorizer.principal_domain or authorizer.allowed_domains or enforced)
    ):
        message = "needs principalDomain or allowedDomains: without one every token is refused"
        yield Finding((*path, "enforcePrincipalDomain"), message)
    if not entry.may_be_admin:
        return
    if not (domain or allowed):
        message = (
            "has no effect: a bare name in adminPrincipals matches only with an address of principalDomain or "
            "allowedDomains, and neither is set; set one, or write <provider>/<id> in adminPrincipals"
        )
        yield Finding((*path, "mayBeAdmin"), message, fatal=False)
    if entry.email_verified is None and authorizer.admin_principals:
        message = (
            "is required, because of mayBeAdmin: a token without email_verified whose e-mail address names the caller "
            "is refused (cause email_unverified), and its address makes no admin; for a provider that sends no "
            "email_verified (Entra ID with a single tenant, AD FS) write emailVerified: absentIsVerified, else required"
        )
        yield Finding((*path, "emailVerified"), message, fatal=False)


def _unsafe(urls: Iterable[tuple[Path, str]], *, allow_insecure: bool) -> Iterator[Finding]:
    for path, url in urls:
        fault_of = fault_of_key_url if "publicKeyUrls" in path else fault_of_control_url
        if fault := fault_of(url, allow_insecure=allow_insecure):
            if path[-1] == "issuer":
                fault += " (for discovery; or set publicKeyUrls)"
            yield Finding(path, fault)


def _mapping(entries: Sequence[str], path: Path, findings: list[Finding]) -> tuple[str, str]:
    """The claims mapped to ``username`` and ``email``; if one is mapped, both must be."""
    claims: dict[str, str] = {}
    for index, entry in enumerate(entries):
        target, _, claim = entry.partition(":")
        if target not in {"username", "email"} or not claim.strip():
            findings.append(Finding((*path, index), "must be username:<claim> or email:<claim>"))
        elif target in claims:
            findings.append(Finding((*path, index), f"{target} is mapped twice; keep one"))
        else:
            claims[target] = claim.strip()
    if entries and not claims.keys() >= {"username", "email"}:
        findings.append(Finding(path, "needs both, username:<claim> and email:<claim>"))
    return claims.get("username", ""), claims.get("email", "")


# --- the flat form


def _flat_form(settings: Settings, base: Provider, findings: list[Finding]) -> Iterator[Provider]:
    """OpenMetadata's issuer and its key URLs, each URL bound to its issuer; ``base`` has the common values."""
    flat = settings.authentication_configuration
    server_key = settings.jwt_token_configuration.server.rsapublic_key_file_path
    if not (flat.public_key_urls or flat.authority or server_key):
        return
    if not base.principal_claims:
        findings.append(Finding((_BLOCK, "jwtPrincipalClaims"), _NO_CLAIMS))
    issuers = {entry.issuer for entry in flat.public_key_urls if isinstance(entry, KeyUrl)}
    authority = read_authority(flat.authority, issuers)
    urls = _Urls.classify(settings, authority)
    findings.extend(_unsafe(urls.all(flat, authority), allow_insecure=flat.allow_insecure_urls))
    findings.extend(urls.unsafe_server(settings))
    findings.extend(urls.unbound(flat, authority, server_issuer(settings.jwt_token_configuration)))
    yield from _own_server(settings, base, urls, findings)
    yield from _authority(flat, base, urls, authority, findings)
    for number, (issuer, bound) in enumerate(urls.bound.items(), 2):
        findings.append(_no_audience(bound[0][0]))
        yield replace(base, name=f"{FLAT_NAME}-{number}", issuer=issuer, key_urls=_addresses(bound))
    if flat.allow_unbound_issuers and (urls.same_origin or urls.foreign):
        message = (
            "a token of any issuer is accepted if one of publicKeyUrls signed it, and one key set "
            "often has the keys of many tenants; bind each URL as {url: ..., issuer: ...} instead"
        )
        findings.append(Finding((_BLOCK, "allowUnboundIssuers"), message, fatal=False))
        yield replace(base, name=UNBOUND_NAME, issuer=None, key_urls=_addresses([*urls.same_origin, *urls.foreign]))


def _base(settings: Settings, findings: list[Finding]) -> Provider:
    """Common values of the providers of the flat form, and defaults of the others."""
    flat = settings.authentication_configuration
    username, email = _mapping(flat.jwt_principal_claims_mapping, (_BLOCK, "jwtPrincipalClaimsMapping"), findings)
    return Provider(
        name=FLAT_NAME,
        issuer=None,
        algorithms=frozenset({flat.token_validation_algorithm or "RS256"}),
        principal_claims=flat.jwt_principal_claims,
        username_claim=username,
        email_claim=email,
        address_claim=flat.email_claim or DEFAULT_EMAIL_CLAIM,
        principal=default_principal(settings),
        is_principal_written=flat.principal is not None or not names_datahub_users(settings),
        allow_insecure_urls=flat.allow_insecure_urls,
    )


def _namings(found: Sequence[Provider], settings: Settings) -> Iterator[Finding]:
    """``principal`` that is left to the default, or does not fit the upstream."""
    if any(not provider.is_principal_written for provider in found):
        message = (
            "is not set: verbatim applies, because of upstream.credentials; set localPart or verbatim now, "
            "because it is required as soon as the store has token records or revocations of Actors"
        )
        yield Finding((_BLOCK, "principal"), message, fatal=False)
    if credential_mode(settings).names_users_of is not Product.OPENMETADATA:
        return
    names = [provider.name for provider in found if provider.principal == "verbatim"]
    if names:
        message = (
            f"openmetadata: the server names its users by the part before the @, {', '.join(names)} by the whole "
            "address (principal: verbatim); callers with the same name at two domains are one user there"
        )
        yield Finding(("upstream", "credentials"), message, fatal=False)


def _idle(settings: Settings, found: Sequence[Provider]) -> Iterator[Finding]:
    """Settings of the flat form that apply to none of ``found``, its providers."""
    flat = settings.authentication_configuration
    has_authority = any(provider.is_flat for provider in found)
    is_faulty = bool(flat.authority and read_authority(flat.authority).fault)
    if flat.client_id and not has_authority and not is_faulty:
        accepted = ", ".join(f"issuer: {provider.issuer}" for provider in found if provider.issuer)
        message = (
            "has no effect: it is the required audience of authority, which is not an issuer here "
            f"(publicKeyUrls are for {accepted or 'none'}); entries of providers have audiences of their own"
        )
        yield Finding((_BLOCK, "clientId"), message, idle=True)
    if flat.authority and not has_authority:
        message = (
            "is not an issuer here: every entry of publicKeyUrls belongs to another issuer, so its tokens are rejected"
        )
        yield Finding((_BLOCK, "authority"), message, fatal=False)
    if flat.token_validation_algorithm and not found:
        message = "has no effect without authority or publicKeyUrls; entries of providers have algorithms of their own"
        yield Finding((_BLOCK, "tokenValidationAlgorithm"), message, idle=True)
    if flat.allow_unbound_issuers and not any(provider.name == UNBOUND_NAME for provider in found):
        message = "has no effect: there is no entry of publicKeyUrls without an issuer of its own"
        yield Finding((_BLOCK, "allowUnboundIssuers"), message, idle=True)
    if flat.allow_insecure_urls and not found and flat.bot_token_check is None:
        message = "has no effect without authority or publicKeyUrls; entries of providers have their own"
        yield Finding((_BLOCK, "allowInsecureUrls"), message, idle=True)


def _own_server(settings: Settings, base: Provider, urls: "_Urls", findings: list[Finding]) -> Iterator[Provider]:
    """The metadata server's own issuer, with its public key and its JWKS.

    If the sidecar has signing keys, only with ``server.jwtissuer``, which distinguishes the two.
    """
    jwt = settings.jwt_token_configuration
    issuer = server_issuer(jwt)
    key_file = jwt.server.rsapublic_key_file_path
    if has_own_keys(jwt) and not issuer:
        return
    key_urls = (*((f"file:{key_file}",) if key_file else ()), *_addresses(urls.own))
    if not key_urls:
        return
    if not issuer:
        message = (
            "is the metadata server's own key set, but its issuer is unknown; "
            "set jwtTokenConfiguration.jwtissuer (OpenMetadata's default is open-metadata.org)"
        )
        where = urls.own[0][0] if urls.own else ("jwtTokenConfiguration", "server", "jwtissuer")
        findings.append(Finding(where, message))
        return
    yield replace(
        base,
        name=OWN_NAME,
        issuer=issuer,
        key_urls=key_urls,
        audiences=frozenset({jwt.audience} if jwt.audience else ()),
        clock_skew=own_leeway(jwt),
        early=own_early(jwt),
        require_expiry=False,
        is_own=True,
        # its tokens name users as OpenMetadata does, independent of the upstream
        principal="localPart",
        is_principal_written=True,
    )


def _authority(
    flat: AuthenticationConfiguration, base: Provider, urls: "_Urls", authority: Authority, findings: list[Finding]
) -> Iterator[Provider]:
    """The issuer ``authority``, if a key URL can be its: the default in OpenMetadata's file is Google."""
    can_discover = origin(authority.issuer) is not None and not authority.entra and not authority.fault
    if authority.fault and (not flat.public_key_urls or urls.same_origin or urls.foreign):
        findings.append(Finding((_BLOCK, "authority"), authority.fault))
        return
    loose = _addresses([*urls.same_origin, *urls.foreign]) if can_discover else ()
    is_meant = not flat.public_key_urls or urls.named or loose
    if not flat.authority or not is_meant:
        return
    if not flat.client_id:
        findings.append(_no_audience((_BLOCK, "clientId")))
    if authority.issuer != flat.authority:
        issuers = " and ".join((authority.issuer, *authority.aliases))
        message = f"is {flat.authority}: tokens must have the issuer {issuers}"
        findings.append(Finding((_BLOCK, "authority"), message, fatal=False))
    issuer = authority.issuer
    alias = issuer[:-1] if issuer.endswith("/") else f"{issuer}/"
    yield replace(
        base,
        issuer=issuer,
        issuer_aliases=(alias,) if can_discover else authority.aliases,
        key_urls=_addresses(urls.named) or authority.default_key_urls,
        candidate_urls=loose,
        presumed_url=urls.presumed(),
        candidates_are_shared=flat.allow_unbound_issuers,
        discovery=can_discover,
        audiences=frozenset({flat.client_id} if flat.client_id else ()),
        is_flat=True,
    )


def _no_audience(path: Path) -> Finding:
    message = "no audience is required: a token that this issuer issued for another service is accepted here too"
    if path[-1] == "clientId":
        message += "; set clientId"
    return Finding(path, message, fatal=False)


LocatedUrl = tuple[Path, str]


def _addresses(urls: Iterable[LocatedUrl]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url for _, url in urls))


@dataclass(frozen=True, slots=True)
class _Urls:
    """The flat form's key URLs by owner: the metadata server, ``authority`` (``named``), another issuer (``bound``).

    URLs without an issuer are ``same_origin``, on the origin of ``authority``, or ``foreign``. ``moved`` are configured
    URLs of the server that are read from ``upstream.url`` instead.
    """

    moved: list[LocatedUrl] = field(default_factory=list)
    own: list[LocatedUrl] = field(default_factory=list)
    named: list[LocatedUrl] = field(default_factory=list)
    bound: dict[str, list[LocatedUrl]] = field(default_factory=dict)
    same_origin: list[LocatedUrl] = field(default_factory=list)
    foreign: list[LocatedUrl] = field(default_factory=list)

    @classmethod
    def classify(cls, settings: Settings, authority: Authority) -> "_Urls":
        flat, jwt = settings.authentication_configuration, settings.jwt_token_configuration
        issuer_of_server = server_issuer(jwt)
        accepted = {authority.issuer, *authority.aliases, flat.authority}
        only = _only_server_jwks(settings) if issuer_of_server else ""
        urls = cls()
        for index, entry in enumerate(flat.public_key_urls):
            path: Path = (_BLOCK, "publicKeyUrls", index)
            url = entry.url if isinstance(entry, KeyUrl) else entry
            issuer = entry.issuer if isinstance(entry, KeyUrl) else None
            placed = (path, url)
            if issuer is None:
                if url == only or is_own_jwks(url, settings.server, jwt) or _is_upstream_jwks(url, settings):
                    urls._add_own(placed, settings)
                elif tenants := authority.own_key_url(url):
                    urls.named.append((path, tenants))
                else:
                    (urls.same_origin if _same_origin(url, authority.issuer) else urls.foreign).append(placed)
            elif issuer and issuer == issuer_of_server:
                urls.own.append(placed)
            elif issuer in accepted:
                urls.named.append(placed)
            else:
                urls.bound.setdefault(issuer, []).append(placed)
        return urls

    def _add_own(self, placed: LocatedUrl, settings: Settings) -> None:
        """Classify ``placed`` as the server's own; read it from ``upstream.url`` if only that is on loopback."""
        path, url = placed
        if has_own_keys(settings.jwt_token_configuration) and _is_ours(url, settings):
            return
        nearer = _at_upstream(url, settings)
        if nearer:
            self.moved.append(placed)
        self.own.append((path, nearer or url))

    def unsafe_server(self, settings: Settings) -> Iterator[Finding]:
        """Problems with the addresses of the server's own key set, and which of them are read elsewhere."""
        issuer = server_issuer(settings.jwt_token_configuration) or "its jwtissuer"
        insecure = settings.authentication_configuration.allow_insecure_urls
        for found in _unsafe(self.own, allow_insecure=insecure):
            message = f"{found.message} (the metadata server's own key set, issuer: {issuer})"
            yield replace(found, message=message)
        for path, url in self.moved:
            message = f"is {url}, the metadata server's own key set; it is read from upstream.url instead"
            yield Finding(path, message, fatal=False)

    def all(self, flat: AuthenticationConfiguration, authority: Authority) -> Iterator[LocatedUrl]:
        """Every URL that is fetched, including discovery of ``authority``, without those of the server."""
        yield from (*self.named, *self.same_origin, *self.foreign)
        for bound in self.bound.values():
            yield from bound
        is_asked = not flat.public_key_urls or (
            (self.named or self.same_origin or self.foreign) and origin(authority.issuer)
        )
        if flat.authority and is_asked and not authority.fault:
            yield (_BLOCK, "authority"), authority.issuer

    def presumed(self) -> str:
        """The URL that counts as the authority's without a discovery document; empty: none.

        It is the only one with the authority's origin: a host may serve many issuers, so with two URLs only the
        document shows which issuer each belongs to.
        """
        taken = {address_of(url) for bound in self.bound.values() for _, url in bound}
        found = {address_of(url): url for _, url in self.same_origin}
        if len(found) != 1 or not taken.isdisjoint(found):
            return ""
        return next(iter(found.values()))

    def unbound(self, flat: AuthenticationConfiguration, authority: Authority, server: str) -> Iterator[Finding]:
        """URLs without a known issuer, except for at most one. ``server``: issuer of the own server."""
        if flat.allow_unbound_issuers or authority.fault:
            return
        can_discover = origin(authority.issuer) is not None and not authority.entra
        for path, url in self.foreign:
            if is_file(url):
                message = f"belongs to no issuer: write {{url: {url}, issuer: <iss of the tokens>}}"
                yield Finding(path, message)
            elif _is_openmetadata_jwks(url):
                issuer = server or "open-metadata.org"
                message = (
                    f"belongs to no issuer: {url} is the key set of an OpenMetadata server, one of several or of "
                    f"unknown jwtissuer; write {{url: {url}, issuer: {issuer}}}, with the jwtissuer of that server"
                )
                yield Finding(path, message)
            elif authority.entra:
                message = (
                    f"belongs to no issuer: {url} is not a key set of the tenant {authority.tenant}; write "
                    f"{{url: {url}, issuer: <iss of the tokens>}}"
                )
                yield Finding(path, message)
            elif not can_discover:
                action = "set authority, or write {url: ..., issuer: ...}"
                if flat.authority:
                    action = f"write {{url: ..., issuer: ...}}; authority is {flat.authority}, which is not a URL"
                yield Finding(path, f"belongs to no issuer; {action}")
        loose = {address_of(url): url for _, url in (*self.same_origin, *self.foreign) if not is_file(url)}
        if can_discover and len(loose) > 1:
            message = (
                f"{', '.join(loose.values())}: the discovery document of {authority.issuer} has one jwks_uri, so at "
                "most one of these verifies tokens; write the others with their issuers, as {url: ..., issuer: ...}"
            )
            yield Finding((_BLOCK, "publicKeyUrls"), message, fatal=False)


def _same_origin(url: str, authority: str) -> bool:
    where = origin(url)
    return where is not None and where == origin(authority)


def is_own_jwks(url: str, server: ServerSettings, jwt: JwtTokenConfiguration) -> bool:
    """Whether ``url`` is the key set of this sidecar, or of the OpenMetadata server that it protects."""
    parts, where = split_url(url), origin(url)
    if parts is None or where is None:
        return False
    _, host, port = where
    if parts.path in OPENMETADATA_JWKS_PATHS and is_loopback(host):
        return True
    published = (*jwt.jwks_paths, f"{server.prefix}/jwks")
    return parts.path.endswith(published) and (
        _is_listener(host, port, server.listen) or where == origin(server.public_url)
    )


def _is_openmetadata_jwks(url: str) -> bool:
    """Whether ``url`` has the path of an OpenMetadata server's key set, possibly below a base path."""
    parts = split_url(url)
    return parts is not None and parts.path.endswith(OPENMETADATA_JWKS_PATHS)


def _is_upstream_jwks(url: str, settings: Settings) -> bool:
    """Whether ``url`` is the key set of an OpenMetadata server at ``upstream.url`` or ``server.publicUrl``."""
    upstream = settings.upstream.url if settings.upstream is not None else ""
    where = origin(url)
    return (
        where is not None
        and _is_openmetadata_jwks(url)
        and where in {origin(upstream), origin(settings.server.public_url)}
    )


def _only_server_jwks(settings: Settings) -> str:
    """The only entry of ``publicKeyUrls`` with the path of an OpenMetadata server, on any host; empty: not exactly one.

    OpenMetadata's chart uses the Service's name for its own server, its documentation the public address. With two such
    entries it is unknown which is the own server's.
    """
    urls = (entry for entry in settings.authentication_configuration.public_key_urls if isinstance(entry, str))
    found = {address_of(url): url for url in urls if _is_openmetadata_jwks(url)}
    return next(iter(found.values())) if len(found) == 1 else ""


def _is_ours(url: str, settings: Settings) -> bool:
    """Whether ``url`` is the key set of this sidecar."""
    jwt, where = settings.jwt_token_configuration, origin(url)
    parts = split_url(url)
    if where is None or parts is None:
        return False
    is_here = _is_listener(where[1], where[2], settings.server.listen) or where == origin(settings.server.public_url)
    return is_here and parts.path.endswith((*jwt.jwks_paths, f"{settings.server.prefix}/jwks"))


def _at_upstream(url: str, settings: Settings) -> str:
    """The key set of the server at ``url``, with the address of ``upstream.url``; empty if that is not safer."""
    parts = split_url(url)
    upstream = split_url(settings.upstream.url) if settings.upstream is not None else None
    if parts is None or upstream is None or parts.scheme != "http" or is_loopback(parts.hostname or ""):
        return ""
    if not is_loopback(upstream.hostname or ""):
        return ""
    return f"{upstream.scheme}://{upstream.netloc}{parts.path}"


def _is_listener(host: str, port: int, listen: str) -> bool:
    listen_host, _, listen_port = listen.rpartition(":")
    listen_host = listen_host.strip("[]")
    if not listen_port.isdigit() or int(listen_port) != port:
        return False
    if is_loopback(host):
        return is_loopback(listen_host) or listen_host in {"0.0.0.0", "::", "*"}  # noqa: S104 - compared, not bound
    return host == listen_host


# --- both forms together


def bot_check_url(url: str) -> str:
    """The address of ``loggedInUser`` for ``url``, which may also be the address of the server or of its API."""
    base = url.rstrip("/")
    if base.endswith(LOGGED_IN_USER):
        return base
    return f"{base}{LOGGED_IN_USER}" if base.endswith("/api") else f"{base}/api{LOGGED_IN_USER}"


def _bot_check(settings: Settings, found: Sequence[Provider]) -> Iterator[Finding]:
    """A URL to which a bearer token may be sent, and tokens that it applies to."""
    flat = settings.authentication_configuration
    if flat.bot_token_check is None:
        return
    path: Path = (_BLOCK, "botTokenCheck", "url")
    yield from _unsafe([(path, flat.bot_token_check.url)], allow_insecure=flat.allow_insecure_urls)
    if not any(provider.is_own for provider in found):
        message = (
            "has no effect: it applies to bots of the metadata server, whose key set is in publicKeyUrls "
            "if jwtTokenConfiguration has no keys"
        )
        yield Finding((_BLOCK, "botTokenCheck"), message, idle=True)


def _clashes(found: Sequence[Provider], settings: Settings) -> Iterator[Finding]:
    """Providers with the same name or issuer: the keys and rules of a token would be ambiguous."""
    flat_count = len(found) - len(settings.authentication_configuration.providers)
    owners: dict[str, str] = {}
    issuers: dict[str, str] = {}
    jwt = settings.jwt_token_configuration
    own = OwnIssuers(settings)
    if jwt.jwtissuer.lower().startswith(OUR_NAMESPACE):
        message = f"{jwt.jwtissuer} is {own.meaning(jwt.jwtissuer)}; choose another"
        yield Finding(("jwtTokenConfiguration", "jwtissuer"), message)
    if has_own_keys(jwt) and jwt.jwtissuer:
        issuers[jwt.jwtissuer] = "the own keys (jwtissuer)"
        if jwt.jwtissuer == jwt.server.jwtissuer:
            message = (
                f"is {jwt.jwtissuer}, which is also the issuer of the metadata server's tokens "
                "(jwtTokenConfiguration.server.jwtissuer); choose another for the issued tokens"
            )
            yield Finding(("jwtTokenConfiguration", "jwtissuer"), message)
    for index, provider in enumerate(found):
        is_listed = index >= flat_count
        owner = f"providers[{index - flat_count}]" if is_listed else "the flat form (authority, publicKeyUrls)"
        path: Path = (_BLOCK, "providers", index - flat_count) if is_listed else (_BLOCK,)
        taken_by = _RESERVED_NAMES.get(provider.name.lower()) or owners.get(provider.name)
        if taken_by:
            yield Finding((*path, "name"), f"is the name of {taken_by} too; each needs its own")
        owners.setdefault(provider.name, owner)
        place = "issuer" if is_listed else "authority" if provider.is_flat else "publicKeyUrls"
        for issuer in filter(None, (provider.issuer, *provider.issuer_aliases)):
            meaning = "" if provider.is_own or issuer in issuers else own.meaning(issuer)
            if meaning:
                yield Finding((*path, place), _taken(issuer, meaning, jwt))
            if issuer in issuers:
                yield Finding(
                    (*path, place), f"names the issuer of {issuers[issuer]}; an issuer belongs to one provider"
                )
            other = issuer[:-1] if issuer.endswith("/") else f"{issuer}/"
            if issuer not in issuers and issuers.get(other, owner) != owner:
                message = f"is the issuer of {issuers[other]} but for the final slash; keep the one that is in iss"
                yield Finding((*path, place), message)
            issuers.setdefault(issuer, owner)


def _taken(issuer: str, meaning: str, jwt: JwtTokenConfiguration) -> str:
    if issuer != jwt.jwtissuer:
        return f"{issuer} is {meaning}; name the issuer that the tokens have in iss"
    return (
        f"{issuer} is {meaning}; for the metadata server's own keys write {{url: ..., issuer: {issuer}}} in "
        "authenticationConfiguration.publicKeyUrls, else give jwtissuer another name"
    )
