"""From the file's two vocabularies (the flat OpenMetadata form, ``providers``) to one list of providers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.config.reading.authority import Authority, read_authority
from sidecar.config.reading.finding import Finding
from sidecar.config.reading.tree import Path
from sidecar.config.reading.urls import (
    address_of,
    fault_of_control_url,
    fault_of_key_url,
    is_file,
    is_loopback,
    origin,
    split_url,
)
from sidecar.config.settings import (
    DEFAULT_EMAIL_CLAIM,
    AuthenticationConfiguration,
    ClaimActorType,
    JwtTokenConfiguration,
    KeyUrl,
    PrincipalRule,
    ProviderSettings,
    ServerSettings,
    Settings,
)

FLAT_NAME = "default"
OWN_NAME = "openmetadata"
UNBOUND_NAME = "unbound"
# Where Actors come from, in ``adminPrincipals``, logs and metrics; in lower case.
_RESERVED_NAMES = {
    "own": "the own issuer",
    "system": "DataHub's system client",
    "datahub": "DataHub's own tokens",
    "guest": "the guest",
}
OUR_NAMESPACE = "urn:auth-sidecar:"
NAMELESS = "auth-sidecar"
"""What the sidecar is called in assertions where ``jwtissuer`` is not set."""
OPENMETADATA_JWKS_PATHS = ("/api/v1/system/config/jwks", "/api/v1/config/jwks")
LOGGED_IN_USER = "/v1/users/loggedInUser"
_BLOCK = "authenticationConfiguration"
_NO_CLAIMS = "must not be empty; [email, preferred_username, sub]"
_SAME_ALGORITHM = frozenset({"EdDSA", "Ed25519"})


@dataclass(frozen=True, slots=True)
class Provider:
    """One issuer of tokens as the rest of the program sees it, whichever form the file used.

    ``issuer`` is None only for the flat form with ``allowUnboundIssuers``: it then stands for every issuer that no
    other provider owns. ``issuer_aliases`` are further accepted spellings of ``iss`` (the flat form's ``authority``
    with and without its final slash) until discovery has told the exact one. ``key_urls`` are bound to the issuer;
    ``candidate_urls`` count only if the issuer's discovery document names them as its ``jwks_uri``. ``presumed_url`` is
    the one of them that counts as well while there is no such document. ``candidates_are_shared``: they also count
    elsewhere (for unbound issuers), so one that discovery does not name is no fault. ``discovery`` asks for
    discovery from ``issuer``. ``is_own`` marks the metadata server's own issuer read from its JWKS: its tokens
    count as the own issuer's and need no record. ``clock_skew`` is the tolerance for ``exp``, and for ``nbf`` and
    ``iat`` too unless ``early`` says what theirs is. ``is_flat`` marks the flat form's ``authority``.

    ``address_claim`` holds the caller's e-mail address where no mapping names it; ``needs_verified``: it counts only
    beside ``email_verified: true``. ``is_principal_written``: the configuration says what ``principal`` is. Domains are
    None where those of ``authorizerConfiguration`` hold.
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


_DEFAULT_EARLY_SKEW = 5.0


def own_leeway(configuration: JwtTokenConfiguration) -> float:
    """Tolerance for ``exp`` of own tokens, in seconds."""
    return configuration.clock_skew or 0.0


def own_early(configuration: JwtTokenConfiguration) -> float:
    """Tolerance for ``nbf`` and ``iat`` of own tokens, in seconds: replicas' clocks differ, and clocks are set back."""
    return _DEFAULT_EARLY_SKEW if configuration.clock_skew is None else configuration.clock_skew


def providers(settings: Settings) -> tuple[tuple[Provider, ...], list[Finding]]:
    """Every provider that ``settings`` name, in either form, and what is wrong with them.

    With a fatal finding the providers are of no use.
    """
    findings: list[Finding] = []
    base = _base(settings, findings)
    flat = [*_flat_form(settings, base, findings)]
    findings.extend(_idle(settings, flat))
    found = list(flat)
    for index, entry in enumerate(settings.authentication_configuration.providers):
        path: Path = (_BLOCK, "providers", index)
        found.append(_listed(entry, base, path, findings))
        findings.extend(_admins_and_domains(entry, settings, path))
    findings.extend(_namings(found, settings))
    findings.extend(_clashes(found, settings))
    findings.extend(_bot_check(settings, found))
    return tuple(found), findings


