"""When may a denial be forgotten? When no token that it concerns can be valid any more, and not before. Pure.

All times are seconds since the epoch, lifetimes and tolerances seconds.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from sidecar.store.revocation_entry import Scope


@dataclass(frozen=True, slots=True)
class IssuerBounds:
    """What is known of an issuer's tokens. ``max_lifetime`` None: they may live for ever."""

    max_lifetime: float | None = None
    leeway: float = 0.0


UNKNOWN = IssuerBounds()


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The rule, over the bounds of every configured issuer in each spelling that is accepted.

    ``spellings`` gives every way in which an issuer's tokens may spell it: an entry under another would concern none
    of them. ``unbound``: the bounds of issuers that nobody has named, where their tokens are accepted.
    ``has_never_expiring``: Actors also come in by what never ends by itself, such as a password.
    """

    issuers: Mapping[str, IssuerBounds] = field(default_factory=dict)
    spellings: Callable[[str], tuple[str, ...]] = lambda issuer: (issuer,)
    unbound: IssuerBounds | None = None
    has_never_expiring: bool = False

    def default_expiry(
        self,
        scope: Scope,
        issuer: str,
        now: float,
        *,
        issued_before: float | None = None,
        token_expires_at: float | None = None,
    ) -> float | None:
        """When the last token concerned has ended; None: never, as far as is known.

        ``token_ends`` is the ``exp`` of a single token, where it is known. ``now`` is the time of revocation.
        """
        bounds = [self.issuers.get(issuer, self.unbound or UNKNOWN)]
        if scope is Scope.ACTOR:
            bounds = [*self.issuers.values(), *([self.unbound] if self.unbound else [])]
            bounds += [UNKNOWN] if self.has_never_expiring else []
        if token_expires_at is not None:
            return token_expires_at + max((bound.leeway for bound in bounds), default=0.0)
        return _latest_expiry(
            bounds, now if issued_before is None else issued_before, exclusive=issued_before is not None
        )

    def entry_expiry(
        self, default: float | None, requested: float | None, now: float, *, token_expires_at: float | None = None
    ) -> float | None:
        """The end that an entry gets when ``wanted`` is asked for; ``end`` and ``token_ends`` as :meth:`end` has them.

        Raises ValueError when that is too early. Where no end is known, whoever revokes may know better.
        """
        if requested is None:
            return default
        if requested <= now:
            raise ValueError("expiresAt has passed")
        earliest = default if token_expires_at is None else token_expires_at
        if earliest is not None and requested < earliest:
            raise ValueError("expiresAt is earlier than the end of the tokens concerned")
        return requested if default is None else max(requested, default)


def _latest_expiry(bounds: Collection[IssuerBounds], start: float, *, exclusive: bool) -> float | None:
    """The latest end of tokens issued by ``start``; an issuer's clock may be ahead by the tolerance."""
    latest = start
    for bound in bounds:
        if bound.max_lifetime is None:
            return None
        latest = max(latest, start + bound.max_lifetime + bound.leeway * (1 if exclusive else 2))
    return latest if bounds else None
