"""The token endpoint: what follows from its settings, and what must hold for them."""

import re
from collections.abc import Iterator, Sequence

from sidecar.config.providers import OwnIssuers, has_own_keys
from sidecar.config.reading.finding import Finding
from sidecar.config.reading.subject_pattern import compile_subject_pattern
from sidecar.config.reading.tree import Path
from sidecar.config.reading.urls import fault_of_control_url, split_url
from sidecar.config.resources import accepted_audiences
from sidecar.config.settings import (
    ProviderSettings,
    Settings,
    TokenClientSettings,
    TokenEndpointSettings,
    WorkloadSettings,
)
from sidecar.hosts import is_loopback

GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.com"
# Issuers whose tokens any of their users gets, with an audience that the user chooses.
_SETTABLE_AUDIENCE = frozenset({GITHUB, GITLAB})
_SHARED = re.compile(
    r"https://accounts\.google\.com|https://oidc\.eks\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/.*"
    r"|https://(login\.microsoftonline\.com|sts\.windows\.net)/(common|organizations|consumers)\b.*"
)
KUBERNETES = "kubernetes"
_KUBERNETES_NAMES = frozenset({KUBERNETES, "sidecar.authn.authenticators.kubernetes:Kubernetes"})
_MIN_SECRET = 32
_SCOPE = re.compile(r"[!#-\[\]-~]+")
_GITHUB_IDS = re.compile(r"repo:[^:/@]+@[0-9]+/[^:/@]+@[0-9]+:.+")
_CLAIM_PATH = re.compile(r'("[^"]+"|[^".]+)(\.("[^"]+"|[^".]+))*')


def endpoint_issuer(settings: Settings) -> str:
    """The issuer in the metadata of the token endpoint, which is also the default audience of assertions."""
    return f"{settings.server.public_url.rstrip('/')}{settings.server.prefix}"


def default_audience(endpoint: TokenEndpointSettings) -> str:
    """The ``aud`` of tokens for which the request names none; empty: not configured."""
    if endpoint.default_audience:
        return endpoint.default_audience
    return endpoint.audiences[0] if len(endpoint.audiences) == 1 else ""


def exchanged_audiences(settings: Settings) -> frozenset[str]:
    """``aud`` of tokens of the token endpoint that are accepted here; those for other servers are not."""
    endpoint = settings.token_endpoint
    if not endpoint.enabled:
        return frozenset()
    own = settings.jwt_token_configuration.audience
    return frozenset({default_audience(endpoint), *({own} & set(endpoint.audiences))} - {""})


def resource_audiences(settings: Settings) -> frozenset[str]:
    """``aud`` of tokens of the token endpoint that are accepted at protected resources."""
    endpoint = settings.token_endpoint
    if not endpoint.enabled:
        return frozenset()
    found = frozenset[str]().union(*(accepted_audiences(settings, resource) for resource in settings.resources))
    return found & set(endpoint.audiences)


def kubernetes_members(settings: Settings) -> list[str]:
    """Names of the authenticators that verify tokens of Kubernetes service accounts."""
    if not settings.authentication.enabled:
        return []
    return [
        member.name or member.type.rpartition(":")[2]
        for member in settings.authentication.authenticators
        if member.type in _KUBERNETES_NAMES
    ]


def check_token_endpoint(settings: Settings) -> Iterator[Finding]:
    """A token endpoint that can issue tokens, and whose rules do not trust strangers."""
    yield from _check_bearer(settings)
    endpoint = settings.token_endpoint
    path: Path = ("tokenEndpoint",)
    if not endpoint.enabled:
        if endpoint != TokenEndpointSettings():
            yield Finding((*path, "enabled"), "is false, so tokenEndpoint has no effect; set it to true", fatal=False)
        return
    yield from _check_base(settings, endpoint, path)
    yield from _check_audiences(endpoint, path)
    if not endpoint.clients and not endpoint.workloads and endpoint.bots is None:
        yield Finding(path, "has neither clients nor workloads nor bots: nothing can get a token; add one")
    names: dict[str, str] = {}
    for index, client in enumerate(endpoint.clients):
        place: Path = (*path, "clients", index)
        yield from _check_name(names, client.id, (*place, "id"))
        yield from _check_client(client, settings, place)
    for index, rule in enumerate(endpoint.workloads):
        place = (*path, "workloads", index)
        yield from _check_name(names, rule.name, (*place, "name"))
        yield from _check_workload(rule, settings, place)
    if endpoint.bots is not None:
        yield from _check_granted(endpoint.bots.audiences, endpoint.bots.scopes, endpoint, (*path, "bots"))


