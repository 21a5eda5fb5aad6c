"""Builds everything behind the listeners from one configuration."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.admin.health import Health
from sidecar.app.authentication import (
    build_authenticators,
    build_decider,
    contexts_of,
    guest_policy,
    revocation_gate,
    token_cache,
)
from sidecar.app.bot_tokens import bot_token_copies, start_cleaner
from sidecar.app.health import health_of
from sidecar.app.issuers import IssuerRegistry, open_issuers
from sidecar.app.login import open_login
from sidecar.app.management import build_bots, build_tokens
from sidecar.app.naming import check_names
from sidecar.app.process_context import ProcessContext
from sidecar.app.public_routes import public_routes
from sidecar.app.token_endpoint import token_routes
from sidecar.app.tracing import open_tracing
from sidecar.app.upstream_start import UpstreamStart
from sidecar.authn.authenticators.session import SESSION
from sidecar.authn.base import Accepted
from sidecar.authn.lifecycle import open_authenticators
from sidecar.authn.registry import chain_specs
from sidecar.budget import Budget
from sidecar.clock import Clock
from sidecar.concurrency import cancel
from sidecar.config.load import Loaded
from sidecar.config.origins import cors_origins
from sidecar.config.settings import Settings
from sidecar.dataplane.proxy.pool import endpoint_of
from sidecar.dataplane.proxy.stream_watch import StreamWatch
from sidecar.errors import Unavailable
from sidecar.identity.names import folded
from sidecar.metrics import Metrics
from sidecar.store.replica.mirror import Mirror
from sidecar.tokens.issued.bots import BotRegistry
from sidecar.tokens.issued.copies import CopyCleaner
from sidecar.tokens.issued.usage import UsageRecorder
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.web.cors import RefusalCors
from sidecar.web.dispatcher import ActiveConfig
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.server import TrustedPeers

_FIRST_LOAD_TIMEOUT = 1.0
_BOT_NAMES_INTERVAL = 300.0
_log = logging.getLogger("sidecar")


def _is_person(name: str) -> Callable[[Accepted], bool]:
    wanted = folded(name)
    return lambda accepted: not accepted.actor.is_bot and folded(accepted.actor.id) == wanted


async def _register_bot_names(mirror: Mirror, bots: BotRegistry) -> None:
    """Register names of bots whose token records are older than name registration."""
    while True:
        if mirror.is_loaded and mirror.unregistered_bots():
            try:
                adopted = await bots.adopt_existing(mirror.unregistered_bots())
                _log.info("bot names registered", extra={"event": "bot_names_registered", "names": adopted})
            except Unavailable as failure:
                _log.warning(
                    "bot names could not be registered; retrying",
                    extra={"event": "bot_names_registration_failed", "cause": failure.cause},
                )
        # an older replica may mint a bot token at any time
        await asyncio.sleep(_BOT_NAMES_INTERVAL if mirror.is_loaded else _FIRST_LOAD_TIMEOUT)


@dataclass(frozen=True, slots=True)
class ConfigGeneration:
    """A running configuration. ``stack`` closes it."""

    loaded: Loaded
    active_config: ActiveConfig
    health: Health
    issuers: IssuerRegistry
    cache: VerifiedCache[Accepted]
    watch: StreamWatch
    cleaner: CopyCleaner | None
    stack: AsyncExitStack

    def observe(self, metrics: Metrics) -> None:
        """Set the gauges to the values of this generation, also if another was built in the meantime."""
        metrics.jwks_keys.clear()
        metrics.jwks_age.clear()
        for keys in self.issuers.provider_keys:
            keys.bind_metrics()
        self.issuers.mirror.observe()
        self.cache.bind_metrics()
        cleaner = self.cleaner
        metrics.watch(metrics.secrets_untidied, lambda: 0 if cleaner is None else cleaner.left)


async def build(loaded: Loaded, context: ProcessContext, *, at_start: bool = False) -> ConfigGeneration:
    """Build and start all parts of ``loaded``. ``at_start``: this is the first generation of the process.

    Raises Misconfigured if the configuration cannot be served, and Unavailable if the file of the store cannot be
    opened. Does not need the identity providers to be reachable.
    """
    stack = AsyncExitStack()
    try:
        return await _build(loaded, context, stack, at_start=at_start)
    except BaseException:
        await stack.aclose()
        raise


async def _build(loaded: Loaded, context: ProcessContext, stack: AsyncExitStack, *, at_start: bool) -> ConfigGeneration:
    settings, metrics, clock = loaded.settings, context.metrics, context.clock
    registry = await open_issuers(loaded, context, stack)
    await check_names(loaded, registry.store, clock.now())
    # most stores load quickly, so that the first requests are not answered 503
    await registry.mirror.wait_first_load(_FIRST_LOAD_TIMEOUT)
    usage = UsageRecorder(registry.store, clock)
    await usage.start()
    stack.push_async_callback(usage.aclose)
    cache = token_cache(settings, metrics)
    built = build_authenticators(loaded, registry, cache, clock, context.issuers.note)
    context_for = contexts_of(loaded, registry, metrics, clock)
    login = await open_login(loaded, registry, cache, context, stack, context_for)
    if login is not None:
        built[SESSION] = login.authenticator
    specs = chain_specs(loaded.authenticators, built)
    authenticators = await open_authenticators(specs, built, context_for, stack)
    login = None if login is None else login.with_passwords(settings.login.passwords, authenticators)
    guests = guest_policy(specs)
    cookies = None if login is None else login.cookies
    tracing = open_tracing(loaded, stack)
    undecided = Budget(max(1, settings.server.limits.max_in_flight // 4))
    decider = build_decider(
        settings, registry, authenticators, metrics, clock, usage, guests, tracing.decider, undecided, cookies
    )
    origins = cors_origins(settings)
    error_responses = ErrorResponses(
        settings.server.realm,
        authenticators.challenges,
        lines_per_second=settings.logging.refusals_per_second,
        left_out=metrics.log_lines_left_out.inc,
        cors=RefusalCors(origins, credentials=settings.cors.credentials) if origins else None,
        login="" if login is None else f"{settings.server.prefix}/start",
        challenged=lambda path, reason: metrics.challenges.labels(path or "/", reason).inc(),
    )
    watch = StreamWatch(revocation_gate(settings, registry, clock), clock, registry.mirror.changed)
    await watch.start()
    stack.push_async_callback(watch.aclose)
    copies = bot_token_copies(loaded, registry.store, clock, metrics)
    bots = build_bots(
        settings,
        registry.store,
        registry.mirror.write,
        clock,
        registry.reserved,
        copies,
        lambda name: cache.any_entry(_is_person(name)),
    )
    bot_names_task = asyncio.create_task(_register_bot_names(registry.mirror, bots), name="register bot names")
    stack.push_async_callback(cancel, bot_names_task)
    cleaner = await start_cleaner(copies, registry.mirror, registry.store, clock, stack)
    tokens = build_tokens(loaded, registry, bots, context, copies)
    token_endpoint = await token_routes(
        loaded, registry, tokens, decider, error_responses, context, authenticators.started, stack
    )
    upstream = await _start_waiting_for_upstream(settings, clock, stack) if at_start else None
    waiting = None if upstream is None else upstream.status
    health = health_of(registry, authenticators, guests, settings, waiting, cleaner)
    routes = public_routes(
        loaded,
        registry,
        bots,
        tokens,
        token_endpoint,
        authenticators,
        decider,
        error_responses,
        context,
        watch,
        stack,
        login,
        health,
        traced=tracing.spans is not None,
    )
    server = settings.server
    active_config = ActiveConfig(
        routes,
        error_responses,
        TrustedPeers(server.trusted_proxies),
        max_in_flight=server.limits.max_in_flight,
        undecided=undecided,
        undecided_bodies=decider.undecided_bodies,
        log_access=settings.logging.access,
        spans=tracing.spans,
    )
    return ConfigGeneration(loaded, active_config, health, registry, cache, watch, cleaner, stack)


async def _start_waiting_for_upstream(settings: Settings, clock: Clock, stack: AsyncExitStack) -> UpstreamStart | None:
    """Start waiting for the upstream, which delays readiness. Used at process start only, not on reload."""
    upstream = settings.upstream
    if upstream is None or upstream.wait_at_start is None:
        return None
    endpoint = endpoint_of(upstream.url, upstream.ca_file)
    waiting = UpstreamStart(endpoint, upstream.url, upstream.wait_at_start, clock)
    await waiting.start()
    stack.push_async_callback(waiting.aclose)
    return waiting
