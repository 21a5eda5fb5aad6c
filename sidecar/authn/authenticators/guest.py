"""The guest: the Actor of requests without credentials. A request with a bad credential never becomes the guest."""

from typing import Annotated

from pydantic import AfterValidator, Field

from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, AuthenticatorContext, Outcome
from sidecar.config.settings import Model, Names
from sidecar.errors import Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claims import actor_name
from sidecar.identity.request import RequestContext


def _actor_id(text: str) -> str:
    try:
        return actor_name(text)
    except Refused:
        raise ValueError("must be a valid Actor name") from None


# Dot segments, escapes and parameters are not allowed in a guest path; see access.paths.
GuestPath = Annotated[
    str, Field(pattern=r"^(/\*\*|(/([A-Za-z0-9_~!$&'()+,=:@-][A-Za-z0-9._~!$&'()+,=:@-]*|\*))+(/\*\*)?|/)$")
]


class GuestOptions(Model):
    """The guest's Actor, and the paths and methods that it may use."""

    enabled: bool = True
    """DataHub's switch."""
    guest_user: Annotated[str, AfterValidator(_actor_id)] = "guest"
    """Id of the guest's Actor."""
    paths: Annotated[tuple[GuestPath, ...], Field(min_length=1)] = ("/**",)
    """Allowed paths: patterns as in ``rules``. A rule that requires authentication takes precedence."""
    methods: Names = ()
    """Allowed methods; empty: all."""


class Guest(Authenticator):
    """Assigns one Actor to requests without credentials, where access rules allow it. Decides on no credential."""

    Options = GuestOptions

    def __init__(self, options: GuestOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings)
        actor = Actor(
            ActorType.USER,
            options.guest_user,
            provider=self.name,
            subject=options.guest_user,
            authenticator=self.name,
        )
        self.accepted = Accepted(actor)
        self.paths = options.paths
        self.methods = options.methods

    @classmethod
    def describe(cls, options: GuestOptions) -> str:
        """The credentials that this authenticator decides on."""
        if not options.enabled:
            return "no requests; it is switched off (enabled: false)"
        methods = f" with {', '.join(options.methods)}" if options.methods else ""
        return f"without credentials everybody is {options.guest_user} on {', '.join(options.paths)}{methods}"

    def authenticate(self, view: RequestContext) -> Outcome:
        """Abstain: a presented credential never belongs to the guest."""
        return ABSTAINED
