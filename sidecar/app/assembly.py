"""What one configuration is made into: everything behind the listeners."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from sidecar.admin.health import Health
from sidecar.app.ground import Ground
from sidecar.app.health import health_of
from sidecar.app.judge import build_decider, build_verifiers, member_surroundings, revocation_gate
from sidecar.app.naming import check_names
from sidecar.app.planes import public_routes
from sidecar.app.tracing import open_tracing
from sidecar.app.trust import Trust, open_trust
from sidecar.authn.base import Accepted
from sidecar.authn.members import open_members
from sidecar.authn.registry import plan
from sidecar.authn.system import SYSTEM
from sidecar.budget import Budget
from sidecar.config.load import Loaded
from sidecar.dataplane.proxy.watch import StreamWatch
from sidecar.metrics import Metrics
from sidecar.tokens.usage import Usage
from sidecar.tokens.verified_cache import VerifiedCache
from sidecar.web.boundary import Serving
from sidecar.web.respond import Refusals
from sidecar.web.server import Peers

_FIRST_READING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """A configuration at work. ``stack`` closes it."""

    loaded: Loaded
    serving: Serving
    health: Health
    trust: Trust
    cache: VerifiedCache[Accepted]
    watch: StreamWatch
    stack: AsyncExitStack

    def observe(self, metrics: Metrics) -> None:
        """Be what the metrics tell of, whatever else has been made meanwhile."""
        metrics.jwks_keys.clear()
        metrics.jwks_age.clear()
        for keys in self.trust.provider_keys:
            keys.observe()
        self.trust.mirror.observe()
        self.cache.observe()


async def assemble(loaded: Loaded, ground: Ground) -> Parts:
    """The parts that ``loaded`` names, started.

    Raises Misconfigured when the configuration cannot be served, and Unavailable when the store's file cannot be
    opened. Needs no identity provider to be there.
    """
    stack = AsyncExitStack()
    try:
        return await _assemble(loaded, ground, stack)
    except BaseException:
        await stack.aclose()
        raise


async def _assemble(loaded: Loaded, ground: Ground, stack: AsyncExitStack) -> Parts:
    settings, metrics, clock = loaded.settings, ground.metrics, ground.clock
    trust = await open_trust(loaded, ground, stack)
    await check_names(loaded, trust.store, clock.now())
    # most stores are read in a moment: whoever asks first is then not sent away
    await trust.mirror.tried(_FIRST_READING_SECONDS)
    usage = Usage(trust.store, clock)
    await usage.start()
    stack.push_async_callback(usage.aclose)
    cache: VerifiedCache[Accepted] = VerifiedCache(
        settings.tokens.cache_entries, metrics, max_bytes=settings.tokens.cache_bytes
    )
    verifiers = build_verifiers(loaded, trust, cache, clock, ground.issuers.note)
    surroundings = partial(
        member_surroundings,
        loaded=loaded,
        client=trust.client,
        metrics=metrics,
        clock=clock,
        reserved=trust.reserved,
        is_bot_name=trust.mirror.is_bot_name,
    )
    members = await open_members(plan(loaded.members), verifiers, surroundings, stack)
    if SYSTEM in verifiers:
        members = replace(members, authenticators=(verifiers[SYSTEM], *members.authenticators))
    tracing = open_tracing(settings, stack)
    undecided = Budget(max(1, settings.server.limits.max_in_flight // 4))
    decider = build_decider(settings, trust, members, metrics, clock, usage, tracing.decider, undecided)
    refusals = Refusals(
        settings.server.realm,
        members.challenges,
        lines_per_second=settings.logging.refusals_per_second,
        left_out=metrics.log_lines_left_out.inc,
    )
    watch = StreamWatch(revocation_gate(settings, trust, clock), clock, trust.mirror.changed)
    await watch.start()
    stack.push_async_callback(watch.aclose)
    routes = public_routes(loaded, trust, members, decider, refusals, ground, watch, stack, tracing.spans)
    server = settings.server
    serving = Serving(
        tracing.around(routes),
        refusals,
        Peers(server.trusted_proxies),
        max_in_flight=server.limits.max_in_flight,
        undecided=undecided,
        log_access=settings.logging.access,
    )
    return Parts(loaded, serving, health_of(trust, members, settings), trust, cache, watch, stack)
