"""How long a revocation entry is kept: until no token that it matches can be valid any more. Pure functions.

All times are seconds since the epoch, lifetimes and tolerances are seconds.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from sidecar.store.revocation_entry import Scope


@dataclass(frozen=True, slots=True)
class IssuerBounds:
    """Limits of an issuer's tokens. ``max_lifetime`` None: they may never expire."""

    max_lifetime: float | None = None
    leeway: float = 0.0


UNKNOWN = IssuerBounds()


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Computes the expiry of entries from the limits of each configured issuer, in every accepted spelling.

    ``spellings`` returns every spelling of an issuer that its tokens may contain: an entry under another spelling would
    match none of them. ``unbound``: the limits of issuers that are not configured, if their tokens are accepted.
    ``has_never_expiring``: Actors can also authenticate with credentials that never expire, such as passwords.
    ``max_session_age``: the longest browser session, which entries for sessions must outlast. ``least_leeway``: tokens
    that were issued for a token of any issuer may outlast it by this much.
    """

    issuers: Mapping[str, IssuerBounds] = field(default_factory=dict)
    spellings: Callable[[str], tuple[str, ...]] = lambda issuer: (issuer,)
    unbound: IssuerBounds | None = None
    has_never_expiring: bool = False
    max_session_age: float = 0.0
    least_leeway: float = 0.0

    def default_expiry(
        self,
        scope: Scope,
        issuer: str,
        now: float,
        *,
        issued_before: float | None = None,
        token_expires_at: float | None = None,
    ) -> float | None:
        """When the last matching token expires; None: never, as far as known.

        ``token_expires_at`` is the ``exp`` of a single token, if known. ``now`` is the time of revocation.
        """
        bounds: list[IssuerBounds] = [self.issuers.get(issuer, self.unbound or UNKNOWN)]
        if scope is Scope.ACTOR:
            bounds = [*self.issuers.values(), *([self.unbound] if self.unbound else [])]
            bounds += [UNKNOWN] if self.has_never_expiring else []
        bounds = [replace(bound, leeway=max(bound.leeway, self.least_leeway)) for bound in bounds]
        if token_expires_at is not None:
            return token_expires_at + max((bound.leeway for bound in bounds), default=self.least_leeway)
        start = now if issued_before is None else issued_before
        latest = _latest_expiry(bounds, start, exclusive=issued_before is not None)
        if latest is None or scope not in (Scope.SESSION, Scope.SUBJECT_SESSIONS):
            return latest
        return max(latest, now + self.max_session_age)

    def entry_expiry(
        self, default: float | None, requested: float | None, now: float, *, token_expires_at: float | None = None
    ) -> float | None:
        """The expiry of an entry with the requested expiry ``requested``; ``default`` and ``token_expires_at`` as
        above.

        Raises ValueError if the requested time is too early. Without a default, any future time is accepted.
        """
        if requested is None:
            return default
        if requested <= now:
            raise ValueError("expiresAt is in the past")
        earliest = default if token_expires_at is None else token_expires_at
        if earliest is not None and requested < earliest:
            raise ValueError("expiresAt is earlier than the expiry of matching tokens")
        return requested if default is None else max(requested, default)


def _latest_expiry(bounds: Collection[IssuerBounds], start: float, *, exclusive: bool) -> float | None:
    """The latest expiry of tokens issued by ``start``; an issuer's clock may be ahead by the tolerance."""
    latest = start
    for bound in bounds:
        if bound.max_lifetime is None:
            return None
        latest = max(latest, start + bound.max_lifetime + bound.leeway * (1 if exclusive else 2))
    return latest if bounds else None
