"""The login's endpoints below ``server.prefix``."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from urllib.parse import parse_qsl

from aiohttp import web

from sidecar.access.decide import Decider, Deny
from sidecar.api.body import BodyReader
from sidecar.concurrency import settled
from sidecar.errors import Cause, MethodNotAllowed, Reason, Refused, Unavailable
from sidecar.identity.request import RequestContext, read_credential
from sidecar.login.backchannel import BackchannelLogout
from sidecar.login.challenge import Challenge
from sidecar.login.flow import CallbackParameters, LoginFlow
from sidecar.login.navigation import ResponseKind, response_kind
from sidecar.login.passwords import SignInForm
from sidecar.login.steps import Link, PageStep, Step, unavailable
from sidecar.login.transaction import Demand
from sidecar.sessions.cross_site import CrossSiteGuard
from sidecar.web.client_address import client_address
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.request import connection_of
from sidecar.web.response import Response
from sidecar.web.server import TrustedPeers

_MAX_PARAMETER = 8192
_MAX_FIELDS = 32
_REDIRECT = ResponseKind.REDIRECT
_READING = ("GET", "HEAD")
_PROMPTS = ("none", "login", "select_account")


def _parameters(request: web.BaseRequest, known: Collection[str]) -> dict[str, str]:
    """The ``known`` parameters of the query, each at most once; others are ignored. Raises Refused(400)."""
    try:
        pairs = parse_qsl(
            request.raw_path.partition("?")[2],
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:
        raise _bad("The query is not valid") from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            continue
        if name in found:
            raise _bad(f"The parameter {name} is repeated")
        if len(value) > _MAX_PARAMETER or any(character < " " or character == "\x7f" for character in value):
            raise _bad(f"The parameter {name} is not valid")
        found[name] = value
    return found


def _bad(message: str) -> Refused:
    return Refused(Reason.REQUEST_INVALID, Cause.STATE_INVALID, message=message)


class _Endpoint(ABC):
    methods: tuple[str, ...] = _READING

    def __init__(self, flow: LoginFlow, challenge: Challenge) -> None:
        self._flow = flow
        self._challenge = challenge

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The response; what the request gets wrong is a page with 400, or the JSON of a refusal for a program."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        try:
            return await self.respond(request, rest)
        except Unavailable as failure:
            return self._page(request, unavailable(failure))
        except Refused as failure:
            if failure.reason in (Reason.NOT_FOUND, Reason.TOKEN_MISSING):  # answered as to a program
                raise
            links = (Link("Sign in", f"{self._flow.names.prefix}/start"),)
            page = PageStep(failure.status, "The request is not valid", failure.message, links, failure=failure)
            return self._page(request, page)

    @abstractmethod
    async def respond(self, request: web.BaseRequest, rest: str) -> Response:
        """The response. Raises Refused, Unavailable."""

    def _page(self, request: web.BaseRequest, step: Step) -> Response:
        return self._challenge.page(request, connection_of(request), step)


class StartEndpoint(_Endpoint):
    """``GET {prefix}/start``: begins a login, for navigations only."""

    methods = ("GET",)

    async def respond(self, request: web.BaseRequest, rest: str) -> Response:
        """Lead the browser to the provider. Parameters of the provider's are never taken from the query."""
        kind = response_kind(request.method, request.headers)
        if kind is ResponseKind.JSON:
            # ingress-nginx leads every caller without a session here
            raise Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT)
        if kind is not ResponseKind.REDIRECT:
            raise Refused(Reason.REQUEST_INVALID, message="A login begins with the navigation of a browser window")
        given = _parameters(request, ("provider", "rd", "iss", "target_link_uri", "prompt"))
        prompt = given.get("prompt", "")
        if prompt and prompt not in _PROMPTS:
            raise _bad(f"The parameter prompt is not {', '.join(_PROMPTS)}")
        provider = given.get("provider")
        if provider is None and "iss" in given:
            provider = self._flow.provider_of_issuer(given["iss"])
            if provider is None:
                raise _bad("No provider has this issuer")
        cookies = self._challenge.browser_cookies(request.headers)
        address = given.get("rd", given.get("target_link_uri"))
        step = await self._flow.begin(address, cookies, provider=provider, demand=Demand(prompt))
        return self._page(request, step)


