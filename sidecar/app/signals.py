"""Builds the receiver of security events."""

from sidecar.access.decide import Decider
from sidecar.api.body import BodyReader
from sidecar.app.issuers import IssuerRegistry
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.signals import signal_audience
from sidecar.metrics import Metrics
from sidecar.signals.receiver import SignalEndpoint, SignalReceiver, SignalSource
from sidecar.signals.security_event import Transmitter
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.in_flight import TaskFunction

_ROUTE = "events"
_MAX_BYTES = 64 * 1024


def build_signals(
    loaded: Loaded,
    registry: IssuerRegistry,
    revocations: RevocationService,
    decider: Decider,
    clock: Clock,
    metrics: Metrics,
) -> dict[str, tuple[str, TaskFunction]]:
    """The endpoint of the transmitters in ``loaded``, by the path before the name of a provider; empty: none."""
    settings = loaded.settings
    keys = {source.provider.name: source for source in registry.provider_keys}
    sources: dict[str, SignalSource] = {}
    for item in settings.signals.transmitters:
        source = keys[item.provider]
        issuer = source.provider.issuer or ""
        transmitter = Transmitter(
            item.provider,
            item.issuer or issuer,
            signal_audience(settings, item),
            issuer,
            source.provider.algorithms,
            source.provider.clock_skew,
            source,
        )
        sources[item.provider] = SignalSource(transmitter, item.authorization, frozenset(item.events))
    if not sources:
        return {}
    receiver = SignalReceiver(sources, revocations, clock, metrics, _MAX_BYTES)
    bodies = BodyReader(settings.server.limits.body_timeout, decider.undecided_bodies, _MAX_BYTES)
    return {f"{settings.server.prefix}/events": (_ROUTE, SignalEndpoint(receiver, bodies, decider))}


def push_lines(loaded: Loaded) -> list[str]:
    """What to register at the transmitters, for ``sidecar check``."""
    settings = loaded.settings
    base = f"{settings.server.public_url.rstrip('/')}{settings.server.prefix}"
    lines = [
        f"  {item.provider}: push URL {base}/events/{item.provider}, audience {signal_audience(settings, item)}"
        for item in settings.signals.transmitters
    ]
    return ["Security events; register at the transmitter:", *lines] if lines else []
