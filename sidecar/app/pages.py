"""Builds the pages of persons and admins."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidecar.access.decide import Decider
from sidecar.admin.health import Health
from sidecar.api.body import BodyReader
from sidecar.app.login import Login, LoginPages, notice_cookie
from sidecar.app.management import Services
from sidecar.clock import Clock
from sidecar.config.load import Loaded
from sidecar.config.reading.units import parse_web_origin
from sidecar.login.return_address import web_origin
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.in_flight import TaskFunction

if TYPE_CHECKING:
    from sidecar.pages.administration import PartOfHealth

_ROUTE = "pages"
_MAX_FORM_BYTES = 16 * 1024
_GOOD = "usable"

Routes = dict[str, tuple[str, TaskFunction]]


def page_routes(
    login: Login,
    pages: LoginPages,
    loaded: Loaded,
    decider: Decider,
    refusals: ErrorResponses,
    services: Services,
    health: Health,
    clock: Clock,
) -> tuple[Routes, Routes]:
    """Handlers by exact path, and by the path without its last segment; none without the extra ``pages``."""
    if pages.renderer is None or services.sessions is None:
        return {}, {}
    # jinja2 is an extra
    from sidecar.pages.account import AccountPage, SessionPage, SessionsPage, TokenPage, TokensPage
    from sidecar.pages.administration import AllSessionsPage, AllTokensPage, RevocationsPage, StatusPage
    from sidecar.pages.forms import Notices
    from sidecar.pages.visits import Desk

    settings, prefix = loaded.settings, loaded.settings.server.prefix
    origin = parse_web_origin(web_origin(settings.server.public_url))
    desk = Desk(
        decider,
        login.sessions,
        pages.challenge,
        refusals,
        pages.renderer,
        Notices(login.sealer, clock),
        login.cookies,
        notice_cookie(settings),
        "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if origin.startswith("https:") else ""),
        BodyReader(settings.server.limits.body_timeout, decider.undecided_bodies, _MAX_FORM_BYTES),
        origin,
        settings.login.session.fresh_for,
        {name: client.display_name for name, client in login.clients.items()},
    )
    tokens, sessions = services.tokens, services.sessions
    exact: Routes = {
        f"{prefix}/me": (_ROUTE, AccountPage(desk, settings.login.session.idle)),
        f"{prefix}/me/tokens": (_ROUTE, TokensPage(desk, tokens, clock)),
        f"{prefix}/me/sessions": (_ROUTE, SessionsPage(desk, sessions)),
        f"{prefix}/admin": (_ROUTE, StatusPage(desk, lambda: _parts(health))),
        f"{prefix}/admin/tokens": (_ROUTE, AllTokensPage(desk, tokens, clock)),
        f"{prefix}/admin/sessions": (_ROUTE, AllSessionsPage(desk, sessions)),
        f"{prefix}/admin/revocations": (_ROUTE, RevocationsPage(desk, services.revocations)),
    }
    below: Routes = {
        f"{prefix}/assets": (_ROUTE, pages.renderer.assets),
        f"{prefix}/me/tokens": (_ROUTE, TokenPage(desk, tokens, clock, mine=True)),
        f"{prefix}/me/sessions": (_ROUTE, SessionPage(desk, sessions, mine=True)),
        f"{prefix}/admin/tokens": (_ROUTE, TokenPage(desk, tokens, clock, mine=False)),
        f"{prefix}/admin/sessions": (_ROUTE, SessionPage(desk, sessions, mine=False)),
    }
    return exact, below


def _parts(health: Health) -> "Sequence[PartOfHealth]":
    from sidecar.pages.administration import PartOfHealth

    parts = health.report()[1]["parts"].items()
    return [PartOfHealth(name, part["state"], part.get("text", ""), part["state"] == _GOOD) for name, part in parts]
