"""Runs the gates before Kafka topics: each in a thread, with keys, revocation list and chain on the event loop."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from sidecar import __version__
from sidecar.access.decide import Allow, Decider, Deny
from sidecar.access.rules import requirements_of
from sidecar.admin.health import Health, PartState, PartStatus
from sidecar.app.authentication import (
    build_authenticators,
    build_decider,
    contexts_of,
    revocation_gate,
    token_cache,
)
from sidecar.app.health import health_of
from sidecar.app.issuers import IssuerRegistry, open_issuers
from sidecar.app.naming import check_names
from sidecar.app.process_context import ProcessContext
from sidecar.app.running import operations_listener
from sidecar.authn.authenticators.jwt import IssuedTokenResolver, Issuer, JwtAuthenticator
from sidecar.authn.base import Accepted
from sidecar.authn.lifecycle import AuthenticatorSet, open_authenticators
from sidecar.authn.registry import JWT, chain_specs
from sidecar.clock import CheckedClock, SystemClock, checked
from sidecar.concurrency import settled
from sidecar.config.load import Loaded
from sidecar.config.output.show import as_json
from sidecar.config.providers import member_issuer
from sidecar.config.settings import KafkaGateSettings, KafkaSettings
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.errors import Cause, Failed, Misconfigured, Problem, Reason, Refused, SidecarError
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import Credential, RequestContext
from sidecar.kafka.gate import KafkaGate, Refusal
from sidecar.kafka.judge import Authenticate, Judge, RecordClock, RecordRules, RecordVerdict
from sidecar.kafka.records import Record
from sidecar.logs import LineLimit, traceback_locations
from sidecar.metrics import Metrics

_log = logging.getLogger("sidecar.kafka")
_FIRST_LOAD_TIMEOUT = 10.0
_NO_HEADERS: CIMultiDict[str] = CIMultiDict()


class GateService:
    """The running gates of one process. Created by :func:`run_gates`."""

    def __init__(self, loaded: Loaded, metrics: Metrics, health: Health, gates: Sequence[KafkaGate]) -> None:
        self._loaded = loaded
        self._metrics = metrics
        self._health = health
        self._gates = gates
        self._threads: list[threading.Thread] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when a gate ends by itself, with its SidecarError."""

    def start(self) -> None:
        """Start the threads."""
        loop = asyncio.get_running_loop()
        for gate in self._gates:
            thread = threading.Thread(target=self._run, args=(gate, loop), name=f"gate {gate.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def stop(self) -> None:
        """Let each gate finish its batch, and wait until all have ended."""
        for gate in self._gates:
            gate.stop()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def is_ready(self) -> bool:
        """Whether all parts work, so that gates can decide on records."""
        return self._health.report(*map(_gate_status, self._gates))[0]

    async def readiness(self) -> tuple[bool, dict[str, object]]:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self._health.report(*map(_gate_status, self._gates))

    async def scrape(self) -> CollectorRegistry:
        """See :class:`sidecar.admin.routes.Operations`."""
        return self._metrics.registry

    def configuration(self) -> Any:
        """See :class:`sidecar.admin.routes.Operations`."""
        return as_json(self._loaded)

    def _run(self, gate: KafkaGate, loop: asyncio.AbstractEventLoop) -> None:
        failure: SidecarError | None = None
        try:
            gate.run()
        except SidecarError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - its text may have content of records
            _log.error(
                "unhandled error in a gate",
                extra={
                    "event": "kafka_gate_failed",
                    "gate": gate.name,
                    "error": type(error).__name__,
                    "places": traceback_locations(error),
                },
            )
            failure = SidecarError(f"gate {gate.name}: {type(error).__name__}")
        if failure is not None:
            loop.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: SidecarError) -> None:
        if not self.ended.done():
            self.ended.set_exception(failure)


def _gate_status(gate: KafkaGate) -> PartStatus:
    name = f"gate {gate.name}"
    if not gate.is_connected:
        return PartStatus(name, PartState.UNUSABLE, gate.problem)
    stopped = ", ".join(f"{number} ({cause})" for cause, number in sorted(gate.stopped_partitions.items()))
    return (
        PartStatus(name, PartState.DEGRADED, f"partitions stopped: {stopped}")
        if stopped
        else PartStatus(name, PartState.USABLE)
    )


