"""The answer to a request that was refused because it has no session: lead a person to the login."""

from collections.abc import Awaitable

from sidecar.access.decide import Deny
from sidecar.access.paths import read_target
from sidecar.access.rules import Access, Rules
from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused, StepUpRequired
from sidecar.identity.cookies import OwnCookies
from sidecar.identity.request import HeaderView, RequestContext, Scheme
from sidecar.login.flow import BrowserCookies, LoginFlow
from sidecar.login.navigation import ResponseKind, response_kind
from sidecar.login.responses import StepResponses
from sidecar.login.steps import Link, PageStep, Step
from sidecar.login.transaction import NO_DEMAND, Demand
from sidecar.sessions.service import Sessions
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.request import RequestHead, identifier_of
from sidecar.web.response import Response
from sidecar.web.server import Connection

_NO_SESSION = frozenset({Reason.TOKEN_MISSING, Reason.SESSION_ENDED})
# With a clock or secrets that are wrong here, a new session would end as this one did, and the browser would be led in
# circles.
_ENDS_AGAIN = frozenset({Cause.SESSION_UNSEALED, Cause.SESSION_EXPIRED, Cause.SESSION_IDLE, Cause.SESSION_REVOKED})
_LOOP_GUARD = 60.0


class Challenge:
    """``api_paths`` are rules with access ``guest`` for the paths that are never redirected."""

    def __init__(
        self,
        flow: LoginFlow,
        sessions: Sessions,
        cookies: OwnCookies,
        responses: StepResponses,
        refusals: ErrorResponses,
        api_paths: Rules,
        clock: Clock,
    ) -> None:
        self._flow = flow
        self._sessions = sessions
        self._cookies = cookies
        self._responses = responses
        self._refusals = refusals
        self._api_paths = api_paths
        self._now = clock.now

    def browser_cookies(self, headers: HeaderView) -> BrowserCookies:
        """The values of our cookies; a cookie that came twice counts as none."""
        login = self._cookies.values(headers, self._flow.names.login_cookie)
        session = self._cookies.values(headers)
        return BrowserCookies(
            login[0] if len(login) == 1 else "",
            session[0] if len(session) == 1 else "",
        )

    def answer(
        self, asked: RequestHead, connection: Connection, view: RequestContext, verdict: Deny
    ) -> Response | Awaitable[Response] | None:
        """The response to ``verdict`` for a person; None: the refusal is answered as to a program."""
        failure = verdict.failure
        if (
            failure.status != 401
            or view.target is None
            or view.credential.scheme not in (Scheme.NOTHING, Scheme.COOKIE)
        ):
            return None
        kind = ResponseKind.JSON if self._is_api(view) else response_kind(view.method, view.headers)
        if kind is ResponseKind.JSON:
            return None
        cookies = self.browser_cookies(view.headers)
        if isinstance(failure, StepUpRequired):
            return self._step_up(asked, connection, view.target, cookies, verdict, failure, kind)
        if failure.reason not in _NO_SESSION or (failure.cause in _ENDS_AGAIN and self._is_fresh(cookies.session)):
            text = "Your session is not accepted here. Ask the administrator, or sign out and sign in again."
            links = (Link("Sign out", f"{self._flow.names.prefix}/sign_out"),)
            return self.page(asked, connection, PageStep(401, "Not signed in", text, links), verdict)
        if kind is ResponseKind.PAGE:
            text = "Your session has ended, or you are not signed in. What you sent was not kept."
            links = (Link("Sign in", f"{self._flow.names.prefix}/start"),)
            return self.page(asked, connection, PageStep(401, "Not signed in", text, links), verdict)
        return self._begin(asked, connection, view.target, cookies, verdict)

    def _step_up(
        self,
        asked: RequestHead,
        connection: Connection,
        target: str,
        cookies: BrowserCookies,
        verdict: Deny,
        failure: StepUpRequired,
        kind: ResponseKind,
    ) -> Response | Awaitable[Response]:
        """A login at the provider of the session, with what the rule requires. The answer is checked for it, so that
        the rule is then met, and no loop can begin.
        """
        if kind is ResponseKind.PAGE:
            text = "This requires a recent sign-in. What you sent was not kept: sign in again, then repeat it."
            links = (Link("Sign in", f"{self._flow.names.prefix}/start?prompt=login"),)
            return self.page(asked, connection, PageStep(401, "Sign in again", text, links), verdict)
        record = self._sessions.known(cookies.session)
        demand = Demand(max_age=failure.max_age, acr_values=failure.acr_values)
        provider = None if record is None or not self._flow.knows(record.owner.provider) else record.owner.provider
        return self._begin(asked, connection, target, cookies, verdict, provider, demand)

    async def _begin(
        self,
        asked: RequestHead,
        connection: Connection,
        target: str,
        cookies: BrowserCookies,
        verdict: Deny,
        provider: str | None = None,
        demand: Demand = NO_DEMAND,
    ) -> Response:
        step = await self._flow.begin(target, cookies, provider=provider, demand=demand)
        return self.page(asked, connection, step, verdict)

    def page(self, asked: RequestHead, connection: Connection, step: Step, refused: Deny | None = None) -> Response:
        """The response of ``step``; what it reports is logged as every refusal."""
        failure = step.failure if isinstance(step, PageStep) else None
        if failure is not None:
            self._refusals.log(asked, connection, Deny(failure), route="login", status=failure.status)
        elif refused is not None:
            self._refusals.log(asked, connection, refused, route="login", status=refused.failure.status)
        return self._responses.make(step, identifier_of(asked, connection))

    def _is_fresh(self, secret: str) -> bool:
        """Whether the browser has just logged in: another login would end the same way."""
        record = self._sessions.known(secret)
        return record is not None and abs(self._now() - record.created_at) < _LOOP_GUARD

    def _is_api(self, view: RequestContext) -> bool:
        try:
            readings = read_target(view.target or "")
        except Refused:
            return True
        return self._api_paths.requirement_for(view.method, readings).access is Access.GUEST
