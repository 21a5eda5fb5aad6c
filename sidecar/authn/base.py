"""The protocol of authenticators, built-in ones and plugins.

Four outcomes are kept apart: :class:`Accepted`, :class:`Rejected`, :class:`Abstained`, and the exception
:class:`sidecar.errors.Unavailable`. The first authenticator that recognises a credential decides on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

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

# Memory of a cache entry: without groups, for each item of a list, and for its headers, which have a limit.
_BARE_BYTES = 2560
_POINTER_BYTES = 8
_MEMO_BYTES = 8192


class _Configured:
    """The key of credentials that the configuration contains: valid as long as the configuration is in use."""

    live = True


STATIC_CONFIGURATION: Revocable = _Configured()


@dataclass(slots=True, eq=False)
class Accepted:
    """A credential was verified. Facts only: expiry, liveness of the key and revocation are checked on each use.

    ``key`` verified it; any object will do that is live as long as the outcome is valid. ``not_before`` and
    ``expires_at`` include the clock skew of the provider and are None if the token sets no limit. ``record_id`` is the
    token record that must be active, ``source_id`` the one of the token that it was exchanged for (None: there is
    none). ``is_own`` marks issued tokens, which may carry names that others may not.
    ``is_session`` marks the session of a browser. ``is_for_resource``: it is accepted only at protected resources that
    require its audience.
    ``revocation_keys`` are looked up in the revocation list; None: those of the Actor. ``certificate`` is the
    ``x5t#S256`` of the client certificate that must come with every request.

    Caches use the other fields. ``revocation_list_version`` is the version of the revocation list that had no entry for
    it; below 0: none was searched yet. ``derived`` contains values derived from it, such as encoded headers;
    ``counter`` counts its uses; ``weight`` is its size in a cache, see :meth:`memory`. From ``revalidate_at`` on it is
    not recalled, and its authenticator decides again. ``forwarded_authorization`` is the ``Authorization`` value for an
    upstream that receives the credential of the caller instead of a minted one; empty: as configured.
    """

    actor: Actor
    key: Revocable = STATIC_CONFIGURATION
    not_before: float | None = None
    expires_at: float | None = None
    revalidate_at: float | None = None
    record_id: str | None = None
    source_id: str | None = None
    is_own: bool = False
    is_session: bool = False
    is_for_resource: bool = False
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
        """Approximate size in bytes, with the headers that ``derived`` will contain: measured, and rounded up."""
        actor = self.actor
        items = actor.groups + actor.roles
        lists = sum(map(getsizeof, items)) + _POINTER_BYTES * len(items)
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
    """The credential was recognised and is invalid. No other authenticator is asked."""

    failure: Refused
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Abstained:
    """The credential was not recognised. ``hint`` is the refusal if no other authenticator recognises it either."""

    hint: Refused | None = None


ABSTAINED = Abstained()

Outcome = Accepted | Rejected | Abstained


class AuthenticatorProtocol(Protocol):
    """The part of an authenticator that the chain uses."""

    @property
    def name(self) -> str:
        """Name in logs and metrics."""

    def recall(self, view: RequestContext) -> Accepted | None:
        """The cached result for the credential, or None."""

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Decide on the credential: the outcome, or an awaitable if the decision has to wait for I/O or a thread.

        The call or the awaitable raises Unavailable if a dependency is down and no cached result applies.
        """


@dataclass(frozen=True, slots=True)
class AuthenticatorContext:
    """What an authenticator receives besides its options.

    ``name`` is its configured name. ``policy`` is the policy for :func:`sidecar.identity.claims.make_actor`, which
    makes an Actor of the claims ``sub``, ``groups`` and ``roles``. ``providers`` and ``policies`` are those of the
    configured token issuers. ``client`` sends requests within all limits. ``max_token_bytes`` is the maximum length of
    a token; ``allow_published`` permits well-known default secrets. ``keys`` are the settings for fetching key sets;
    ``ca_file`` is the CA bundle of connections that have none of their own.
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
    """An authenticator without options."""


class Authenticator(ABC):
    """A configured authenticator: built in, or a plugin.

    It is created once at start without side effects, then started, called by concurrent requests on one event loop (it
    must never block), and stopped. ``sidecar check`` creates one and calls :meth:`check` instead of :meth:`start`.
    """

    Options: ClassVar[type[Model]] = NoOptions
    """The model of its ``configs`` block; a wrong option is found at start and by ``sidecar check``."""
    credential_headers: ClassVar[tuple[str, ...]] = ()
    """Headers besides ``Authorization`` with credentials. A request with two credentials is rejected."""
    challenge: ClassVar[str] = ""
    """Scheme besides ``Bearer`` for ``WWW-Authenticate`` in refusals; empty: none."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not cls.__module__.startswith("sidecar."):
            old_names.adopt_overrides(cls)
            old_names.accept_old_keywords(Accepted, old_names.ACCEPTED_FIELDS)

    def __init__(self, options: Any, surroundings: AuthenticatorContext) -> None:
        """``options`` is a valid ``Options``. Opens nothing and sends nothing."""
        self.options = options
        self.surroundings = surroundings
        self.name = surroundings.name

    @classmethod
    def describe(cls, options: Any) -> str:
        """One phrase for ``sidecar check``: the credentials that it decides on."""
        return "credentials of its own kind"

    @property
    def issuers(self) -> frozenset[str]:
        """Issuers whose tokens it accepts, besides those of the providers, as far as known."""
        return frozenset()

    @property
    def unavailable_reason(self) -> str:
        """Why it cannot decide now, for the health report; empty: no reason known.

        It must become empty without a request, because a sidecar that is not ready receives none
        (:class:`sidecar.authn.support.dependency_probe.DependencyProbe`).
        """
        return ""

    @property
    def degraded_reason(self) -> str:
        """Why it decides by old data, for the health report; empty: it does not."""
        return ""

    def recall(self, view: RequestContext) -> Accepted | None:
        """The cached result for the credential, or None."""
        return None

    @abstractmethod
    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """Decide on the credential. Raises Unavailable if a dependency is down and no cached result applies.

        An ``async def`` will do. A plain function that returns the outcome, where nothing has to be awaited, is faster:
        it needs no task. It may return a coroutine for the rest.
        """

    async def check(self) -> Sequence[str]:
        """The problems of its dependencies, one sentence each. Changes nothing."""
        return ()

    async def start(self) -> None:  # noqa: B027 - optional: most authenticators open nothing
        """Open what it needs. A dependency may be down. Raises Misconfigured."""

    async def stop(self) -> None:  # noqa: B027 - as above
        """Close what it opened."""


if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name: str) -> Any:
        return old_names.imported(__name__, name)


class Gate(Protocol):
    """A check of every accepted credential on every use, in memory."""

    def check(self, accepted: Accepted) -> Failed | None:
        """Why the credential is not accepted now, or None."""