def gates_of(loaded: Loaded, names: Sequence[str] = ()) -> tuple[KafkaSettings, tuple[KafkaGateSettings, ...]]:
    """The Kafka block and its gates, or those with ``names``. Raises Misconfigured if there are none."""
    kafka = loaded.settings.kafka
    if kafka is None or not kafka.gates:
        raise Misconfigured([Problem("kafka.gates", "is empty; configure a gate")])
    known = {gate.name: gate for gate in kafka.gates}
    unknown = [name for name in names if name not in known]
    if unknown:
        text = f"there is no gate {', '.join(unknown)}; configured: {', '.join(known)}"
        raise Misconfigured([Problem("kafka.gates", text)])
    return kafka, tuple(known[name] for name in names or known)


@asynccontextmanager
async def run_gates(loaded: Loaded, names: Sequence[str], instance: str) -> AsyncIterator[GateService]:
    """Run the gates with ``names`` (none: all) and the operations listener while the context is active.

    ``instance`` is unique among the processes that run these gates. Raises Misconfigured, and Unavailable if the store
    cannot be opened.
    """
    kafka, chosen = gates_of(loaded, names)
    metrics, clock = Metrics(), CheckedClock(SystemClock())
    context = ProcessContext(metrics, clock)
    metrics.workers.set(1)
    async with AsyncExitStack() as stack:
        registry = await open_issuers(loaded, context, stack)
        await check_names(loaded, registry.store, clock.now())
        await registry.mirror.wait_first_load(_FIRST_LOAD_TIMEOUT)
        authenticators = await _open_chain(loaded, registry, context, stack)
        loop = asyncio.get_running_loop()
        report = _Report(loaded, metrics, loop)
        gates = []
        for gate in chosen:
            authenticate = _authentication(gate, loaded, registry, authenticators, context)
            judge = Judge(authenticate, _rules(gate), clock, max_lag=gate.max_lag)
            gates.append(
                KafkaGate(
                    kafka,
                    gate,
                    instance=instance,
                    decide=partial(_decide, judge, loop),
                    is_stripped=_stripped(loaded, metrics),
                    report=report,
                    metrics=metrics,
                )
            )
        service = GateService(loaded, metrics, health_of(registry, authenticators, None, loaded.settings), gates)
        metrics.watch(metrics.ready, service.is_ready)
        async with operations_listener(service, loaded.settings.server.admin_listen, metrics):
            service.start()
            _log.info(
                "gates are running",
                extra={
                    "event": "kafka_gates_running",
                    "version": __version__,
                    "admin": loaded.settings.server.admin_listen,
                    "gates": [gate.name for gate in chosen],
                },
            )
            try:
                yield service
            finally:
                await service.stop()


def _decide(judge: Judge, loop: asyncio.AbstractEventLoop, records: Sequence[Record]) -> list[RecordVerdict]:
    """Decide on the event loop; called in the thread of a gate."""
    return asyncio.run_coroutine_threadsafe(judge.decide(records), loop).result()


