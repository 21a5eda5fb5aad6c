"""Conditions between settings that are each valid by themselves."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping

from sidecar.config.credential_mode import Product, credential_mode
from sidecar.config.kafka_checks import check_kafka
from sidecar.config.listener_checks import check_server_tls, check_sockets
from sidecar.config.login_checks import check_login
from sidecar.config.origins import check_origins
from sidecar.config.products.openmetadata import PUBLISHED_KEY_ID
from sidecar.config.providers import FLAT_NAME, OWN_NAME, UNBOUND_NAME, has_own_keys, names_datahub_users
from sidecar.config.reading.decode import nearest
from sidecar.config.reading.finding import Finding, FindingId, finding
from sidecar.config.reading.references import misplaced_references
from sidecar.config.reading.store_url import StoreKind, parse_store_url
from sidecar.config.reading.tree import Path
from sidecar.config.reading.units import parse_base_path
from sidecar.config.reading.urls import split_url
from sidecar.config.resources import check_resources
from sidecar.config.rule_checks import check_base_paths, check_spellings, check_untrusted_checks, requires_something
from sidecar.config.secrets_manager import check_secrets_manager
from sidecar.config.settings import (
    AuthenticationConfiguration,
    ClaimActorType,
    ProviderSettings,
    RuleSettings,
    Settings,
    StoreTls,
)
from sidecar.config.signals import check_signals
from sidecar.config.token_endpoint import check_token_endpoint
from sidecar.config.token_header_checks import check_token_headers
from sidecar.hosts import is_loopback

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CLAIM_PATH = re.compile(r'("[^"]+"|[^".]+)(\.("[^"]+"|[^".]+))*')
# Sources of Actors besides the configured providers and authenticators.
_OTHER_SOURCES = frozenset({"own", "system", "datahub", "guest", FLAT_NAME, OWN_NAME, UNBOUND_NAME})
_MIN_WITH_ASSERTION = 1536
_CREDENTIAL_ALONE = "judge the credential alone, without rules"
Check = Callable[[Settings], Iterator[Finding]]


def check_listeners(settings: Settings) -> Iterator[Finding]:
    """Listeners with different addresses; trusted proxies that are not whole networks."""
    server = settings.server
    if _overlap(server.listen, server.admin_listen):
        yield Finding(("server", "adminListen"), "is the same address as server.listen; give it a port of its own")
    if server.public_url and split_url(server.public_url) is None:
        yield Finding(("server", "publicUrl"), "must be an http or https URL, such as https://metadata.example.com")
    for index, network in enumerate(server.trusted_proxies):
        if network != "unix" and ipaddress.ip_network(network, strict=False).prefixlen == 0:
            message = "trusts the whole network: any caller can forge the original request; list the proxy's addresses"
            yield Finding(("server", "trustedProxies", index), message, fatal=False)


def _overlap(one: str, other: str) -> bool:
    if one.startswith("unix:") or other.startswith("unix:"):
        return one == other
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if int(port) != int(other_port) or int(port) == 0:
        return False
    both_local = is_loopback(host.strip("[]")) and is_loopback(other_host.strip("[]"))
    wild = {"0.0.0.0", "[::]", "*"}  # noqa: S104 - compared, not bound
    return host == other_host or both_local or bool(wild & {host, other_host})


def check_times(settings: Settings) -> Iterator[Finding]:
    """Durations that must not be zero, and pairs of minimum and maximum."""
    keys = settings.keys
    positive: Mapping[Path, float] = {
        ("server", "checkDeadline"): settings.server.check_deadline,
        ("keys", "refresh"): keys.refresh,
        ("keys", "retryMin"): keys.retry_min,
        ("keys", "timeout"): keys.timeout,
    }
    for path, seconds in positive.items():
        if seconds <= 0:
            yield Finding(path, "must be more than 0s")
    if keys.retry_min > keys.retry_max:
        yield Finding(("keys", "retryMax"), "must not be less than retryMin")


def check_header_budgets(settings: Settings) -> Iterator[Finding]:
    """The total limit of the identity headers is at least the limit without assertion and credential."""
    headers = settings.identity_headers
    if headers.total_bytes < headers.max_bytes:
        message = f"is {headers.total_bytes} bytes, less than identityHeaders.maxBytes ({headers.max_bytes}); raise it"
        yield Finding(("identityHeaders", "maxTotalBytes"), message)
    elif headers.assertion and headers.total_bytes < _MIN_WITH_ASSERTION:
        message = (
            f"is {headers.total_bytes} bytes, and headers with an assertion take about {_MIN_WITH_ASSERTION} without "
            "groups: most requests are answered 503; raise it"
        )
        yield Finding(("identityHeaders", "maxTotalBytes"), message, fatal=False)


def check_upstream(settings: Settings) -> Iterator[Finding]:
    """An upstream address that can be used, and credentials that can be minted for it."""
    upstream = settings.upstream
    if upstream is None:
        return
    yield from _check_upstream_url(upstream.url)
    mode = credential_mode(settings)
    if mode.mints is Product.OPENMETADATA and not has_own_keys(settings.jwt_token_configuration):
        message = (
            "openmetadata needs an own RSA key to sign with: set rsapublicKeyFilePath and rsaprivateKeyFilePath in "
            "jwtTokenConfiguration (sidecar keys generate makes them)"
        )
        yield Finding(("upstream", "credentials"), message)
    if upstream.server_bots and mode.names_users_of is not Product.OPENMETADATA:
        message = (
            f"has no effect with credentials: {upstream.credentials}; only openmetadata presents names to the server"
        )
        yield Finding(("upstream", "serverBots"), message)
    if upstream.wait_at_start is not None:
        if not upstream.url:
            yield Finding(("upstream", "waitAtStart"), "has no effect without upstream.url")
        elif upstream.wait_at_start <= 0:
            yield Finding(("upstream", "waitAtStart"), "must be more than 0s; leave it out to wait for nothing")
    for index, name in enumerate(upstream.server_bots):
        if not name or not name.isprintable() or name != name.strip():
            yield Finding(("upstream", "serverBots", index), "must be the name of a bot, as the server shows it")


def _check_upstream_url(url: str) -> Iterator[Finding]:
    path = ("upstream", "url")
    if not url or url.startswith("unix:/"):
        return
    parts = split_url(url)
    if parts is None:
        yield finding(FindingId.UPSTREAM_URL, path, "must be http://host:port, https://host:port or unix:/path")
    elif parts.username is not None or parts.password is not None:
        yield finding(FindingId.UPSTREAM_URL, path, "must not hold a user name or password")
    elif parts.query or parts.fragment:
        message = "must not hold a query or fragment: only a path can be prepended to the path of requests"
        yield finding(FindingId.UPSTREAM_URL, path, message)
    else:
        try:
            parse_base_path(parts.path)
        except ValueError as error:
            yield finding(FindingId.UPSTREAM_URL, path, f"has a path that cannot be prepended: it {error}")


def check_tracing(settings: Settings) -> Iterator[Finding]:
    """A collector URL that is valid and contains no credentials, because it is shown."""
    if settings.tracing is None:
        return
    path = ("tracing", "endpoint")
    parts = split_url(settings.tracing.endpoint)
    if parts is None:
        yield Finding(path, "must be an http or https URL")
    elif parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        yield Finding(
            path, "must not hold more than host, port and path; credentials are sent as a header: see the docs"
        )


def check_store(settings: Settings) -> Iterator[Finding]:
    """A supported store URL, and TLS settings only if the URL uses TLS."""
    store = settings.store
    try:
        address = parse_store_url(store.url.reveal())
    except ValueError as error:
        yield Finding(("store", "url"), str(error))
        return
    if address.kind is not StoreKind.SQLITE and not address.tls and store.tls != StoreTls():
        yield Finding(("store", "tls"), "has no effect: store.url does not use TLS; begin it with rediss")
    if bool(store.tls.cert_file) != bool(store.tls.key_file):
        yield Finding(("store", "tls"), "certFile and keyFile go together")


def check_own_keys(settings: Settings) -> Iterator[Finding]:
    """Signing keys given in one way, with an issuer of their own, and not a well-known key pair."""
    jwt = settings.jwt_token_configuration
    block = "jwtTokenConfiguration"
    public, private = jwt.rsapublic_key_file_path, jwt.rsaprivate_key_file_path
    if jwt.key_dir and (public or private):
        yield Finding((block, "keyDir"), "excludes the two key files; keep one of the two")
    elif jwt.key_secret is not None and (jwt.key_dir or public or private):
        yield Finding((block, "keySecret"), "excludes keyDir and the two key files; keep one of the three")
    elif bool(public) != bool(private):
        missing = "rsaprivateKeyFilePath" if public else "rsapublicKeyFilePath"
        yield Finding((block, missing), "is missing; the two key files go together")
    for index, path in enumerate(jwt.jwks_paths):
        if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
            yield Finding((block, "jwksPaths", index), "must be a plain path such as /api/v1/config/jwks")
    if not has_own_keys(jwt):
        return
    if not jwt.jwtissuer:
        yield Finding((block, "jwtissuer"), "is missing; own keys need an issuer of their own")
    if jwt.key_id == PUBLISHED_KEY_ID and not settings.allow_published_secrets:
        message = (
            "is OpenMetadata's published default, and the key pair of that name is public: anyone can sign with it; "
            "make your own (sidecar keys generate), or set allowPublishedSecrets: true for a demonstration"
        )
        yield Finding((block, "keyId"), message)


def check_switched_off(settings: Settings) -> Iterator[Finding]:
    """Parts of DataHub's block that have no effect because the block is disabled."""
    block = settings.authentication
    if block.enabled:
        return
    parts = [f"authenticator {member.name or member.type}" for member in block.authenticators]
    parts += ["the system client"] if block.system_client_secret else []
    for part in parts:
        message = (
            f"is false, so {part} has no effect here; to enable it here, write authentication: {{enabled: true}} in "
            "the sidecar's own file"
        )
        yield Finding(("authentication", "enabled"), message, fatal=False)


