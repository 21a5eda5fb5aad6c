"""Validation of Actor names: which strings are allowed, and the spelling in which two names are compared."""

import re
from dataclasses import dataclass
from unicodedata import category, normalize

from sidecar.errors import Cause, Reason, Refused

MAX_PRINCIPAL = 512
"""Maximum length of a principal claim; the ``sub`` of a Kubernetes service account can have 338 characters."""

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


@dataclass(slots=True)  # not frozen: made for every token
class ParsedName:
    """A string that can name an Actor.

    ``local`` is the part before the ``@``, or all of it; ``domain`` is the part after it, or empty; ``address`` is the
    whole, empty if it is not an address. These are in lower case; ``text`` is unchanged.
    """

    text: str
    local: str
    domain: str = ""
    address: str = ""


def parse_name(value: object) -> ParsedName:
    """``value`` as a name or a plain e-mail address. Raises Refused(PRINCIPAL_INVALID) for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PRINCIPAL:
        raise malformed_principal("not a string, empty or too long")
    if " " in value or not value.isprintable():
        # isprintable() is False for control, format and surrogate characters and for every other white space
        raise malformed_principal("white space or an invisible character")
    if not value.isascii() and _is_confusable(value):
        raise malformed_principal("a character that can be mistaken for an ASCII character")
    local, at, domain = value.partition("@")
    if not at:
        return ParsedName(value, value.lower())
    if not _is_plain_address(local, domain):
        raise malformed_principal("contains @, but is not a plain e-mail address")
    local, domain = local.lower(), domain.lower()
    return ParsedName(value, local, domain, f"{local}@{domain}")


def parse_address(value: object) -> str:
    """``value`` in lower case if it is a plain e-mail address, otherwise empty."""
    try:
        return parse_name(value).address
    except Refused:
        return ""


def folded(actor_id: str) -> str:
    """The spelling in which ids are compared: lower case, except for a provider's name before a slash."""
    if "/" not in actor_id:
        return actor_id.lower()
    head, _, rest = actor_id.partition("/")
    return f"{head}/{rest.lower()}"


def local_part(actor_id: str) -> str:
    """``actor_id`` folded and without ``@`` and domain: the result of ``principal: localPart``."""
    return folded(actor_id).partition("@")[0]


def malformed_principal(detail: str) -> Refused:
    """The rejection of an invalid name. ``detail`` must not contain the name."""
    return Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, detail)


def _is_confusable(value: str) -> bool:
    """Whether a character outside ASCII could be read as an ASCII character: by case, or as a form of @ or /."""
    if not _ASCII_LOOKALIKES.isdisjoint(value):
        return True
    plain = normalize("NFKC", value)
    return any(mark in plain and mark not in value for mark in "@/")


def _is_plain_address(local: str, domain: str) -> bool:
    """Whether this is an address without quotes, comments, routes, and with an ASCII domain."""
    if len(domain) > _MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
        return False
    return bool(_LOCAL.fullmatch(local)) or (not local.isascii() and _is_international(local))


def _is_international(local: str) -> bool:
    """Like the ASCII pattern, with letters, digits and marks of other scripts in composed form."""
    return (
        normalize("NFKC", local) == local
        and "" not in local.split(".")
        and all(
            character == "." or character in _ATOM_CHARACTERS or character.isalnum() or category(character)[0] == "M"
            for character in local
        )
    )