def _workload_providers(settings: Settings) -> frozenset[str]:
    return frozenset(rule.provider for rule in settings.token_endpoint.workloads)


def _is_bearer(provider: ProviderSettings, settings: Settings) -> bool:
    """Whether tokens of ``provider`` authenticate requests."""
    return provider.name not in _workload_providers(settings) if provider.bearer is None else provider.bearer


def _check_bearer(settings: Settings) -> Iterator[Finding]:
    """Providers whose tokens any stranger can get, and those whose tokens are used nowhere."""
    named = _workload_providers(settings)
    for index, provider in enumerate(settings.authentication_configuration.providers):
        path: Path = ("authenticationConfiguration", "providers", index, "bearer")
        is_bearer = _is_bearer(provider, settings)
        if not is_bearer and provider.name not in named and provider.login is None:
            message = "is false, and no rule in tokenEndpoint.workloads names this provider: its tokens have no use"
            yield Finding(path, message)
        is_shared = provider.issuer.rstrip("/") in _SETTABLE_AUDIENCE or (
            provider.bearer is True and _SHARED.fullmatch(provider.issuer) is not None
        )
        if is_bearer and is_shared and not provider.required_claims:
            message = (
                f"accepts tokens of {provider.issuer} as credentials, and every user of that platform gets tokens with "
                "any audience; name the provider in tokenEndpoint.workloads and set bearer: false, or set "
                "requiredClaims (for GitHub repository_owner_id)"
            )
            yield Finding(path, message)


def _check_base(settings: Settings, endpoint: TokenEndpointSettings, path: Path) -> Iterator[Finding]:
    jwt, url = settings.jwt_token_configuration, settings.server.public_url
    if not has_own_keys(jwt):
        message = "needs own keys to sign with: set jwtTokenConfiguration.keyDir (sidecar keys generate makes keys)"
        yield Finding((*path, "enabled"), message)
    parts = split_url(url) if url else None
    if parts is None:
        message = (
            "is required for tokenEndpoint: its issuer is publicUrl and prefix; write https://metadata.example.com"
        )
        yield Finding(("server", "publicUrl"), message)
        return
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        message = "must not hold a user name, query or fragment for tokenEndpoint"
        yield Finding(("server", "publicUrl"), message)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        message = (
            f"is {parts.scheme}, and tokenEndpoint needs https except on loopback: secrets and tokens could be read"
        )
        yield Finding(("server", "publicUrl"), message)
    issuer = endpoint_issuer(settings)
    if has_own_keys(jwt) and jwt.jwtissuer and jwt.jwtissuer != issuer:
        message = (
            f'is "{jwt.jwtissuer}", and the metadata of the token endpoint says "{issuer}": servers that verify issued '
            f'tokens must expect iss "{jwt.jwtissuer}"'
        )
        yield Finding(("jwtTokenConfiguration", "jwtissuer"), message, fatal=False)


def _check_audiences(endpoint: TokenEndpointSettings, path: Path) -> Iterator[Finding]:
    if not endpoint.audiences:
        yield Finding((*path, "audiences"), "is empty: no token can be issued; list every aud that tokens may have")
        return
    for index, audience in enumerate(endpoint.audiences):
        if not re.fullmatch(r"[!-~]+", audience) or "*" in audience:
            yield Finding((*path, "audiences", index), "must be one exact audience without blanks and wildcards")
    if not default_audience(endpoint):
        yield Finding((*path, "defaultAudience"), "is required, because there are several audiences")
    elif default_audience(endpoint) not in endpoint.audiences:
        yield Finding((*path, "defaultAudience"), "is not one of audiences")
    for name in endpoint.audience_lifetimes:
        if name not in endpoint.audiences:
            yield Finding((*path, "audienceLifetimes", name), "is not one of audiences")


