"""Base class of HTTP Basic authenticators: parsing, caching, single flight, and threads for the comparison."""

from abc import abstractmethod
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.basic_credential import RateLimiter, parse_basic_credential
from sidecar.authn.support.credential_cache import CredentialCache
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Model
from sidecar.errors import Cause, Refused, Unavailable
from sidecar.identity.request import RequestContext

T = TypeVar("T")
_MAX_WAITING = 64


class PasswordOptions(Model):
    """Caching and rate limits."""

    cache: Annotated[Duration, Field(ge=0, le=600)] = 60.0
    """How long a valid user and password are cached, to avoid comparing the password on every request."""
    failures_per_user: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Wrong passwords per user and minute before further attempts are rejected with 503. Cached users are not affected.
    """
    failures: Annotated[int, Field(ge=1, le=100_000)] = 200
    """The same limit for all users together."""


class PasswordAuthenticator(Authenticator):
    """Decides on ``Basic`` credentials of known users; abstains from unknown users."""

    challenge: ClassVar[str] = "Basic"
    options: PasswordOptions

    def __init__(self, options: PasswordOptions, surroundings: AuthenticatorContext, *, threads: int) -> None:
        """Passwords are compared in ``threads`` of its own, because that is slow or blocks on I/O."""
        super().__init__(options, surroundings)
        self._limiter = RateLimiter(surroundings.clock, per_user=options.failures_per_user, total=options.failures)
        self._cache = CredentialCache(surroundings.clock)
        self._pool = ThreadPoolExecutor(threads, self.name)
        self._waiting = 0

    @abstractmethod
    async def verify_password(self, user: str, password: str) -> Outcome:
        """The owner of user name and password. Raises Refused for an account that may not log in, and Unavailable."""

    async def stop(self) -> None:
        """Release the cache and the threads. Comparisons in progress run to their end."""
        await self._cache.aclose()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def recall(self, view: RequestContext) -> Accepted | None:
        """The cached result for this user and password."""
        try:
            pair = parse_basic_credential(view.credential)
        except Refused:
            return None
        return None if pair is None else self._cache.get(self._cache.digest(*pair))

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Verify the password. Raises Unavailable: THROTTLED after too many wrong ones, OVERLOAD, or as
        :meth:`verify_password`.
        """
        try:
            pair = parse_basic_credential(view.credential)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if pair is None:
            return ABSTAINED
        digest = self._cache.digest(*pair)
        return self._cache.single_flight(digest, lambda: self._verify_and_cache(digest, *pair))

    async def _verify_and_cache(self, digest: bytes, user: str, password: str) -> Outcome:
        generation = self._cache.generation
        try:
            outcome = await self.verify_password(user, password)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if isinstance(outcome, Accepted):
            self._cache.put(digest, outcome, self.options.cache, generation)
        return outcome

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """The result of ``function``, run in a thread. Raises Unavailable(OVERLOAD) if too many calls are queued."""
        if self._waiting >= _MAX_WAITING:
            raise Unavailable(Cause.OVERLOAD)
        self._waiting += 1
        try:
            return await get_running_loop().run_in_executor(self._pool, function)
        finally:
            self._waiting -= 1
