"""What an authenticator is. Built-ins and plugins obey the same protocol.

Four outcomes, kept apart: :class:`Accepted`, :class:`Rejected`, :class:`Abstained`, and broken, which is the
exception :class:`sidecar.errors.Unavailable`. Whoever recognises a credential decides on it.
"""

from dataclasses import dataclass, field
from typing import Protocol

from sidecar.errors import Failed, Refused
from sidecar.identity.actor import Actor
from sidecar.identity.request import RequestView
from sidecar.store.deny_list import Facts
from sidecar.tally import Tally
from sidecar.tokens.verified_cache import Live


@dataclass(slots=True, eq=False)
class Accepted:
    """A credential was verified. Facts only: expiry, liveness of the key and revocation are asked again on each use.

    ``key`` is what verified it, or anything else that is alive for as long as the verdict may stand. ``not_before``
    and ``expires_at`` include the provider's clock skew and are None where the token sets no bound. ``record_id``
    names the record that must still stand; ``is_own`` marks tokens of the own issuer, which may carry names that
    foreign ones may not. ``facts`` are what the deny list asks about; None: those that the Actor tells. ``cleared`` is
    the version of the deny list that it was last found clear of. ``memo`` holds what later stages derive from it once,
    such as encoded headers, and ``tally`` counts its uses; they live and die with these facts.
    """

    actor: Actor
    key: Live
    not_before: float | None = None
    expires_at: float | None = None
    record_id: str | None = None
    is_own: bool = False
    facts: Facts | None = None
    cleared: int = 0
    tally: Tally | None = None
    memo: dict[str, tuple[bytes, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """The credential was recognised and refused; nobody else is asked."""

    failure: Refused
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Abstained:
    """Not mine. ``hint`` tells what was wrong with it for me, should nobody else recognise it."""

    hint: Refused | None = None


ABSTAINED = Abstained()

Outcome = Accepted | Rejected | Abstained


class Authenticator(Protocol):
    """One way to identify a caller."""

    @property
    def name(self) -> str:
        """Name in logs and metrics."""

    def recall(self, view: RequestView) -> Accepted | None:
        """What is known of this credential without waiting, or None."""

    async def authenticate(self, view: RequestView) -> Outcome:
        """Judge the credential. Raises Unavailable when a dependency is down and nothing cached can answer."""


class Gate(Protocol):
    """What is asked of every accepted credential on every use, known or new, without waiting."""

    def check(self, accepted: Accepted) -> Failed | None:
        """Why it may not pass now, or None."""
