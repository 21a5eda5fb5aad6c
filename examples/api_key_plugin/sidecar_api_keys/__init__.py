"""An authenticator for API keys in the header ``X-Api-Key``."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, AuthenticatorContext, Outcome, Rejected
from sidecar.config.settings import Model
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import ActorType
from sidecar.identity.claims import make_actor
from sidecar.identity.request import RequestContext
from sidecar.secrets.value import Secret

HEADER = "X-Api-Key"


class ApiKeyOptions(Model):
    """Options of this authenticator."""

    keys: Annotated[Mapping[str, Secret], Field(min_length=1)]
    """Names of programs with their keys: ``env:NAME``, ``file:/path`` or the key itself."""


class ApiKeys(Authenticator):
    """Decides on every request that carries an API key."""

    Options = ApiKeyOptions
    credential_headers = (HEADER,)

    def __init__(self, options: ApiKeyOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings)
        self._keys = options.keys

    @classmethod
    def describe(cls, options: ApiKeyOptions) -> str:
        """The description for ``sidecar check``."""
        return f"{HEADER} of {', '.join(sorted(options.keys))}"

    async def authenticate(self, view: RequestContext) -> Outcome:
        """The program with this key, compared in constant time."""
        presented = view.headers.getall(HEADER, [])
        if not presented:
            return ABSTAINED
        # a list: every key is compared, so the time does not depend on the match
        names = [name for name, key in self._keys.items() if key.matches(presented[0])]
        if not names:
            return Rejected(Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG), self.name)
        actor = make_actor({"iss": f"urn:api-keys:{self.name}", "sub": names[0]}, self.surroundings.policy)
        return Accepted(actor.as_type(ActorType.SERVICE))
