"""What all members have in common that decide on HTTP Basic: reading, remembering, one judgement for many, threads."""

from abc import abstractmethod
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.basic_credential import RateLimiter, read_password
from sidecar.authn.support.credential_cache import CredentialCache
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Model
from sidecar.errors import Cause, Refused, Unavailable
from sidecar.identity.request import RequestContext

T = TypeVar("T")
_MAX_WAITING = 64


class PasswordOptions(Model):
    """How long a good pair is remembered, and how often one may be guessed at."""

    cache: Annotated[Duration, Field(ge=0, le=600)] = 60.0
    """How long a good pair is remembered, so that comparing is paid for once."""
    failures_per_user: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Wrong passwords for one user in a minute before nobody new is let in under that name."""
    failures: Annotated[int, Field(ge=1, le=100_000)] = 200
    """The same for all users together."""


class PasswordAuthenticator(Authenticator):
    """Decides on ``Basic`` credentials of the users that it knows; those of others are for the members after it."""

    challenge: ClassVar[str] = "Basic"
    options: PasswordOptions

    def __init__(self, options: PasswordOptions, surroundings: AuthenticatorContext, *, threads: int) -> None:
        """Passwords are compared in ``threads`` of its own: that is slow on purpose, or waits for others."""
        super().__init__(options, surroundings)
        self._throttle = RateLimiter(surroundings.clock, per_user=options.failures_per_user, in_all=options.failures)
        self._memory = CredentialCache(surroundings.clock)
        self._pool = ThreadPoolExecutor(threads, self.name)
        self._waiting = 0

    @abstractmethod
    async def compare(self, user: str, password: str) -> Outcome:
        """Whose password it is. Raises Refused for somebody who may not come in, and Unavailable."""

    async def stop(self) -> None:
        """Remember nobody; what is being compared is left to its end."""
        await self._memory.aclose()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def recall(self, view: RequestContext) -> Accepted | None:
        """Who gave this very pair a moment ago."""
        try:
            pair = read_password(view.credential)
        except Refused:
            return None
        return None if pair is None else self._memory.get(self._memory.digest(*pair))

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Compare the password. Raises Unavailable: THROTTLED after too many wrong ones, OVERLOAD, or as compared."""
        try:
            pair = read_password(view.credential)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if pair is None:
            return ABSTAINED
        digest = self._memory.digest(*pair)
        return await self._memory.single_flight(digest, lambda: self._verify(digest, *pair))

    async def _verify(self, digest: bytes, user: str, password: str) -> Outcome:
        generation = self._memory.generation
        try:
            outcome = await self.compare(user, password)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if isinstance(outcome, Accepted):
            self._memory.put(digest, outcome, self.options.cache, generation)
        return outcome

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises. Raises Unavailable(OVERLOAD) when too many are waiting already."""
        if self._waiting >= _MAX_WAITING:
            raise Unavailable(Cause.OVERLOAD)
        self._waiting += 1
        try:
            return await get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1
