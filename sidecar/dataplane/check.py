"""The check endpoints: a proxy sends a check for each request; the verdict is the response."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic

from sidecar.access.decide import Allow, Decider, Deny, Verdict
from sidecar.concurrency import Pending, settled
from sidecar.dataplane.dialects import Dialect
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.dataplane.login import LoginChallenge
from sidecar.errors import Cause, Failed, Refused
from sidecar.identity.cookies import OwnCookies
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import AwaitedAnswer, Work
from sidecar.web.request import RequestHead
from sidecar.web.response import Response
from sidecar.web.server import Connection

_log = logging.getLogger("sidecar.check")
_LOG_INTERVAL = 60.0
_MAX_PEERS = 1000
_MAX_COOKIE = 4096
"""The longest ``Cookie`` in a response: proxies buffer the heads of responses."""
_NONE: list[str] = []


class UntrustedPeers:
    """Counts the checks that are rejected because the peer is untrusted, and logs each peer once a minute."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = monotonic) -> None:
        self._refused = metrics.untrusted_checks
        self._now = now
        self._logged: dict[str, float] = {}

    def note(self, peer: str) -> None:
        """A check of ``peer`` was rejected."""
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
    """Responds with 200 and the complete set of identity headers, or with a refusal that the proxy can pass on."""

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
        """``cookies`` are the sidecar's own: a response that allows a request has ``Cookie`` without them."""
        self._login = login if dialect.carries_redirects else None
        self._cookies = cookies
        self._dialect = dialect
        self._decider = decider
        self._identity_headers = identity_headers
        self._refusals = refusals
        self._untrusted = untrusted

    def __call__(self, asked: RequestHead, rest: str, connection: Connection) -> bytes | Response | Work:
        """Decide on the original request that ``asked`` describes: the header block of the 200, or the refusal."""
        try:
            trusted = connection.trusted
            can_require = self._decider.rules_can_require
            view = self._dialect.context(asked, rest, trusted=trusted, must_know_target=can_require)
            connection.original = view
            if can_require and not trusted:
                view.conditions += self._decider.conditions_of_untrusted(self._dialect.named_targets(asked, rest))
            if connection.span is not None:
                view.observer = connection.span
            verdict = self._decider.decide(view)
            if isinstance(verdict, Allow):
                return self._allow(verdict, view, connection)
        except Refused as failure:
            return self._refuse(asked, connection, failure)
        if isinstance(verdict, Deny):
            response = self._deny(asked, connection, view, verdict)
            return response if isinstance(response, Response) else AwaitedAnswer(response)
        return AwaitedAnswer(Pending(partial(self._respond_later, asked, connection, view), verdict))

    async def _respond_later(
        self, asked: RequestHead, connection: Connection, view: RequestContext, pending: Awaitable[Verdict]
    ) -> bytes | Response:
        verdict = await pending
        if isinstance(verdict, Deny):
            return await settled(self._deny(asked, connection, view, verdict))
        try:
            return self._allow(verdict, view, connection)
        except Refused as failure:
            return self._refuse(asked, connection, failure)

    def _allow(self, verdict: Allow, view: RequestContext, connection: Connection) -> bytes:
        """The header block of the 200. Raises Refused if the identity headers are too large."""
        accepted = verdict.accepted
        block = self._identity_headers.check_block(accepted, trusted=connection.trusted)
        if accepted is not None:
            connection.caller = accepted.actor
        if not connection.is_known and self._decider.is_authenticated(accepted):
            connection.mark_authenticated()
        return block if self._cookies is None or not view.trusted else block + self._cookie_line(self._cookies, view)

    @staticmethod
    def _cookie_line(own: OwnCookies, view: RequestContext) -> bytes:
        """``Cookie`` for the upstream, which a proxy copies over the caller's; blank above the limit."""
        lines = view.headers.getall("Cookie", _NONE)
        rest = own.rest(lines[0]) if len(lines) == 1 else "; ".join(filter(None, map(own.rest, lines)))
        # the inverse of the parser's decoding: the cookies of others keep every byte
        line = rest.encode("utf-8", "surrogateescape")
        return b"Cookie: %b\r\n" % (line if len(line) <= _MAX_COOKIE else b"")

    def _deny(
        self, asked: RequestHead, connection: Connection, view: RequestContext, verdict: Deny
    ) -> Response | Awaitable[Response]:
        login = None if self._login is None else self._login.answer(asked, connection, view, verdict)
        return self._refuse(asked, connection, verdict) if login is None else login

    def _refuse(self, asked: RequestHead, connection: Connection, refused: Failed | Deny) -> Response:
        failure = refused.failure if isinstance(refused, Deny) else refused
        if failure.cause is Cause.PEER_UNTRUSTED:
            peer = connection.peer
            failure.detail = f"peer {peer} is not in server.trustedProxies"
            self._untrusted.note(peer)
        return self._refusals.refuse(asked, connection, refused, route="check", carry=self._dialect.map_status)
