"""The options of ``guest`` in the list of authenticators.

The guest is no authenticator, because it decides on no credential: :class:`sidecar.access.guests.GuestPolicy`.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from sidecar.config.settings import Model, Names
from sidecar.errors import Refused
from sidecar.identity.claims import actor_name


def _actor_id(text: str) -> str:
    try:
        return actor_name(text)
    except Refused:
        raise ValueError("must be a valid Actor name") from None


GUEST = "guest"
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

    def describe(self) -> str:
        """One phrase for ``sidecar check``: the requests that get the guest's Actor."""
        if not self.enabled:
            return "no requests; it is switched off (enabled: false)"
        methods = f" with {', '.join(self.methods)}" if self.methods else ""
        return f"without credentials everybody is {self.guest_user} on {', '.join(self.paths)}{methods}"