def default_principal(settings: Settings) -> PrincipalRule:
    """How names are read where no provider says it: as written, else as the upstream names its users."""
    written = settings.authentication_configuration.principal
    if written is not None:
        return written
    return "verbatim" if names_datahub_users(settings) else "localPart"


def takes_verbatim_names(settings: Settings, found: Iterable[Provider]) -> bool:
    """Whether any of ``found``, or the authenticators of the chain, name Actors verbatim: an id may be an address."""
    return default_principal(settings) == "verbatim" or any(provider.principal == "verbatim" for provider in found)


def names_datahub_users(settings: Settings) -> bool:
    """Whether ``upstream.credentials`` tell a DataHub server who asks."""
    return settings.upstream is not None and settings.upstream.credentials in {"datahub", "datahubHeader"}


def has_own_keys(configuration: JwtTokenConfiguration) -> bool:
    """Whether own keys are configured, in any way."""
    return configuration.key_secret is not None or bool(
        configuration.key_dir or configuration.rsapublic_key_file_path or configuration.rsaprivate_key_file_path
    )


def server_issuer(configuration: JwtTokenConfiguration) -> str:
    """``iss`` of the metadata server's own tokens; empty: not known. Own keys have ``jwtissuer`` for themselves."""
    server = configuration.server.jwtissuer
    return server if has_own_keys(configuration) else configuration.jwtissuer or server


def member_issuer(name: str) -> str:
    """Issuer of the Actors of the chain's member ``name``, where it takes them from no token."""
    return f"{OUR_NAMESPACE}{name}"


class OwnIssuers:
    """Issuer names that stand for this sidecar, or for DataHub's tokens: no other key may sign in them.

    Owners of tokens and entries of the deny list are known by their issuer's name.
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
        """What ``issuer`` stands for; empty: it is free."""
        if issuer.lower().startswith(OUR_NAMESPACE):  # schemes and namespaces of URNs have no case (RFC 8141 3.1)
            return f"a name below {OUR_NAMESPACE}, which are the sidecar's own"
        return self._named.get(issuer, "")


def expand_algorithms(names: Iterable[str]) -> frozenset[str]:
    """``names``, where EdDSA and Ed25519 stand for each other."""
    given = frozenset(names)
    return given | _SAME_ALGORITHM if given & _SAME_ALGORITHM else given


# --- the list form


def _listed(entry: ProviderSettings, base: Provider, path: Path, findings: list[Finding]) -> Provider:
    """``entry``, with ``base`` for what it leaves to the block."""
    urls = [((*path, "publicKeyUrls", index), url) for index, url in enumerate(entry.public_key_urls)]
    if not urls:
        urls = [((*path, "issuer"), entry.issuer)]
    findings.extend(_unsafe(urls, allow_insecure=entry.allow_insecure_urls))
    if not entry.audiences:
        findings.append(_no_audience((*path, "audiences")))
    if entry.allow_missing_expiry:
        message = "tokens without exp are good until their key is withdrawn"
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
    )


def _principal_mapping(entry: ProviderSettings, base: Provider, path: Path, findings: list[Finding]) -> tuple[str, str]:
    """The claims of the mapping in force; ``base`` has the block's. A list and a mapping exclude each other."""
    listed, mapped = entry.jwt_principal_claims, entry.jwt_principal_claims_mapping
    if mapped is not None:
        username, email = _mapping(mapped, (*path, "jwtPrincipalClaimsMapping"), findings)
    else:
        username, email = (base.username_claim, base.email_claim) if listed is None else ("", "")
    if listed is not None and mapped:
        message = "has no effect beside jwtPrincipalClaimsMapping, which names the Actor alone; keep one of the two"
        findings.append(Finding((*path, "jwtPrincipalClaims"), message, idle=True))
    if listed is None and not username and not base.principal_claims:
        findings.append(Finding((*path, "jwtPrincipalClaims"), _NO_CLAIMS))
    if entry.email_claim is not None and email:
        message = f"has no effect: jwtPrincipalClaimsMapping takes the address from {email}; keep one of the two"
        findings.append(Finding((*path, "emailClaim"), message, idle=True))
    return username, email


