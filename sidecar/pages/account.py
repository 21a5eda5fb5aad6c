"""The pages of a person: account, tokens, sessions."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sidecar.api.browser_sessions import BrowserSessions
from sidecar.api.paging import is_record_id
from sidecar.api.tokens import parse_spec
from sidecar.clock import Clock
from sidecar.errors import Reason, Refused
from sidecar.pages.forms import Notice
from sidecar.pages.rendering import shown
from sidecar.pages.visits import Desk, PageEndpoint, Visit, require_fresh
from sidecar.store.base import Page
from sidecar.tokens.issued.lifetime import parse_lifetime
from sidecar.tokens.issued.service import AlreadyMintedError, Caller, TokenService, minted_in
from sidecar.web.response import Response

ITEMS = 6
"""Items of a list on one page."""
_DAY = 86400.0
_CHOICES = (1, 7, 30, 90, 180, 365)
_DEFAULT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Choice:
    """One lifetime that the form offers."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class TokenForm:
    """The form for a new token, with what was typed."""

    token: str
    choices: tuple[Choice, ...]
    name: str = ""
    description: str = ""
    expiry: str = ""


class AccountPage(PageEndpoint):
    """``{prefix}/me``: who the person is here."""

    def __init__(self, desk: Desk, idle: float) -> None:
        super().__init__(desk)
        minutes = round(idle / 60)
        self._idle = f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The page."""
        provider = visit.session.content.provider
        context = {
            "actor": visit.caller.actor,
            "session": visit.session,
            "provider": self._desk.provider_names.get(provider, provider),
            "idle": self._idle,
        }
        return self._desk.show(visit, "me.html", context)


class TokensPage(PageEndpoint):
    """``{prefix}/me/tokens``: the person's own tokens, and the form for a new one."""

    methods = ("GET", "HEAD", "POST")
    known = ("after", "all")

    def __init__(self, desk: Desk, tokens: TokenService, clock: Clock) -> None:
        super().__init__(desk)
        self._tokens = tokens
        self._clock = clock

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The list, or the way to it with the new token."""
        return await self._list(visit) if visit.form is None else await self._create(visit, visit.form)

    async def _create(self, visit: Visit, form: Mapping[str, str]) -> Response:
        require_fresh(visit)
        typed = {name: form.get(name, "") for name in ("name", "description", "expiry")}
        if typed["expiry"] not in {choice.value for choice in self._choices()}:
            raise Refused(Reason.REQUEST_INVALID, message="The expiry is not one of those that the page offers")
        try:
            spec = parse_spec(typed)
            minted = await self._tokens.mint(
                visit.caller, replace(spec, id=minted_in(visit.session.record.id) + visit.form_id)
            )
        except AlreadyMintedError:
            text = "This form was sent before, and its token was created then. A token is shown only once."
            return left(self._desk, visit, visit.path, text)
        except Refused as failure:
            return await self._list(visit, error=failure.message, typed=typed, status=failure.status)
        name = shown(spec.name, 60)
        response = self._desk.leave(visit, visit.path, Notice("The token was created.", name, minted.token))
        if response is not None:
            return response
        await self._tokens.revoke(visit.caller, minted.record.id)
        raise Refused(Reason.CONFLICT, message="The token is too long for this page; create it with the API")

    async def _list(
        self, visit: Visit, *, error: str = "", typed: Mapping[str, str] | None = None, status: int = 200
    ) -> Response:
        shows_all = visit.query.get("all") == "true"
        page = await page_of(
            lambda after: self._tokens.page(
                visit.caller,
                actor_id=None,
                kind=None,
                active=None if shows_all else True,
                after=after,
                limit=ITEMS,
                mine=True,
            ),
            visit,
        )
        choices = self._choices()
        days = [choice.value for choice in choices]
        default = str(_DEFAULT_DAYS) if str(_DEFAULT_DAYS) in days else days[-1]
        form = TokenForm(visit.form_token, choices, **{"expiry": default, **(typed or {})})
        context = {
            "page": page,
            "shows_all": shows_all,
            "created": visit.notice if visit.notice is not None and visit.notice.token else None,
            "form": form if self._tokens.can_mint else None,
            "error": error,
            "now": self._clock.now(),
        }
        return self._desk.show(visit, "tokens.html", context, status=status)

    def _choices(self) -> tuple[Choice, ...]:
        rules, now = self._tokens.rules, self._clock.now()
        longest = rules.max_lifetime
        every = [(str(days), "1 day" if days == 1 else f"{days} days") for days in _CHOICES]
        fitting = [one for one in every if longest is None or (parse_lifetime(one[0]) or 0) <= longest]
        if not fitting and longest is not None:
            fitting = [(f"PT{int(longest)}S", f"{int(longest // 60)} minutes")]
        choices = [Choice(value, f"in {text} ({_date(now + (parse_lifetime(value) or 0))})") for value, text in fitting]
        if rules.allow_never_expiring and longest is None:
            choices.append(Choice("Unlimited", "never"))
        return tuple(choices)


class TokenPage(PageEndpoint):
    """``{prefix}/me/tokens/<id>``: asks before it revokes a token of the person's own."""

    methods = ("GET", "HEAD", "POST")

    def __init__(self, desk: Desk, tokens: TokenService, clock: Clock, *, mine: bool) -> None:
        super().__init__(desk)
        self._tokens = tokens
        self._clock = clock
        self._mine = mine

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The question, or the way back to the list."""
        # an admin finds the tokens of others on the pages for admins only
        caller = as_plain_person(visit.caller) if self._mine else admin_of(visit)
        record = await self._tokens.show(caller, checked_id(rest))
        back = visit.path.rpartition("/")[0]
        if visit.form is not None:
            require_fresh(visit)
            await self._tokens.revoke(caller, record.id)
            return left(self._desk, visit, back, f"The token {shown(record.name, 60)} was revoked.")
        context = {
            "heading": "Revoke a token",
            "text": "Programs that use this token are rejected from now on. This cannot be undone.",
            "button": "Revoke",
            "back": back,
            "token": record,
            "session": None,
            "by_person": not self._mine,
            "now": self._clock.now(),
            "is_active": record.revoked_at is None,
            "form": visit.form_token,
        }
        return self._desk.show(visit, "confirm.html", context)


class SessionsPage(PageEndpoint):
    """``{prefix}/me/sessions``: the browsers in which the person is signed in."""

    methods = ("GET", "HEAD", "POST")
    known = ("after",)

    def __init__(self, desk: Desk, sessions: BrowserSessions) -> None:
        super().__init__(desk)
        self._sessions = sessions

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The list; a form ends all other sessions."""
        if visit.form is not None:
            count = await self._sessions.end_others(visit.caller)
            return left(self._desk, visit, visit.path, f"Other sessions that were ended: {count}.")
        page = await page_of(
            lambda after: self._sessions.page(
                visit.caller, actor_id=None, active=True, after=after, limit=ITEMS, mine=True
            ),
            visit,
        )
        return self._desk.show(visit, "sessions.html", {"page": page, "form": visit.form_token})