def _check_name(names: dict[str, str], name: str, path: Path) -> Iterator[Finding]:
    if name in names:
        yield Finding(path, f"{name} is the name of another client or workload; each needs its own")
    names[name] = name


def _check_granted(
    audiences: Sequence[str], scopes: Sequence[str], endpoint: TokenEndpointSettings, path: Path
) -> Iterator[Finding]:
    for index, audience in enumerate(audiences):
        if audience not in endpoint.audiences:
            yield Finding((*path, "audiences", index), "is not one of tokenEndpoint.audiences")
    for index, scope in enumerate(scopes):
        if not _SCOPE.fullmatch(scope) or scope == "*":
            yield Finding(
                (*path, "scopes", index), "must be one scope (RFC 6749 section 3.3), without blanks; * is none"
            )


def _check_bot(bot: str, settings: Settings, path: Path) -> Iterator[Finding]:
    name = bot.lower()
    principals = [principal.lower() for principal in settings.authorizer_configuration.admin_principals]
    admins = {*principals, *(principal.rpartition("/")[2] for principal in principals)}
    reserved = {"anonymous", "guest", "__datahub_system", settings.authentication.system_client_id.lower()}
    if "@" in bot or not bot.isprintable() or " " in bot:
        yield Finding((*path, "as", "bot"), "must be the name of a bot, without white space and @")
    elif name in reserved:
        yield Finding((*path, "as", "bot"), f"{bot} is a reserved name; name a bot")
    elif name in admins:
        message = f"{bot} is in adminPrincipals; tokens of the token endpoint are never those of an admin, name another"
        yield Finding((*path, "as", "bot"), message)


def _check_client(client: TokenClientSettings, settings: Settings, path: Path) -> Iterator[Finding]:
    yield from _check_granted(client.audiences, client.scopes, settings.token_endpoint, path)
    yield from _check_credential(client, path)
    known = {provider.issuer for provider in settings.authentication_configuration.providers}
    if client.id in known or OwnIssuers(settings).meaning(client.id):
        message = "is the name of an issuer; assertions of the client would look like its tokens"
        yield Finding((*path, "id"), message)
    if client.as_ is None and client.exchange is None:
        yield Finding((*path, "as"), "is missing, and so is exchange: the client cannot get a token; set one of them")
    if client.as_ is not None:
        yield from _check_bot(client.as_.bot, settings, path)
    if client.exchange is not None:
        bearer = {
            provider.name: _is_bearer(provider, settings)
            for provider in settings.authentication_configuration.providers
        }
        for index, name in enumerate(client.exchange.providers):
            if name != "own" and name not in bearer:
                message = f"no provider is named {name}; write the name of an entry of providers, or own"
                yield Finding((*path, "exchange", "providers", index), message)
            elif not bearer.get(name, True):
                message = (
                    f"{name} has bearer: false, by its setting or because tokenEndpoint.workloads names it: its tokens "
                    "authenticate no caller and cannot be exchanged; set bearer: true there, or remove this entry"
                )
                yield Finding((*path, "exchange", "providers", index), message)


