"""DataHub's system credential: ``Authorization: Basic <id>:<secret>``, sent unencoded by DataHub's own services.

The base64 form (RFC 7617) is accepted too. Id and secret are compared in constant time.
"""

import re
from binascii import Error, a2b_base64

from sidecar.authn.base import ABSTAINED, Accepted, Outcome, Rejected
from sidecar.errors import Cause, Misconfigured, Problem, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext, Scheme
from sidecar.secrets.value import Secret
from sidecar.secrets.well_known import is_well_known
from sidecar.tokens.jwt.policy import SYSTEM_PROVIDER

SYSTEM = SYSTEM_PROVIDER
"""Name of this authenticator and of its provider in Actors, logs and metrics."""

_ID = re.compile(r"[!-9;-~]{1,512}")
_SECRET = re.compile(r"[!-~]{1,4096}")
_MIN_LENGTH = 16


class SystemAuthenticator:
    """Decides on ``Basic`` values that contain a colon (DataHub's form), and on base64 values that name the system
    client.

    The accepted Actor is the system client, of type USER as in DataHub.
    """

    name = SYSTEM

    def __init__(self, client_id: str, secret: Secret) -> None:
        self._client_id = Secret(client_id)
        self._secret = secret
        actor = Actor(ActorType.USER, client_id, provider=SYSTEM, subject=client_id, authenticator=SYSTEM)
        self._accepted = Accepted(actor, is_own=True)

    def recall(self, view: RequestContext) -> Accepted | None:
        """The system client, if the credential is its own: the comparison needs no I/O."""
        pair = _client_pair(view)
        return self._accepted if pair is not None and self._matches(*pair) else None

    def authenticate(self, view: RequestContext) -> Outcome:
        """Decide on a ``Basic`` credential."""
        pair = _client_pair(view)
        if pair is None:
            return ABSTAINED
        if self._matches(*pair):
            return self._accepted
        if ":" not in view.credential.value and not self._client_id.matches(pair[0]):
            return ABSTAINED
        return Rejected(Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG), SYSTEM)

    def _matches(self, client_id: str, secret: str) -> bool:
        # & instead of "and": the secret is compared even if the id differs
        return self._client_id.matches(client_id) & self._secret.matches(secret)


def _client_pair(view: RequestContext) -> tuple[str, str] | None:
    """The presented id and secret; the secret may contain colons."""
    credential = view.credential
    if credential.scheme is not Scheme.OTHER or credential.scheme_text.lower() != "basic":
        return None
    text = credential.value
    if ":" not in text:
        try:
            text = a2b_base64(text.encode("ascii"), strict_mode=True).decode("utf-8")
        except (Error, ValueError):  # not base64: left to other authenticators
            return None
    client_id, colon, secret = text.partition(":")
    return (client_id, secret) if colon else None


def check_system_client(client_id: str, secret: Secret, *, allow_published: bool) -> None:
    """Raise Misconfigured for an id or secret that cannot be used, or for a well-known default secret."""
    problems = []
    if not _ID.fullmatch(client_id):
        problems.append(
            Problem("authentication.systemClientId", "must be visible ASCII characters, without white space and colon")
        )
    path = "authentication.systemClientSecret"
    if not _SECRET.fullmatch(secret.reveal()):
        problems.append(Problem(path, "must be visible ASCII characters, without white space"))
    elif len(secret.reveal()) < _MIN_LENGTH:
        text = (
            f"must have at least {_MIN_LENGTH} characters, because nothing limits guessing at it (openssl rand -hex 32)"
        )
        problems.append(Problem(path, text))
    elif is_well_known(secret) and not allow_published:
        problems.append(
            Problem(
                path, "is DataHub's published default, which anyone can use; create your own (openssl rand -hex 32)"
            )
        )
    if problems:
        raise Misconfigured(problems)