def check_lifetimes(settings: Settings) -> Iterator[Finding]:
    """One setting for the lifetime of issued tokens."""
    tokens = settings.tokens
    if tokens.max_lifetime is not None and tokens.allow_never_expiring:
        yield Finding(("tokens", "maxLifetime"), "excludes allowNeverExpiring; keep one of the two")


def check_authorizer(settings: Settings) -> Iterator[Finding]:
    """Domains that can be enforced."""
    authorizer = settings.authorizer_configuration
    if authorizer.enforce_principal_domain and not (authorizer.principal_domain or authorizer.allowed_domains):
        message = "needs principalDomain or allowedDomains; without one every token is refused"
        yield Finding(("authorizerConfiguration", "enforcePrincipalDomain"), message)
    domains: list[tuple[Path, str]] = [
        (("authorizerConfiguration", "allowedDomains", index), domain)
        for index, domain in enumerate(authorizer.allowed_domains)
    ]
    if authorizer.principal_domain:
        domains.append((("authorizerConfiguration", "principalDomain"), authorizer.principal_domain))
    for number, provider in enumerate(settings.authentication_configuration.providers):
        base: Path = ("authenticationConfiguration", "providers", number)
        allowed = enumerate(provider.allowed_domains or ())
        domains.extend(((*base, "allowedDomains", index), domain) for index, domain in allowed)
        if provider.principal_domain:
            domains.append(((*base, "principalDomain"), provider.principal_domain))
    for path, domain in domains:
        if not re.fullmatch(r"[^\s@,*/]+", domain):
            yield Finding(path, "must be one domain, such as example.com")


