"""``sidecar check --through URL``: asks through the proxy as clients do, and compares what they get with what is right.

Sends GET requests without credentials only. What reaches the upstream can be seen where a rule makes a path public and
the upstream's response shows the headers of its request.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from secrets import token_hex
from urllib.parse import parse_qs, urljoin, urlsplit

from sidecar.access.paths import read_target
from sidecar.access.rules import Access
from sidecar.app.authentication import build_rules, guest_policy
from sidecar.app.login import cookie_names, login_secrets
from sidecar.authn.registry import build_specs
from sidecar.config.load import Loaded
from sidecar.config.login_checks import has_login
from sidecar.config.reading.finding import FINDINGS, FindingId
from sidecar.dataplane.identity_headers import NEVER_FORWARDED
from sidecar.errors import Misconfigured, Problem, Refused
from sidecar.login.transaction import return_address
from sidecar.outbound import ControlClient, Observed, OutboundError, check_url
from sidecar.sessions.sealing import Sealer
from sidecar.store.sqlite.database import sqlite_path

OPTION = "--through"
_MAX_BYTES = 1024 * 1024
_MAX_REDIRECTS = 4
_CONTROL = "X-Check-Through"
_PROGRAM = (("Accept", "application/json"),)
_NAVIGATION = (
    ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Site", "none"),
)
_CHECKS = ("auth", "forward_auth", "ext_authz", "challenge")

_Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Journey:
    """The last response of a client that follows redirects to its own origin, and where that one redirects to."""

    last: Observed
    location: str

    def __str__(self) -> str:
        where = f" to {self.location.partition('?')[0]}" if self.location else ""
        return f"{self.last.status} {self.last.header('Content-Type').partition(';')[0] or 'without content'}{where}"


class ThroughProbe:
    """``urls`` are those of paths at the proxy. ``lines`` has what was found to be right, after :meth:`run`."""

    name = OPTION

    def __init__(self, urls: Sequence[str], loaded: Loaded) -> None:
        """Raises Misconfigured for a URL that cannot be asked for."""
        self._urls = [_usable(url) for url in urls]
        self._loaded = loaded
        self._settings = loaded.settings
        self._rules = build_rules(loaded.settings)
        self._has_guests = guest_policy(build_specs(loaded.authenticators)) is not None
        self._login = has_login(loaded.settings)
        self._sealer = _sealer(loaded) if self._login else None
        self.lines: list[str] = []

    async def run(self) -> list[Problem]:
        """Every difference is an error; a warning says what could not be seen."""
        self._client = ControlClient(self._settings.keys.ca_file, egress=self._loaded.egress)
        problems: list[Problem] = []
        seen: set[str] = set()
        try:
            for url in self._urls:
                problems += await self._path(url)
                origin = _origin(url)
                if origin not in seen:
                    seen.add(origin)
                    problems += await self._endpoints(origin)
        except OutboundError as error:
            problems.append(Problem(OPTION, f"no response from the proxy: {error.detail}"))
        finally:
            await self._client.aclose()
        return problems

    async def _path(self, url: str) -> list[Problem]:
        target = f"{url[len(_origin(url)) :]}{'&' if '?' in url else '?'}through=a%2Fb%20{token_hex(4)}"
        requirement = self._rules.requirement_for("GET", read_target(target))
        open_to_all = requirement.access is Access.PUBLIC
        open_to_guests = requirement.access is Access.GUEST or (self._has_guests and not requirement.excludes_guests)
        if open_to_all or open_to_guests:
            return await self._upstream_headers(_origin(url), target)
        program = await self._follow(_origin(url), target, _PROGRAM)
        if program.last.status < 400 and not program.location:
            text = f"GET {url} without credentials gets {program}, and the rules require 401; "
            return [_problem(FindingId.THROUGH_UNCHECKED, f"{text}the proxy does not check this path")]
        problems = list(self._program(url, program))
        if self._login:
            navigation = await self._follow(_origin(url), target, _NAVIGATION)
            problems += self._navigation(url, target, navigation)
        if not problems:
            self.lines.append(
                f"{url}: programs get 401 in JSON" + ("; browsers are led to the login" if self._login else "")
            )
        return problems

    def _program(self, url: str, journey: _Journey) -> Iterator[Problem]:
        reply = journey.last
        reason = _reason(reply)
        if reply.status != 401 or reason is None:
            text = f"GET {url} of a program gets {journey} instead of 401 application/json with a reason"
            yield _problem(FindingId.THROUGH_PROGRAM, text)
        elif not reply.header("WWW-Authenticate"):
            text = f"the 401 of GET {url} has no WWW-Authenticate, from which clients learn how to authenticate"
            yield _problem(FindingId.THROUGH_PROGRAM, text)

    def _navigation(self, url: str, target: str, journey: _Journey) -> Iterator[Problem]:
        text = f"GET {url} of a browser gets {journey} instead of a redirect to the provider or the sign-in page"
        if _state(journey):
            text = (
                f"GET {url} of a browser gets {journey} with a state that login.secrets of this configuration did not "
                "seal; check with the configuration of the running sidecar"
            )
        found = self._returns_to(journey)
        if found is None:
            yield _problem(FindingId.THROUGH_NAVIGATION, text)
        elif found == "":
            self.lines.append(f"{url}: whether path and query are kept cannot be seen in the redirect to the provider")
        elif found != target:
            text = f"a browser that asks for {target} would return to {found} after the login"
            yield _problem(FindingId.THROUGH_TARGET, text)

    def _returns_to(self, journey: _Journey) -> str | None:
        """Where the login leads back to; empty: to the login, but that cannot be seen; None: there is no login."""
        prefix = self._settings.server.prefix
        if journey.location:
            state = _state(journey)
            if not state:
                # a pushed request (RFC 9126) hides it; without one, the redirect is none of the sidecar's
                return "" if "request_uri=" in journey.location else None
            found = None if self._sealer is None else return_address(self._sealer, state)
            return found if found is not None or self._sealer is not None else ""
        if journey.last.status != 401 or "text/html" not in journey.last.header("Content-Type"):
            return None
        page = unescape(journey.last.body.decode("utf-8", "replace"))
        starts = [part.partition('"')[0] for part in page.split(f'"{prefix}/start?')[1:]]
        addresses = [address for query in starts for address in parse_qs(query).get("rd", [])]
        if addresses:
            return addresses[0]
        return "" if f"{prefix}/sign_in" in page else None

    async def _upstream_headers(self, origin: str, target: str) -> list[Problem]:
        """Ask a path that is open, with headers that must not arrive, and look for their values in the response."""
        names = tuple(dict.fromkeys((*NEVER_FORWARDED, *self._settings.identity_headers.strip)))
        url = f"{origin}{target.partition('?')[0]}"
        reply, arrived = await self._arrivals(origin + target, names)
        if arrived is None:
            what = (
                f"GET {url} gets {reply.status}, and the response does not show the headers of its request: whether "
                "identity headers and the session cookie of clients reach the upstream cannot be seen; for this check, "
                "let the proxy forward a public path to an upstream that shows them"
            )
            return [_problem(FindingId.THROUGH_HEADERS, what, fatal=False)]
        # some proxies reject the whole request because of this spelling, so it is sent apart
        _, others = await self._arrivals(origin + target, [name.replace("-", "_") for name in names])
        arrived = list(dict.fromkeys((*arrived, *(others or ()))))
        problems = []
        forged = [name for name in arrived if name != "Cookie"]
        if forged:
            what = (
                f"of GET {url}, these headers of the client reached the upstream: {', '.join(forged)}; expected: none"
            )
            problems.append(_problem(FindingId.THROUGH_HEADERS, what))
        if "Cookie" in arrived:
            cookie = cookie_names(self._settings)[0]
            what = f"of GET {url}, the cookie {cookie} of the client reached the upstream; expected: no such cookie"
            problems.append(_problem(FindingId.THROUGH_COOKIE, what))
        if not problems:
            also = " and no session cookie" if self._login else ""
            self.lines.append(f"{url}: no identity headers{also} of clients reach the upstream")
        return problems

    async def _arrivals(self, url: str, names: Sequence[str]) -> tuple[Observed, list[str] | None]:
        """Which headers of ``names``, and whether ``Cookie`` with a session, came to the upstream; None: unknown."""
        mark = token_hex(8)
        forged = {name: f"{mark}-{number}-" for number, name in enumerate(names)}
        headers = [*_PROGRAM, (_CONTROL, f"{mark}-control"), *forged.items()]
        if self._login:
            forged["Cookie"] = f"{mark}-session"
            headers.append(("Cookie", f"theme=dark; {cookie_names(self._settings)[0]}={forged['Cookie']}"))
        reply = await self._observe(url, headers)
        text = reply.body.decode("utf-8", "replace")
        if f"{mark}-control" not in text:
            return reply, None
        return reply, [name for name, value in forged.items() if value in text]

    async def _endpoints(self, origin: str) -> list[Problem]:
        prefix, problems = self._settings.server.prefix, []
        for name in _CHECKS if self._login else _CHECKS[:2]:
            evidence = await self._reaches(origin, f"{prefix}/{name}")
            if evidence:
                text = f"clients reach {origin}{prefix}/{name}, an endpoint for proxies only: {evidence}"
                problems.append(_problem(FindingId.THROUGH_ENDPOINTS, text))
        if not problems:
            self.lines.append(f"{origin}{prefix}/: no check endpoint can be reached")
        if self._login:
            reply = await self._observe(f"{origin}{prefix}/signed_out", _NAVIGATION)
            if reply.status != 200 or "text/html" not in reply.header("Content-Type"):
                text = f"GET {origin}{prefix}/signed_out gets {_Journey(reply, reply.header('Location'))}"
                problems.append(_problem(FindingId.THROUGH_LOGIN_PATHS, f"{text} instead of 200 text/html"))
        return problems

    async def _reaches(self, origin: str, path: str) -> str:
        """What shows that the sidecar took a client's request for a check of another request; empty: nothing."""
        target = f"/through-{token_hex(8)}"
        checked = f"{path}{target}" if path.endswith("/ext_authz") else path
        if self._login:
            journey = await self._follow(origin, checked, (*_NAVIGATION, *_named(target, "GET")))
            if self._returns_to(journey) == target:
                return f"it leads to a login for {target}, which only the client named"
        # a method that no check has: the endpoint answers 400, nginx's with 403 and the status in a header
        asked = await self._observe(f"{origin}{checked}", (*_PROGRAM, *_named(target, "get")))
        usual = await self._observe(f"{origin}{target}", (*_PROGRAM, *_named(target, "get")))
        status = asked.header("X-Auth-Status") or str(asked.status)
        if status == "400" and usual.status != 400:
            return f"it answers {status} to a method that only the client named"
        is_check_mode = self._settings.upstream is None
        if is_check_mode and asked.header("X-Auth-Status") and not usual.header("X-Auth-Status"):
            return f"its response has X-Auth-Status: {status}, which the proxy does not pass on"
        return ""

    async def _follow(self, origin: str, target: str, headers: _Headers) -> _Journey:
        url = f"{origin}{target}"
        for _ in range(_MAX_REDIRECTS):
            reply = await self._observe(url, headers)
            location = reply.header("Location") if 300 <= reply.status < 400 else ""
            if not location:
                return _Journey(reply, "")
            url = urljoin(url, location)
            public = self._settings.server.public_url
            own = {origin, _origin(public) if public else origin}
            if _origin(url) not in own:
                return _Journey(reply, url)
            url = origin + url[len(_origin(url)) :]
        return _Journey(reply, url)

    async def _observe(self, url: str, headers: _Headers) -> Observed:
        within = self._settings.keys.timeout
        return await self._client.observe(url, headers, within=within, max_bytes=_MAX_BYTES)


