"""The guest: the Actor of requests without credentials. A request with a bad credential never becomes the guest."""

from sidecar.access.paths import read_target
from sidecar.access.rules import Access, AccessRequirement, Rules
from sidecar.authn.base import Accepted
from sidecar.authn.guest import GuestOptions
from sidecar.config.settings import RuleSettings
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext


class GuestPolicy:
    """Which requests without credentials get the guest's Actor. ``name`` is that of the entry in the configuration."""

    def __init__(self, options: GuestOptions, name: str) -> None:
        actor = Actor(ActorType.USER, options.guest_user, provider=name, subject=options.guest_user, authenticator=name)
        self.name = name
        self.accepted = Accepted(actor)
        self._limits = Rules(RuleSettings(path=path, methods=options.methods, access="guest") for path in options.paths)

    def allows(self, view: RequestContext, ruling: AccessRequirement) -> bool:
        """Whether the guest is allowed: never on public paths, nor where a rule requires authentication."""
        if view.target is None or ruling.requirements or ruling.excludes_guests or ruling.access is Access.PUBLIC:
            return False
        readings = read_target(view.target)
        methods = (view.method, *view.other_methods)
        return all(self._limits.requirement_for(method, readings).access is Access.GUEST for method in methods)