def check_rules(settings: Settings) -> Iterator[Finding]:
    """Rules with a valid path pattern and methods, none of which is shadowed completely."""
    catch_all: int | None = None
    for index, rule in enumerate(settings.rules):
        if rule.path is not None:
            yield from _check_rule(rule, rule.path, ("rules", index))
        if catch_all is not None:
            message = f"is never reached: rules[{catch_all}] matches everything before it"
            yield Finding(("rules", index), message, fatal=False)
        elif rule.path == "/**" and not rule.methods:
            catch_all = index
        if rule.path is not None and rule.path.startswith(f"{settings.server.prefix}/"):
            message = "lies below server.prefix, where rules do not apply"
            yield Finding(("rules", index, "path"), message, fatal=False)


def _check_rule(rule: RuleSettings, pattern: str, path: Path) -> Iterator[Finding]:
    segments = pattern.split("/")[1:]
    if not re.fullmatch(r"[!-~]+", pattern) or set(pattern) & set("?#\\;"):
        yield Finding((*path, "path"), "must be a plain path: no blanks, query, fragment, backslash or parameters")
    elif any(segment in {".", ".."} for segment in segments) or "" in segments[:-1]:
        yield Finding((*path, "path"), "must be a normalised path: no //, no dot segments")
    elif "**" in segments[:-1] or any("*" in segment and segment not in {"*", "**"} for segment in segments):
        yield Finding((*path, "path"), "has a misplaced wildcard: * stands for one whole segment, /** only at the end")
    for index, method in enumerate(rule.methods):
        if not _TOKEN.fullmatch(method) or method != method.upper():
            yield Finding((*path, "methods", index), "must be a method in capitals, such as GET")
    if rule.access != "authenticated" and rule.require != type(rule.require)():
        yield Finding((*path, "require"), f"has no effect with access: {rule.access}; use access: authenticated")


