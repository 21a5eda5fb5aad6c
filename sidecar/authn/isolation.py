"""Isolates configured authenticators: their exceptions, their run time, and what they return.

If an authenticator fails, the request that it had to decide on ends with 503, and the failure is counted. An
authenticator that blocks the event loop cannot be isolated.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace

from sidecar.authn.base import Abstained, Accepted, AuthenticatorProtocol, Outcome, Rejected
from sidecar.clock import Clock, SystemClock, latest_of
from sidecar.concurrency import Pending, drop, retrieve
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.request import RequestContext
from sidecar.logs import LineLimit

_log = logging.getLogger("sidecar.authn")
_MAX_ABANDONED = 64
_LINES_PER_SECOND = 5.0


class IsolatedAuthenticator:
    """A wrapper around an authenticator. ``timeout`` is in seconds.

    ``provider``: the provider that its Actors get, whatever they name; None: as they name. ``recalls`` False: its cache
    is not used, so that it decides on each request.
    """

    def __init__(
        self,
        member: AuthenticatorProtocol,
        *,
        timeout: float,
        provider: str | None = None,
        recalls: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.name = member.name
        self._authenticator = member
        self._timeout = timeout
        self._provider = provider
        self._recalls = recalls
        self._now = latest_of(clock or SystemClock())
        self._abandoned: set[asyncio.Task[Outcome]] = set()
        self._lines = LineLimit(_log, _LINES_PER_SECOND, level=logging.ERROR)

    def recall(self, view: RequestContext) -> Accepted | None:
        """The cached result; None if the authenticator has none, or fails."""
        if not self._recalls:
            return None
        try:
            known = self._authenticator.recall(view)
            is_current = isinstance(known, Accepted) and _is_valid(known) and self._expiry_failure(known) is None
        except BaseException as error:  # noqa: BLE001 - nothing is awaited here: it does not come from the event loop
            self._log_failure("recalling", error)
            return None
        return self._stamp_origin(known) if is_current and isinstance(known, Accepted) else None

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """The outcome of the authenticator. Raises Unavailable, now or when awaited, for anything else."""
        try:
            outcome = self._authenticator.authenticate(view)
        except BaseException as error:  # noqa: BLE001 - nothing is awaited here: it does not come from the event loop
            return self._outcome_of_error(error)
        if isinstance(outcome, asyncio.Future):
            outcome = asyncio.shield(outcome)  # several requests may share it, and one of them may be cancelled
        if isinstance(outcome, Awaitable):
            return Pending(self._supervise, outcome)
        return self._checked(outcome)

    async def _supervise(self, outcome: Awaitable[Outcome]) -> Outcome:
        if len(self._abandoned) >= _MAX_ABANDONED:
            drop(outcome)
            raise Unavailable(Cause.MEMBER_BROKEN, "still hangs in earlier requests")
        task = asyncio.create_task(_run(outcome))
        try:
            await asyncio.wait({task}, timeout=self._timeout)
        finally:
            if not task.done():  # it may ignore its cancellation, so it is not awaited
                task.cancel()
                self._abandoned.add(task)
                task.add_done_callback(self._forget)
        if not task.done():
            raise Unavailable(Cause.MEMBER_BROKEN, "took too long")
        if task.cancelled():
            return self._outcome_of_error(asyncio.CancelledError())
        error = task.exception()
        return self._checked(task.result()) if error is None else self._outcome_of_error(error)

    def _outcome_of_error(self, error: BaseException) -> Rejected:
        """The outcome that ``error`` stands for. Raises Unavailable if it is not a refusal."""
        if isinstance(error, Refused):
            return Rejected(error, self._provider or self.name)
        if isinstance(error, Unavailable):
            raise error
        if isinstance(error, asyncio.CancelledError):
            raise Unavailable(Cause.MEMBER_BROKEN, "cancelled itself")
        self._log_failure("authenticating", error)
        raise Unavailable(Cause.MEMBER_BROKEN, type(error).__name__)

    def _checked(self, outcome: Outcome) -> Outcome:
        if not _is_valid(outcome):
            raise Unavailable(Cause.MEMBER_BROKEN, "returned no valid outcome")
        if isinstance(outcome, Accepted):
            try:
                failure = self._expiry_failure(outcome)
            except Exception as error:
                raise Unavailable(Cause.MEMBER_BROKEN, "returned no valid outcome") from error
            return self._stamp_origin(outcome) if failure is None else Rejected(failure, self._provider or self.name)
        if isinstance(outcome, Rejected) and self._provider is not None:
            return replace(outcome, provider=self._provider)
        return outcome

    def _expiry_failure(self, accepted: Accepted) -> Refused | None:
        """Why ``accepted`` is not valid now. The caches of built-in authenticators check this, a plugin may not."""
        now = self._now()
        if accepted.expires_at is not None and now >= accepted.expires_at:
            return Refused(Reason.TOKEN_EXPIRED, Cause.EXPIRED)
        if accepted.not_before is not None and now < accepted.not_before:
            return Refused(Reason.TOKEN_NOT_YET_VALID, Cause.NOT_YET_VALID)
        return None if accepted.key.live else Refused(Reason.TOKEN_INVALID, Cause.KEY_UNUSABLE)

    def _stamp_origin(self, accepted: Accepted) -> Accepted:
        """Set the names of authenticator and provider: they are labels of metrics, so a plugin must not choose them."""
        actor = accepted.actor
        provider = actor.provider if self._provider is None else self._provider
        if actor.authenticator != self.name or actor.provider != provider:
            accepted.actor = replace(actor, authenticator=self.name, provider=provider)
        return accepted

    def _forget(self, task: "asyncio.Task[Outcome]") -> None:
        self._abandoned.discard(task)
        retrieve(task)

    def _log_failure(self, doing: str, error: BaseException) -> None:
        """Log the type of ``error`` only: its text may contain the credential."""
        if self._lines.allows():
            _log.error(
                "authenticator failed",
                extra={
                    "event": "authenticator_failed",
                    "authenticator": self.name,
                    "doing": doing,
                    "error": type(error).__name__,
                },
            )


def _is_valid(outcome: object) -> bool:
    """Whether ``outcome`` is an outcome, and contains an Actor or a refusal: otherwise the request would fail later."""
    if isinstance(outcome, Accepted):
        return isinstance(outcome.actor, Actor)
    if isinstance(outcome, Rejected):
        return isinstance(outcome.failure, Refused)
    return isinstance(outcome, Abstained) and isinstance(outcome.hint, Refused | None)


async def _run(outcome: Awaitable[Outcome]) -> Outcome:
    try:
        return await outcome
    except (SystemExit, KeyboardInterrupt) as error:  # in a task these would end the process
        raise RuntimeError("tried to end the process") from error
