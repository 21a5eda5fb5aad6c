"""The check endpoint: a proxy asks, the verdict is the answer."""

from aiohttp import web

from sidecar.access.decide import Decider, Deny
from sidecar.dataplane.dialects import Dialect
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.errors import Refused
from sidecar.identity.request import RequestView
from sidecar.web.answer import Answer
from sidecar.web.respond import Refusals
from sidecar.web.view import Asked, connection_of


class CheckEndpoint:
    """Answers 200 with the complete set of identity headers, or the refusal in a status that the proxy can carry."""

    def __init__(
        self, dialect: Dialect, decider: Decider, identity_headers: IdentityHeaders, refusals: Refusals
    ) -> None:
        self._dialect = dialect
        self._decider = decider
        self._identity_headers = identity_headers
        self._refusals = refusals

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """Judge the original request that ``request`` asks about."""
        try:
            view = self._view(request, rest, trusted=connection_of(request).trusted)
            verdict = await self._decider.decide(view)
        except Refused as failure:
            return self._refusals.refuse(request, failure, route="check", carry=self._dialect.carry)
        if isinstance(verdict, Deny):
            return self._refusals.refuse(request, verdict, route="check", carry=self._dialect.carry)
        if self._decider.is_identified(verdict.accepted):
            connection_of(request).recognise()
        return Answer(200, self._identity_headers.check_block(verdict.accepted, trusted=view.trusted))

    def at_once(self, asked: Asked, rest: str, *, trusted: bool) -> bytes | None:
        """The header block of the 200 for a credential that is known and stands, or None: ask in the usual way."""
        try:
            view = self._view(asked, rest, trusted=trusted)
            accepted = self._decider.accepted_at_once(view)
        except Refused:
            return None
        return None if accepted is None else self._identity_headers.check_block(accepted, trusted=trusted)

    def _view(self, asked: Asked, rest: str, *, trusted: bool) -> RequestView:
        must_know = self._decider.rules_can_require
        return self._dialect.view(asked, rest, trusted=trusted, must_know_target=must_know)
