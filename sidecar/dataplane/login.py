"""What the data plane needs of the browser login."""

from collections.abc import Awaitable
from typing import Protocol

from sidecar.access.decide import Deny
from sidecar.identity.request import RequestContext
from sidecar.web.request import RequestHead
from sidecar.web.response import Response
from sidecar.web.server import Connection


class LoginChallenge(Protocol):
    """Answers persons who have no session."""

    def answer(
        self, asked: RequestHead, connection: Connection, view: RequestContext, verdict: Deny
    ) -> Response | Awaitable[Response] | None:
        """A redirect to the login or a page; None: the refusal is answered as to a program."""