def check_headers(settings: Settings) -> Iterator[Finding]:
    """Valid header names."""
    for index, name in enumerate(settings.identity_headers.strip):
        if not _TOKEN.fullmatch(name) or "*" in name:
            yield Finding(("identityHeaders", "strip", index), "must be one header name")


def check_claim_paths(settings: Settings) -> Iterator[Finding]:
    """Valid claim paths."""
    for path, claim in _claim_paths(settings.authentication_configuration):
        if not _CLAIM_PATH.fullmatch(claim):
            yield Finding(path, 'is not a claim path: a.b is nested, names with dots are quoted, as "a.b".c')
    for index, provider in enumerate(settings.authentication_configuration.providers):
        for claim, values in provider.required_claims.items():
            if not values:
                path = ("authenticationConfiguration", "providers", index, "requiredClaims", claim)
                yield Finding(path, "accepts no value; name at least one")


def _claim_paths(flat: AuthenticationConfiguration) -> Iterator[tuple[Path, str]]:
    base: Path = ("authenticationConfiguration",)
    yield from _principal_claims(base, flat)
    for index, provider in enumerate(flat.providers):
        place: Path = (*base, "providers", index)
        yield from _principal_claims(place, provider)
        yield (*place, "rolesClaim"), provider.roles_claim
        if provider.groups_claim:
            yield (*place, "groupsClaim"), provider.groups_claim
        for number, claim in enumerate(provider.client_claims):
            yield (*place, "clientClaims", number), claim
        for claim in provider.required_claims:
            yield (*place, "requiredClaims", claim), claim
        if isinstance(provider.actor_type, ClaimActorType):
            yield (*place, "actorType", "claim"), provider.actor_type.claim


def _principal_claims(
    place: Path, holder: AuthenticationConfiguration | ProviderSettings
) -> Iterator[tuple[Path, str]]:
    for index, claim in enumerate(holder.jwt_principal_claims or ()):
        yield (*place, "jwtPrincipalClaims", index), claim
    if holder.email_claim:
        yield (*place, "emailClaim"), holder.email_claim
    for index, entry in enumerate(holder.jwt_principal_claims_mapping or ()):
        claim = entry.partition(":")[2].strip()
        if claim:
            yield (*place, "jwtPrincipalClaimsMapping", index), claim


def check_wildcards(settings: Settings) -> Iterator[Finding]:
    """Settings in which ``*`` is not a wildcard: it would match nothing, or be trusted to match."""
    flat = settings.authentication_configuration
    named: list[tuple[Path, tuple[str, ...]]] = [
        (("authenticationConfiguration", "authority"), (flat.authority,)),
        (("authenticationConfiguration", "clientId"), (flat.client_id,)),
        (("authorizerConfiguration", "adminPrincipals"), settings.authorizer_configuration.admin_principals),
        (("jwtTokenConfiguration", "jwtissuer"), (settings.jwt_token_configuration.jwtissuer,)),
    ]
    for index, provider in enumerate(flat.providers):
        base: Path = ("authenticationConfiguration", "providers", index)
        named.append(((*base, "issuer"), (provider.issuer,)))
        named.append(((*base, "audiences"), provider.audiences))
        named.extend(((*base, "requiredClaims", claim), values) for claim, values in provider.required_claims.items())
    for index, rule in enumerate(settings.rules):
        named.append((("rules", index, "require", "groups"), rule.require.groups))
        named.append((("rules", index, "require", "roles"), rule.require.roles))
    for path, values in named:
        if any("*" in value for value in values):
            yield Finding(path, "has a wildcard, which is not supported here; write the exact values")


