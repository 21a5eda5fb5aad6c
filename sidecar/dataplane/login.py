"""What the data plane needs of the browser login."""

from typing import Protocol

from aiohttp import web

from sidecar.access.decide import Deny
from sidecar.identity.request import RequestContext


class LoginChallenge(Protocol):
    """Answers persons who have no session."""

    async def answer(self, request: web.BaseRequest, view: RequestContext, verdict: Deny) -> web.StreamResponse | None:
        """A redirect to the login or a page; None: the refusal is answered as to a program."""