def _admins_and_domains(entry: ProviderSettings, settings: Settings, path: Path) -> Iterator[Finding]:
    """Whether the domains of ``entry`` let anyone in, and anyone be admin who should be."""
    authorizer = settings.authorizer_configuration
    domain = authorizer.principal_domain if entry.principal_domain is None else entry.principal_domain
    allowed = authorizer.allowed_domains if entry.allowed_domains is None else entry.allowed_domains
    enforced = entry.enforce_principal_domain
    is_enforced = authorizer.enforce_principal_domain if enforced is None else enforced
    # where the block has no domain and enforces one, check_authorizer says so
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
            "makes no one an admin: a bare name in adminPrincipals counts only beside an address of principalDomain or "
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
                fault += " (for discovery; publicKeyUrls can stand instead)"
            yield Finding(path, fault)


def _mapping(entries: Sequence[str], path: Path, findings: list[Finding]) -> tuple[str, str]:
    """The claims behind ``username`` and ``email``; both are needed as soon as one entry is written."""
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
    """OpenMetadata's one issuer and its key URLs, each URL bound to its issuer; ``base`` is what all of them share."""
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
            "a token of any issuer passes if one of publicKeyUrls signed it, and one key set "
            "often serves many tenants; bind each URL as {url: ..., issuer: ...} instead"
        )
        findings.append(Finding((_BLOCK, "allowUnboundIssuers"), message, fatal=False))
        yield replace(base, name=UNBOUND_NAME, issuer=None, key_urls=_addresses([*urls.same_origin, *urls.foreign]))


def _base(settings: Settings, findings: list[Finding]) -> Provider:
    """What all providers of the flat form share, and the defaults of the others."""
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
    """Rules by which names are read that are left open, or do not fit the upstream."""
    if any(not provider.is_principal_written for provider in found):
        message = (
            "is not written: verbatim is in force, because of upstream.credentials; write localPart or verbatim now, "
            "because the start demands it once the store holds token records or denials of Actors"
        )
        yield Finding((_BLOCK, "principal"), message, fatal=False)
    if settings.upstream is None or settings.upstream.credentials != "openmetadata":
        return
    names = [provider.name for provider in found if provider.principal == "verbatim"]
    if names:
        message = (
            f"openmetadata: the server names its users by the part before an @, and {', '.join(names)} by all of it "
            "(principal: verbatim); callers with one name at two domains are one user there"
        )
        yield Finding(("upstream", "credentials"), message, fatal=False)


def _idle(settings: Settings, found: Sequence[Provider]) -> Iterator[Finding]:
    """Settings of the flat form that concern none of ``found``, which are its providers."""
    flat = settings.authentication_configuration
    has_authority = any(provider.is_flat for provider in found)
    if flat.client_id and not has_authority:
        accepted = ", ".join(f"issuer: {provider.issuer}" for provider in found if provider.issuer)
        message = (
            "has no effect: it is the required audience of authority, and authority is no issuer here "
            f"(publicKeyUrls are for {accepted or 'none'}); entries of providers have audiences of their own"
        )
        yield Finding((_BLOCK, "clientId"), message, idle=True)
    if flat.authority and not has_authority:
        message = (
            "is no issuer here: every entry of publicKeyUrls belongs to another, so none of its tokens is accepted"
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
    """The metadata server's own issuer, by its public key and its JWKS.

    With own keys here there is one only where ``server.jwtissuer`` tells the two apart.
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
            "is the metadata server's own key set, whose issuer is not known; "
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
        # its tokens are OpenMetadata's, whatever the upstream is
        principal="localPart",
        is_principal_written=True,
    )


def _authority(
    flat: AuthenticationConfiguration, base: Provider, urls: "_Urls", authority: Authority, findings: list[Finding]
) -> Iterator[Provider]:
    """The issuer ``authority``, if any key URL can be its own: OpenMetadata's file names Google by default."""
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
    message = "no audience is required: a token that this issuer made for any other service is accepted here too"
    if path[-1] == "clientId":
        message += "; set clientId"
    return Finding(path, message, fatal=False)


LocatedUrl = tuple[Path, str]


def _addresses(urls: Iterable[LocatedUrl]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url for _, url in urls))


