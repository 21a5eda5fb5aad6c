"""Whose session a page is for, and the parts that all pages share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode

from aiohttp import web

from sidecar.access.decide import Decider, Deny, Verdict
from sidecar.api.body import BodyReader
from sidecar.concurrency import settled
from sidecar.errors import Cause, MethodNotAllowed, Reason, Refused, Unavailable
from sidecar.identity.cookies import OwnCookies
from sidecar.login.challenge import Challenge
from sidecar.login.steps import Link, PageStep, unavailable
from sidecar.pages.forms import (
    NOTICE_MAX_AGE,
    Notice,
    Notices,
    check_form_token,
    check_navigation,
    check_own_form,
    form_token,
)
from sidecar.pages.rendering import Renderer
from sidecar.sessions.service import Session, Sessions
from sidecar.tokens.issued.service import Caller
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.request import connection_of, own_context
from sidecar.web.response import Response

_ROUTE = "pages"
_READING = ("GET", "HEAD")
_MAX_DIFFERENCE = 60.0
"""Seconds by which the clock of a provider may be slow."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A person at a page. ``path`` is that of the page, ``form`` what was posted; None: nothing was.

    ``is_fresh``: the sign-in is recent enough for what lasts longer than the session.
    """

    caller: Caller
    session: Session
    secret: str = field(repr=False)
    path: str
    query: Mapping[str, str]
    notice: Notice | None
    is_fresh: bool
    form: Mapping[str, str] | None = None
    form_id: str = ""

    @property
    def form_token(self) -> str:
        """A token for a form of this page."""
        return form_token(self.secret, self.path)


@dataclass(frozen=True, slots=True)
class Again:
    """Where to sign in again, and how recent a sign-in has to be."""

    href: str
    within: str


@dataclass(frozen=True, slots=True)
class Desk:
    """What pages need. ``fresh_for`` in seconds; ``provider_names`` are the display names of providers."""

    decider: Decider
    sessions: Sessions
    challenge: Challenge
    refusals: ErrorResponses
    renderer: Renderer
    notices: Notices
    cookies: OwnCookies
    notice_cookie: str
    cookie_attributes: str
    bodies: BodyReader
    origin: str
    fresh_for: float
    provider_names: Mapping[str, str]

    def show(self, visit: Visit, template: str, context: Mapping[str, object], *, status: int = 200) -> Response:
        """The page. A notice is not shown a second time."""
        prefix = self.renderer.site.prefix
        navigation = [
            (f"{prefix}/me", "Account"),
            (f"{prefix}/me/tokens", "Tokens"),
            (f"{prefix}/me/sessions", "Sessions"),
        ]
        if visit.caller.actor.is_admin:
            navigation += [
                (f"{prefix}/admin", "Status"),
                (f"{prefix}/admin/tokens", "All tokens"),
                (f"{prefix}/admin/sessions", "All sessions"),
                (f"{prefix}/admin/revocations", "Revocation list"),
            ]
        common = {
            "navigation": navigation,
            "current": visit.path if visit.path in dict(navigation) else visit.path.rpartition("/")[0],
            "notice": "" if visit.notice is None else visit.notice.text,
            "is_fresh": visit.is_fresh,
            "again": self._again(visit),
            "names": self.provider_names,
            "own": visit.session.record.id,
        }
        lines = b"" if visit.notice is None else self._cookie("", 0)
        return self.renderer.page(template, {**common, **context}, status=status, lines=lines)

    def leave(self, visit: Visit, path: str, notice: Notice) -> Response | None:
        """Lead the browser to the page at ``path``, which shows ``notice``; None: the notice is too long."""
        sealed = self.notices.seal(notice, visit.session.record.id)
        if sealed is None:
            return None
        lines = b"Location: %b\r\nCache-Control: no-store\r\n" % path.encode("ascii")
        return Response(303, lines + self._cookie(sealed, NOTICE_MAX_AGE))

    def _again(self, visit: Visit) -> Again:
        query = urlencode({"provider": visit.session.content.provider, "rd": visit.path, "prompt": "login"})
        minutes = max(1, round(self.fresh_for / 60))
        within = "1 minute" if minutes == 1 else f"{minutes} minutes"
        return Again(f"{self.renderer.site.prefix}/start?{query}", within)

    def _cookie(self, value: str, age: int) -> bytes:
        return f"Set-Cookie: {self.notice_cookie}={value}{self.cookie_attributes}; Max-Age={age}\r\n".encode("ascii")


class PageEndpoint(ABC):
    """One page. ``known`` are the parameters of its query; others are ignored."""

    methods: tuple[str, ...] = _READING
    known: tuple[str, ...] = ()

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The page, the way to the login, or a page that says what is wrong."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        connection = connection_of(request)
        try:
            answer = await self._visit(request)
            if isinstance(answer, Visit):
                return await self.respond(answer, rest)
            return answer
        except Unavailable as failure:
            return self._desk.challenge.page(request, connection, unavailable(failure))
        except Refused as failure:
            link = Link("Your account", f"{self._desk.renderer.site.prefix}/me")
            title = "Page not found" if failure.reason is Reason.NOT_FOUND else "The request was rejected"
            step = PageStep(failure.status, title, failure.message, (link,), failure=failure)
            return self._desk.challenge.page(request, connection, step)

    @abstractmethod
    async def respond(self, visit: Visit, rest: str) -> Response:
        """The response. Raises Refused, Unavailable."""

    async def _visit(self, request: web.BaseRequest) -> Visit | web.StreamResponse:
        desk, headers, connection = self._desk, request.headers, connection_of(request)
        view = replace(own_context(request), target=None, preflight=False, takes_cookie=True)
        verdict: Verdict = await settled(desk.decider.decide(view))
        if not isinstance(verdict, Deny) and (
            verdict.accepted is None or not desk.decider.is_authenticated(verdict.accepted)
        ):
            verdict = Deny(Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT))
        if isinstance(verdict, Deny):
            asked = replace(view, target=request.raw_path)
            answer = desk.challenge.answer(request, connection, asked, verdict)
            if answer is not None:
                return await settled(answer)
            return desk.refusals.refuse(request, connection, verdict, route=_ROUTE)
        accepted = verdict.accepted
        assert accepted is not None  # noqa: S101 - see above
        if not accepted.is_session:
            raise Refused(
                Reason.FORBIDDEN, Cause.RULE, message="Forbidden: pages need a browser session; programs use the API"
            )
        if request.method == "POST":
            check_own_form(headers, desk.origin)
        else:
            check_navigation(headers)
        connection.mark_authenticated()
        secret = desk.challenge.browser_cookies(headers).session
        session = await desk.sessions.find(secret)
        path, _, _ = request.raw_path.partition("?")
        form: Mapping[str, str] | None = None
        form_id = ""
        if request.method == "POST":
            form = await desk.bodies.read_form(request)
            form_id = check_form_token(form.get("form", ""), secret, path)
        # HEAD shows nothing: the notice waits for the page
        sealed = desk.cookies.values(headers, desk.notice_cookie) if request.method == "GET" else []
        return Visit(
            Caller(accepted.actor, session_id=session.record.id),
            session,
            secret,
            path,
            _query(request, self.known),
            desk.notices.open(sealed[0], session.record.id) if len(sealed) == 1 else None,
            _is_fresh(session, desk.sessions.now(), desk.fresh_for),
            form,
            form_id,
        )


def _query(request: web.BaseRequest, known: tuple[str, ...]) -> Mapping[str, str]:
    """The known parameters, the first of each."""
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name in known:
            found.setdefault(name, value)
    return found


def _is_fresh(session: Session, now: float, limit: float) -> bool:
    """Whether the person has authenticated within ``limit`` seconds, here and at the provider, if that says when."""
    moments = [session.record.created_at]
    if session.content.authenticated_at is not None:
        moments.append(session.content.authenticated_at + _MAX_DIFFERENCE)
    return now - min(moments) < limit


def require_fresh(visit: Visit) -> None:
    """Raises Refused(FORBIDDEN) for a sign-in that is too old to change what lasts longer than the session."""
    if not visit.is_fresh:
        raise Refused(Reason.FORBIDDEN, Cause.AUTHENTICATION_AGE, message="Forbidden: sign in again, then repeat this")
