"""The text of a name: which texts may name an Actor, and under which spelling two names compare."""

import re
from dataclasses import dataclass
from unicodedata import category, normalize

from sidecar.errors import Cause, Reason, Refused

MAX_PRINCIPAL = 512
"""Longest text of a principal claim; a Kubernetes service account's ``sub`` can reach 338 characters."""

# Characters outside ASCII of which a lower, upper or folded form is ASCII: dotted and dotless i, long s, the Kelvin
# sign, the ligatures of f and st. One of them in a name could imitate another name. The sharp s stays: no case form
# of it is one letter of ASCII.
_ASCII_LOOKALIKES = frozenset("\u0130\u0131\u017f\u212a\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06")
# Of RFC 5322's atoms without % and !, by which mail was once routed through other hosts, and without the slash.
_ATOM = r"[A-Za-z0-9_#$&'*+\-=?^`{|}~]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_ATOM_CHARACTERS = frozenset("_#$&'*+-=?^`{|}~")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_DOMAIN = 253


@dataclass(frozen=True, slots=True)
class ParsedName:
    """A text that may name an Actor.

    ``local`` is the part before the ``@``, or all of it; ``domain`` the part after it, or empty. Both are in lower
    case; ``text`` is as written.
    """

    text: str
    local: str
    domain: str

    @property
    def address(self) -> str:
        """The whole address in lower case; empty where it is none."""
        return f"{self.local}@{self.domain}" if self.domain else ""


def parse_name(value: object) -> ParsedName:
    """``value`` as a name or a plain e-mail address. Raises Refused(PRINCIPAL_INVALID) for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PRINCIPAL:
        raise malformed_principal("not a string, empty or too long")
    if " " in value or not value.isprintable():
        # isprintable() is False for control, format and surrogate characters and for every other white space
        raise malformed_principal("white space or a character that does not show")
    if not value.isascii() and _is_confusable(value):
        raise malformed_principal("a character that stands for one of ASCII")
    local, at, domain = value.partition("@")
    if at and not _is_plain_address(local, domain):
        raise malformed_principal("an @, but not one plain e-mail address")
    return ParsedName(value, local.lower(), domain.lower())


def parse_address(value: object) -> str:
    """``value`` in lower case where it is a plain e-mail address, else empty."""
    try:
        return parse_name(value).address
    except Refused:
        return ""


def folded(actor_id: str) -> str:
    """The spelling under which ids compare: lower case, but for a provider's name before a slash."""
    head, slash, rest = actor_id.partition("/")
    return f"{head}/{rest.lower()}" if slash else head.lower()


def local_part(actor_id: str) -> str:
    """``actor_id`` folded and without the part after an ``@``: what ``principal: localPart`` makes of it."""
    return folded(actor_id).partition("@")[0]


def malformed_principal(detail: str) -> Refused:
    """The refusal of a text that can name no Actor. ``detail`` must not hold the text."""
    return Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, detail)


def _is_confusable(value: str) -> bool:
    """Whether a character outside ASCII would be read as one of ASCII: by case, or as another form of @ or /."""
    if not _ASCII_LOOKALIKES.isdisjoint(value):
        return True
    plain = normalize("NFKC", value)
    return any(mark in plain and mark not in value for mark in "@/")


def _is_plain_address(local: str, domain: str) -> bool:
    """Whether the two are an address without quotes, comments, routes, and letters outside ASCII in the domain."""
    if len(domain) > _MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
        return False
    return bool(_LOCAL.fullmatch(local)) or (not local.isascii() and _is_international(local))


def _is_international(local: str) -> bool:
    """As the pattern for ASCII, with letters, digits and marks of other scripts in their composed form."""
    return (
        normalize("NFKC", local) == local
        and "" not in local.split(".")
        and all(
            character == "." or character in _ATOM_CHARACTERS or character.isalnum() or category(character)[0] == "M"
            for character in local
        )
    )
