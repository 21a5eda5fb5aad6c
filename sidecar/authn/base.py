"""What an authenticator is. Built-ins and plugins obey the same protocol.

Four outcomes, kept apart: :class:`Accepted`, :class:`Rejected`, :class:`Abstained`, and broken, which is the
exception :class:`sidecar.errors.Unavailable`. Whoever recognises a credential decides on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from sidecar import old_names
from sidecar.clock import Clock
from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings, Model
from sidecar.counters import Counter
from sidecar.errors import Failed, Refused
from sidecar.identity.actor import Actor
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from sidecar.store.replica.revocation_list import RevocationKeys
from sidecar.tokens.jwt.verified_cache import Revocable

# What an entry of a cache takes: without groups; for each member of a list; and for its headers, which have a budget.
_BARE_BYTES = 2560
_POINTER_BYTES = 8
_MEMO_BYTES = 8192


class _Configured:
    """What the configuration itself vouches for: it stands as long as the process that read it."""

    live = True


STATIC_CONFIGURATION: Revocable = _Configured()


@old_names.with_old_keywords(old_names.ACCEPTED_FIELDS)
@dataclass(slots=True, eq=False)
class Accepted:
    """A credential was verified. Facts only: expiry, liveness of the key and revocation are asked again on each use.

    ``key`` is what verified it, or anything else that is alive for as long as the verdict may stand. ``not_before``
    and ``expires_at`` include the provider's clock skew and are None where the token sets no bound. ``record_id``
    names the record that must still stand; ``is_own`` marks tokens of the own issuer, which may carry names that
    foreign ones may not. ``is_session`` marks the session of a browser. ``revocation_keys`` are what the deny list
    asks about; None: those that the Actor tells. ``certificate``: ``x5t#S256`` of the client certificate that every
    request with this credential must come with. ``revocation_list_version`` is the version of the deny list that it
    was last found clear of; below 0: of none yet. ``derived`` holds what later stages derive from it once, such as
    encoded headers, and ``counter`` counts its uses; they live and die with these facts. ``weight`` is what a cache
    counts for it, see :meth:`memory`. From ``revalidate_at`` on nothing is recalled: whoever accepted it has to be
    asked once more. ``forwarded_authorization`` is the ``Authorization`` value for the service behind where that is
    to see the caller's own credential and not a minted one; empty: as configured.
    """

    actor: Actor
    key: Revocable = STATIC_CONFIGURATION
    not_before: float | None = None
    expires_at: float | None = None
    revalidate_at: float | None = None
    record_id: str | None = None
    is_own: bool = False
    is_session: bool = False
    revocation_keys: RevocationKeys | None = None
    certificate: str | None = None
    forwarded_authorization: str = field(default="", repr=False)
    revocation_list_version: int = -1
    counter: Counter | None = None
    derived: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    weight: int = 0

    if not TYPE_CHECKING:  # a type checker would take every name for granted

        def __getattr__(self, name: str) -> Any:
            return old_names.attribute(self, name, old_names.ACCEPTED_FIELDS)

    def memory(self) -> int:
        """About how many bytes it takes, with the headers that will be kept in ``derived``: measured, rounded up."""
        actor = self.actor
        lists = sum(map(getsizeof, actor.groups)) + sum(map(getsizeof, actor.roles))
        lists += _POINTER_BYTES * (len(actor.groups) + len(actor.roles))
        names = (
            len(actor.id)
            + len(actor.email)
            + len(actor.subject)
            + len(actor.token_id)
            + len(self.forwarded_authorization)
        )
        return _BARE_BYTES + lists + 4 * names + min(3 * lists, _MEMO_BYTES)


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


class AuthenticatorProtocol(Protocol):
    """One way to identify a caller."""

    @property
    def name(self) -> str:
        """Name in logs and metrics."""

    def recall(self, view: RequestContext) -> Accepted | None:
        """What is known of this credential without waiting, or None."""

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Judge the credential. Raises Unavailable when a dependency is down and nothing cached can answer."""


