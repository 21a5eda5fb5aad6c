"""The Actor: who is asking, in DataHub's sense, with what is known beside the name."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from sidecar.identity.names import folded


class ActorType(StrEnum):
    """The two kinds of caller a metadata server knows."""

    USER = "USER"
    SERVICE = "SERVICE"


@dataclass(frozen=True, slots=True)
class Actor:
    """An identified caller. Only an accepted credential makes one.

    ``subject`` is the raw ``sub`` beside ``issuer``; ``full_id`` is the id by all of the claim's text, in lower case
    (empty: not known). ``email_in_token`` is False where the address was made up from the name and
    ``principalDomain``; ``domain`` is that of the name. ``is_admin`` follows the rules for ``adminPrincipals``. Times
    are seconds since the epoch; ``expires_at`` is None for a token without ``exp``.
    """

    type: ActorType
    id: str
    issuer: str = ""
    provider: str = ""
    subject: str = ""
    email: str = ""
    email_in_token: bool = False
    domain: str = ""
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    token_id: str = ""
    issued_at: float | None = None
    expires_at: float | None = None
    is_bot: bool = False
    is_admin: bool = False
    may_impersonate: bool = False
    authenticator: str = ""
    full_id: str = ""

    @property
    def urn(self) -> str:
        """DataHub's name of this caller."""
        return f"urn:li:corpuser:{self.id}"

    @property
    def own_address(self) -> str:
        """The e-mail address where it stood in the token and is the address of this very name; else empty."""
        namespace, slash, rest = self.id.lower().partition("/")
        name = rest if slash else namespace
        is_own = self.email_in_token and name in (self.email, self.email.partition("@")[0])
        return self.email if is_own else ""

    def impersonates_admin(self, names: frozenset[str], name: str = "") -> bool:
        """Whether a service that knows its admins by name alone would take this Actor, who is none, for one.

        ``names`` are those of the admins, as in ``adminPrincipals``; ``name`` is what the service reads, else the id.
        """
        name = name or self.id
        return not self.is_admin and not names.isdisjoint((name, name.lower(), folded(name)))

    def as_type(self, kind: ActorType) -> Self:
        """The same caller as one of the other kind."""
        return replace(self, type=kind)
