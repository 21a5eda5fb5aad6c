"""Keeps a member's faults to itself: what it raises, however long it takes, whatever it returns.

A member that fails is broken for the credential it was asked about (503) and counted; nobody else notices. What no
guard can mend is a member that blocks the event loop.
"""

import asyncio
import logging
from dataclasses import replace

from sidecar.authn.base import Abstained, Accepted, AuthenticatorProtocol, Outcome, Rejected
from sidecar.concurrency import retrieve
from sidecar.errors import Cause, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.request import RequestContext
from sidecar.logs import LineLimit

_log = logging.getLogger("sidecar.authn")
_MAX_ABANDONED = 64
_LINES_PER_SECOND = 5.0


class IsolatedAuthenticator:
    """An authenticator around a member. ``timeout`` is in seconds.

    ``provider``: the provider that its Actors are said to come from, whatever it says itself; None: as it says.
    ``recalls`` False: its memory is not relied on, so that it is asked each time.
    """

    def __init__(
        self, member: AuthenticatorProtocol, *, timeout: float, provider: str | None = None, recalls: bool = True
    ) -> None:
        self.name = member.name
        self._authenticator = member
        self._timeout = timeout
        self._provider = provider
        self._recalls = recalls
        self._abandoned: set[asyncio.Task[Outcome]] = set()
        self._lines = LineLimit(_log, _LINES_PER_SECOND, level=logging.ERROR)

    def recall(self, view: RequestContext) -> Accepted | None:
        """What the member remembers; nothing when it fails to."""
        if not self._recalls:
            return None
        try:
            known = self._authenticator.recall(view)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            self._log_failure("recalling", error)
            return None
        return self._stamp_origin(known) if isinstance(known, Accepted) and _is_valid(known) else None

    async def authenticate(self, view: RequestContext) -> Outcome:
        """The member's answer. Raises Unavailable for anything that is none."""
        if len(self._abandoned) >= _MAX_ABANDONED:
            raise Unavailable(Cause.MEMBER_BROKEN, "still hangs in earlier requests")
        task = asyncio.create_task(self._ask(view))
        try:
            await asyncio.wait({task}, timeout=self._timeout)
        finally:
            if not task.done():  # it may ignore being cancelled: nobody waits for that
                task.cancel()
                self._abandoned.add(task)
                task.add_done_callback(self._forget)
        if not task.done():
            raise Unavailable(Cause.MEMBER_BROKEN, "took too long")
        return self._read(task)

    async def _ask(self, view: RequestContext) -> Outcome:
        try:
            return await self._authenticator.authenticate(view)
        except (SystemExit, KeyboardInterrupt) as error:  # in a task these would end the process
            raise RuntimeError("tried to end the process") from error

    def _read(self, task: "asyncio.Task[Outcome]") -> Outcome:
        if task.cancelled():
            raise Unavailable(Cause.MEMBER_BROKEN, "cancelled itself")
        error = task.exception()
        if isinstance(error, Refused):
            return Rejected(error, self._provider or self.name)
        if isinstance(error, Unavailable):
            raise error
        if error is not None:
            self._log_failure("authenticating", error)
            raise Unavailable(Cause.MEMBER_BROKEN, type(error).__name__)
        outcome = task.result()
        if not _is_valid(outcome):
            raise Unavailable(Cause.MEMBER_BROKEN, "gave no answer that is one")
        if isinstance(outcome, Accepted):
            return self._stamp_origin(outcome)
        if isinstance(outcome, Rejected) and self._provider is not None:
            return replace(outcome, provider=self._provider)
        return outcome

    def _stamp_origin(self, accepted: Accepted) -> Accepted:
        """Name who vouches: both names are labels of metrics, so they are never left to a plugin."""
        actor = accepted.actor
        provider = actor.provider if self._provider is None else self._provider
        if actor.authenticator != self.name or actor.provider != provider:
            accepted.actor = replace(actor, authenticator=self.name, provider=provider)
        return accepted

    def _forget(self, task: "asyncio.Task[Outcome]") -> None:
        self._abandoned.discard(task)
        retrieve(task)

    def _log_failure(self, doing: str, error: BaseException) -> None:
        """The kind of error only: its text may hold the credential."""
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
    """Whether a member's answer is one, also inside: what is no Actor or no refusal would break the request later."""
    if isinstance(outcome, Accepted):
        return isinstance(outcome.actor, Actor)
    if isinstance(outcome, Rejected):
        return isinstance(outcome.failure, Refused)
    return isinstance(outcome, Abstained) and isinstance(outcome.hint, Refused | None)
