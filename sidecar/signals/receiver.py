"""``POST {prefix}/events/<provider>``: a transmitter pushes one security event (RFC 8935)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import web

from sidecar.access.decide import Decider
from sidecar.api.body import BodyReader
from sidecar.clock import Clock
from sidecar.errors import Cause, MethodNotAllowed, Reason, Refused, Unavailable
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.signals.mapping import OTHER, STREAM_UPDATED, VERIFICATION, Effect, effect_of, short_name
from sidecar.signals.security_event import SecurityEvent, SecurityEventVerifier, Transmitter
from sidecar.store.revocation_entry import Scope
from sidecar.tokens.revocation.service import RevocationRequest, RevocationService
from sidecar.web.response import Response

_log = logging.getLogger("sidecar.signals")
_HEADERS: Final = b"Cache-Control: no-store\r\nContent-Type: application/json\r\n"
_MAX_NAME = 2048
_ERRORS: Mapping[Cause, str] = {
    Cause.ISSUER: "invalid_issuer",
    Cause.AUDIENCE: "invalid_audience",
    Cause.UNKNOWN_KID: "invalid_key",
    Cause.KEY_UNUSABLE: "invalid_key",
    Cause.SIGNATURE: "invalid_key",
    Cause.ALGORITHM: "invalid_key",
    Cause.CREDENTIALS_WRONG: "authentication_failed",
}


@dataclass(frozen=True, slots=True)
class SignalSource:
    """A transmitter as configured: what it must send as ``Authorization``, and the events that have an effect."""

    transmitter: Transmitter
    authorization: Secret
    events: frozenset[str]


class SignalReceiver:
    """Applies the events of ``sources``, by provider."""

    def __init__(
        self,
        sources: Mapping[str, SignalSource],
        revocations: RevocationService,
        clock: Clock,
        metrics: Metrics,
        max_bytes: int,
    ) -> None:
        self._sources = dict(sources)
        self._verifiers = {
            name: SecurityEventVerifier(source.transmitter, clock, max_bytes) for name, source in sources.items()
        }
        self._revocations = revocations
        self._now = clock.now
        self._count = metrics.signals
        self._enabled = metrics.stream_enabled
        self._last = metrics.signal_last
        for name in sources:
            self._enabled.labels(name).set(1)

    def has(self, provider: str) -> bool:
        """Whether ``provider`` is a transmitter."""
        return provider in self._sources

    async def receive(self, provider: str, authorizations: list[str], text: str) -> None:
        """Apply the event in ``text``; returns once its revocation is stored. Raises Refused and Unavailable."""
        source, name = self._sources[provider], OTHER
        try:
            if len(authorizations) != 1 or not source.authorization.matches(authorizations[0]):
                raise Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG, "Authorization of the push")
            event = await self._verifiers[provider].verify(text)
            name = short_name(event.type)
            outcome = await self._apply(source, event, name)
        except Unavailable:
            self._count.labels(provider, name, "unavailable").inc()
            raise
        except Refused as failure:
            self._count.labels(provider, name, "rejected").inc()
            _log.warning(
                "security event rejected",
                extra={
                    "event": "security_event_rejected",
                    "provider": provider,
                    "cause": failure.cause.value,
                    "detail": failure.detail,
                },
            )
            raise
        self._count.labels(provider, name, outcome).inc()
        self._last.labels(provider).set(self._now())

    async def _apply(self, source: SignalSource, event: SecurityEvent, name: str) -> str:
        """Store what ``event`` asks for. Returns the outcome."""
        provider = source.transmitter.provider
        if name == STREAM_UPDATED:
            is_enabled = event.content.get("status") == "enabled"
            self._enabled.labels(provider).set(is_enabled)
            if not is_enabled:
                _log.warning(
                    "the transmitter sends no more events",
                    extra={"event": "signal_stream_stopped", "provider": provider},
                )
            return "applied"
        if name == VERIFICATION:
            self._enabled.labels(provider).set(1)
            return "applied"
        effect = effect_of(name, event.content) if name in source.events else Effect.NOTHING
        if effect is Effect.NOTHING:
            return "ignored"
        subject = _subject(event.subject, source.transmitter.subject_issuer)
        if not subject:
            _log.warning(
                "the subject of a security event is not one of this provider",
                extra={"event": "security_event_subject_unknown", "provider": provider, "type": name},
            )
            return "unknown_subject"
        request = RevocationRequest(
            Scope.SUBJECT_SESSIONS if effect is Effect.SESSIONS else Scope.SUBJECT,
            source.transmitter.subject_issuer,
            subject,
            issued_before=min(event.happened_at, self._now()),
            reason=f"{name} {event.jti[:64]}",
            unknown_issuer=True,
            until_removed=effect is Effect.ACCOUNT,
        )
        await self._revocations.add([request], by=f"signal:{provider}")
        return "applied"


def _subject(identifier: Mapping[str, object], issuer: str) -> str:
    """The ``sub`` in an identifier of format ``iss_sub`` (RFC 9493) whose issuer is ``issuer``; else empty.

    No other format names a subject of the issuer without doubt: an address may be another person's.
    """
    subject = identifier.get("sub")
    is_known = identifier.get("format") == "iss_sub" and identifier.get("iss") == issuer
    is_text = isinstance(subject, str) and 0 < len(subject) <= _MAX_NAME
    return subject if is_known and is_text and isinstance(subject, str) else ""


class SignalEndpoint:
    """202 once an event is stored, or needs nothing; 400 with ``err`` for one that is not accepted."""

    methods = ("POST",)

    def __init__(self, receiver: SignalReceiver, bodies: BodyReader, decider: Decider) -> None:
        self._receiver = receiver
        self._bodies = bodies
        self._decider = decider

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """``rest`` is the name of the provider. Raises Unavailable: the transmitter tries again."""
        if not self._receiver.has(rest):
            raise Refused(Reason.NOT_FOUND)
        if request.method != "POST":
            raise MethodNotAllowed(*self.methods)
        text = await self._bodies.read_text(request, "application/secevent+jwt")
        authorizations = request.headers.getall("Authorization", [])
        try:
            await self._decider.within_limits(self._receiver.receive(rest, authorizations, text))
        except Refused as failure:
            error = _ERRORS.get(failure.cause, "invalid_request")
            document = {"err": error, "description": "The security event token is not accepted"}
            return Response(400, _HEADERS, orjson.dumps(document))
        return Response(202, b"Cache-Control: no-store\r\n")