class SessionPage(PageEndpoint):
    """``{prefix}/me/sessions/<id>``: asks before it ends a session of the person's own."""

    methods = ("GET", "HEAD", "POST")

    def __init__(self, desk: Desk, sessions: BrowserSessions, *, mine: bool) -> None:
        super().__init__(desk)
        self._sessions = sessions
        self._mine = mine

    async def respond(self, visit: Visit, rest: str) -> Response:
        """The question, or the way back to the list."""
        caller = as_plain_person(visit.caller) if self._mine else admin_of(visit)
        record = await self._sessions.show(caller, checked_id(rest), mine=self._mine)
        back = visit.path.rpartition("/")[0]
        if visit.form is not None:
            with_tokens = visit.form.get("tokens") == "true"
            if with_tokens or not self._mine:
                require_fresh(visit)
            await self._sessions.end(caller, record.id, with_tokens=with_tokens, mine=self._mine)
            return left(self._desk, visit, back, "The session was ended.")
        context = {
            "heading": "End a session",
            "text": "The browser is signed out at once. It can sign in again.",
            "button": "End session",
            "back": back,
            "token": None,
            "session": record,
            "by_person": not self._mine,
            "is_active": record.revoked_at is None,
            "is_fresh": self._mine or visit.is_fresh,
            "form": visit.form_token,
        }
        return self._desk.show(visit, "confirm.html", context)


def as_plain_person(caller: Caller) -> Caller:
    """The caller without the rights of an admin."""
    return replace(caller, actor=replace(caller.actor, is_admin=False))


def admin_of(visit: Visit) -> Caller:
    """The admin who visits the page. Raises Refused(FORBIDDEN) for others."""
    if not visit.caller.actor.is_admin:
        raise Refused(Reason.FORBIDDEN, message="Forbidden: this page is for admins")
    return visit.caller


def checked_id(segment: str) -> str:
    """The id in a path. Raises Refused(NOT_FOUND)."""
    if not is_record_id(segment):
        raise Refused(Reason.NOT_FOUND)
    return segment


async def page_of(fetch: Callable[[str], Awaitable[Page]], visit: Visit) -> Page:
    """The part of a list that the query names. Raises Refused(REQUEST_INVALID) for a cursor of another list."""
    try:
        return await fetch(visit.query.get("after", ""))
    except ValueError as error:
        raise Refused(Reason.REQUEST_INVALID, message="The list has no such page") from error


def left(desk: Desk, visit: Visit, path: str, text: str) -> Response:
    """The way to the page at ``path``, which shows ``text``."""
    response = desk.leave(visit, path, Notice(text))
    assert response is not None  # noqa: S101 - a sentence fits
    return response


def _date(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%b %Y}"
