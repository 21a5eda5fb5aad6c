"""Probes of ``sidecar check``: keys, authenticators, store, upstream. Read-only."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from sidecar.app.authentication import authenticator_context
from sidecar.app.bot_tokens import bot_token_vault
from sidecar.app.login import build_client
from sidecar.app.management import build_bots
from sidecar.app.naming import check_names
from sidecar.app.token_endpoint import client_keys
from sidecar.app.tracing import require_library
from sidecar.authn.lifecycle import build_authenticator
from sidecar.authn.registry import AuthenticatorSpec, build_specs
from sidecar.cli.resource_probes import resource_probes
from sidecar.clock import CheckedClock, Clock, SystemClock, difference
from sidecar.config.credential_mode import Product, credential_mode
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider, has_own_keys
from sidecar.config.reading.store_url import parse_store_url
from sidecar.config.secrets_manager import EXAMPLE_BOT
from sidecar.config.settings import Settings, TracingSettings, UpstreamSettings
from sidecar.errors import Misconfigured, Problem, Refused, Unavailable, system_text
from sidecar.identity.claims import PrincipalPolicy
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.keys.keyset import VerificationKey
from sidecar.keys.signing import SigningKeys
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient, OutboundError
from sidecar.store.base import ClockReport
from sidecar.store.open import open_store
from sidecar.store.redis.client import RedisClient
from sidecar.store.redis.failures import RedisUnavailable, server_text
from sidecar.store.redis.store import RedisStore
from sidecar.store.sqlite.database import is_full, sqlite_path
from sidecar.tokens.issued.copies import CopyError, CopyVault

_SQLITE_HEAD = b"SQLite format 3\0"
_MAX_BYTES = 256 * 1024
_COLLECTOR_TIMEOUT = 5.0
_MEND_CONNECTION = "check that it runs, the host and port, and NetworkPolicies"


class Probe(Protocol):
    """Checks one dependency."""

    name: str

    async def run(self) -> list[Problem]:
        """The problems; fatal: unreachable or unusable. Raises Misconfigured for a configuration error."""


def probes_for(loaded: Loaded) -> list[Probe]:
    """Probes for all dependencies of the configuration."""
    settings = loaded.settings
    probes: list[Probe] = [KeysProbe(provider, loaded) for provider in loaded.providers]
    probes += [
        AuthenticatorProbe(member, loaded)
        for member in build_specs(loaded.authenticators)
        if member.factory is not None
    ]
    probes += [LoginProbe(provider, loaded) for provider in loaded.providers if provider.login is not None]
    probes.append(StoreProbe(settings))
    if loaded.undecided:
        probes.append(NamesProbe(loaded))
    if has_own_keys(settings.jwt_token_configuration):
        probes.append(OwnKeysProbe(settings))
    if settings.token_endpoint.enabled:
        found = map(client_keys, settings.token_endpoint.clients)
        probes += [KeysProbe(provider, loaded) for provider in found if provider is not None]
        probes.append(TokenBotsProbe(settings))
    vault = bot_token_vault(loaded, Metrics())
    if vault is not None:
        probes.append(BotTokensProbe(vault))
    if settings.upstream is not None and settings.upstream.url:
        upstream = settings.upstream
        probes.append(UpstreamProbe("upstream", upstream.url, upstream.connect_timeout))
        probes.append(OpenMetadataProbe(settings, upstream))
    probes += resource_probes(loaded)
    if settings.tracing is not None:
        probes.append(CollectorProbe(settings.tracing))
    return probes


class KeysProbe:
    """Key URLs and discovery of a provider, fetched once in the same way as ``sidecar serve`` does."""

    def __init__(self, provider: Provider, loaded: Loaded) -> None:
        self.name = f"provider {provider.name}"
        self._provider = provider
        self._loaded = loaded

    async def run(self) -> list[Problem]:
        """A URL that does not respond, or has no usable key."""
        settings = self._loaded.settings
        client = ControlClient(settings.keys.ca_file, egress=self._loaded.egress)
        keys = ProviderKeys(
            self._provider,
            settings.keys,
            client,
            Metrics(),
            SystemClock(),
            None,
            allow_published=settings.allow_published_secrets,
        )
        try:
            await keys.start()
            while not keys.status().attempted:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.02)
            return self._evaluate(keys)
        finally:
            await keys.aclose()
            await client.aclose()

    def _evaluate(self, keys: ProviderKeys) -> list[Problem]:
        status = keys.status()
        if status.problem or not status.usable:
            return [Problem(self.name, status.problem or "has no usable key")]
        return []


class TokenBotsProbe:
    """Whether the bots are registered for which the token endpoint issues tokens."""

    name = "token endpoint"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self) -> list[Problem]:
        """Warnings: a bot can be registered at any time. An absent SQLite file has no bots."""
        settings, endpoint = self._settings, self._settings.token_endpoint
        url = settings.store.url.reveal()
        wanted = {f"clients[{n}]": one.as_.bot for n, one in enumerate(endpoint.clients) if one.as_ is not None}
        wanted |= {f"workloads[{n}]": one.as_.bot for n, one in enumerate(endpoint.workloads)}
        registered: set[str] = set()
        if not url.startswith("sqlite:") or await asyncio.to_thread(sqlite_path(url).exists):
            clock = SystemClock()
            try:
                store = await open_store(settings.store, Metrics(), clock)
            except Unavailable:
                return []  # reported by StoreProbe
            try:
                bots = build_bots(settings, store, store.write, clock, (), None)
                registered = {name for name in set(wanted.values()) if await bots.is_registered(name)}
            except Unavailable:
                return []  # likewise
            finally:
                await store.aclose()
        return [
            Problem(
                f"tokenEndpoint.{place}.as.bot",
                f"no bot {name} is registered, and requests get invalid_grant; run sidecar bots register {name}",
                fatal=False,
            )
            for place, name in wanted.items()
            if name not in registered
        ]


class _NoKeys:
    """No keys: a probe verifies no token."""

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        return ()

    async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        return ()


class LoginProbe:
    """The registration for browser login at a provider, tried without a browser."""

    def __init__(self, provider: Provider, loaded: Loaded) -> None:
        self.name = f"login at provider {provider.name}"
        self._provider = provider
        self._loaded = loaded

    async def run(self) -> list[Problem]:
        """A wrong client id, secret or redirect URI; what a provider lacks is a warning."""
        settings = self._loaded.settings
        async with AsyncExitStack() as stack:
            control = ControlClient(settings.keys.ca_file, egress=self._loaded.egress)
            stack.push_async_callback(control.aclose)
            policy = PrincipalPolicy(self._provider.name)
            client = build_client(self._provider, settings, control, _NoKeys(), policy, SystemClock(), stack)
            try:
                metadata = await client.metadata()
                wrong = await client.probe()
            except (Unavailable, Refused) as failure:
                return [Problem(self.name, failure.detail)]
        found = [Problem(self.name, wrong)] if wrong else []
        if not metadata.end_session_endpoint and settings.login.logout.provider:
            text = "has no end_session_endpoint: signing out here leaves the session at the provider"
            found.append(Problem(self.name, text, fatal=False))
        if not metadata.sends_issuer and len(self._loaded.providers) > 1:
            text = "does not announce iss in its responses (RFC 9207); the redirect URI alone tells providers apart"
            found.append(Problem(self.name, text, fatal=False))
        return found


class AuthenticatorProbe:
    """Dependencies of an authenticator, which checks them itself."""

    def __init__(self, spec: AuthenticatorSpec, loaded: Loaded) -> None:
        self.name = f"authenticator {spec.name}"
        self._spec = spec
        self._loaded = loaded

    async def run(self) -> list[Problem]:
        """Create the authenticator and call its ``check``."""
        client = ControlClient(self._loaded.settings.keys.ca_file, egress=self._loaded.egress)
        try:
            surroundings = authenticator_context(
                self._spec.name, loaded=self._loaded, client=client, metrics=Metrics(), clock=SystemClock()
            )
            return [Problem(self.name, text) for text in await build_authenticator(self._spec, surroundings).check()]
        except Misconfigured:
            raise
        except Exception as error:  # noqa: BLE001 - plugins may raise any exception
            return [Problem(self.name, f"cannot be checked: {type(error).__name__}")]
        finally:
            await client.aclose()


class OwnKeysProbe:
    """The signing key files."""

    name = "own keys"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self) -> list[Problem]:
        """Load the files as ``sidecar serve`` does."""
        settings = self._settings
        keys = await asyncio.to_thread(
            SigningKeys, settings.jwt_token_configuration, allow_published=settings.allow_published_secrets
        )
        if credential_mode(settings).mints is Product.OPENMETADATA and not keys.has_rsa:
            return [Problem("upstream.credentials", "openmetadata needs an own RSA key, and none is configured")]
        return []


class BotTokensProbe:
    """Whether tokens of bots can be read in the secrets manager. Whether they can be written, only writing shows."""

    name = "tokens.botTokensInVault"

    def __init__(self, vault: CopyVault) -> None:
        self._vault = vault

    async def run(self) -> list[Problem]:
        """Read the token of OpenMetadata's own bot, which need not be there."""
        secret_id = self._vault.id_of(EXAMPLE_BOT)
        try:
            await self._vault.read(secret_id)
        except CopyError as error:
            return [Problem(self.name, f"secret:{secret_id} in {self._vault.name}: {error.detail}")]
        return []