@dataclass(frozen=True, slots=True)
class _Urls:
    """The flat form's key URLs by owner: the metadata server, ``authority`` (``named``), another issuer (``bound``).

    URLs without an issuer are ``same_origin``, on the origin of ``authority``, or ``foreign``. ``moved`` are URLs of
    the server as they are written, which are read from ``upstream.url`` instead.
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
        """Take ``placed`` for the server's own; read it from ``upstream.url`` if that alone is on loopback."""
        path, url = placed
        if has_own_keys(settings.jwt_token_configuration) and _is_ours(url, settings):
            return
        nearer = _at_upstream(url, settings)
        if nearer:
            self.moved.append(placed)
        self.own.append((path, nearer or url))

    def unsafe_server(self, settings: Settings) -> Iterator[Finding]:
        """What is wrong with the addresses of the server's own key set; which of them are read elsewhere."""
        issuer = server_issuer(settings.jwt_token_configuration) or "its jwtissuer"
        insecure = settings.authentication_configuration.allow_insecure_urls
        for found in _unsafe(self.own, allow_insecure=insecure):
            message = f"{found.message} (the metadata server's own key set, issuer: {issuer})"
            yield replace(found, message=message)
        for path, url in self.moved:
            message = f"is {url}, the metadata server's own key set; it is read from upstream.url instead"
            yield Finding(path, message, fatal=False)

    def all(self, flat: AuthenticationConfiguration, authority: Authority) -> Iterator[LocatedUrl]:
        """Every address that will be asked, discovery of ``authority`` included; without those of the server."""
        yield from (*self.named, *self.same_origin, *self.foreign)
        for bound in self.bound.values():
            yield from bound
        is_asked = not flat.public_key_urls or (
            (self.named or self.same_origin or self.foreign) and origin(authority.issuer)
        )
        if flat.authority and is_asked and not authority.fault:
            yield (_BLOCK, "authority"), authority.issuer

    def presumed(self) -> str:
        """The URL that is taken for the authority's own without a discovery document; empty: there is none.

        It is the only one of the authority's origin: one host may serve many issuers, and of two URLs nothing but the
        document tells whose keys each holds.
        """
        taken = {address_of(url) for bound in self.bound.values() for _, url in bound}
        found = {address_of(url): url for _, url in self.same_origin}
        if len(found) != 1 or not taken.isdisjoint(found):
            return ""
        return next(iter(found.values()))

    def unbound(self, flat: AuthenticationConfiguration, authority: Authority, server: str) -> Iterator[Finding]:
        """URLs for which no issuer can be found, or for all of which but one. ``server``: issuer of the own server."""
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
                    f"belongs to no issuer: {url} is no key set of the tenant {authority.tenant}; write "
                    f"{{url: {url}, issuer: <iss of the tokens>}}"
                )
                yield Finding(path, message)
            elif not can_discover:
                action = "set authority, or write {url: ..., issuer: ...}"
                if flat.authority:
                    action = f"write {{url: ..., issuer: ...}}; authority is {flat.authority}, which is no URL"
                yield Finding(path, f"belongs to no issuer; {action}")
        loose = {address_of(url): url for _, url in (*self.same_origin, *self.foreign) if not is_file(url)}
        if can_discover and len(loose) > 1:
            message = (
                f"{', '.join(loose.values())}: the discovery document of {authority.issuer} names one jwks_uri, so at "
                "most one of these verifies tokens; give each other one its issuer, as {url: ..., issuer: ...}"
            )
            yield Finding((_BLOCK, "publicKeyUrls"), message, fatal=False)


def _same_origin(url: str, authority: str) -> bool:
    where = origin(url)
    return where is not None and where == origin(authority)