def check_references(settings: Settings) -> Iterator[Finding]:
    """``secret:``, ``env:`` and ``file:`` in settings that are not secrets."""
    return misplaced_references(settings)


def check_named_sources(settings: Settings) -> Iterator[Finding]:
    """Rules and ``adminPrincipals`` that name an unknown provider or authenticator: they never match."""
    flat, members = settings.authentication_configuration, settings.authentication.authenticators
    named = {provider.name for provider in flat.providers}
    named |= {member.name or member.type.rpartition(":")[2] for member in members}
    known = {*named, *_OTHER_SOURCES}
    wanted: list[tuple[Path, str]] = [
        (("rules", index, "require", "providers", place), name)
        for index, rule in enumerate(settings.rules)
        for place, name in enumerate(rule.require.providers)
    ]
    for index, principal in enumerate(settings.authorizer_configuration.admin_principals):
        if "/" in principal:
            wanted.append((("authorizerConfiguration", "adminPrincipals", index), principal.partition("/")[0]))
    for path, name in wanted:
        if name not in known and not name.startswith(f"{FLAT_NAME}-"):
            hint = nearest(name, known)
            message = f"no provider or authenticator is named {name}{'; ' if hint else ''}{hint}"
            yield Finding(path, message, fatal=False)


def check_admins(settings: Settings) -> Iterator[Finding]:
    """``adminPrincipals`` that no caller can match."""
    for index, principal in enumerate(settings.authorizer_configuration.admin_principals):
        message = _useless_admin(principal, settings)
        if message:
            yield Finding(("authorizerConfiguration", "adminPrincipals", index), message, fatal=False)


def _useless_admin(principal: str, settings: Settings) -> str:
    """Why no caller can match ``principal``; empty: the configuration does not exclude it."""
    head, slash, rest = principal.partition("/")
    name = rest if slash else head
    if not name or " " in name or not name.isprintable():
        return "is not a valid Actor name: it is empty, or has white space"
    reserved = {"anonymous", "__datahub_system", settings.authentication.system_client_id.lower()}
    if not slash and name.lower() in reserved:
        return f"names {name}, which is reserved: no caller can be it"
    # ids of DataHub users may be e-mail addresses
    if "@" in name and not names_datahub_users(settings) and head != "datahub":
        local = name.partition("@")[0]
        return (
            f"names an e-mail address, but Actor ids here are the part before the @; write "
            f"{head + '/' if slash else ''}{local}"
        )
    if slash or _bare_names_count(settings):
        return ""
    providers = settings.authentication_configuration.providers
    example = f"{providers[0].name}/{name}" if providers else f"<provider>/{name}"
    return (
        f"names {name}, but no caller can match it: a name without a provider matches issued tokens, the flat form, "
        "and providers with mayBeAdmin: true if principalDomain or allowedDomains is set; write "
        f"{example} to name one of that provider"
    )


def _bare_names_count(settings: Settings) -> bool:
    flat, authorizer = settings.authentication_configuration, settings.authorizer_configuration
    if has_own_keys(settings.jwt_token_configuration) or flat.authority or flat.public_key_urls:
        return True
    has_domain = bool(authorizer.principal_domain or authorizer.allowed_domains)
    return has_domain and any(provider.may_be_admin for provider in flat.providers)


def check_authenticators(settings: Settings) -> Iterator[Finding]:
    """``adminPrincipals`` may name ``<provider>/<id>`` or ``<authenticator>/<id>``, so the names must differ."""
    providers = {provider.name.lower() for provider in settings.authentication_configuration.providers}
    taken = {*providers, "own", "system", FLAT_NAME, OWN_NAME, UNBOUND_NAME}
    numbered = re.compile(rf"{FLAT_NAME}-\d+")
    for index, member in enumerate(settings.authentication.authenticators):
        name = member.name or member.type.rpartition(":")[2]
        if name.lower() in taken or numbered.fullmatch(name.lower()):
            path = ("authentication", "authenticators", index, "name" if member.name else "type")
            yield Finding(path, f"has the name of a provider, {name}; give it a name of its own")


