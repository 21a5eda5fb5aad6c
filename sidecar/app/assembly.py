"""What one configuration is made into: everything behind the listeners."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from sidecar.admin.health import Health
from sidecar.app.health import health_of
from sidecar.app.judge import build_decider, build_verifiers, member_surroundings, revocation_gate
from sidecar.app.planes import public_routes
from sidecar.app.tracing import open_tracing
from sidecar.app.trust import open_trust
from sidecar.authn.members import open_members
from sidecar.authn.registry import plan
from sidecar.authn.system import SYSTEM
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.dataplane.proxy.watch import StreamWatch
from sidecar.metrics import Metrics
from sidecar.tokens.usage import Usage
from sidecar.web.boundary import Routes
from sidecar.web.respond import Refusals

_FIRST_READING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the listeners need of a configuration."""

    routes: Routes
    refusals: Refusals
    health: Health


async def assemble(loaded: Loaded, metrics: Metrics, clock: Clock, stack: AsyncExitStack) -> Parts:
    """The parts that ``loaded`` names, started; ``stack`` closes them in reverse order.

    Raises Misconfigured when the configuration cannot be served, and Unavailable when the store's file cannot be
    opened. Needs no identity provider to be there.
    """
    settings = loaded.settings
    trust = await open_trust(loaded, metrics, clock, stack)
    # most stores are read in a moment: whoever asks first is then not sent away
    await trust.mirror.tried(_FIRST_READING_SECONDS)
    usage = Usage(trust.store, clock)
    await usage.start()
    stack.push_async_callback(usage.aclose)
    verifiers = build_verifiers(loaded, trust, metrics, clock)
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
    decider = build_decider(settings, trust, members, metrics, clock, usage, tracing.decider)
    health = health_of(trust, members, settings)
    refusals = Refusals(settings.server.realm, members.challenges)
    watch = StreamWatch(revocation_gate(settings, trust, clock), clock, trust.mirror.changed)
    await watch.start()
    stack.push_async_callback(watch.aclose)
    routes = public_routes(loaded, trust, members, decider, refusals, metrics, clock, watch, stack, tracing.spans)
    return Parts(tracing.around(routes), refusals, health)