def _named(target: str, method: str) -> _Headers:
    """The headers in which proxies name the original request."""
    return (
        ("X-Original-URI", target),
        ("X-Original-Method", method),
        ("X-Forwarded-Uri", target),
        ("X-Forwarded-Method", method),
    )


def _problem(identifier: FindingId, text: str, *, fatal: bool = True) -> Problem:
    mend = f"; {FINDINGS[identifier][2].replace('`', '')}" if fatal else ""
    return Problem(OPTION, f"{text}{mend}", fatal=fatal, id=identifier.value)


def _reason(reply: Observed) -> str | None:
    """The reason of a refusal in JSON; None: the response is none."""
    try:
        document = json.loads(reply.body)
    except ValueError:
        return None
    reason = document.get("reason") if isinstance(document, dict) else None
    return reason if isinstance(reason, str) and reason else None


def _state(journey: _Journey) -> str:
    return parse_qs(urlsplit(journey.location).query).get("state", [""])[0]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _usable(url: str) -> str:
    """``url`` with a path. Raises Misconfigured."""
    try:
        check_url(url, allow_insecure=True)
        if "#" in url or "\\" in url or not url.isascii() or not url.isprintable() or " " in url:
            raise Misconfigured([Problem(OPTION, f"{url!r}: use a URL of printable ASCII characters without #")])
        rest = url[len(_origin(url)) :]
        read_target(rest or "/")
    except OutboundError as error:
        raise Misconfigured([Problem(OPTION, f"{url!r}: {error.detail}")]) from error
    except Refused as error:
        raise Misconfigured([Problem(OPTION, f"{url!r}: the sidecar answers 400 to this path")]) from error
    return url if rest else f"{url}/"


def _sealer(loaded: Loaded) -> Sealer | None:
    """What opens the state of a login; None: the secret is a file that ``sidecar serve`` has not created yet."""
    settings = loaded.settings
    if not settings.login.secrets:
        path = sqlite_path(settings.store.url.reveal()).with_suffix(".login-secret")
        if not path.exists():
            return None
    return Sealer(login_secrets(settings))


def through_probe(urls: Iterable[str], loaded: Loaded) -> ThroughProbe | None:
    """The probe for the URLs of the option; None: there are none."""
    found = [*urls]
    return ThroughProbe(found, loaded) if found else None