class StoreProbe:
    """The SQLite file, checked without opening it, which would create it; or the Redis server."""

    name = "store"

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings.store
        self._clock = clock or SystemClock()

    async def run(self) -> list[Problem]:
        """Whether it is usable; for Redis also how it may lose data, and whether its clock agrees with this host's."""
        url = self._settings.url.reveal()
        if not url.startswith("sqlite:"):
            return await self._check_redis()
        fault = await asyncio.to_thread(_file_problem, sqlite_path(url))
        return [Problem(self.name, fault)] if fault else []

    async def _check_redis(self) -> list[Problem]:
        address = parse_store_url(self._settings.url.reveal())
        store = RedisStore(RedisClient(self._settings, Metrics(), self._clock), self._clock)
        try:
            status = await store.status()
            before = self._clock.now()
            report = await store.compare_clocks("", agrees=False)
            after = self._clock.now()
        except RedisUnavailable as failure:
            return [Problem(self.name, failure.sentence)]
        except Unavailable as failure:
            return [Problem(self.name, f"{server_text(address)} cannot be used: {failure.detail}")]
        finally:
            await store.aclose()
        found = [Problem(self.name, problem, fatal=False) for problem in status.problems]
        return found + _clock_problems(before, after, report)


def _clock_problems(before: float, after: float, report: ClockReport) -> list[Problem]:
    """What ``sidecar serve`` would say of this host's clock, which was read before and after that of the store."""
    if report.time is None or before - CheckedClock.JUMP <= report.time <= after + CheckedClock.JUMP:
        return []
    now = before if report.time < before else after
    problem = difference(now, report.time, "the clock of the Redis server")
    if abs(now - report.time) > CheckedClock.WRONG and report.others:
        ready = (
            f"`sidecar serve` is not ready here while the clocks of other processes ({report.others}) agree with Redis"
        )
        return [Problem("clock", f"{problem}; {ready}")]
    return [Problem("clock", problem, fatal=False)]


