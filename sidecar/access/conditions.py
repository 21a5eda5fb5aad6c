"""The conditions that a check's own query sets: ``allowed_groups``, ``allowed_emails``, ``allowed_email_domains``.

They have oauth2-proxy's names and meaning: ``auth_request /oauth2/auth?allowed_groups=x`` stays as it was there.
What cannot be understood is refused: a condition that is passed over lets every caller pass.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from sidecar.access.rules import named
from sidecar.errors import Cause, Reason, Refused, quoted
from sidecar.identity.actor import Actor
from sidecar.identity.request import Condition, Missing

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOMAIN = re.compile(r"(?:\*?\.)?[^\s@,*/.]+(?:\.[^\s@,*/.]+)*")
# Own tokens carry an address that may have been made up from the name and principalDomain when they were minted.
_OWN_PROVIDER = "own"
# Where the conditions of a check are written, as a name for the log.
_QUERY = "query of the check"


@dataclass(frozen=True, slots=True)
class _Groups:
    allowed: frozenset[str]

    def missing(self, actor: Actor) -> Missing | None:
        if not self.allowed.isdisjoint(actor.groups):
            return None
        has = f"the groups {quoted(*actor.groups)}"
        return Missing(Cause.CONDITION_GROUPS, named("group", self.allowed), has, _QUERY)


@dataclass(frozen=True, slots=True)
class _Emails:
    allowed: frozenset[str]

    def missing(self, actor: Actor) -> Missing | None:
        if _address(actor) in self.allowed:
            return None
        has = "another address" if _address(actor) else "no verified address"
        return Missing(Cause.CONDITION_EMAILS, "an e-mail address that allowed_emails names", has, _QUERY)


@dataclass(frozen=True, slots=True)
class _EmailDomains:
    exact: frozenset[str]
    parents: tuple[str, ...]

    def missing(self, actor: Actor) -> Missing | None:
        domain = _address(actor).rpartition("@")[2]
        if domain and (domain in self.exact or domain.endswith(self.parents)):
            return None
        wanted = (*self.exact, *(f"*{parent}" for parent in self.parents))
        has = f"an address in {quoted(domain)}" if domain else "no verified address"
        return Missing(Cause.CONDITION_EMAIL_DOMAINS, f"an e-mail address in {named('domain', wanted)}", has, _QUERY)


def _address(actor: Actor) -> str:
    """The address that stood in the Actor's own token, in lower case; empty where there is none or it was made up."""
    is_verified = actor.email_in_token and actor.provider != _OWN_PROVIDER and actor.email.count("@") == 1
    return actor.email.lower() if is_verified else ""


@lru_cache(maxsize=256)  # a proxy asks with the few queries that stand in its configuration
def read_conditions(query: str) -> tuple[Condition, ...]:
    """The conditions of a raw query that begins with ``?``; all must be met. No query at all is no condition.

    Each parameter may stand once, and is a list with commas and without empty members.

    Raises Refused(400) for everything else, an empty query among it: that is a variable which has no value.
    """
    if not query:
        return ()
    read: dict[str, Condition] = {}
    for part in query.removeprefix("?").split("&"):
        raw_name, _, raw_value = part.partition("=")
        name = _decoded(raw_name)
        make = _PARAMETERS.get(name)
        if make is None:
            raise _refused(f"the check has a query that is not {', '.join(_PARAMETERS)}")
        if name in read:
            raise _refused(f"{name} stands twice")
        members = _decoded(raw_value).split(",")
        if any(not member or member != member.strip() or not member.isprintable() for member in members):
            raise _refused(f"{name} has an empty list or member, or a member with blanks around it")
        read[name] = make(name, members)
    return tuple(read.values())


def _groups(_: str, members: list[str]) -> Condition:
    return _Groups(frozenset(members))


def _emails(name: str, members: list[str]) -> Condition:
    if any(not all(member.rpartition("@")[::2]) for member in members):
        raise _refused(f"{name} has a member that is no address")
    return _Emails(frozenset(member.lower() for member in members))


def _email_domains(name: str, members: list[str]) -> Condition:
    if not all(map(_DOMAIN.fullmatch, members)):
        raise _refused(f"{name} has a member that is not a.b, .a.b or *.a.b")
    domains = [member.lower().removeprefix("*") for member in members]
    parents = tuple(domain for domain in domains if domain.startswith("."))
    return _EmailDomains(frozenset(domains) - frozenset(parents), parents)


_PARAMETERS: dict[str, Callable[[str, list[str]], Condition]] = {
    "allowed_groups": _groups,
    "allowed_emails": _emails,
    "allowed_email_domains": _email_domains,
}


def _decoded(text: str) -> str:
    if ";" in text or _BAD_ESCAPE.search(text):  # ";" parts parameters for some
        raise _refused("the check's query cannot be decoded")
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeError:
        raise _refused("the check's query is not UTF-8") from None


def _refused(detail: str) -> Refused:
    message = "The query of the check is not understood"
    return Refused(Reason.REQUEST_INVALID, Cause.CONDITION_INVALID, detail, message=message)
