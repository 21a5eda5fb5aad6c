"""Base class for authenticators that query a server about bearer tokens: caching and single flight."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, AuthenticatorContext, Outcome
from sidecar.authn.support.credential_cache import CredentialCache, QueryRateLimiter
from sidecar.identity.request import RequestContext, Scheme


class BearerAuthenticator(Authenticator):
    """Decides on ``Bearer`` credentials.

    ``rejection_lifetime``: seconds for which a rejection by the server is cached. ``query_limiter`` limits queries
    about unverified credentials, which any caller can make up; None: queries are only made about tokens verified
    locally.
    """

    def __init__(
        self,
        options: Any,
        surroundings: AuthenticatorContext,
        *,
        rejection_lifetime: float,
        query_limiter: QueryRateLimiter | None = None,
    ) -> None:
        super().__init__(options, surroundings)
        self._cache = CredentialCache(surroundings.clock)
        self._rejection_lifetime = rejection_lifetime
        self._query_limiter = query_limiter

    @abstractmethod
    def verify(self, token: str, digest: bytes) -> Outcome | Awaitable[Outcome]:
        """Decide on the token; ``digest`` is its cache key. Raises Unavailable."""

    def query_once(self, digest: bytes, query: Callable[[], Awaitable[Outcome]]) -> Outcome | Awaitable[Outcome]:
        """The outcome of ``query``: one query for concurrent requests, none for a token rejected recently.

        Raises Unavailable: THROTTLED after too many unknown credentials, OVERLOAD, or as ``query``.
        """
        return self._cache.rejection(digest) or self._cache.single_flight(
            digest, lambda: self._run_query(digest, query)
        )

    async def _run_query(self, digest: bytes, query: Callable[[], Awaitable[Outcome]]) -> Outcome:
        # invalid tokens must not use up the limit for tokens accepted before
        limiter = None if self._cache.was_accepted(digest) else self._query_limiter
        if limiter is not None:
            limiter.acquire()
        outcome = await query()
        if not isinstance(outcome, Accepted):
            self._cache.put_rejection(digest, self._rejection_lifetime, outcome)
            return outcome
        self._cache.mark_accepted(digest)
        if limiter is not None:
            limiter.release()
        return outcome

    async def stop(self) -> None:
        """Cancel queries in progress."""
        await self._cache.aclose()

    def recall(self, view: RequestContext) -> Accepted | None:
        """The cached result, while it is valid."""
        if view.credential.scheme is not Scheme.BEARER:
            return None
        return self._cache.get(self._cache.digest(view.credential.value))

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Decide on the token. Raises Unavailable if that is not possible now."""
        if view.credential.scheme is not Scheme.BEARER:
            return ABSTAINED
        token = view.credential.value
        return self.verify(token, self._cache.digest(token))
