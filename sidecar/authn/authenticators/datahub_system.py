"""DataHub's system credential: ``Authorization: Basic <id>:<secret>``, as its own services send it, not encoded.

The same in base64 (RFC 7617) is accepted too. Both are compared in constant time.
"""

import re
from binascii import Error, a2b_base64

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Outcome, Rejected
from sidecar.errors import Cause, Misconfigured, Problem, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext, Scheme
from sidecar.secrets.value import Secret
from sidecar.secrets.well_known import is_well_known
from sidecar.tokens.jwt.policy import SYSTEM_PROVIDER

SYSTEM = SYSTEM_PROVIDER
"""Name of this authenticator and its provider in Actors, logs and metrics."""

_ID = re.compile(r"[!-9;-~]{1,512}")
_SECRET = re.compile(r"[!-~]{1,4096}")
_MIN_LENGTH = 16


class SystemAuthenticator:
    """Recognises every ``Basic`` whose value holds a colon, which is DataHub's form, and base64 that names the client.

    Who passes is the system client, a USER as in DataHub.
    """

    name = SYSTEM

    def __init__(self, client_id: str, secret: Secret) -> None:
        self._client_id = Secret(client_id)
        self._secret = secret
        actor = Actor(ActorType.USER, client_id, provider=SYSTEM, subject=client_id, authenticator=SYSTEM)
        self._accepted = Accepted(actor, is_own=True)

    def recall(self, view: RequestContext) -> Accepted | None:
        """The system client, where it is he: nothing has to be waited for."""
        pair = _client_pair(view)
        return self._accepted if pair is not None and self._matches(*pair) else None

    def authenticate_at_once(self, view: RequestContext) -> Abstained | None:
        """Nothing to say of other credentials than ``Basic`` ones."""
        return ABSTAINED if _client_pair(view) is None else None

    async def authenticate(self, view: RequestContext) -> Outcome:
        """Judge a ``Basic`` credential."""
        pair = _client_pair(view)
        if pair is None:
            return ABSTAINED
        if self._matches(*pair):
            return self._accepted
        if ":" not in view.credential.value and not self._client_id.matches(pair[0]):
            return ABSTAINED
        return Rejected(Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG), SYSTEM)

    def _matches(self, client_id: str, secret: str) -> bool:
        # & and not "and": both are compared whatever the first one says
        return self._client_id.matches(client_id) & self._secret.matches(secret)


def _client_pair(view: RequestContext) -> tuple[str, str] | None:
    """Id and secret as presented; the secret may hold colons."""
    credential = view.credential
    if credential.scheme is not Scheme.OTHER or credential.scheme_text.lower() != "basic":
        return None
    text = credential.value
    if ":" not in text:
        try:
            text = a2b_base64(text.encode("ascii"), strict_mode=True).decode("utf-8")
        except (Error, ValueError):  # what nobody can decode is for nobody here
            return None
    client_id, colon, secret = text.partition(":")
    return (client_id, secret) if colon else None


def check_system_client(client_id: str, secret: Secret, *, allow_published: bool) -> None:
    """Raise Misconfigured for a pair that cannot be used, or whose secret everybody knows."""
    problems = []
    if not _ID.fullmatch(client_id):
        problems.append(
            Problem("authentication.systemClientId", "must be visible ASCII characters, without white space and colon")
        )
    place = "authentication.systemClientSecret"
    if not _SECRET.fullmatch(secret.reveal()):
        problems.append(Problem(place, "must be visible ASCII characters, without white space"))
    elif len(secret.reveal()) < _MIN_LENGTH:
        text = (
            f"must have at least {_MIN_LENGTH} characters, because nothing limits guessing at it (openssl rand -hex 32)"
        )
        problems.append(Problem(place, text))
    elif is_well_known(secret) and not allow_published:
        problems.append(
            Problem(place, "is DataHub's published default: everybody can use it; make your own (openssl rand -hex 32)")
        )
    if problems:
        raise Misconfigured(problems)