def check_patience(settings: Settings) -> Iterator[Finding]:
    """Timeouts of authenticators with ``onError: continue`` that use up the deadline of the decision."""
    members = settings.authentication.authenticators if settings.authentication.enabled else ()
    waited = sum(member.timeout for member in members if member.on_error == "continue")
    if waited >= settings.server.check_deadline:
        message = (
            f"can take {waited:g} s before later authenticators are tried, but server.checkDeadline is "
            f"{settings.server.check_deadline:g} s; give those with onError: continue a shorter timeout"
        )
        yield Finding(("authentication", "authenticators"), message, fatal=False)


def check_datahub_root(settings: Settings) -> Iterator[Finding]:
    """A DataHub upstream treats the user ``datahub`` as its root user."""
    if not names_datahub_users(settings):
        return
    if "datahub" not in {name.lower() for name in settings.authorizer_configuration.admin_principals}:
        message = (
            "does not list datahub, DataHub's root user: a caller with that name gets no credential for the "
            "server; list it if callers that qualify as admin datahub are to be root"
        )
        yield Finding(("authorizerConfiguration", "adminPrincipals"), message, fatal=False)


def check_openmetadata_admin(settings: Settings) -> Iterator[Finding]:
    """An OpenMetadata upstream has the admin ``admin`` unless its own ``adminPrincipals`` differ."""
    if credential_mode(settings).names_users_of is not Product.OPENMETADATA:
        return
    principals = settings.authorizer_configuration.admin_principals
    if "admin" not in {name.rpartition("/")[2].lower() for name in principals}:
        message = (
            "does not list admin, an OpenMetadata server's default admin: a caller with that name gets no credential "
            "for the server; list it if callers named admin are to be admins there"
        )
        yield Finding(("authorizerConfiguration", "adminPrincipals"), message, fatal=False)


def check_purpose(settings: Settings) -> Iterator[Finding]:
    """Valid configurations that are incomplete, or unsafe in production."""
    flat = settings.authentication_configuration
    server_key = settings.jwt_token_configuration.server.rsapublic_key_file_path
    issuers = flat.providers or flat.public_key_urls or flat.authority or server_key
    members = settings.authentication.enabled and settings.authentication.authenticators
    if not issuers and not members and not has_own_keys(settings.jwt_token_configuration):
        message = "no issuer and no own keys are configured: every token is refused; write an entry of providers"
        yield finding(FindingId.NOTHING_ACCEPTED, ("authenticationConfiguration",), message)
    forwards = settings.upstream is not None and bool(settings.upstream.url)
    if not forwards and not settings.server.trusted_proxies:
        message = (
            "no upstream is configured, and no proxy in server.trustedProxies: nothing is forwarded, and checks "
            + ("are refused, because a rule has a require" if requires_something(settings) else _CREDENTIAL_ALONE)
        )
        yield Finding(("upstream", "url"), message, fatal=False)
    if settings.allow_published_secrets:
        message = "well-known keys and secrets from the products' sources are accepted; do not use this in production"
        yield Finding(("allowPublishedSecrets",), message, fatal=False)


CHECKS: tuple[Check, ...] = (
    check_listeners,
    check_sockets,
    check_token_headers,
    check_origins,
    check_login,
    check_kafka,
    check_server_tls,
    check_times,
    check_header_budgets,
    check_upstream,
    check_tracing,
    check_store,
    check_own_keys,
    check_secrets_manager,
    check_switched_off,
    check_lifetimes,
    check_token_endpoint,
    check_authorizer,
    check_rules,
    check_spellings,
    check_untrusted_checks,
    check_base_paths,
    check_resources,
    check_signals,
    check_headers,
    check_claim_paths,
    check_wildcards,
    check_references,
    check_named_sources,
    check_admins,
    check_authenticators,
    check_patience,
    check_datahub_root,
    check_openmetadata_admin,
    check_purpose,
)
