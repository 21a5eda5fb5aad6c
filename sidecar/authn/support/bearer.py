"""What all members have in common that ask others about Bearer tokens: remembering, and one question for many."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, AuthenticatorContext, Outcome
from sidecar.authn.support.credential_cache import CredentialCache, Questions
from sidecar.identity.request import RequestContext, Scheme


class BearerAuthenticator(Authenticator):
    """Decides on ``Bearer`` credentials.

    ``refused_for``: seconds for which a refusal by the one who is asked is remembered. ``questions`` bounds those about
    credentials that any caller can make up; None: it is asked only about what has been verified here before.
    """

    def __init__(
        self,
        options: Any,
        surroundings: AuthenticatorContext,
        *,
        refused_for: float,
        questions: Questions | None = None,
    ) -> None:
        super().__init__(options, surroundings)
        self._memory = CredentialCache(surroundings.clock)
        self._refused_for = refused_for
        self._questions = questions

    @abstractmethod
    async def verify(self, token: str, digest: bytes) -> Outcome:
        """Whose token it is; ``digest`` stands for it in the memory. Raises Unavailable."""

    async def ask_once(self, digest: bytes, ask: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome of ``ask``: one question for all who wait, none about what was refused a moment ago.

        Raises Unavailable: THROTTLED after too many unknown credentials, OVERLOAD, or as ``ask``.
        """
        return self._memory.refused(digest) or await self._memory.single_flight(
            digest, lambda: self._asked_for(digest, ask)
        )

    async def _asked_for(self, digest: bytes, ask: Callable[[], Awaitable[Outcome]]) -> Outcome:
        # bearers of good tokens must not wait behind made-up ones
        questions = None if self._memory.was_accepted(digest) else self._questions
        if questions is not None:
            questions.take()
        outcome = await ask()
        if not isinstance(outcome, Accepted):
            self._memory.refuse(digest, self._refused_for, outcome)
            return outcome
        self._memory.accept(digest)
        if questions is not None:
            questions.give_back()
        return outcome

    async def stop(self) -> None:
        """Stop asking."""
        await self._memory.aclose()

    def recall(self, view: RequestContext) -> Accepted | None:
        """Whose token was good a moment ago, while what vouched for it does."""
        if view.credential.scheme is not Scheme.BEARER:
            return None
        return self._memory.get(self._memory.digest(view.credential.value))

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Judge the token. Raises Unavailable when nobody can."""
        if view.credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        token = view.credential.value
        return await self.verify(token, self._memory.digest(token))
