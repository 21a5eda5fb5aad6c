"""Builds the browser login of a configuration."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from operator import eq
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sidecar.access.decide import Decider
from sidecar.access.rules import Rules
from sidecar.api.body import BodyReader
from sidecar.app.authentication import revocation_gate
from sidecar.app.issuers import IssuerRegistry
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.session import SESSION, SessionAuthenticator, SessionPolicy
from sidecar.authn.base import Accepted, AuthenticatorContext, AuthenticatorProtocol
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.login_checks import has_login
from sidecar.config.origins import login_origins, return_origins
from sidecar.config.providers import Provider, member_issuer
from sidecar.config.reading.units import parse_web_origin
from sidecar.config.settings import ProviderLoginSettings, RuleSettings, Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.cookies import OwnCookies
from sidecar.keys.discovery import is_same_issuer
from sidecar.keys.key_files import KeyFileError
from sidecar.keys.keyset import KeyLookup
from sidecar.keys.signing import load_client_key
from sidecar.login.backchannel import BackchannelLogout
from sidecar.login.challenge import Challenge
from sidecar.login.client import ProviderClient
from sidecar.login.endpoints import (
    BackchannelEndpoint,
    CallbackEndpoint,
    ChallengeEndpoint,
    SignedOutEndpoint,
    SignInEndpoint,
    SignOutEndpoint,
    StartEndpoint,
)
from sidecar.login.flow import LoginFlow, LoginNames
from sidecar.login.id_token import TokenChecks
from sidecar.login.metadata import MetadataSource
from sidecar.login.passwords import PasswordLogin
from sidecar.login.recheck import Rechecks
from sidecar.login.responses import StepResponses
from sidecar.login.return_address import ReturnAddresses, web_origin
from sidecar.login.transaction import Transactions
from sidecar.outbound import ControlClient
from sidecar.secrets.value import Secret
from sidecar.sessions.cross_site import CrossSiteGuard
from sidecar.sessions.records import is_kept
from sidecar.sessions.sealing import Sealer
from sidecar.sessions.service import Sessions, SessionTimes
from sidecar.store.sqlite.database import sqlite_path
from sidecar.tokens.jwt.policy import provider_policy, provider_validation
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import TaskFunction
from sidecar.web.server import TrustedPeers

if TYPE_CHECKING:
    from sidecar.pages.rendering import Renderer

_ROUTE = "login"
_MAX_FORM_BYTES = 64 * 1024
_MAX_SIGN_IN_BYTES = 8 * 1024
_SECURE_PREFIX = "__Host-"


@dataclass(frozen=True, slots=True)
class Login:
    """The parts of the login that authentication needs."""

    clients: Mapping[str, ProviderClient]
    sessions: Sessions
    sealer: Sealer
    guard: CrossSiteGuard
    authenticator: SessionAuthenticator
    cookies: OwnCookies
    names: LoginNames
    passwords: tuple[AuthenticatorProtocol, ...] = ()

    def with_passwords(self, names: Sequence[str], authenticators: AuthenticatorSet) -> "Login":
        """A copy with a sign-in form for the users of the authenticators ``names``."""
        members = {member.name: member for member in authenticators.authenticators}
        return replace(self, passwords=tuple(members[name] for name in names))


@dataclass(frozen=True, slots=True)
class LoginPages:
    """The endpoints of the login by path, and the answer to browsers without a session.

    ``renderer`` None: the extra ``pages`` is not installed.
    """

    challenge: Challenge
    renderer: "Renderer | None"
    exact: dict[str, tuple[str, TaskFunction]]
    below: dict[str, tuple[str, TaskFunction]]


async def open_login(
    loaded: Loaded,
    registry: IssuerRegistry,
    cache: VerifiedCache[Accepted],
    context: ProcessContext,
    stack: AsyncExitStack,
    context_for: Callable[[str], AuthenticatorContext],
) -> Login | None:
    """The login of ``loaded``; None: neither a provider has one, nor are passwords accepted. Raises Misconfigured.

    Needs no provider to be reachable. ``context_for``: the context of an authenticator. Passwords are not
    accepted yet: see :meth:`Login.with_passwords`.
    """
    settings, clock = loaded.settings, context.clock
    providers = {provider.name: provider for provider in loaded.providers if provider.login is not None}
    if not has_login(settings):
        return None
    sealer = Sealer(login_secrets(settings))
    block = settings.login
    lifetime = block.session
    times = SessionTimes(lifetime.max_age, lifetime.idle, lifetime.per_person, lifetime.recheck, lifetime.recheck_grace)
    sessions = Sessions(registry.store, registry.mirror, registry.mirror.write, sealer, clock, times)
    names = _names(settings)
    cookies = OwnCookies(names.session_cookie, (names.login_cookie, notice_cookie(settings)))
    keys = {source.provider.name: source for source in registry.provider_keys}
    clients: dict[str, ProviderClient] = {}
    for name, provider in providers.items():
        policy = provider_policy(
            provider, settings.authorizer_configuration, registry.reserved, registry.mirror.is_bot_name, SESSION
        )
        clients[name] = build_client(provider, settings, registry.client, keys[name], policy, clock, stack)
    guard = CrossSiteGuard(login_origins(settings))
    policies = {name: _session_policy(providers[name], client.policy) for name, client in clients.items()}
    policies |= {name: _member_policy(name, context_for(name)) for name in settings.login.passwords}
    authenticator = SessionAuthenticator(sessions, policies, guard, cache, clock)
    rechecks = Rechecks(clients, sessions, authenticator.accepted, clock, context.metrics, within=settings.keys.timeout)
    authenticator.confirmed = rechecks.confirmed
    stack.push_async_callback(rechecks.aclose)
    return Login(clients, sessions, sealer, guard, authenticator, cookies, names)


def _member_policy(name: str, context: AuthenticatorContext) -> SessionPolicy:
    """How the sessions of the users of an authenticator become Actors: as the authenticator itself makes them."""
    principal = replace(context.policy, authenticator=SESSION)
    return SessionPolicy(
        principal,
        partial(eq, member_issuer(name)),
        with_address=replace(principal, username_claim=ClaimPath("sub"), email_claim=ClaimPath("email")),
    )


def _session_policy(provider: Provider, principal: PrincipalPolicy) -> SessionPolicy:
    required = provider_validation(provider, None).required_claims
    return SessionPolicy(
        principal,
        partial(is_same_issuer, provider=provider),
        tuple((path, values) for path, values in required if is_kept(path)),
    )


def build_client(
    provider: Provider,
    settings: Settings,
    control: ControlClient,
    keys: KeyLookup,
    policy: PrincipalPolicy,
    clock: Clock,
    stack: AsyncExitStack,
) -> ProviderClient:
    """The client of ``provider``, which has a login. Raises Misconfigured."""
    login = provider.login
    assert login is not None  # noqa: S101 - see above
    metadata = MetadataSource(provider, settings.keys, control, clock)
    stack.push_async_callback(metadata.aclose)
    secret, algorithm = _client_secret(provider, login)
    return ProviderClient(
        provider,
        login,
        policy,
        metadata,
        TokenChecks(provider, login.client_id, keys, clock, settings.server.limits.max_token_bytes),
        control,
        redirect_uri(settings, provider.name),
        within=settings.keys.timeout,
        secret=secret,
        algorithm=algorithm,
    )


def registration_lines(loaded: Loaded) -> list[str]:
    """What to register at the providers that have a login, for ``sidecar check``."""
    settings, lines = loaded.settings, []
    for provider in loaded.providers:
        if provider.login is not None:
            lines += [
                f"  {provider.name}: redirect URI {redirect_uri(settings, provider.name)}",
                f"  {provider.name}: post-logout redirect URI {_base(settings)}/signed_out",
                f"  {provider.name}: back-channel logout URL {_base(settings)}/backchannel_logout",
            ]
    return ["Browser login; register at the provider:", *lines] if lines else []


def build_pages(
    login: Login,
    loaded: Loaded,
    decider: Decider,
    refusals: ErrorResponses,
    registry: IssuerRegistry,
    context: ProcessContext,
) -> LoginPages:
    """The endpoints of ``login``."""
    settings, prefix = loaded.settings, loaded.settings.server.prefix
    own = parse_web_origin(web_origin(settings.server.public_url))
    gate = revocation_gate(settings, registry, context.clock)
    passwords = PasswordLogin(login.passwords, login.sessions, gate, decider, context.clock, context.metrics)
    renderer = open_renderer(settings)
    flow = LoginFlow(
        login.clients,
        login.sessions,
        Transactions(login.sealer, context.clock),
        login.sealer,
        ReturnAddresses(return_origins(settings), own, prefix, _no_page if renderer is None else _is_page(prefix)),
        login.names,
        gate,
        login.authenticator.accepted,
        decider,
        context.metrics,
        passwords if login.passwords else None,
    )
    challenge = Challenge(
        flow,
        login.sessions,
        login.cookies,
        StepResponses(is_secure=own.startswith("https:"), render=None if renderer is None else renderer.step),
        refusals,
        Rules(RuleSettings(path=path, access="guest") for path in settings.login.api_paths),
        context.clock,
    )
    bodies = BodyReader(settings.server.limits.body_timeout, decider.undecided_bodies, _MAX_FORM_BYTES)
    forms = BodyReader(settings.server.limits.body_timeout, decider.undecided_bodies, _MAX_SIGN_IN_BYTES)
    logout = BackchannelLogout(
        {client.issuer: client for client in login.clients.values()},
        login.sessions,
        registry.mirror.write,
        context.clock,
        context.metrics,
        {provider.name: _keep(provider, settings) for provider in loaded.providers},
        settings.server.limits.max_token_bytes,
    )
    exact: dict[str, tuple[str, TaskFunction]] = {
        f"{prefix}/start": (_ROUTE, StartEndpoint(flow, challenge)),
        f"{prefix}/sign_in": (
            _ROUTE,
            SignInEndpoint(flow, challenge, login.guard, forms, TrustedPeers(settings.server.trusted_proxies)),
        ),
        f"{prefix}/sign_out": (_ROUTE, SignOutEndpoint(flow, challenge, login.guard, bodies)),
        f"{prefix}/signed_out": (_ROUTE, SignedOutEndpoint(flow, challenge)),
        f"{prefix}/challenge": (_ROUTE, ChallengeEndpoint(challenge, refusals, decider)),
        f"{prefix}/backchannel_logout": (_ROUTE, BackchannelEndpoint(logout, bodies, decider)),
    }
    return LoginPages(challenge, renderer, exact, {f"{prefix}/callback": (_ROUTE, CallbackEndpoint(flow, challenge))})


def open_renderer(settings: Settings) -> "Renderer | None":
    """The renderer of the pages; None without the extra ``pages``."""
    if find_spec("jinja2") is None:
        return None
    from sidecar.pages.rendering import Renderer, Site

    texts, url = settings.login.page, settings.server.public_url.rstrip("/")
    title = texts.title or urlsplit(url).hostname or url
    return Renderer(Site(settings.server.prefix, url, title, texts.message, texts.footer))


def _no_page(_path: str) -> bool:
    return False


def _is_page(prefix: str) -> Callable[[str], bool]:
    """Whether a path is that of a page of ours, to which a login may return."""
    page = re.compile(re.escape(prefix) + r"/(?:me|admin)(?:/[A-Za-z0-9._~-]+){0,2}")
    return lambda path: page.fullmatch(path) is not None


def redirect_uri(settings: Settings, provider: str) -> str:
    """The redirect URI to register at ``provider``."""
    return f"{_base(settings)}/callback/{provider}"


def login_secrets(settings: Settings) -> tuple[Secret, ...]:
    """The configured secrets; with SQLite and without any, the one in a file beside the database, which is created.

    Raises Misconfigured.
    """
    if settings.login.secrets:
        return settings.login.secrets
    path = sqlite_path(settings.store.url.reveal()).with_suffix(".login-secret")
    try:
        return (Secret(_shared_secret(path)),)
    except OSError as error:
        text = f"are not set, and {path} cannot be used for one: {error.strerror}"
        raise Misconfigured([Problem("login.secrets", text)]) from error


def _shared_secret(path: Path) -> str:
    """The secret in ``path``. Of several processes that create it, one wins and the others read its secret."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{token_urlsafe(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(token_urlsafe(48))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink()
    secret = path.read_text(encoding="ascii").strip()
    if len(secret) < 32:
        raise OSError(0, "it holds less than 32 characters; remove it to have a new one made")
    return secret