class _Report:
    """Logs refused records, within the limit of ``logging.refusalsPerSecond``. Thread-safe."""

    def __init__(self, loaded: Loaded, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._limit = LineLimit(_log, loaded.settings.logging.refusals_per_second, metrics.log_lines_left_out.inc)

    def __call__(self, refusals: Sequence[Refusal]) -> None:
        self._loop.call_soon_threadsafe(self._write, refusals)

    def _write(self, refusals: Sequence[Refusal]) -> None:
        for one in refusals:
            if self._limit.allows():
                _log.info(
                    "record refused",
                    extra={
                        "event": "kafka_record_refused",
                        "gate": one.gate,
                        "origin": one.origin,
                        "reason": one.failure.reason,
                        "cause": one.failure.cause,
                        "detail": one.failure.detail,
                        "actor": one.actor,
                        "requestId": one.request_id,
                    },
                )


async def _open_chain(
    loaded: Loaded, registry: IssuerRegistry, context: ProcessContext, stack: AsyncExitStack
) -> AuthenticatorSet:
    """The authenticators of HTTP requests, without sessions and the guest."""
    settings, metrics, clock = loaded.settings, context.metrics, context.clock
    cache = token_cache(settings, metrics)
    built = build_authenticators(loaded, registry, cache, RecordClock(checked(clock)), context.issuers.note)
    context_for = contexts_of(loaded, registry, metrics, clock)
    return await open_authenticators(chain_specs(loaded.authenticators, built), built, context_for, stack)


def _authentication(
    gate: KafkaGateSettings,
    loaded: Loaded,
    registry: IssuerRegistry,
    authenticators: AuthenticatorSet,
    context: ProcessContext,
) -> Authenticate:
    """How the credential of a record of ``gate`` is decided on."""
    if gate.identity == "topic":
        return _of_topic(gate, loaded, registry, context)
    if gate.expected_audience:
        authenticators = _bound(gate, loaded, registry, context)
    # a token that counts as valid when its record was appended is revoked by entries that were in force then
    clock = RecordClock(checked(context.clock))
    decider = build_decider(loaded.settings, registry, authenticators, context.metrics, clock)
    return partial(_by_credential, decider)


def _bound(
    gate: KafkaGateSettings, loaded: Loaded, registry: IssuerRegistry, context: ProcessContext
) -> AuthenticatorSet:
    """The JWT authenticator alone, for tokens that are made for this topic and live briefly."""

    def bound(issuer: Issuer) -> Issuer:
        policy = issuer.expectations
        limits = [one for one in (policy.max_lifetime, gate.max_token_lifetime) if one is not None]
        audiences = frozenset({gate.expected_audience})
        mapper = issuer.mapper
        if isinstance(mapper, IssuedTokenResolver):
            mapper = mapper.for_audience(gate.expected_audience)
        return replace(
            issuer,
            mapper=mapper,
            expectations=replace(policy, audiences=audiences, max_lifetime=min(limits, default=None)),
        )

    unbound = None if registry.unbound is None else bound(registry.unbound)
    narrowed = replace(registry, issuers={name: bound(one) for name, one in registry.issuers.items()}, unbound=unbound)
    settings, metrics = loaded.settings, context.metrics
    cache = token_cache(settings, metrics)
    built = build_authenticators(loaded, narrowed, cache, RecordClock(checked(context.clock)), context.issuers.note)
    jwt = built[JWT]
    assert isinstance(jwt, JwtAuthenticator)  # noqa: S101 - its type is lost in the mapping
    return AuthenticatorSet((jwt,))


def _by_credential(decider: Decider, credential: Credential) -> Any:
    """The decision on ``credential``, as if a request without rules had it."""
    try:
        verdict = decider.decide(RequestContext("POST", None, _NO_HEADERS, credential))
    except Failed as failure:
        return failure
    if isinstance(verdict, Allow | Deny):
        return _outcome(verdict)
    return _later(verdict)


async def _later(verdict: Any) -> Accepted | Failed:
    try:
        return _outcome(await settled(verdict))
    except Failed as failure:
        return failure


def _outcome(verdict: Allow | Deny) -> Accepted | Failed:
    if isinstance(verdict, Deny):
        return verdict.failure
    return verdict.accepted or Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT)


def _of_topic(
    gate: KafkaGateSettings, loaded: Loaded, registry: IssuerRegistry, context: ProcessContext
) -> Authenticate:
    """The Actor of all records, as long as it is not revoked."""
    settings = gate.actor
    assert settings is not None  # noqa: S101 - the configuration is checked
    actor = Actor(
        type=ActorType(settings.type), id=settings.id, issuer=member_issuer(gate.name), provider=gate.name,
        authenticator="kafka",
    )  # fmt: skip
    # the operator has named it, so it may be a bot's
    accepted = Accepted(actor, is_own=True)
    revocations = revocation_gate(loaded.settings, registry, context.clock)
    return lambda _credential: revocations.check(accepted) or accepted


def _rules(gate: KafkaGateSettings) -> RecordRules:
    # the first rule applies to every record, so the configuration has one at most
    written = [requirements_of(rule.require, f"kafka.gates.{gate.name}.rules[0]") for rule in gate.rules]
    return RecordRules(written[0] if written else None, allows=gate.default == "allow")


def _stripped(loaded: Loaded, metrics: Metrics) -> Callable[[str], bool]:
    """Whether a header of this normalised name is never taken from a client, as for HTTP requests."""
    headers = IdentityHeaders(
        strip=loaded.settings.identity_headers.strip,
        max_bytes=0,
        max_total_bytes=0,
        assertion=None,
        credential=None,
        metrics=metrics,
    )
    return headers.is_stripped
