"""What one configuration is made into: everything behind the listeners."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from sidecar.admin.health import Health
from sidecar.app.authentication import authenticator_context, build_authenticators, build_decider, revocation_gate
from sidecar.app.health import health_of
from sidecar.app.issuers import IssuerRegistry, open_issuers
from sidecar.app.management import build_bots
from sidecar.app.naming import check_names
from sidecar.app.process_context import ProcessContext
from sidecar.app.public_routes import public_routes
from sidecar.app.tracing import open_tracing
from sidecar.app.upstream_start import UpstreamStart
from sidecar.authn.authenticators.datahub_system import SYSTEM
from sidecar.authn.base import Accepted
from sidecar.authn.lifecycle import open_authenticators
from sidecar.authn.registry import build_specs
from sidecar.budget import Budget
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.settings import Settings
from sidecar.dataplane.proxy.pool import endpoint_of
from sidecar.dataplane.proxy.stream_watch import StreamWatch
from sidecar.errors import Unavailable
from sidecar.identity.names import folded
from sidecar.metrics import Metrics
from sidecar.store.replica.mirror import Mirror
from sidecar.tokens.issued.bots import Bots
from sidecar.tokens.issued.usage import Usage
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.web.dispatcher import ActiveConfig
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.server import TrustedPeers

_FIRST_LOAD_TIMEOUT = 1.0
_SEEN_NAMES_RETENTION = 300.0
_log = logging.getLogger("sidecar")


def _is_person(name: str) -> Callable[[Accepted], bool]:
    wanted = folded(name)
    return lambda accepted: not accepted.actor.is_bot and folded(accepted.actor.id) == wanted


async def _keep_bot_names(mirror: Mirror, bots: Bots) -> None:
    """Register the names of bots that have tokens on record from before names were registered."""
    while True:
        if mirror.is_loaded and mirror.unregistered_bots():
            try:
                adopted = await bots.adopt(mirror.unregistered_bots())
                _log.info("bot names registered", extra={"event": "bot_names_registered", "names": adopted})
            except Unavailable as failure:
                _log.warning(
                    "bot names could not be registered; retrying",
                    extra={"event": "bot_names_registration_failed", "cause": failure.cause},
                )
        # an older replica may mint for a bot at any time
        await asyncio.sleep(_SEEN_NAMES_RETENTION if mirror.is_loaded else _FIRST_LOAD_TIMEOUT)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class ConfigGeneration:
    """A configuration at work. ``stack`` closes it."""

    loaded: Loaded
    active_config: ActiveConfig
    health: Health
    issuers: IssuerRegistry
    cache: VerifiedCache[Accepted]
    watch: StreamWatch
    stack: AsyncExitStack

    def observe(self, metrics: Metrics) -> None:
        """Be what the metrics tell of, whatever else has been made meanwhile."""
        metrics.jwks_keys.clear()
        metrics.jwks_age.clear()
        for keys in self.issuers.provider_keys:
            keys.observe()
        self.issuers.mirror.observe()
        self.cache.observe()


async def build(loaded: Loaded, ground: ProcessContext, *, at_start: bool = False) -> ConfigGeneration:
    """The parts that ``loaded`` names, started. ``at_start``: they are the first of this process.

    Raises Misconfigured when the configuration cannot be served, and Unavailable when the store's file cannot be
    opened. Needs no identity provider to be there.
    """
    stack = AsyncExitStack()
    try:
        return await _build(loaded, ground, stack, at_start=at_start)
    except BaseException:
        await stack.aclose()
        raise


async def _build(loaded: Loaded, ground: ProcessContext, stack: AsyncExitStack, *, at_start: bool) -> ConfigGeneration:
    settings, metrics, clock = loaded.settings, ground.metrics, ground.clock
    trust = await open_issuers(loaded, ground, stack)
    await check_names(loaded, trust.store, clock.now())
    # most stores are read in a moment: whoever asks first is then not sent away
    await trust.mirror.wait_first_load(_FIRST_LOAD_TIMEOUT)
    usage = Usage(trust.store, clock)
    await usage.start()
    stack.push_async_callback(usage.aclose)
    cache: VerifiedCache[Accepted] = VerifiedCache(
        settings.tokens.cache_entries, metrics, max_bytes=settings.tokens.cache_bytes
    )
    verifiers = build_authenticators(loaded, trust, cache, clock, ground.issuers.note)
    surroundings = partial(
        authenticator_context,
        loaded=loaded,
        client=trust.client,
        metrics=metrics,
        clock=clock,
        reserved=trust.reserved,
        is_bot_name=trust.mirror.is_bot_name,
    )
    members = await open_authenticators(build_specs(loaded.authenticators), verifiers, surroundings, stack)
    if SYSTEM in verifiers:
        members = replace(members, authenticators=(verifiers[SYSTEM], *members.authenticators))
    tracing = open_tracing(loaded, stack)
    undecided = Budget(max(1, settings.server.limits.max_in_flight // 4))
    decider = build_decider(settings, trust, members, metrics, clock, usage, tracing.decider, undecided)
    refusals = ErrorResponses(
        settings.server.realm,
        members.challenges,
        lines_per_second=settings.logging.refusals_per_second,
        left_out=metrics.log_lines_left_out.inc,
    )
    watch = StreamWatch(revocation_gate(settings, trust, clock), clock, trust.mirror.changed)
    await watch.start()
    stack.push_async_callback(watch.aclose)
    bots = build_bots(
        settings, trust.store, trust.mirror.write, clock, trust.reserved, lambda name: cache.holds_any(_is_person(name))
    )
    keeper = asyncio.create_task(_keep_bot_names(trust.mirror, bots), name="names of bots")
    stack.push_async_callback(_ended, keeper)
    routes = public_routes(loaded, trust, bots, members, decider, refusals, ground, watch, stack, tracing.spans)
    server = settings.server
    serving = ActiveConfig(
        tracing.around(routes),
        refusals,
        TrustedPeers(server.trusted_proxies),
        max_in_flight=server.limits.max_in_flight,
        undecided=undecided,
        log_access=settings.logging.access,
    )
    upstream = await _awaited_upstream(settings, clock, stack) if at_start else None
    health = health_of(trust, members, settings, None if upstream is None else upstream.status)
    return ConfigGeneration(loaded, serving, health, trust, cache, watch, stack)


async def _awaited_upstream(settings: Settings, clock: Clock, stack: AsyncExitStack) -> UpstreamStart | None:
    """What readiness waits for; a configuration that is reloaded waits for nothing, its upstream has been there."""
    upstream = settings.upstream
    if upstream is None or upstream.wait_at_start is None:
        return None
    endpoint = endpoint_of(upstream.url, upstream.ca_file)
    awaited = UpstreamStart(endpoint, upstream.url, upstream.wait_at_start, clock)
    await awaited.start()
    stack.push_async_callback(awaited.aclose)
    return awaited
