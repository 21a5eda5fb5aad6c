"""The Actor: an authenticated caller in DataHub's sense, with the attributes known from its credential."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from sidecar.identity.names import folded

MAX_AUTH_TIME_AHEAD = 60.0
"""Seconds by which the clock of a provider may be ahead. An ``auth_time`` beyond would be recent for as long."""


class ActorType(StrEnum):
    """The two types of caller that a metadata server distinguishes."""

    USER = "USER"
    SERVICE = "SERVICE"


@dataclass(frozen=True, slots=True)
class Actor:
    """An authenticated caller. Created from accepted credentials only.

    ``subject`` is the raw ``sub`` of ``issuer``; ``full_id`` is the id made of the claim's whole text, in lower case
    (empty: unknown). ``email_in_token`` is False if the address was derived from the name and ``principalDomain``;
    ``domain`` is the domain of the name. ``is_admin`` follows the rules for ``adminPrincipals``. Times are seconds
    since the epoch; ``expires_at`` is None for a token without ``exp``.

    ``client`` is the OAuth client to which the token was issued, ``scopes`` those of the token and ``audiences`` its
    ``aud``; empty: none, or unknown. ``acting`` is who acts for the Actor (RFC 8693 ``act``), as far as the issuer may
    say so; ``is_delegated``: the token says that an agent acts for the Actor, whether its issuer may say so or not.
    ``acr`` is the class of the person's authentication and ``authenticated_at`` its time, as far as the token says.
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
    client: str = ""
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    acting: str = ""
    is_delegated: bool = False
    acr: str = ""
    authenticated_at: float | None = None

    @property
    def urn(self) -> str:
        """The caller's urn in DataHub."""
        return f"urn:li:corpuser:{self.id}"

    @property
    def own_address(self) -> str:
        """The e-mail address if it is in the token and belongs to this name; otherwise empty."""
        namespace, slash, rest = self.id.lower().partition("/")
        name = rest if slash else namespace
        is_own = self.email_in_token and name in (self.email, self.email.partition("@")[0])
        return self.email if is_own else ""

    def impersonates_admin(self, names: frozenset[str], name: str = "") -> bool:
        """Whether an upstream that recognises admins by name would treat this Actor, which is not admin, as one.

        ``names`` are the admins' names, as in ``adminPrincipals``; ``name`` is what the upstream reads instead of the
        id.
        """
        name = name or self.id
        return not self.is_admin and not names.isdisjoint((name, name.lower(), folded(name)))

    def as_type(self, kind: ActorType) -> Self:
        """A copy with another type."""
        return replace(self, type=kind)