class SignInEndpoint(_Endpoint):
    """``GET {prefix}/sign_in``: the sign-in page. ``POST``: its form for user name and password."""

    methods = ("GET", "HEAD", "POST")

    def __init__(
        self, flow: LoginFlow, challenge: Challenge, guard: CrossSiteGuard, bodies: BodyReader, peers: TrustedPeers
    ) -> None:
        super().__init__(flow, challenge)
        self._guard = guard
        self._bodies = bodies
        self._peers = peers

    async def respond(self, request: web.BaseRequest, rest: str) -> Response:
        """The page, or the answer to its form."""
        cookies = self._challenge.browser_cookies(request.headers)
        if request.method != "POST":
            if self._flow.takes_passwords and response_kind(request.method, request.headers) is not _REDIRECT:
                # its form needs the login cookie, which only a navigation may set
                raise Refused(Reason.REQUEST_INVALID, message="The sign-in page is for browser windows")
            return self._page(request, self._flow.chooser(_parameters(request, ("rd",)).get("rd"), cookies))
        refusal = self._guard.unsafe_refusal(request.headers)
        if refusal is not None:
            raise refusal
        fields = await self._bodies.read_form(request, is_decided=False)
        connection = connection_of(request)
        forwarded = request.headers.getall("X-Forwarded-For", [])
        address = client_address(connection.peer, forwarded, self._peers, trusted=connection.trusted)
        form = SignInForm(fields.get("username", ""), fields.get("password", ""), fields.get("token", ""), address)
        return self._page(request, await self._flow.sign_in(form, fields.get("rd"), cookies))


class CallbackEndpoint(_Endpoint):
    """``GET {prefix}/callback/<provider>``: the provider's answer."""

    methods = ("GET",)

    async def respond(self, request: web.BaseRequest, rest: str) -> Response:
        """Complete the login that the answer belongs to."""
        given = _parameters(request, ("state", "code", "iss", "error"))
        parameters = CallbackParameters(
            rest, given.get("state"), given.get("code"), given.get("error"), given.get("iss")
        )
        cookies = self._challenge.browser_cookies(request.headers)
        return self._page(request, await self._flow.callback(parameters, cookies))


class SignOutEndpoint(_Endpoint):
    """``GET`` and ``POST {prefix}/sign_out``."""

    methods = ("GET", "POST")

    def __init__(self, flow: LoginFlow, challenge: Challenge, guard: CrossSiteGuard, bodies: BodyReader) -> None:
        super().__init__(flow, challenge)
        self._guard = guard
        self._bodies = bodies

    async def respond(self, request: web.BaseRequest, rest: str) -> Response:
        """End the session where a form of ours or a page of our origin asks for it; else show the form."""
        headers = request.headers
        token: str | None = None
        if request.method == "POST":
            refusal = self._guard.unsafe_refusal(headers)
            if refusal is not None:
                raise refusal
            token = (await self._bodies.read_form(request, is_decided=False)).get("token", "")
        # an image or a script on a page of ours, which others may have written, is no wish of the person
        is_own = (
            headers.getall("Sec-Fetch-Site", []) == ["same-origin"]
            and response_kind(request.method, headers) is ResponseKind.REDIRECT
        )
        cookies = self._challenge.browser_cookies(headers)
        step = await self._flow.sign_out(cookies, form_token=token, is_own_page=is_own)
        return self._page(request, step)


class SignedOutEndpoint(_Endpoint):
    """``GET {prefix}/signed_out``: where the provider leads after a logout. Its parameters are not read."""

    async def respond(self, request: web.BaseRequest, rest: str) -> Response:
        """The page."""
        return self._page(request, self._flow.signed_out())


class ChallengeEndpoint:
    """``{prefix}/challenge``: the whole answer to a request that nginx refuses, which names it as in a check."""

    def __init__(self, challenge: Challenge, refusals: ErrorResponses, decider: Decider) -> None:
        self._challenge = challenge
        self._refusals = refusals
        self._decider = decider

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """A redirect or a page for a person, 401 in JSON for a program."""
        headers = request.headers
        denied = Deny(Refused(Reason.TOKEN_MISSING, Cause.CREDENTIALS_ABSENT))
        targets, methods = headers.getall("X-Original-URI", []), headers.getall("X-Original-Method", [])
        connection = connection_of(request)
        if connection.trusted and len(targets) == 1 and len(methods) == 1:
            view = RequestContext(
                methods[0], targets[0], headers, read_credential(headers), trusted=True, takes_cookie=True
            )
            # decided again: why the session ended says whether another login would end the same way
            verdict = await settled(self._decider.decide(view))
            denied = verdict if isinstance(verdict, Deny) else denied
            answer = self._challenge.answer(request, connection, view, denied)
            if answer is not None:
                return await settled(answer)
        return self._refusals.refuse(request, connection, denied, route="login")


class BackchannelEndpoint:
    """``POST {prefix}/backchannel_logout``: a provider reports that a session has ended there."""

    methods = ("POST",)

    def __init__(self, logout: BackchannelLogout, bodies: BodyReader, decider: Decider) -> None:
        self._logout = logout
        self._bodies = bodies
        self._decider = decider

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """200 without a body once the end is stored; 400 for a token that is not accepted."""
        if request.method != "POST":
            raise MethodNotAllowed(*self.methods)
        form = await self._bodies.read_form(request, is_decided=False)
        failure = await self._decider.within_limits(self._logout.receive(form.get("logout_token", "")))
        if failure is None:
            return Response(200, b"Cache-Control: no-store\r\n")
        body = b'{"error":"invalid_request"}'
        return Response(400, b"Cache-Control: no-store\r\nContent-Type: application/json\r\n", body)