class NamesProbe:
    """Whether the store has entries for which ``principal`` must be set, as ``sidecar serve`` checks it."""

    name = "store"

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    async def run(self) -> list[Problem]:
        """No problems of its own; raises Misconfigured. An absent SQLite file has no entries."""
        settings = self._loaded.settings.store
        url = settings.url.reveal()
        if url.startswith("sqlite:") and not await asyncio.to_thread(sqlite_path(url).exists):
            return []
        clock = SystemClock()
        try:
            store = await open_store(settings, Metrics(), clock)
        except Unavailable:
            return []  # reported by StoreProbe
        try:
            await check_names(self._loaded, store, clock.now())
        finally:
            await store.aclose()
        return []


def _file_problem(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist; create it and make it writable for the user of the sidecar"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} is not writable; SQLite needs to create files there"
    if is_full(path):
        return f"the disk of {path} is full: tokens cannot be revoked or minted; free space on that volume"
    return _existing_file_problem(path) if path.exists() else ""


def _existing_file_problem(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_SQLITE_HEAD))
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not os.access(path, os.W_OK):
        return f"{path} is not writable"
    return "" if head in {b"", _SQLITE_HEAD} else f"{path} is not an SQLite file"


class UpstreamProbe:
    """Whether ``url`` accepts a connection within ``timeout`` seconds."""

    def __init__(self, name: str, url: str, timeout: float) -> None:
        self.name = name
        self._url = url
        self._timeout = timeout

    async def run(self) -> list[Problem]:
        """Connect once and close."""
        try:
            async with asyncio.timeout(self._timeout):
                writer = await _connect(self._url)
        except TimeoutError:
            message = f"{self._url} does not accept a connection within {self._timeout:g} s; {_MEND_CONNECTION}"
            return [Problem(self.name, message)]
        except OSError as error:
            return [Problem(self.name, f"{self._url} cannot be reached: {system_text(error)}; {_MEND_CONNECTION}")]
        writer.close()
        return []


async def _connect(url: str) -> asyncio.StreamWriter:
    if url.startswith("unix:"):
        return (await asyncio.open_unix_connection(url.removeprefix("unix:")))[1]
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return (await asyncio.open_connection(parts.hostname, port))[1]


