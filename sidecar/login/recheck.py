"""Asks the provider again about the persons of sessions, with their refresh tokens (OpenID Connect Core section 12).

One process does so for each session at a time: refresh tokens may be good once, and a provider that sees one twice
ends the session.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex

from sidecar.authn.base import Accepted
from sidecar.clock import Clock
from sidecar.concurrency import retrieve
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.login.client import ProviderClient
from sidecar.metrics import Metrics
from sidecar.sessions.records import SessionContent
from sidecar.sessions.service import Session, Sessions, StoredContent
from sidecar.store.record import TokenRecord

_log = logging.getLogger("sidecar.login")
_LOCK = 15.0
"""Seconds after which another process may ask if this one has not finished, at least."""
_BACKGROUND = 60.0
"""Seconds for which requests do not wait for a confirmation that is due."""
_ASK_AGAIN = 2.0
_POLL = 0.1
_RETRY = (5.0, 60.0)
_CONCURRENT = 16
_SAVE_ATTEMPTS = 4
_SAVING = 5.0
_MAX_FAILURES = 10_000


class Rechecks:
    """Confirms sessions at ``clients``, by the name of their provider.

    ``accept`` makes a session the person that it stands for, as for every request. ``within``: the seconds that a
    provider has for one response.
    """

    def __init__(
        self,
        clients: Mapping[str, ProviderClient],
        sessions: Sessions,
        accept: Callable[[Session], Accepted],
        clock: Clock,
        metrics: Metrics,
        *,
        within: float,
    ) -> None:
        # discovery and the refresh; then the new refresh token is stored
        self._lock = max(_LOCK, 2 * within + _SAVING)
        self._clients = dict(clients)
        self._sessions = sessions
        self._accept = accept
        self._now, self._monotonic = clock.now, clock.monotonic
        self._outcomes = metrics.session_refreshes
        self._running: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_CONCURRENT)
        self._failures: dict[str, tuple[float, float]] = {}  # when to try again, and the pause that led there
        self._unsaved: dict[str, tuple[str, str]] = {}  # refresh tokens in the store, and what has replaced them
        for provider in self._clients:
            for outcome in ("confirmed", "ended", "unavailable", "client_refused"):
                self._outcomes.child(provider, outcome)

    async def confirmed(self, session: Session) -> Session:
        """``session``, which its provider has confirmed recently enough.

        A confirmation that has been due for a short time is fetched in the background; later requests wait for it.
        Raises Refused(SESSION_ENDED) when the provider does not know the session any more, or has not answered for
        longer than ``recheckGrace``, and Unavailable.
        """
        due = self._due(session)
        if due is None:
            return session
        now = self._now()
        if now < due:
            return replace(session, revalidate_at=min(session.revalidate_at, due))
        task = self._start(session.record)
        times = self._sessions.times
        if now < due + min(_BACKGROUND, times.recheck):
            return replace(session, revalidate_at=now + _ASK_AGAIN)
        if task is not None:
            await asyncio.shield(task)
            session = await self._sessions.current(session.record)
            due = self._due(session)
            if due is None or now < due:
                return session
        if now >= due + times.recheck_grace:
            raise Refused(Reason.SESSION_ENDED, Cause.PROVIDER_UNAVAILABLE, "the provider has not confirmed it")
        return replace(session, revalidate_at=now + _ASK_AGAIN)

    async def aclose(self) -> None:
        """Let what runs finish: a refresh token that was used must not be lost."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self._lock)

    def _due(self, session: Session) -> float | None:
        """When the provider has to be asked again; None: never."""
        client = self._clients.get(session.content.provider)
        if client is None or not client.refreshes or not session.is_refreshable:
            return None
        return session.content.confirmed_at + self._sessions.times.recheck

    def _start(self, record: TokenRecord) -> "asyncio.Task[None] | None":
        """The task that asks about ``record``; None: it has failed a moment ago."""
        running = self._running.get(record.id)
        if running is None:
            again, _ = self._failures.get(record.id, (0.0, 0.0))
            if self._monotonic() < again:
                return None
            running = asyncio.create_task(self._recheck(record), name="session recheck")
            self._running[record.id] = running
            running.add_done_callback(retrieve)
            running.add_done_callback(lambda _: self._running.pop(record.id, None))
        return running

    async def _recheck(self, record: TokenRecord) -> None:
        provider = record.owner.provider
        holder = token_hex(8)
        try:
            async with self._places:
                if not await self._sessions.lock(record, holder, self._lock):
                    await self._wait_for_another(record)
                    return
                try:
                    outcome = await self._ask(record)
                finally:
                    with suppress(Unavailable):  # it ends by itself
                        await self._sessions.unlock(record, holder)
        except Failed as failure:
            is_ours = isinstance(failure, Refused)  # the registration of the sidecar, which only an operator can mend
            self._outcomes.child(provider, "client_refused" if is_ours else "unavailable").inc()
            _log.log(
                logging.CRITICAL if is_ours else logging.WARNING,
                "session not confirmed by the provider",
                extra={
                    "event": "session_not_confirmed",
                    "provider": provider,
                    "session_id": record.id,
                    "detail": failure.detail,
                },
            )
            self._failed(record.id)
            return
        self._failures.pop(record.id, None)
        if outcome:
            self._outcomes.child(provider, outcome).inc()

    async def _ask(self, record: TokenRecord) -> str:
        """Ask the provider, and store the outcome, which is returned; empty: there was nothing to ask.

        Raises Unavailable, and Refused if the provider refuses the sidecar itself.
        """
        stored = await self._sessions.read(record)
        client = self._clients.get(record.owner.provider)
        if stored is None or client is None or not stored.content.refresh_token:
            return ""
        if self._now() < stored.content.confirmed_at + self._sessions.times.recheck:
            return ""  # another process has asked meanwhile
        content = stored.content
        used, replacement = self._unsaved.get(record.id, ("", ""))
        if used == content.refresh_token:
            content = replace(content, refresh_token=replacement)
        try:
            answer = await client.refresh(content)
            if answer.refresh_token != stored.content.refresh_token:
                content = replace(content, refresh_token=answer.refresh_token)
                # before anything else: the old one is of no use any more
                stored = await self._save(record, stored, content)
            claims = await client.refreshed_claims(content, answer)
            content = _renewed(content, claims, answer.id_token, self._now())
            self._check_same_person(record, stored.content, content)
            await self._save(record, stored, content)
        except Refused as failure:
            if failure.cause is Cause.CLIENT_REFUSED:
                raise
            detail = f"{failure.cause.value} {failure.detail}".strip()
            _log.info(
                "session ended by the provider",
                extra={"event": "session_refresh_refused", "session_id": record.id, "detail": detail},
            )
            await self._sessions.end(record, by=f"provider {client.name}", cause="refresh_refused")
            return "ended"
        return "confirmed"

    async def _save(self, record: TokenRecord, before: StoredContent, content: SessionContent) -> StoredContent:
        """Store ``content``, trying for some seconds; this process remembers a refresh token that cannot be stored."""
        self._unsaved[record.id] = before.content.refresh_token, content.refresh_token
        for attempt in range(_SAVE_ATTEMPTS):
            try:
                saved = await self._sessions.replace(record, before, content)
            except Unavailable:
                if attempt == _SAVE_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.25 * 2**attempt)
            else:
                break
        del self._unsaved[record.id]
        return saved

    def _check_same_person(self, record: TokenRecord, before: SessionContent, content: SessionContent) -> None:
        """Claims may change, and with them groups and roles; the Actor of a session does not. Raises Refused."""
        was, now = (
            self._accept(Session(record, one, self._sessions.end_of(record), 0.0)).actor for one in (before, content)
        )
        if (was.type, was.id) != (now.type, now.id):
            raise Refused(Reason.SESSION_ENDED, Cause.PROVIDER_ANSWER, "the claims name another Actor")

    async def _wait_for_another(self, record: TokenRecord) -> None:
        """Wait until the process that has the lock has stored the outcome."""
        for _ in range(int(self._lock / _POLL)):
            await asyncio.sleep(_POLL)
            stored = await self._sessions.read(record)
            if stored is None or self._now() < stored.content.confirmed_at + self._sessions.times.recheck:
                return
            known = self._sessions.latest(record)
            if known.revoked_at is not None:
                return

    def _failed(self, identifier: str) -> None:
        now = self._monotonic()
        if len(self._failures) >= _MAX_FAILURES:
            self._failures = {name: item for name, item in self._failures.items() if now < item[0]}
        _, pause = self._failures.get(identifier, (0.0, 0.0))
        pause = min(max(_RETRY[0], 2 * pause), _RETRY[1])
        self._failures[identifier] = (now + pause, pause)


def _renewed(before: SessionContent, claims: Mapping[str, object], id_token: str, now: float) -> SessionContent:
    """The content with the claims of a refresh. What dates the session and its login stays."""
    sid = claims.get("sid")
    # an ID token of a refresh may leave out what dates and classifies the login
    login = {name: before.claims[name] for name in ("auth_time", "acr") if name in before.claims}
    return replace(
        before,
        claims={**login, **claims},
        sid=sid if isinstance(sid, str) and sid else before.sid,
        id_token=id_token or before.id_token,
        confirmed_at=now,
    )
