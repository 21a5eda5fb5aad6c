"""What must hold for browser login."""

from collections.abc import Iterator

from sidecar.config.reading.finding import Finding
from sidecar.config.reading.store_url import StoreKind, parse_store_url
from sidecar.config.reading.tree import Path
from sidecar.config.reading.urls import split_url
from sidecar.config.settings import LoginSettings, ProviderLoginSettings, Settings
from sidecar.hosts import is_loopback

_MIN_SECRET_BYTES = 32
# Parameters whose values the sidecar chooses.
_OWN_PARAMETERS = frozenset(
    {
        "acr_values", "client_id", "code_challenge", "code_challenge_method", "id_token_hint", "max_age", "nonce",
        "prompt", "redirect_uri", "request", "request_uri", "response_mode", "response_type", "scope", "state",
    }
)  # fmt: skip


_WITH_PASSWORDS = frozenset({"basic", "ldap"})


def has_login(settings: Settings) -> bool:
    """Whether persons log in, at a provider or with a password."""
    providers = settings.authentication_configuration.providers
    return bool(settings.login.passwords) or any(provider.login is not None for provider in providers)


def check_login(settings: Settings) -> Iterator[Finding]:
    """A login that can work, and that only the browser that began it can complete."""
    if not has_login(settings):
        if settings.login != LoginSettings():
            message = (
                "has no effect: no provider has a login block, and passwords is empty; add login: {clientId: ...} to a "
                "provider"
            )
            yield Finding(("login",), message)
        return
    yield from _check_url(settings)
    yield from _check_secrets(settings)
    yield from _check_passwords(settings)
    for index, pattern in enumerate(settings.login.api_paths):
        if not pattern.startswith("/"):
            yield Finding(("login", "apiPaths", index), "must be a path pattern such as /api/**")
    if not settings.login.logout.return_to.startswith("/") or settings.login.logout.return_to.startswith("//"):
        yield Finding(("login", "logout", "returnTo"), "must be a path of publicUrl, such as /")
    for index, provider in enumerate(settings.authentication_configuration.providers):
        if provider.login is not None:
            path: Path = ("authenticationConfiguration", "providers", index, "login")
            yield from _check_registration(provider.login, path)
    forwards = settings.upstream is not None and bool(settings.upstream.url)
    if not forwards and not settings.server.trusted_proxies:
        message = (
            "is empty, and without upstream.url requests come as checks: the session cookie counts only in checks of "
            "trusted proxies that name the original request, so no login can succeed; list the proxies"
        )
        yield Finding(("server", "trustedProxies"), message)


def _check_passwords(settings: Settings) -> Iterator[Finding]:
    block = settings.authentication
    types = {member.name or member.type: member.type for member in block.authenticators} if block.enabled else {}
    suitable = [name for name, kind in types.items() if kind in _WITH_PASSWORDS]
    seen: set[str] = set()
    for index, name in enumerate(settings.login.passwords):
        path: Path = ("login", "passwords", index)
        if name not in suitable:
            known = f"those with passwords are {', '.join(suitable)}" if suitable else "none of them has passwords"
            yield Finding(path, f"must be the name of a basic or ldap entry of authentication.authenticators; {known}")
        if name in seen:
            yield Finding(path, "is repeated")
        seen.add(name)
    for provider in settings.authentication_configuration.providers:
        if provider.login is not None and provider.name in seen:
            message = f"contains {provider.name}, which is also a provider with a login; rename one of them"
            yield Finding(("login", "passwords"), message)


def _check_url(settings: Settings) -> Iterator[Finding]:
    path = ("server", "publicUrl")
    url = settings.server.public_url
    parts = split_url(url)
    if not url or parts is None:
        message = "is required for login: redirect URIs and cookies depend on it; write https://metadata.example.com"
        yield Finding(path, message)
        return
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        yield Finding(path, "must be an origin without a path for login: the session cookie is valid for all paths")
    if parts.username is not None or parts.password is not None:
        yield Finding(path, "must not hold a user name or password")
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        yield Finding(path, f"is {parts.scheme}, and login needs https except on loopback: cookies could be read")


def _check_secrets(settings: Settings) -> Iterator[Finding]:
    path = ("login", "secrets")
    for index, secret in enumerate(settings.login.secrets):
        length = len(secret.reveal().encode())
        if length < _MIN_SECRET_BYTES:
            message = f"has {length} bytes, at least {_MIN_SECRET_BYTES} are required (openssl rand -base64 32)"
            yield Finding((*path, index), message)
    if settings.login.secrets:
        return
    try:
        kind = parse_store_url(settings.store.url.reveal()).kind
    except ValueError:
        return  # check_store says so
    if kind is not StoreKind.SQLITE:
        message = "are required with Redis, because all replicas need the same ones (openssl rand -base64 32)"
        yield Finding(path, message)


def _check_registration(login: ProviderLoginSettings, path: Path) -> Iterator[Finding]:
    if "openid" not in login.scopes:
        yield Finding((*path, "scopes"), f"must contain openid; it is {', '.join(login.scopes)}")
    for name in login.extra_parameters:
        if name.lower() in _OWN_PARAMETERS:
            yield Finding((*path, "extraParameters", name), "is set by the sidecar and cannot be replaced")
    if login.client_secret and login.client_key_file:
        yield Finding((*path, "clientKeyFile"), "cannot stand beside clientSecret; keep one of the two")
    method = login.client_authentication
    if method in ("client_secret_basic", "client_secret_post") and not login.client_secret:
        yield Finding((*path, "clientSecret"), f"is required with clientAuthentication: {method}")
    if method == "private_key_jwt" and not login.client_key_file:
        yield Finding((*path, "clientKeyFile"), "is required with clientAuthentication: private_key_jwt")
    if method == "none" and (login.client_secret or login.client_key_file):
        yield Finding((*path, "clientAuthentication"), "is none, so the secret or key is not used; remove one of them")
    if method not in ("auto", "private_key_jwt") and login.client_key_file:
        yield Finding((*path, "clientKeyFile"), f"has no effect with clientAuthentication: {method}")