class CollectorProbe(UpstreamProbe):
    """The tracing endpoint and the tracing library."""

    def __init__(self, tracing: TracingSettings) -> None:
        super().__init__("tracing", tracing.endpoint, _COLLECTOR_TIMEOUT)

    async def run(self) -> list[Problem]:
        """See :class:`UpstreamProbe`; a missing library is a configuration error."""
        require_library()
        return await super().run()


class OpenMetadataProbe:
    """Compares our settings with those that the OpenMetadata upstream uses, which are in its database."""

    name = "OpenMetadata"
    _AUTHENTICATION = (
        "publicKeyUrls",
        "authority",
        "clientId",
        "jwtPrincipalClaims",
        "jwtPrincipalClaimsMapping",
        "tokenValidationAlgorithm",
    )
    _AUTHORIZER = ("adminPrincipals", "principalDomain", "enforcePrincipalDomain", "allowedDomains")

    def __init__(self, settings: Settings, upstream: UpstreamSettings) -> None:
        self._settings = settings
        self._upstream = upstream

    async def run(self) -> list[Problem]:
        """Differences, as warnings; none if the upstream is no OpenMetadata server or hides its settings."""
        if self._upstream.url.startswith("unix:"):
            return []
        client = ControlClient(self._upstream.ca_file)
        try:
            authentication = await self._fetch(client, "/api/v1/system/config/auth")
            authorizer = await self._fetch(client, "/api/v1/system/config/authorizer")
        finally:
            await client.aclose()
        if "publicKeyUrls" not in authentication and "jwtPrincipalClaims" not in authentication:
            return []
        return [*self._differences(authentication, authorizer), *self._conflicts(authentication)]

    async def _fetch(self, client: ControlClient, path: str) -> Mapping[str, Any]:
        try:
            answer = await client.get(
                self._upstream.url.rstrip("/") + path,
                within=self._settings.keys.timeout,
                max_bytes=_MAX_BYTES,
                allow_insecure=True,
            )
            content = orjson.loads(answer.body)
        except (OutboundError, orjson.JSONDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    def _differences(self, authentication: Mapping[str, Any], authorizer: Mapping[str, Any]) -> list[Problem]:
        flat, ours = self._settings.authentication_configuration, self._settings.authorizer_configuration
        compared: list[tuple[str, Sequence[str], Mapping[str, Any], Mapping[str, Any]]] = []
        if flat.authority or flat.public_key_urls:
            dumped = flat.model_dump(by_alias=True)
            dumped["publicKeyUrls"] = [url if isinstance(url, str) else url["url"] for url in dumped["publicKeyUrls"]]
            dumped["tokenValidationAlgorithm"] = flat.token_validation_algorithm or "RS256"
            compared.append(("authenticationConfiguration", self._AUTHENTICATION, dumped, authentication))
        if ours.model_fields_set:
            dumped = ours.model_dump(by_alias=True)
            compared.append(("authorizerConfiguration", self._AUTHORIZER, dumped, authorizer))
        message = "differs from the setting that the server uses (its database overrides its file); check it there"
        return [
            Problem(f"{block}.{key}", message, fatal=False)
            for block, keys, mine, its in compared
            for key in keys
            if key in its and _normal(key, mine[key]) != _normal(key, its[key])
        ]

    def _conflicts(self, authentication: Mapping[str, Any]) -> list[Problem]:
        upstream, problems = self._upstream, []
        mode = credential_mode(self._settings)
        if mode.upstream_verifies and has_own_keys(self._settings.jwt_token_configuration):
            message = (
                "passthrough: the server rejects bot tokens minted here, because it compares them with the "
                "ones it stores; use credentials: openmetadata, or mint bot tokens in the server"
            )
            problems.append(Problem("upstream.credentials", message, fatal=False))
        its = authentication.get("tokenValidationAlgorithm") or "RS256"
        if mode.mints is Product.OPENMETADATA and its != upstream.token_validation_algorithm:
            message = (
                f"is {upstream.token_validation_algorithm}, but the tokenValidationAlgorithm of the server is {its}: "
                "the server will reject every token minted for it"
            )
            problems.append(Problem("upstream.tokenValidationAlgorithm", message))
        return problems


def _normal(key: str, value: object) -> object:
    """Normalize values of equal meaning: sets have no order, absent equals empty, domains are case-insensitive."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return ""
    if isinstance(value, list | tuple):
        texts = [str(item) for item in value]
        return tuple(texts) if key == "jwtPrincipalClaims" else tuple(sorted(text.lower() for text in texts))
    return value.lower() if isinstance(value, str) and key == "principalDomain" else value
