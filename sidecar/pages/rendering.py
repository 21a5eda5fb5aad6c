"""Renders templates, and serves the assets: one stylesheet, one script, one icon."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sidecar.errors import MethodNotAllowed, Reason, Refused
from sidecar.login.steps import PageStep
from sidecar.store.revocation_entry import RevocationEntry, Scope
from sidecar.store.timestamps import format_rfc3339
from sidecar.web.response import Response

_FOLDER = Path(__file__).parent
_ASSETS = {
    "style": ("style.css", "text/css"),
    "script": ("script.js", "text/javascript"),
    "icon": ("icon.svg", "image/svg+xml"),
}
_SHOWN = 120
_NAMES = 30
_HASH = 12
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_COMMON = (
    b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nVary: Cookie\r\n"
    b"Content-Security-Policy: %b\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
    # same-origin, not no-referrer: browsers then send Origin with forms
    b"Referrer-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n"
    b"Permissions-Policy: camera=(), geolocation=(), microphone=()\r\n" % POLICY.encode("ascii")
)
_SCOPES = {
    Scope.TOKEN: "One token",
    Scope.DIGEST: "One token",
    Scope.SUBJECT: "Tokens of a subject",
    Scope.ACTOR: "Tokens of an Actor",
    Scope.ISSUER: "Tokens of an issuer",
    Scope.SESSION: "Session at a provider",
    Scope.SUBJECT_SESSIONS: "Sessions of a subject",
}


@dataclass(frozen=True, slots=True)
class Site:
    """What every page shows. ``title`` names the service; texts are shown as they are, not as HTML."""

    prefix: str
    public_url: str
    title: str
    message: str = ""
    footer: str = ""


class Renderer:
    """All templates are compiled when it is created. Values are escaped; an unknown one is an error."""

    def __init__(self, site: Site) -> None:
        self.site = site
        environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        environment.filters |= {
            "shown": shown,
            "names": _names,
            "utc": _utc,
            "rfc3339": lambda seconds: format_rfc3339(seconds, "seconds"),
            "scope": _SCOPES.__getitem__,
            "named": _named,
        }
        self.assets = Assets()
        environment.globals |= {"site": site, "assets": self.assets.links(site.prefix)}
        self._templates = {name: environment.get_template(name) for name in environment.list_templates()}

    def page(self, template: str, context: Mapping[str, object], *, status: int = 200, lines: bytes = b"") -> Response:
        """A page that no cache may keep."""
        return Response(status, _COMMON + lines, self.text(template, context).encode())

    def text(self, template: str, context: Mapping[str, object]) -> str:
        """The HTML of ``template``."""
        return self._templates[template].render(context)

    def step(self, page: PageStep, request_id: str) -> str:
        """The HTML of a page of the login."""
        takes_password = page.password is not None
        is_sign_in = takes_password or any(link.badge for link in page.links)
        context = {
            "page": page,
            "is_sign_in": is_sign_in,
            "is_wrong": takes_password and page.failure is not None,
            "request_id": request_id if page.status >= 400 and not is_sign_in else "",
        }
        return self.text("step.html", context)


class Assets:
    """Files whose names contain the hash of their content, so that browsers may keep them for ever."""

    methods = ("GET", "HEAD")

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._responses: dict[str, tuple[bytes, bytes]] = {}
        for key, (file, content_type) in _ASSETS.items():
            content = (_FOLDER / "assets" / file).read_bytes()
            name = f"{sha256(content).hexdigest()[:_HASH]}{Path(file).suffix}"
            self._names[key] = name
            head = (
                f"Content-Type: {content_type}; charset=utf-8\r\nCache-Control: public, max-age=31536000, immutable\r\n"
                "X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n"
                "Content-Security-Policy: default-src 'none'\r\n"
            )
            self._responses[name] = head.encode("ascii"), content

    def links(self, prefix: str) -> Mapping[str, str]:
        """The path of each asset."""
        return {key: f"{prefix}/assets/{name}" for key, name in self._names.items()}

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """The file. Needs no session: it has nothing secret."""
        if request.method not in self.methods:
            raise MethodNotAllowed(*self.methods)
        found = self._responses.get(rest)
        if found is None:
            raise Refused(Reason.NOT_FOUND)
        return Response(200, *found)


def shown(value: object, longest: int = _SHOWN) -> str:
    """``value`` as text without control and direction characters, cut off after ``longest`` characters."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)[: longest + 1])
    return text if len(text) <= longest else f"{text[: max(1, longest - 1)]}\N{HORIZONTAL ELLIPSIS}"


def _names(values: Iterable[str]) -> str:
    """A list of names, of which the first are shown."""
    every = list(values)
    more = f" and {len(every) - _NAMES} more" if len(every) > _NAMES else ""
    return ", ".join(shown(name, 60) for name in every[:_NAMES]) + more if every else "none"


def _utc(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return "at no known time"
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def _named(entry: RevocationEntry) -> str:
    """What an entry of the revocation list refers to, besides its issuer."""
    return "" if entry.scope is Scope.ISSUER else entry.name
