"""The check endpoint: a proxy asks, the verdict is the answer."""

import logging
from collections.abc import Callable
from time import monotonic

from aiohttp import web

from sidecar.access.decide import Decider, Deny
from sidecar.dataplane.dialects import Dialect
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.dataplane.login import LoginChallenge
from sidecar.errors import Cause, Failed, Refused
from sidecar.identity.cookies import OwnCookies
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.request import RequestHead, connection_of
from sidecar.web.response import Response

_log = logging.getLogger("sidecar.check")
_LOG_INTERVAL = 60.0
_MAX_PEERS = 1000
_MAX_COOKIE = 4096
"""The longest ``Cookie`` that an answer carries: proxies buffer the heads of answers."""
_NONE: list[str] = []


class UntrustedPeers:
    """Counts the checks that are refused because the peer is untrusted, and logs each peer once a minute."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = monotonic) -> None:
        self._refused = metrics.untrusted_checks
        self._now = now
        self._logged: dict[str, float] = {}

    def note(self, peer: str) -> None:
        """One more check of ``peer`` was refused."""
        self._refused.inc()
        now = self._now()
        if now - self._logged.get(peer, -_LOG_INTERVAL) < _LOG_INTERVAL:
            return
        if len(self._logged) >= _MAX_PEERS:
            self._logged = {other: last for other, last in self._logged.items() if now - last < _LOG_INTERVAL}
            if len(self._logged) >= _MAX_PEERS:
                return
        self._logged[peer] = now
        _log.warning(
            "checks rejected: the peer is not in server.trustedProxies, and rules have a require; add its address",
            extra={"event": "untrusted_peer", "peer": peer},
        )


class CheckEndpoint:
    """Answers 200 with the complete set of identity headers, or the refusal in a status that the proxy can carry."""

    def __init__(
        self,
        dialect: Dialect,
        decider: Decider,
        identity_headers: IdentityHeaders,
        refusals: ErrorResponses,
        untrusted: UntrustedPeers,
        login: LoginChallenge | None = None,
        cookies: OwnCookies | None = None,
    ) -> None:
        """``cookies`` are the sidecar's own: an answer that allows a request carries ``Cookie`` without them."""
        self._login = login if dialect.carries_redirects else None
        self._cookies = cookies
        self._dialect = dialect
        self._decider = decider
        self._identity_headers = identity_headers
        self._refusals = refusals
        self._untrusted = untrusted

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """Judge the original request that ``request`` asks about."""
        try:
            view = self._view(request, rest, trusted=connection_of(request).trusted)
            verdict = await self._decider.decide(view)
            if isinstance(verdict, Deny):
                answer = None if self._login is None else await self._login.answer(request, view, verdict)
                return self._refuse(request, verdict) if answer is None else answer
            block = self._identity_headers.check_block(verdict.accepted, trusted=view.trusted)
        except Refused as failure:
            return self._refuse(request, failure)
        if self._decider.is_authenticated(verdict.accepted):
            connection_of(request).mark_authenticated()
        return Response(200, block + self._cookie_line(view))

    def at_once(self, asked: RequestHead, rest: str, *, trusted: bool) -> bytes | None:
        """The header block of the 200 for a credential that is known and stands, or None: ask in the usual way."""
        try:
            view = self._view(asked, rest, trusted=trusted)
            accepted = self._decider.accepted_at_once(view)
            if accepted is None:
                return None
            return self._identity_headers.check_block(accepted, trusted=trusted) + self._cookie_line(view)
        except Refused:
            return None

    def _view(self, asked: RequestHead, rest: str, *, trusted: bool) -> RequestContext:
        can_require = self._decider.rules_can_require
        view = self._dialect.context(asked, rest, trusted=trusted, must_know_target=can_require)
        if can_require and not trusted:
            view.conditions += self._decider.conditions_of_untrusted(self._dialect.named_targets(asked, rest))
        return view

    def _cookie_line(self, view: RequestContext) -> bytes:
        """``Cookie`` for the upstream, which a proxy copies over the caller's; blank above the limit."""
        if self._cookies is None or not view.trusted:
            return b""
        lines = view.headers.getall("Cookie", _NONE)
        rest = "; ".join(filter(None, map(self._cookies.rest, lines)))
        return b"Cookie: %b\r\n" % (rest.encode("latin-1", "replace") if len(rest) <= _MAX_COOKIE else b"")

    def _refuse(self, request: web.BaseRequest, refused: Failed | Deny) -> Response:
        failure = refused.failure if isinstance(refused, Deny) else refused
        if failure.cause is Cause.PEER_UNTRUSTED:
            peer = connection_of(request).peer
            failure.detail = f"peer {peer} is not in server.trustedProxies"
            self._untrusted.note(peer)
        return self._refusals.refuse(request, refused, route="check", carry=self._dialect.map_status)
