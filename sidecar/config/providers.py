"""From the file's two vocabularies (the flat OpenMetadata form, ``providers``) to one list of providers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.config.finding import Finding
from sidecar.config.settings import (
    AuthenticationConfiguration,
    ClaimActorType,
    JwtTokenConfiguration,
    KeyUrl,
    ProviderSettings,
    ServerSettings,
    Settings,
)
from sidecar.config.tree import Path
from sidecar.config.urls import (
    address_of,
    fault_of_control_url,
    fault_of_key_url,
    is_file,
    is_loopback,
    origin,
    split_url,
)

FLAT_NAME = "default"
OWN_NAME = "openmetadata"
UNBOUND_NAME = "unbound"
# Where Actors come from, in ``adminPrincipals``, logs and metrics; in lower case.
_TAKEN_NAMES = {
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


_EARLY_SECONDS = 5.0


def own_leeway(configuration: JwtTokenConfiguration) -> float:
    """Tolerance for ``exp`` of own tokens, in seconds."""
    return configuration.clock_skew or 0.0


def own_early(configuration: JwtTokenConfiguration) -> float:
    """Tolerance for ``nbf`` and ``iat`` of own tokens, in seconds: replicas' clocks differ, and clocks are set back."""
    return _EARLY_SECONDS if configuration.clock_skew is None else configuration.clock_skew


def providers(settings: Settings) -> tuple[tuple[Provider, ...], list[Finding]]:
    """Every provider that ``settings`` name, in either form, and what is wrong with them.

    With a fatal finding the providers are of no use.
    """
    findings: list[Finding] = []
    found = [*_flat_form(settings, findings)]
    for index, entry in enumerate(settings.authentication_configuration.providers):
        found.append(_listed(entry, (_BLOCK, "providers", index), findings))
    findings.extend(_clashes(found, settings))
    findings.extend(_bot_check(settings, found))
    return tuple(found), findings


def has_own_keys(configuration: JwtTokenConfiguration) -> bool:
    """Whether own keys are configured, in either way."""
    return bool(
        configuration.key_dir or configuration.rsapublic_key_file_path or configuration.rsaprivate_key_file_path
    )


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


