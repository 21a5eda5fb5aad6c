"""Refusals of the token endpoint, with the error codes of RFC 6749 section 5.2 and RFC 8707 section 2."""

from sidecar.errors import Cause, Reason, Refused

INVALID_REQUEST = "invalid_request"
INVALID_CLIENT = "invalid_client"
INVALID_GRANT = "invalid_grant"
INVALID_SCOPE = "invalid_scope"
INVALID_TARGET = "invalid_target"
UNAUTHORIZED_CLIENT = "unauthorized_client"
UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"


class GrantRefused(Refused):
    """The token request is rejected with ``error``. ``client`` is the client or rule, if it is known."""

    def __init__(self, error: str, cause: Cause, message: str, detail: str = "", *, client: str = "") -> None:
        reason = Reason.CREDENTIALS_INVALID if error == INVALID_CLIENT else Reason.REQUEST_INVALID
        super().__init__(reason, cause, detail, message=message)
        self.error = error
        self.client = client


def invalid_request(message: str) -> GrantRefused:
    """A malformed request; ``message`` must not repeat input."""
    return GrantRefused(INVALID_REQUEST, Cause.NONE, message)


def bad_client(cause: Cause = Cause.CLIENT_WRONG, detail: str = "", *, client: str = "") -> GrantRefused:
    """A client that is not authenticated: the same text for an unknown client and for a wrong credential."""
    return GrantRefused(INVALID_CLIENT, cause, "Client authentication failed", detail, client=client)


def bad_grant(cause: Cause, detail: str = "", *, client: str = "") -> GrantRefused:
    """A token that is not accepted as a grant: the same text for every cause."""
    return GrantRefused(INVALID_GRANT, cause, "The token in the request is not accepted", detail, client=client)