def _client_secret(provider: Provider, login: ProviderLoginSettings) -> tuple[Any, str]:
    if not login.client_key_file:
        return (login.client_secret.reveal() if login.client_secret else ""), ""
    try:
        return load_client_key(Path(login.client_key_file))
    except (KeyFileError, OSError) as error:
        where = f"authenticationConfiguration.providers[{provider.name}].login.clientKeyFile"
        raise Misconfigured([Problem(where, str(error))]) from error


def notice_cookie(settings: Settings) -> str:
    """The name of the cookie in which a page leaves a notice for the next one."""
    return f"{_prefix_of_cookies(settings)}{settings.login.cookie.name.removesuffix('_session')}_notice"


def cookie_names(settings: Settings) -> tuple[str, str]:
    """The names of the session cookie and of the login cookie."""
    names = _names(settings)
    return names.session_cookie, names.login_cookie


def _prefix_of_cookies(settings: Settings) -> str:
    return _SECURE_PREFIX if settings.server.public_url.startswith("https:") else ""


def _names(settings: Settings) -> LoginNames:
    block = settings.login
    start = _prefix_of_cookies(settings)
    name = block.cookie.name
    return LoginNames(
        settings.server.prefix,
        session_cookie=f"{start}{name}",
        login_cookie=f"{start}{name.removesuffix('_session')}_login",
        signed_out=f"{_base(settings)}/signed_out",
        after_logout=block.logout.return_to,
        session_cookie_age=int(block.session.max_age) if block.session.persistent else None,
        ends_provider_session=block.logout.provider,
        skips_chooser=block.skip_chooser,
    )


def _base(settings: Settings) -> str:
    return f"{settings.server.public_url.rstrip('/')}{settings.server.prefix}"


def _keep(provider: Provider, settings: Settings) -> float | None:
    """How long the end of a provider's session has to be remembered: as long as any credential of it can be valid."""
    if not provider.require_expiry or provider.max_token_lifetime is None:
        return None
    return max(settings.login.session.max_age, provider.max_token_lifetime) + provider.clock_skew