def _check_credential(client: TokenClientSettings, path: Path) -> Iterator[Finding]:
    if client.secret is not None and len(client.secret.reveal()) < _MIN_SECRET:
        length = len(client.secret.reveal())
        message = f"has {length} characters, at least {_MIN_SECRET} are required (openssl rand -hex 32)"
        yield Finding((*path, "secret"), message)
    if client.secret is None and not client.jwks and not client.jwks_url:
        yield Finding((*path, "secret"), "is missing: the client cannot authenticate; set secret, jwks or jwksUrl")
    if client.jwks and client.jwks_url:
        yield Finding((*path, "jwksUrl"), "excludes jwks; keep one of the two")
    if client.jwks and not client.jwks.startswith("file:/"):
        yield Finding((*path, "jwks"), "must be file:/path of a JWKS; for a URL use jwksUrl")
    if client.jwks_url and (fault := fault_of_control_url(client.jwks_url, allow_insecure=False)):
        yield Finding((*path, "jwksUrl"), fault)


def _check_workload(rule: WorkloadSettings, settings: Settings, path: Path) -> Iterator[Finding]:
    yield from _check_granted(rule.audiences, rule.scopes, settings.token_endpoint, path)
    yield from _check_bot(rule.as_.bot, settings, path)
    found = [one for one in settings.authentication_configuration.providers if one.name == rule.provider]
    if not found and rule.provider not in kubernetes_members(settings):
        message = f"no provider and no authenticator of type kubernetes is named {rule.provider}"
        yield Finding((*path, "provider"), message)
    yield from _check_conditions(rule, path)
    if re.fullmatch(r"https://(github|gitlab)\.com(/[^/]*)?", rule.audience.rstrip("/")):
        message = (
            "is a default audience of the platform, which tokens for other services have too; choose one of this "
            "service, and set it in the job"
        )
        yield Finding((*path, "audience"), message, fatal=False)
    if found and found[0].issuer.rstrip("/") == GITHUB:
        yield from _check_github(rule, found[0], path)


def _check_conditions(rule: WorkloadSettings, path: Path) -> Iterator[Finding]:
    if rule.subject and rule.subject_pattern:
        yield Finding((*path, "subjectPattern"), "excludes subject; keep one of the two")
    if not rule.subject and not rule.subject_pattern and not rule.claims:
        message = "is missing, and so are subjectPattern and claims: every token of the platform would match"
        yield Finding((*path, "subject"), message)
    if "*" in rule.subject:
        yield Finding((*path, "subject"), "is compared exactly; for wildcards write subjectPattern")
    if rule.subject_pattern:
        try:
            compile_subject_pattern(rule.subject_pattern)
        except ValueError as error:
            yield Finding((*path, "subjectPattern"), str(error))
        if re.split("[:/]", rule.subject_pattern)[-1] == "*":
            message = "ends in *, which every branch, tag or environment matches; name the ones that may get a token"
            yield Finding((*path, "subjectPattern"), message, fatal=False)
    yield from _check_claims(rule, path)


def _check_claims(rule: WorkloadSettings, path: Path) -> Iterator[Finding]:
    for name, values in rule.claims.items():
        if not _CLAIM_PATH.fullmatch(name):
            yield Finding((*path, "claims", name), "is not a claim path: a.b is nested, names with dots are quoted")
        if not values:
            yield Finding((*path, "claims", name), "accepts no value; name at least one")
        if any("*" in value for value in values):
            yield Finding((*path, "claims", name), "has a wildcard, which is not supported here; write exact values")


def _check_github(rule: WorkloadSettings, _provider: ProviderSettings, path: Path) -> Iterator[Finding]:
    """A rule that a re-created repository or a stranger's pull request could match."""
    subject = rule.subject or rule.subject_pattern
    if "repository_id" not in rule.claims and not _GITHUB_IDS.fullmatch(subject):
        message = (
            "has no repository_id, and the subject has no immutable ids (repo:owner@1/name@2:...): a repository that "
            "is created with the same name later matches too; add repository_id"
        )
        yield Finding((*path, "claims"), message, fatal=False)
    events = rule.claims.get("event_name")
    if (events is None and ":environment:" not in subject) or "pull_request_target" in (events or ()):
        message = (
            "lets pull_request_target in, which runs for pull requests of strangers; list the events that may get a "
            "token, such as push"
        )
        yield Finding((*path, "claims", "event_name") if events else (*path, "claims"), message, fatal=False)
