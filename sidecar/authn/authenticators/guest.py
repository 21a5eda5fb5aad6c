"""The guest: who presents nothing at all. A bad credential never becomes the guest."""

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
        raise ValueError("must be a name that an Actor can have") from None


# Dot segments, escapes and parameters never stand in a path that a guest may have; see access.paths.
GuestPath = Annotated[
    str, Field(pattern=r"^(/\*\*|(/([A-Za-z0-9_~!$&'()+,=:@-][A-Za-z0-9._~!$&'()+,=:@-]*|\*))+(/\*\*)?|/)$")
]


class GuestOptions(Model):
    """Who the guest is, and where he may be."""

    enabled: bool = True
    """DataHub's switch."""
    guest_user: Annotated[str, AfterValidator(_actor_id)] = "guest"
    """Id of the Actor."""
    paths: Annotated[tuple[GuestPath, ...], Field(min_length=1)] = ("/**",)
    """Where: patterns as in ``rules``. A rule for authenticated callers is stronger."""
    methods: Names = ()
    """With which methods; empty: all."""


class Guest(Authenticator):
    """Gives everybody without credentials one Actor, where the decision lets it; decides on no credential."""

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
        """Which credentials it decides on."""
        methods = f" with {', '.join(options.methods)}" if options.methods else ""
        return f"nobody; without credentials everybody is {options.guest_user} on {', '.join(options.paths)}{methods}"

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Nothing that is presented is the guest's."""
        return ABSTAINED
