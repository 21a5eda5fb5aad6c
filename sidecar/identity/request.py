"""The request to decide on, independent of how it arrived, and the credential in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from sidecar import old_names
from sidecar.errors import Cause, Reason
from sidecar.identity.actor import Actor


class HeaderView(Protocol):
    """Case-insensitive header look-up; repeated headers keep all their values."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """All values of ``key`` in order, or ``default``."""

    def __contains__(self, key: object) -> bool:
        """Whether there is a header ``key``."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An unmet condition. ``text`` completes "requires ..." and names the requirement, not who meets it.

    ``has`` is what the caller has instead, and ``rule`` where the condition is written; both are for the log.
    ``reason``: that of the response. ``max_age`` and ``acr_values``: the authentication that STEP_UP_REQUIRED requires.
    """

    cause: Cause
    text: str
    has: str = ""
    rule: str = ""
    reason: Reason = Reason.FORBIDDEN
    max_age: float | None = None
    acr_values: tuple[str, ...] = ()


class Condition(Protocol):
    """A condition that an authenticated caller must meet."""

    def missing(self, actor: Actor) -> Missing | None:
        """What ``actor`` lacks; None: the condition is met."""


class Scheme(StrEnum):
    """The kind of credential. NOTHING: no ``Authorization``, or an empty one. SEVERAL: more than one. COOKIE: the
    session cookie, without any ``Authorization``; its value is empty where the cookie came twice."""

    NOTHING = "nothing"
    BEARER = "bearer"
    COOKIE = "cookie"
    OTHER = "other"
    SEVERAL = "several"


@dataclass(slots=True)  # not frozen: made for every request, and freezing triples the cost of making one
class Credential:
    """The parsed ``Authorization`` header: the scheme, and the value without the scheme.

    If it was in another place, ``providers`` may restrict whose tokens are accepted there; empty: those of all.
    """

    scheme: Scheme
    value: str = ""
    scheme_text: str = ""
    providers: frozenset[str] = frozenset()


_BEARER = Scheme.BEARER
NO_CREDENTIAL = Credential(Scheme.NOTHING)
SEVERAL_CREDENTIALS = Credential(Scheme.SEVERAL)


def read_credential(headers: HeaderView) -> Credential:
    """The request's one credential (RFC 6750 section 2.1; scheme words compare without case, RFC 9110 section 11.1)."""
    lines = headers.getall("Authorization", [])
    if not lines:
        return NO_CREDENTIAL
    if len(lines) > 1:
        return SEVERAL_CREDENTIALS
    line = lines[0]
    if line[:7] == "Bearer ":  # by far the most common spelling
        return Credential(_BEARER, line[7:].strip(" "), "Bearer")
    word, _, value = line.strip(" \t").partition(" ")
    if not word:
        return NO_CREDENTIAL
    scheme = Scheme.BEARER if word.lower() == "bearer" else Scheme.OTHER
    return Credential(scheme, value.strip(" "), word)


class Observer(Protocol):
    """Is notified of the steps of a decision, for traces and explanations. It changes nothing."""

    def observe(self, step: str, value: object) -> None:
        """``step`` was passed, with the result ``value``."""


@dataclass(slots=True)
class RequestContext:
    """Method, target and credential of the original request, independent of how the sidecar received it.

    ``target`` is the raw request target (path and query) of the original request, or None if unknown: a check request
    of an untrusted peer, to which no rules apply. ``trusted`` says whether the peer is a trusted proxy. ``headers`` are
    those of the request that the sidecar received. ``other_methods`` are methods that an upstream may use instead of
    ``method``, because a header of the original request names them. ``conditions`` come from the check request: the
    caller must meet them in addition to the rules. ``handshake_certificate`` is the ``x5t#S256`` of the certificate
    that the peer presented in the TLS handshake. ``observer`` is notified of the steps of the decision.
    ``takes_cookie``: method and target are those of the original request, so that a session cookie is a credential;
    otherwise it is none.
    """

    method: str
    target: str | None
    headers: HeaderView
    credential: Credential
    trusted: bool = False
    preflight: bool = False
    other_methods: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    handshake_certificate: str = ""
    observer: "Observer | None" = None
    takes_cookie: bool = False


if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name: str) -> Any:
        return old_names.imported(__name__, name)


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether this is a CORS preflight: OPTIONS with both ``Origin`` and ``Access-Control-Request-Method``."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
