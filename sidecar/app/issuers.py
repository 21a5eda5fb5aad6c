"""Opens the trusted issuers of a configuration: their keys, token records and revocations."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sidecar.app.datahub import DataHubSetup, datahub_setup
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.jwt import IssuedTokenResolver, Issuer, JwtAuthenticator, ProviderPrincipalMapper
from sidecar.authn.authenticators.server_tokens import ServerPrincipalMapper
from sidecar.authn.guest import GuestOptions
from sidecar.authn.registry import AuthenticatorSpec, build_specs
from sidecar.authn.support.openmetadata_bot import BotTokenCheck
from sidecar.clock import Clock
from sidecar.config.credential_mode import credential_mode
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider, bot_check_url, default_principal, has_own_keys, own_early, own_leeway
from sidecar.config.settings import Settings, StoreSettings
from sidecar.config.token_endpoint import exchanged_audiences, resource_audiences
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.keys.keyset import PublicKey
from sidecar.keys.signing import SigningKeys
from sidecar.outbound import ControlClient
from sidecar.store.base import Store
from sidecar.store.open import open_store
from sidecar.store.replica.mirror import Mirror
from sidecar.store.sqlite.database import sqlite_path
from sidecar.tokens.issued.records import IssuedTokens, OwnAudiences
from sidecar.tokens.jwt.policy import (
    OWN_PROVIDER,
    issued_policy,
    issued_validation,
    provider_policy,
    provider_validation,
)

_AUTHENTICATOR = JwtAuthenticator.name
RESERVED_NAMES = ("anonymous", "guest", "__datahub_system")
"""Names without an identity. No credential of another issuer may have one of them."""


@dataclass(frozen=True, slots=True)
class IssuerRegistry:
    """The trusted issuers, with everything that verifying a credential needs."""

    provider_keys: tuple[ProviderKeys, ...]
    own_keys: SigningKeys | None
    store: Store
    mirror: Mirror
    issuers: dict[str, Issuer]
    unbound: Issuer | None
    client: ControlClient
    reserved: frozenset[str]
    datahub: DataHubSetup

    def provider_of(self, issuer: str) -> str:
        """Name of the provider whose keys verify the tokens of ``issuer``; empty: none."""
        known = self.issuers.get(issuer) or self.unbound
        return known.name if known is not None else ""

    def spellings(self, issuer: str) -> tuple[str, ...]:
        """The exact ``iss`` of ``issuer`` once discovery has found it; before that, all accepted spellings."""
        known = self.issuers.get(issuer)
        if known is None:
            return (issuer,)
        exact = known.keys.issuer
        return (exact,) if exact else (issuer, *((known.expectations.issuers or frozenset()) - {issuer}))


async def open_issuers(loaded: Loaded, context: ProcessContext, stack: AsyncExitStack) -> IssuerRegistry:
    """Open the keys, records and revocations of ``loaded``; ``stack`` closes them.

    Raises Misconfigured, and Unavailable if the file of the store cannot be opened.
    """
    settings, shared = loaded.settings, context.shared
    specs = build_specs(loaded.authenticators)
    datahub = datahub_setup(loaded, specs)
    reserved = reserved_names(settings, specs)
    own_keys = await _open_own_keys(settings, context.own_keys, stack)
    store, mirror = await shared.acquire(settings.store, partial(_open_records, settings.store, context), stack)
    client = await _open_client(loaded, context, stack)
    issuers: dict[str, Issuer] = {}
    unbound: Issuer | None = None
    provider_keys: list[ProviderKeys] = []
    for provider in loaded.providers:
        keys = await _open_provider_keys(provider, loaded, context, stack)
        provider_keys.append(keys)
        bots = _bot_check(settings, client, context.clock) if provider.is_own else None
        issuer = _provider_issuer(provider, keys, settings, reserved, mirror.is_bot_name, bots)
        if provider.is_own:
            issuer = _server_issuer(issuer, mirror, loaded)
        if provider.issuer is None:
            unbound = issuer
        else:
            issuers.update(dict.fromkeys((provider.issuer, *provider.issuer_aliases), issuer))
    if own_keys is not None:
        issuers[settings.jwt_token_configuration.jwtissuer] = _own_issuer(own_keys, mirror, loaded)
    return IssuerRegistry(tuple(provider_keys), own_keys, store, mirror, issuers, unbound, client, reserved, datahub)


def reserved_names(settings: Settings, specs: Iterable[AuthenticatorSpec]) -> frozenset[str]:
    """Names that no credential of another issuer may have, as in claims and as in the configuration.

    They include the name of the guest.
    """
    guests = {item.options.guest_user for item in specs if isinstance(item.options, GuestOptions)}
    client_id = settings.authentication.system_client_id
    return frozenset({*RESERVED_NAMES, *guests, client_id, client_id.lower()})


async def _open_own_keys(
    settings: Settings, earlier: Mapping[str, PublicKey], stack: AsyncExitStack
) -> SigningKeys | None:
    configuration = settings.jwt_token_configuration
    if not has_own_keys(configuration):
        return None
    keys = SigningKeys(configuration, allow_published=settings.allow_published_secrets, earlier=earlier)
    await keys.start()
    stack.push_async_callback(keys.aclose)
    return keys


async def _open_records(
    settings: StoreSettings, context: ProcessContext, stack: AsyncExitStack
) -> tuple[Store, Mirror]:
    store = await open_store(settings, context.metrics, context.clock)
    stack.push_async_callback(store.aclose)
    mirror = Mirror(store, context.clock, context.metrics)
    await mirror.start()
    stack.push_async_callback(mirror.aclose)
    return store, mirror


async def _open_client(loaded: Loaded, context: ProcessContext, stack: AsyncExitStack) -> ControlClient:
    file, egress = loaded.settings.keys.ca_file, loaded.egress

    async def make(stack: AsyncExitStack) -> ControlClient:
        client = ControlClient(file, egress=egress)
        stack.push_async_callback(client.aclose)
        return client

    return await context.shared.acquire(("client", _ca_bundle(file), egress), make, stack)


def _ca_bundle(file: str) -> tuple[str, bytes]:
    """The path of a CA bundle with its content, which may have changed under the same path."""
    try:
        return file, Path(file).read_bytes() if file else b""
    except OSError:
        return file, b""


async def _open_provider_keys(
    provider: Provider, loaded: Loaded, context: ProcessContext, stack: AsyncExitStack
) -> ProviderKeys:
    """The keys of ``provider``; shared with the previous configuration if they are fetched in the same way."""
    settings = loaded.settings
    # only these fields affect how keys are fetched
    source = Provider(
        provider.name,
        provider.issuer,
        key_urls=provider.key_urls,
        candidate_urls=provider.candidate_urls,
        presumed_url=provider.presumed_url,
        candidates_are_shared=provider.candidates_are_shared,
        discovery=provider.discovery,
        algorithms=provider.algorithms,
        allow_insecure_urls=provider.allow_insecure_urls,
        is_flat=provider.is_flat,
    )
    cache_dir, allow_published = _cache_dir(settings), settings.allow_published_secrets

    async def make(stack: AsyncExitStack) -> ProviderKeys:
        client = await _open_client(loaded, context, stack)
        keys = ProviderKeys(
            source, settings.keys, client, context.metrics, context.clock, cache_dir, allow_published=allow_published
        )
        stack.push_async_callback(keys.aclose)
        await keys.start()
        return keys

    key = (source, settings.keys, _ca_bundle(settings.keys.ca_file), loaded.egress, cache_dir, allow_published)
    return await context.shared.acquire(key, make, stack)


def _cache_dir(settings: Settings) -> Path | None:
    if settings.keys.cache_dir:
        return Path(settings.keys.cache_dir)
    url = settings.store.url.reveal()
    return sqlite_path(url).parent / "keys" if url.startswith("sqlite:") else None


def _provider_issuer(
    provider: Provider,
    keys: ProviderKeys,
    settings: Settings,
    reserved: frozenset[str],
    is_bot_name: Callable[[str], bool],
    bots: BotTokenCheck | None,
) -> Issuer:
    policy = provider_policy(provider, settings.authorizer_configuration, reserved, is_bot_name, _AUTHENTICATOR)
    bound = settings.server.client_certificates != "none"
    expectations = replace(provider_validation(provider, None), bound_to_certificates=bound)
    mapper = ProviderPrincipalMapper(
        policy,
        provider.clock_skew,
        provider.early,
        is_own=provider.is_own,
        bots=bots,
        bots_may_impersonate=credential_mode(settings).upstream_verifies,
    )
    return Issuer(provider.name, keys, expectations, mapper, provider.bearer)


def _bot_check(settings: Settings, client: ControlClient, clock: Clock) -> BotTokenCheck | None:
    flat = settings.authentication_configuration
    if flat.bot_token_check is None:
        return None
    return BotTokenCheck(
        client,
        bot_check_url(flat.bot_token_check.url),
        clock,
        cache=flat.bot_token_check.cache,
        allow_insecure=flat.allow_insecure_urls,
    )


def _server_issuer(issuer: Issuer, mirror: Mirror, loaded: Loaded) -> Issuer:
    """The metadata server as an issuer, for whose key own tokens may be on record from earlier."""
    assert isinstance(issuer.mapper, ProviderPrincipalMapper)  # noqa: S101 - _provider_issuer makes no other
    mapper = ServerPrincipalMapper(issuer.mapper, mirror, _own_resolver(mirror, loaded, require_record=True))
    return replace(issuer, mapper=mapper)


def _own_issuer(keys: SigningKeys, mirror: Mirror, loaded: Loaded) -> Issuer:
    settings = loaded.settings
    acceptor = _own_resolver(mirror, loaded, require_record=settings.tokens.require_record)
    expectations = issued_validation(
        settings.jwt_token_configuration,
        settings.tokens.max_lifetime,
        exchanged_audiences(settings) | resource_audiences(settings),
    )
    return Issuer(OWN_PROVIDER, keys, expectations, acceptor)


def _own_resolver(mirror: Mirror, loaded: Loaded, *, require_record: bool) -> IssuedTokenResolver:
    settings = loaded.settings
    may_name_admins = [
        item.name for item in loaded.providers if item.may_be_admin or item.is_own or (item.is_flat and item.issuer)
    ]
    configuration = settings.jwt_token_configuration
    claims = settings.authentication_configuration.jwt_principal_claims
    verbatim = default_principal(settings) == "verbatim"
    policy = issued_policy(
        claims, settings.authorizer_configuration, _AUTHENTICATOR, may_name_admins, verbatim=verbatim
    )
    audiences = OwnAudiences(configuration.audience, exchanged_audiences(settings), resource_audiences(settings))
    tokens = IssuedTokens(mirror, policy, require_record=require_record, audiences=audiences)
    return IssuedTokenResolver(tokens, own_leeway(configuration), own_early(configuration))
