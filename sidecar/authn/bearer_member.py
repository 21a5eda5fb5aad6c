"""What all members have in common that ask others about Bearer tokens: remembering, and one question for many."""

from abc import abstractmethod
from typing import Any

from sidecar.authn.base import ABSTAINED, Accepted, Member, Outcome, Surroundings
from sidecar.authn.memory import Memory
from sidecar.identity.request import RequestView, Scheme


class BearerMember(Member):
    """Decides on ``Bearer`` credentials."""

    def __init__(self, options: Any, surroundings: Surroundings) -> None:
        super().__init__(options, surroundings)
        self._memory = Memory(surroundings.clock)

    @abstractmethod
    async def judge(self, token: str, digest: bytes) -> Outcome:
        """Whose token it is; ``digest`` stands for it in the memory. Raises Unavailable."""

    async def stop(self) -> None:
        """Stop asking."""
        await self._memory.aclose()

    def recall(self, view: RequestView) -> Accepted | None:
        """Whose token was good a moment ago, while what vouched for it does."""
        if view.credential.scheme is not Scheme.BEARER:
            return None
        return self._memory.get(self._memory.digest(view.credential.value))

    async def authenticate(self, view: RequestView) -> Outcome:
        """Judge the token. Raises Unavailable when nobody can."""
        if view.credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        token = view.credential.value
        return await self.judge(token, self._memory.digest(token))
