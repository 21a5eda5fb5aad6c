"""The pages of admins: tokens and sessions of all users, the revocation list, the health of providers' keys.

They list, revoke and end. To create tokens for others and entries of the revocation list, admins use the API and the
command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidecar.api.browser_sessions import BrowserSessions
from sidecar.clock import Clock
from sidecar.pages.account import ITEMS, admin_of, page_of
from sidecar.pages.visits import Desk, PageEndpoint, Visit
from sidecar.tokens.issued.service import TokenService
from sidecar.tokens.revocation.service import RevocationService
from sidecar.web.response import Response


@dataclass(frozen=True, slots=True)
class PartOfHealth:
    """One part of the sidecar, as its readiness report has it."""

    name: str
    state: str
    text: str
    is_good: bool


class StatusPage(PageEndpoint):
    """``{prefix}/admin``: the keys of providers, and other parts that readiness depends on."""

    def __init__(self, desk: Desk, health: Callable[[], Sequence[PartOfHealth]]) -> None:
        super().__init__(desk)
        self._health = health

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The page."""
        admin_of(visit)
        context = {"heading": "Status", "subject": "health", "parts_of_health": self._health(), "page": None}
        return self._desk.show(visit, "admin.html", context)


class AllTokensPage(PageEndpoint):
    """``{prefix}/admin/tokens``."""

    known = ("after", "actor")

    def __init__(self, desk: Desk, tokens: TokenService, clock: Clock) -> None:
        super().__init__(desk)
        self._tokens = tokens
        self._clock = clock

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The page."""
        caller, actor = admin_of(visit), visit.query.get("actor") or None
        page = await page_of(
            lambda after: self._tokens.page(caller, actor_id=actor, kind=None, active=True, after=after, limit=ITEMS),
            visit,
        )
        context = {"heading": "All tokens", "subject": "tokens", "page": page, "actor_id": actor or ""}
        return self._desk.show(visit, "admin.html", {**context, "now": self._clock.now()})


class AllSessionsPage(PageEndpoint):
    """``{prefix}/admin/sessions``."""

    known = ("after", "actor")

    def __init__(self, desk: Desk, sessions: BrowserSessions) -> None:
        super().__init__(desk)
        self._sessions = sessions

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The page."""
        caller, actor = admin_of(visit), visit.query.get("actor") or None
        page = await page_of(
            lambda after: self._sessions.page(caller, actor_id=actor, active=True, after=after, limit=ITEMS), visit
        )
        context = {"heading": "All sessions", "subject": "sessions", "page": page, "actor_id": actor or ""}
        return self._desk.show(visit, "admin.html", context)


class RevocationsPage(PageEndpoint):
    """``{prefix}/admin/revocations``: the revocation list."""

    known = ("after",)

    def __init__(self, desk: Desk, revocations: RevocationService) -> None:
        super().__init__(desk)
        self._revocations = revocations

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The page."""
        admin_of(visit)
        page = await page_of(lambda after: self._revocations.page(None, after, ITEMS), visit)
        context = {"heading": "Revocation list", "subject": "revocations", "page": page, "actor_id": ""}
        return self._desk.show(visit, "admin.html", context)