@runtime_checkable
class Prompt(Protocol):
    """What an authenticator may be besides: able to tell at once of most credentials that are new to it."""

    def authenticate_at_once(self, view: RequestContext) -> Accepted | Abstained | None:
        """Who it is, or that it is nothing to this one; None: :meth:`AuthenticatorProtocol.authenticate` has to say."""


@dataclass(frozen=True, slots=True)
class AuthenticatorContext:
    """What a member of the chain is given beside its options.

    ``name`` is its own, as configured. ``policy`` says how the claims ``sub``, ``groups`` and ``roles`` of somebody it
    found name an Actor, by :func:`sidecar.identity.claims.make_actor`; ``providers`` and ``policies`` are the
    configured token issuers and theirs. ``client`` fetches, with every bound set. ``max_token_bytes`` is the longest
    credential that is looked at; ``allow_published`` lets secrets pass that the products' sources publish.
    ``keys`` says how key sets are fetched; ``ca_file`` is the CA bundle of a connection that names none of its own.
    """

    name: str
    clock: Clock
    client: ControlClient
    policy: PrincipalPolicy
    providers: Mapping[str, Provider] = field(default_factory=dict)
    policies: Mapping[str, PrincipalPolicy] = field(default_factory=dict)
    max_token_bytes: int = 16 * 1024
    allow_published: bool = False
    keys: KeyFetchSettings = field(default_factory=KeyFetchSettings)
    metrics: Metrics | None = None
    ca_file: str = ""


class NoOptions(Model):
    """A member without options."""


class Authenticator(ABC):
    """A member of the chain that the configuration names: built in, or a plugin.

    Made once at start without side effects, then started, asked by many requests at once on one event loop (so it
    never blocks), and stopped. ``sidecar check`` makes one and calls :meth:`check` instead of :meth:`start`.
    """

    Options: ClassVar[type[Model]] = NoOptions
    """The model of its ``configs`` block; a wrong option is found at start and by ``sidecar check``."""
    credential_headers: ClassVar[tuple[str, ...]] = ()
    """Headers besides ``Authorization`` that it reads credentials from. Two credentials in one request are refused."""
    challenge: ClassVar[str] = ""
    """Scheme besides ``Bearer`` that a refusal asks callers for in ``WWW-Authenticate``; empty: none."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        old_names.adopt_overrides(cls)

    def __init__(self, options: Any, surroundings: AuthenticatorContext) -> None:
        """``options`` is a valid ``Options``. Opens nothing and asks nobody."""
        self.options = options
        self.surroundings = surroundings
        self.name = surroundings.name

    @classmethod
    def describe(cls, options: Any) -> str:
        """One phrase for ``sidecar check``: which credentials it decides on."""
        return "credentials of its own kind"

    @property
    def issuers(self) -> frozenset[str]:
        """Issuers besides the providers' whose tokens it accepts, as far as it knows them."""
        return frozenset()

    @property
    def unavailable_reason(self) -> str:
        """What keeps it from judging at the moment, for the health report; empty: nothing known.

        It must go away without a request: who is not ready is sent none
        (:class:`sidecar.authn.support.dependency_probe.DependencyProbe`).
        """
        return ""

    @property
    def degraded_reason(self) -> str:
        """Why it judges by what it knew before, for the health report; empty: it does not."""
        return ""

    def recall(self, view: RequestContext) -> Accepted | None:
        """What is known of this credential without waiting, or None."""
        return None

    @abstractmethod
    async def authenticate(self, view: RequestContext) -> Outcome:
        """Judge the credential. Raises Unavailable when a dependency is down and nothing cached can answer."""

    async def check(self) -> Sequence[str]:
        """What is wrong with what it depends on, one sentence each. Changes nothing."""
        return ()

    async def start(self) -> None:  # noqa: B027 - optional: most members have nothing to open
        """Open what it needs; must not need a dependency to be up. Raises Misconfigured."""

    async def stop(self) -> None:  # noqa: B027 - as above
        """Close it again."""


if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name: str) -> Any:
        return old_names.imported(__name__, name)


class Gate(Protocol):
    """What is asked of every accepted credential on every use, known or new, without waiting."""

    def check(self, accepted: Accepted) -> Failed | None:
        """Why it may not pass now, or None."""
