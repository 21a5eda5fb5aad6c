"""Protected resources (RFC 9728): what follows from their settings, and the conditions on them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sidecar.config.products.presets import RouteRule, expand_presets
from sidecar.config.providers import Provider, is_bearer
from sidecar.config.reading.finding import Finding, FindingId, finding
from sidecar.config.reading.tree import Path
from sidecar.config.reading.urls import split_url
from sidecar.config.settings import ResourceSettings, Settings
from sidecar.hosts import is_loopback

RESOURCE_METADATA = "/.well-known/oauth-protected-resource"
SERVER_METADATA = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
_MISLEADING = ("scope=", "error=", "resource_metadata=")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3


@dataclass(frozen=True, slots=True)
class ResourceUrls:
    """The identifier of a resource, and the URL of its metadata."""

    identifier: str
    metadata: str


def resource_urls(settings: Settings, path: str) -> ResourceUrls:
    """The URLs of the resource at ``path``: from ``server.publicUrl`` alone, never from a request."""
    base = settings.server.public_url.rstrip("/")
    return ResourceUrls(f"{base}{path}", f"{base}{RESOURCE_METADATA}{path}")


def metadata_paths(settings: Settings, path: str) -> tuple[str, ...]:
    """The request paths of the metadata of the resource at ``path``.

    They are below the root and, if ``publicUrl`` has a path, for the identifier with that path as RFC 9728 builds it.
    With a single resource, the path without a suffix too.
    """
    base = public_path(settings)
    paths = [f"{RESOURCE_METADATA}{path}"]
    if base:
        paths += [f"{RESOURCE_METADATA}{base}{path}", f"{base}{RESOURCE_METADATA}{path}"]
    if len(settings.resources) == 1:
        paths.append(RESOURCE_METADATA)
    return tuple(dict.fromkeys(paths))


def public_path(settings: Settings) -> str:
    """The path of ``server.publicUrl`` without a final slash."""
    parts = split_url(settings.server.public_url)
    return "" if parts is None else parts.path.rstrip("/")


def accepted_audiences(settings: Settings, resource: ResourceSettings) -> frozenset[str]:
    """``aud`` values of which a token needs one; empty: it needs none."""
    if resource.audiences is not None:
        return frozenset(resource.audiences)
    return (
        frozenset() if resource.metadata == "server" else frozenset({resource_urls(settings, resource.path).identifier})
    )


def resource_issuers(providers: Iterable[Provider]) -> list[str]:
    """Issuers of tokens for resources: not of providers whose tokens authenticate no request."""
    return [provider.issuer for provider in providers if provider.issuer is not None and provider.bearer]


def authorization_servers(resource: ResourceSettings, issuers: Iterable[str]) -> tuple[str, ...]:
    """The authorization servers of ``resource``; ``issuers`` are those of the providers."""
    return resource.authorization_servers or tuple(dict.fromkeys(one for one in issuers if _is_server_url(one)))


def server_flow_rules(settings: Settings) -> Iterator[RouteRule]:
    """The paths of upstreams that are their own authorization server: metadata, registration, login, token."""
    for index, resource in enumerate(settings.resources):
        if resource.metadata != "server":
            continue
        path, source = resource.path, f"resources[{index}] metadata: server"
        known = (RESOURCE_METADATA, *SERVER_METADATA)
        reads = [f"{name}{end}" for name in known for end in dict.fromkeys(("", path))]
        reads += [f"{path}{name}" for name in known] if path else []
        opened: list[tuple[tuple[str, ...], str, bool]] = [(("GET",), one, False) for one in reads]
        opened += [(("GET", "POST"), f"{path}/{name}", False) for name in ("authorize", "callback")]
        opened.append((("POST",), f"{path}/register", False))
        opened += [(("POST",), f"{path}/{name}", True) for name in ("token", "revoke")]
        for methods, one, keeps_basic in opened:
            yield RouteRule(
                one,
                methods,
                "public",
                of_preset=False,
                ignores_credentials=True,
                keeps_basic=keeps_basic,
                source=source,
            )


def check_resources(settings: Settings) -> Iterator[Finding]:
    """Resources whose metadata and challenges are right for every client, and that require a token."""
    yield from _check_challenge(settings)
    if not settings.resources:
        return
    yield from _check_public_url(settings)
    seen: dict[str, int] = {}
    for index, resource in enumerate(settings.resources):
        place: Path = ("resources", index)
        if resource.path in seen:
            message = f"is {resource.path or 'empty'}, as that of resources[{seen[resource.path]}]; keep one of them"
            yield finding(FindingId.RESOURCE_PATH, (*place, "path"), message)
        seen.setdefault(resource.path, index)
        yield from _check_path(settings, resource, place)
        yield from _check_servers(settings, resource, place)
        yield from _check_public_rules(settings, resource, place)
        if resource.audiences == ():
            message = (
                "is empty: tokens that were issued for any other service are accepted here, so such a service can use "
                "its callers' tokens here; list the audiences of this resource"
            )
            yield finding(FindingId.RESOURCE_ANY_AUDIENCE, (*place, "audiences"), message)


def _check_challenge(settings: Settings) -> Iterator[Finding]:
    """Clients search the challenge for a parameter by its first occurrence, also inside of another one."""
    texts: list[tuple[Path, str]] = [(("server", "realm"), settings.server.realm)]
    scopes: list[tuple[Path, str]] = []
    for index, resource in enumerate(settings.resources):
        for key, names in (("scopes", resource.scopes), ("scopesSupported", resource.scopes_supported)):
            scopes += [(("resources", index, key, place), name) for place, name in enumerate(names)]
    for index, rule in enumerate(settings.rules):
        scopes += [
            (("rules", index, "require", "scopes", place), name) for place, name in enumerate(rule.require.scopes)
        ]
    for path, text in (*texts, *scopes):
        found = next((part for part in _MISLEADING if part in text.lower()), "")
        if found:
            message = f"contains {found}, which clients would read as that parameter of the challenge"
            yield finding(FindingId.CHALLENGE_TEXT, path, message)
    for path, scope in scopes:
        if not _SCOPE.fullmatch(scope):
            message = 'must be one scope: visible ASCII without ", \\ and blanks'
            yield finding(FindingId.RESOURCE_SCOPE, path, message)
        elif scope == "offline_access" and path[0] == "resources":
            message = "must not hold offline_access: it asks for a refresh token, which no request needs"
            yield finding(FindingId.RESOURCE_SCOPE, path, message)


def _check_public_url(settings: Settings) -> Iterator[Finding]:
    path, url = ("server", "publicUrl"), settings.server.public_url
    parts = split_url(url)
    if parts is None:
        message = "is required for resources: their identifiers begin with it; write https://metadata.example.com"
        yield finding(FindingId.RESOURCE_URL, path, message)
        return
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        message = "must not hold a user name, password, query or fragment: identifiers of resources begin with it"
        yield finding(FindingId.RESOURCE_URL, path, message)
    allowed = settings.authentication_configuration.allow_insecure_urls
    if parts.scheme != "https" and not is_loopback(parts.hostname or "") and not allowed:
        message = (
            "is http, and clients accept metadata of resources only by https, except on loopback; use https, or "
            "authenticationConfiguration.allowInsecureUrls: true in a test"
        )
        yield finding(FindingId.RESOURCE_URL, path, message)


def _check_path(settings: Settings, resource: ResourceSettings, place: Path) -> Iterator[Finding]:
    path, prefix = resource.path, settings.server.prefix
    if any(segment in (".", "..") for segment in path.split("/")):
        yield finding(FindingId.RESOURCE_PATH, (*place, "path"), "must not have dot segments")
    elif path == prefix or path.startswith(f"{prefix}/"):
        message = f"is {path}, below server.prefix ({prefix}), where the sidecar itself responds"
        yield finding(FindingId.RESOURCE_PATH, (*place, "path"), message)


def _check_servers(settings: Settings, resource: ResourceSettings, place: Path) -> Iterator[Finding]:
    if resource.metadata == "server":
        written = {
            "name": resource.name,
            "authorizationServers": resource.authorization_servers,
            "scopesSupported": resource.scopes_supported,
        }
        for key, value in written.items():
            if value:
                message = "has no effect with metadata: server: the upstream serves the metadata; remove one of the two"
                yield finding(FindingId.RESOURCE_IDLE, (*place, key), message)
        return
    for index, url in enumerate(resource.authorization_servers):
        if not _is_server_url(url) and not settings.authentication_configuration.allow_insecure_urls:
            message = "must be the issuer of an authorization server: an https URL (http on loopback)"
            yield finding(FindingId.RESOURCE_AUTHORIZATION_SERVERS, (*place, "authorizationServers", index), message)
    flat = settings.authentication_configuration
    issuers = (*(provider.issuer for provider in flat.providers if is_bearer(provider, settings)), flat.authority)
    if not authorization_servers(resource, issuers):
        known = ", ".join(filter(None, issuers)) or "none"
        message = (
            f"is absent, and no provider has an issuer that is an https URL (issuers: {known}); list the authorization "
            "servers that give tokens for this resource"
        )
        yield finding(FindingId.RESOURCE_AUTHORIZATION_SERVERS, (*place, "authorizationServers"), message)


def _check_public_rules(settings: Settings, resource: ResourceSettings, place: Path) -> Iterator[Finding]:
    for index, written in enumerate(settings.rules):
        if written.preset is not None:
            continue
        for rule in expand_presets([written]):
            covers = rule.path in (resource.path or "/", f"{resource.path}/", f"{resource.path}/**")
            if covers and rule.access != "authenticated":
                message = (
                    f"is {rule.access} for {rule.path}, and {'.'.join(map(str, place))} requires a token there; remove "
                    "one of the two, or write the rule for a path below the resource"
                )
                yield finding(FindingId.RESOURCE_PUBLIC, ("rules", index, "access"), message)


def _is_server_url(url: str) -> bool:
    parts = split_url(url)
    return parts is not None and (parts.scheme == "https" or is_loopback(parts.hostname or ""))