def _listed(entry: ProviderSettings, path: Path, findings: list[Finding]) -> Provider:
    urls = [((*path, "publicKeyUrls", index), url) for index, url in enumerate(entry.public_key_urls)]
    if not urls:
        urls = [((*path, "issuer"), entry.issuer)]
    findings.extend(_unsafe(urls, allow_insecure=entry.allow_insecure_urls))
    if not entry.audiences:
        findings.append(_no_audience((*path, "audiences")))
    if entry.allow_missing_expiry:
        message = "tokens without exp are good until their key is withdrawn"
        findings.append(Finding((*path, "allowMissingExpiry"), message, fatal=False))
    username, email = _mapping(entry.jwt_principal_claims_mapping, (*path, "jwtPrincipalClaimsMapping"), findings)
    kind = entry.actor_type
    return Provider(
        name=entry.name,
        issuer=entry.issuer,
        key_urls=entry.public_key_urls,
        discovery=not entry.public_key_urls,
        audiences=frozenset(entry.audiences),
        algorithms=expand_algorithms(entry.algorithms),
        principal_claims=entry.jwt_principal_claims,
        username_claim=username,
        email_claim=email,
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


def _flat_form(settings: Settings, findings: list[Finding]) -> Iterator[Provider]:
    """OpenMetadata's one issuer and its key URLs, each URL bound to whom it belongs."""
    flat = settings.authentication_configuration
    if not flat.public_key_urls and not flat.authority:
        if flat.client_id:
            findings.append(Finding((_BLOCK, "clientId"), "is of no use without authority or publicKeyUrls", False))
        return
    base = _flat_base(flat, findings)
    urls = _Urls.sort(settings)
    findings.extend(_unsafe(urls.all(flat), allow_insecure=flat.allow_insecure_urls))
    findings.extend(urls.homeless(flat))
    yield from _own_server(settings, base, urls, findings)
    yield from _authority(flat, base, urls, findings)
    for number, (issuer, bound) in enumerate(urls.bound.items(), 2):
        findings.append(_no_audience(bound[0][0]))
        yield replace(base, name=f"{FLAT_NAME}-{number}", issuer=issuer, key_urls=_addresses(bound))
    if flat.allow_unbound_issuers:
        message = (
            "a token of any issuer passes if one of publicKeyUrls signed it, and one key set "
            "often serves many tenants; bind each URL as {url: ..., issuer: ...} instead"
        )
        findings.append(Finding((_BLOCK, "allowUnboundIssuers"), message, fatal=False))
        if urls.near or urls.far:
            yield replace(base, name=UNBOUND_NAME, issuer=None, key_urls=_addresses([*urls.near, *urls.far]))


def _flat_base(flat: AuthenticationConfiguration, findings: list[Finding]) -> Provider:
    """What all providers of the flat form share."""
    username, email = _mapping(flat.jwt_principal_claims_mapping, (_BLOCK, "jwtPrincipalClaimsMapping"), findings)
    if not flat.jwt_principal_claims:
        findings.append(Finding((_BLOCK, "jwtPrincipalClaims"), "must not be empty; [email, preferred_username, sub]"))
    return Provider(
        name=FLAT_NAME,
        issuer=None,
        algorithms=frozenset({flat.token_validation_algorithm or "RS256"}),
        principal_claims=flat.jwt_principal_claims,
        username_claim=username,
        email_claim=email,
        allow_insecure_urls=flat.allow_insecure_urls,
    )


def _own_server(settings: Settings, base: Provider, urls: "_Urls", findings: list[Finding]) -> Iterator[Provider]:
    """The metadata server's own issuer, read from its JWKS; with own keys here there is nothing to fetch."""
    jwt = settings.jwt_token_configuration
    if not urls.own or has_own_keys(jwt):
        return
    if not jwt.jwtissuer:
        message = (
            "is the metadata server's own key set, whose issuer is not known; "
            "set jwtTokenConfiguration.jwtissuer (OpenMetadata's default is open-metadata.org)"
        )
        findings.append(Finding(urls.own[0][0], message))
        return
    yield replace(
        base,
        name=OWN_NAME,
        issuer=jwt.jwtissuer,
        key_urls=_addresses(urls.own),
        audiences=frozenset({jwt.audience} if jwt.audience else ()),
        clock_skew=own_leeway(jwt),
        early=own_early(jwt),
        require_expiry=False,
        is_own=True,
    )


def _authority(
    flat: AuthenticationConfiguration, base: Provider, urls: "_Urls", findings: list[Finding]
) -> Iterator[Provider]:
    """The issuer ``authority``, if any key URL can be its own: OpenMetadata's file names Google by default."""
    can_discover = origin(flat.authority) is not None
    loose = _addresses([*urls.near, *urls.far]) if can_discover else ()
    is_meant = not flat.public_key_urls or urls.named or loose
    if not flat.authority or not is_meant:
        return
    if not flat.client_id:
        findings.append(_no_audience((_BLOCK, "clientId")))
    alias = flat.authority[:-1] if flat.authority.endswith("/") else f"{flat.authority}/"
    yield replace(
        base,
        issuer=flat.authority,
        issuer_aliases=(alias,) if can_discover else (),
        key_urls=_addresses(urls.named),
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


Placed = tuple[Path, str]


def _addresses(urls: Iterable[Placed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url for _, url in urls))


@dataclass(frozen=True, slots=True)
class _Urls:
    """The flat form's key URLs by owner: the metadata server, ``authority`` (``named``), another issuer (``bound``).

    URLs without an issuer are ``near``, on the origin of ``authority``, or ``far``.
    """

    own: list[Placed] = field(default_factory=list)
    named: list[Placed] = field(default_factory=list)
    bound: dict[str, list[Placed]] = field(default_factory=dict)
    near: list[Placed] = field(default_factory=list)
    far: list[Placed] = field(default_factory=list)

    @classmethod
    def sort(cls, settings: Settings) -> "_Urls":
        flat, jwt = settings.authentication_configuration, settings.jwt_token_configuration
        own_issuer = "" if has_own_keys(jwt) else jwt.jwtissuer  # own keys: no other key may sign for the own issuer
        urls = cls()
        for index, entry in enumerate(flat.public_key_urls):
            path: Path = (_BLOCK, "publicKeyUrls", index)
            url = entry.url if isinstance(entry, KeyUrl) else entry
            issuer = entry.issuer if isinstance(entry, KeyUrl) else None
            placed = (path, url)
            if is_own_jwks(url, settings.server, jwt) if issuer is None else issuer == own_issuer:
                urls.own.append(placed)
            elif issuer is None:
                (urls.near if _same_origin(url, flat.authority) else urls.far).append(placed)
            elif issuer == flat.authority:
                urls.named.append(placed)
            else:
                urls.bound.setdefault(issuer, []).append(placed)
        return urls

    def all(self, flat: AuthenticationConfiguration) -> Iterator[Placed]:
        """Every address that will be asked, discovery of ``authority`` included."""
        yield from (*self.own, *self.named, *self.near, *self.far)
        for bound in self.bound.values():
            yield from bound
        is_asked = not flat.public_key_urls or ((self.named or self.near or self.far) and origin(flat.authority))
        if flat.authority and is_asked:
            yield (_BLOCK, "authority"), flat.authority

    def presumed(self) -> str:
        """The URL that is taken for the authority's own without a discovery document; empty: there is none.

        It is the only one of the authority's origin: one host may serve many issuers, and of two URLs nothing but the
        document tells whose keys each holds.
        """
        taken = {address_of(url) for bound in self.bound.values() for _, url in bound}
        found = {address_of(url): url for _, url in self.near}
        if len(found) != 1 or not taken.isdisjoint(found):
            return ""
        return next(iter(found.values()))

    def homeless(self, flat: AuthenticationConfiguration) -> Iterator[Finding]:
        """URLs for which no issuer can be found, or for all of which but one."""
        if flat.allow_unbound_issuers:
            return
        can_discover = origin(flat.authority) is not None
        for path, url in self.far:
            if is_file(url):
                message = f"belongs to no issuer: write {{url: {url}, issuer: <iss of the tokens>}}"
                yield Finding(path, message)
            elif not can_discover:
                parts = split_url(url)
                hint = ""
                if parts and parts.path.endswith(OPENMETADATA_JWKS_PATHS):
                    hint = " (an OpenMetadata server's: its issuer is that server's jwtissuer)"
                message = f"belongs to no issuer; set authority, or write {{url: ..., issuer: ...}}{hint}"
                yield Finding(path, message)
        loose = {address_of(url): url for _, url in (*self.near, *self.far) if not is_file(url)}
        if can_discover and len(loose) > 1:
            message = (
                f"{', '.join(loose.values())}: the discovery document of {flat.authority} names one jwks_uri, so at "
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


def _is_listener(host: str, port: int, listen: str) -> bool:
    listen_host, _, listen_port = listen.rpartition(":")
    listen_host = listen_host.strip("[]")
    if not listen_port.isdigit() or int(listen_port) != port:
        return False
    if is_loopback(host):
        return is_loopback(listen_host) or listen_host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
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
        yield Finding((_BLOCK, "botTokenCheck"), message, fatal=False)


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
    for index, provider in enumerate(found):
        is_listed = index >= flat_count
        owner = f"providers[{index - flat_count}]" if is_listed else "the flat form (authority, publicKeyUrls)"
        path: Path = (_BLOCK, "providers", index - flat_count) if is_listed else (_BLOCK,)
        taken_by = _TAKEN_NAMES.get(provider.name.lower()) or owners.get(provider.name)
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
