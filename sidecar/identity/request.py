"""The frozen picture of the request being judged, and the credential read from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from sidecar import old_names
from sidecar.errors import Cause
from sidecar.identity.actor import Actor


class HeaderView(Protocol):
    """Header look-up without regard to case; a repeated header keeps all its values."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """All values of ``key`` in order, or ``default``."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What a caller lacks. ``text`` completes "requires ..." and names what is wanted, never who has it."""

    cause: Cause
    text: str


class Condition(Protocol):
    """Something that an authenticated caller must meet besides."""

    def missing(self, actor: Actor) -> Missing | None:
        """What ``actor`` lacks; None: the condition is met."""


class Scheme(StrEnum):
    """How a credential was presented. NOTHING: no ``Authorization`` at all, or an empty one. SEVERAL: more than one."""

    NOTHING = "nothing"
    BEARER = "bearer"
    OTHER = "other"
    SEVERAL = "several"


@dataclass(slots=True)  # not frozen: made for every request, and freezing triples the cost of making one
class Credential:
    """What stood in ``Authorization``: the scheme and, without its scheme word, the value."""

    scheme: Scheme
    value: str = ""
    scheme_text: str = ""


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
    if line[:7] == "Bearer ":  # the one spelling nearly everybody sends
        return Credential(_BEARER, line[7:].strip(" "), "Bearer")
    word, _, value = line.strip(" \t").partition(" ")
    if not word:
        return NO_CREDENTIAL
    scheme = Scheme.BEARER if word.lower() == "bearer" else Scheme.OTHER
    return Credential(scheme, value.strip(" "), word)


@dataclass(slots=True)
class RequestContext:
    """What is asked for and by whom, whichever way the question came.

    ``target`` is the raw request target (path and query) of the original request, or None where none is known: a
    check request of a peer that is not trusted, for which no rule is read. ``trusted`` says whether the peer is a
    trusted proxy. ``headers`` are the headers of the request that carried the question.
    ``other_methods`` are methods that a server may take instead of ``method``, because a header of the original
    request names them. ``conditions`` are those of the question itself: the caller must meet them whatever the rules
    say.
    """

    method: str
    target: str | None
    headers: HeaderView
    credential: Credential
    trusted: bool = False
    preflight: bool = False
    other_methods: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


if not TYPE_CHECKING:  # a type checker would take every name for granted

    def __getattr__(name: str) -> Any:
        return old_names.imported(__name__, name)


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether this is a CORS preflight: OPTIONS with both ``Origin`` and ``Access-Control-Request-Method``."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