def is_own_jwks(url: str, server: ServerSettings, jwt: JwtTokenConfiguration) -> bool:
    """Whether ``url`` is the key set that this sidecar, or the OpenMetadata server beside it, publishes."""
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
    """Whether ``url`` has the path of an OpenMetadata server's key set, be it below a base path."""
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
    """The one entry of ``publicKeyUrls`` with the path of an OpenMetadata server, whatever its host; empty: not one.

    OpenMetadata's chart names its own server by the Service, its documentation by the public address. With two such
    entries nothing tells which of them is the own server's.
    """
    urls = (entry for entry in settings.authentication_configuration.public_key_urls if isinstance(entry, str))
    found = {address_of(url): url for url in urls if _is_openmetadata_jwks(url)}
    return next(iter(found.values())) if len(found) == 1 else ""


def _is_ours(url: str, settings: Settings) -> bool:
    """Whether ``url`` is what this sidecar publishes itself."""
    jwt, where = settings.jwt_token_configuration, origin(url)
    parts = split_url(url)
    if where is None or parts is None:
        return False
    is_here = _is_listener(where[1], where[2], settings.server.listen) or where == origin(settings.server.public_url)
    return is_here and parts.path.endswith((*jwt.jwks_paths, f"{settings.server.prefix}/jwks"))


def _at_upstream(url: str, settings: Settings) -> str:
    """The key set of the server at ``url`` as ``upstream.url`` reaches it; empty where that is no safer."""
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
    """Where a server at ``url`` tells who asks: that address itself, or below the server's or its API's."""
    base = url.rstrip("/")
    if base.endswith(LOGGED_IN_USER):
        return base
    return f"{base}{LOGGED_IN_USER}" if base.endswith("/api") else f"{base}/api{LOGGED_IN_USER}"


def _bot_check(settings: Settings, found: Sequence[Provider]) -> Iterator[Finding]:
    """An address that a bearer token may be sent to, and tokens that it is about."""
    flat = settings.authentication_configuration
    if flat.bot_token_check is None:
        return
    path: Path = (_BLOCK, "botTokenCheck", "url")
    yield from _unsafe([(path, flat.bot_token_check.url)], allow_insecure=flat.allow_insecure_urls)
    if not any(provider.is_own for provider in found):
        message = (
            "is never asked: it is about bots of the metadata server's own, whose key set stands in publicKeyUrls "
            "where there are no own keys here"
        )
        yield Finding((_BLOCK, "botTokenCheck"), message, idle=True)


def _clashes(found: Sequence[Provider], settings: Settings) -> Iterator[Finding]:
    """Two of one name or one issuer: nobody could say whose keys and rules a token falls under."""
    flat_count = len(found) - len(settings.authentication_configuration.providers)
    owners: dict[str, str] = {}
    issuers: dict[str, str] = {}
    jwt = settings.jwt_token_configuration
    own = OwnIssuers(settings)
    if jwt.jwtissuer.lower().startswith(OUR_NAMESPACE):
        message = f"{jwt.jwtissuer} is {own.meaning(jwt.jwtissuer)}; write another"
        yield Finding(("jwtTokenConfiguration", "jwtissuer"), message)
    if has_own_keys(jwt) and jwt.jwtissuer:
        issuers[jwt.jwtissuer] = "the own keys (jwtissuer)"
        if jwt.jwtissuer == jwt.server.jwtissuer:
            message = (
                f"is {jwt.jwtissuer}, which is also the issuer of the metadata server's tokens "
                "(jwtTokenConfiguration.server.jwtissuer); give the own tokens another"
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
                yield Finding((*path, place), f"names an issuer that belongs to {issuers[issuer]}; it has one owner")
            issuers.setdefault(issuer, owner)


def _taken(issuer: str, meaning: str, jwt: JwtTokenConfiguration) -> str:
    if issuer != jwt.jwtissuer:
        return f"{issuer} is {meaning}; name the issuer that the tokens have in iss"
    return (
        f"{issuer} is {meaning}; for the metadata server's own keys write {{url: ..., issuer: {issuer}}} in "
        "authenticationConfiguration.publicKeyUrls, else give jwtissuer another name"
    )
