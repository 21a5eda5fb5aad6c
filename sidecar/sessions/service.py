"""Creates, finds and ends sessions. The store's copy in memory answers, as for tokens."""

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Protocol

from sidecar.clock import Clock, latest_of
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.logs import AUDIT
from sidecar.sessions.records import (
    SESSION_OWNER,
    SessionContent,
    is_secret,
    make_record,
    open_content,
    person_key,
    seal_content,
    session_id,
)
from sidecar.sessions.sealing import Sealer
from sidecar.store.base import Batch, Page, RecordQuery, Store, WriteBatch
from sidecar.store.pages import all_records
from sidecar.store.record import Owner, TokenKind, TokenRecord, hash_token

_audit = logging.getLogger(AUDIT)
_MAX_UNKNOWN_PER_SECOND = 50
_TOUCH_PERIOD = 65.0
"""Last uses are stored once a minute, up to 5 s late."""
_REVALIDATE = 60.0
_MAX_SEEN = 100_000
_MAX_KNOWN_BYTES = 64 * 1024 * 1024


class Records(Protocol):
    """The copy of the store in memory."""

    def record(self, token_id: str) -> TokenRecord | None:
        """The record as the copy has it."""

    async def lookup(self, token_id: str) -> TokenRecord | None:
        """The record; the store is asked where the copy has none. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """Seconds: ``max_age`` from the login on, ``idle`` without a request, ``recheck`` from one confirmation of the
    provider to the next, and ``recheck_grace`` without one while it does not answer. ``per_person``: the most that one
    has.
    """

    max_age: float = 86400.0
    idle: float = 14400.0
    per_person: int = 20
    recheck: float = 900.0
    recheck_grace: float = 3600.0


@dataclass(frozen=True, slots=True)
class StoredContent:
    """The content of a session, and the version of it in the store."""

    content: SessionContent
    version: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session in force until ``expires_at``. It has to be looked up again from ``revalidate_at`` on.

    ``content`` has neither ID token nor refresh token. ``is_refreshable``: the store has a refresh token for it.
    """

    record: TokenRecord
    content: SessionContent
    expires_at: float
    revalidate_at: float
    is_refreshable: bool = False


class Sessions:
    """The sessions in a store.

    Only an end that was requested is written: what time or an unknown secret ends for this process may be in force for
    another whose clock or secrets are right.
    """

    def __init__(
        self, store: Store, records: Records, write: WriteBatch, sealer: Sealer, clock: Clock, times: SessionTimes
    ) -> None:
        self._store = store
        self._records = records
        self._write = write
        self._sealer = sealer
        self._clock = clock
        self._latest = latest_of(clock)
        self._times = times
        self._seen: dict[str, float] = {}
        self._asked: list[float] = []
        self._known = _Contents()
        self.times = times

    async def find(self, secret: str) -> Session:
        """The session of a cookie's value.

        Raises Refused(SESSION_ENDED), and Unavailable if it is unknown here and the store does not answer.
        """
        return await self.current(await self._record(secret))

    def latest(self, record: TokenRecord) -> TokenRecord:
        """``record`` as this process has it now."""
        return self._records.record(record.id) or record

    async def current(self, record: TokenRecord) -> Session:
        """The session of ``record`` if it is in force, as the store has it. Raises as :meth:`find`."""
        record = self.latest(record)
        if record.revoked_at is not None:
            raise _ended(Cause.SESSION_REVOKED)
        expires_at = self.end_of(record)
        if self._latest() >= expires_at:
            raise _ended(Cause.SESSION_EXPIRED)
        known = await self._known_content(record)
        await self._check_idle(record)
        # it may have ended while the store was asked
        record = self.latest(record)
        if record.revoked_at is not None:
            raise _ended(Cause.SESSION_REVOKED)
        return Session(
            record, known.content, expires_at, self._clock.now() + _REVALIDATE, is_refreshable=known.is_refreshable
        )

    def now(self) -> float:
        """When a session that is created now begins."""
        return self._clock.now()

    def known(self, secret: str) -> TokenRecord | None:
        """The record of a cookie's value, in force or not, as far as this process knows it."""
        if not is_secret(secret):
            return None
        record = self._records.record(session_id(secret))
        return record if record is not None and _belongs(record, secret) else None

    async def stored(self, secret: str) -> TokenRecord | None:
        """The record of a cookie's value, in force or not; None: the store has none.

        Raises Unavailable if it is unknown here and the store does not answer, or is asked too often.
        """
        if is_secret(secret) and self._records.record(session_id(secret)) is None and not self._may_ask():
            raise Unavailable(Cause.THROTTLED, retry_after=1)
        return await self._lookup(secret)

    async def exists(self, secret: str) -> bool:
        """Whether a session of that value was ever created. Raises Unavailable if the store does not answer."""
        # of the store itself: what the copy has called unknown a moment ago may have been created by another process
        return await self._store.record(session_id(secret)) is not None

    async def create(self, secret: str, content: SessionContent, actor: Actor, *, replaces: str = "") -> TokenRecord:
        """A new session; the one with the cookie's value ``replaces`` ends, and those beyond the limit of the person.

        Raises Unavailable if the store does not answer: nothing was created.
        """
        now = self._clock.now()
        record = make_record(secret, content, actor, now=now, expires_at=now + self._times.max_age)
        text = seal_content(record.id, content, self._sealer)
        # not counted as the look-ups of made-up cookies: the person has just logged in, and the old session has to end
        replaced = await self._lookup(replaces)
        ends = [(replaced, "replaced")] if replaced is not None and replaced.revoked_at is None else []
        ends += [(one, "limit") for one in await self._superfluous(record, now) if one != replaced]
        # first: a record without content is a session that no replica can use
        if not await self._store.put_companion(record.id, text, now + self._times.max_age, after=0):
            raise Refused(Reason.LOGIN_FAILED, Cause.STATE_USED)
        await self._write(Batch(add=(record,), revoke=tuple((one.id, now) for one, _ in ends)))
        self._known.put(record.id, text, content)
        for one, cause in ends:
            audit_session_ended(one, by=f"{actor.type}:{actor.id}", cause=cause)
        return record

    async def end(self, record: TokenRecord, *, by: str, cause: str) -> None:
        """End a session; no effect if it has ended. Raises Unavailable if the store does not answer."""
        if record.revoked_at is None:
            await self._write(Batch(revoke=((record.id, self._clock.now()),)))
            audit_session_ended(record, by=by, cause=cause)

    async def read(self, record: TokenRecord) -> StoredContent | None:
        """The whole content, as the store has it now; None: it has none, or no secret of this process opens it.

        Raises Unavailable.
        """
        stored = await self._store.companion(record.id)
        content = None if stored is None else open_content(record.id, stored.text, self._sealer)
        return None if stored is None or content is None else StoredContent(content, stored.version)

    async def replace(self, record: TokenRecord, before: StoredContent, content: SessionContent) -> StoredContent:
        """Replace the content ``before``. Raises Unavailable, also if it was replaced meanwhile, and Refused for claims
        that are too large to keep.
        """
        text = seal_content(record.id, content, self._sealer)
        if not await self._store.put_companion(record.id, text, self.end_of(record), after=before.version):
            raise Unavailable(Cause.STORE_UNAVAILABLE, "another process has written the session")
        self._known.put(record.id, text, content)
        return StoredContent(content, before.version + 1)

    async def lock(self, record: TokenRecord, holder: str, seconds: float) -> bool:
        """Take the right to ask the provider about the session, of all processes. Raises Unavailable."""
        return await self._store.lock(f"refresh:{record.id}", holder, seconds)

    async def unlock(self, record: TokenRecord, holder: str) -> None:
        """Give that right back. Raises Unavailable: then it ends by itself."""
        await self._store.unlock(f"refresh:{record.id}", holder)

    async def page(self, *, owner: Owner | None, name: str | None, active: bool | None, after: str, limit: int) -> Page:
        """A page of sessions, newest first; None: of all. ``owner`` as :func:`~sidecar.sessions.records.session_owner`.

        ``name`` is the id of the Actor: all sessions are read to find it. Raises ValueError for an invalid cursor
        ``after``, and Unavailable.
        """
        query = RecordQuery(
            kind=TokenKind.BROWSER.value,
            active=active,
            owner=None if owner is None else (owner.issuer, owner.subject),
            owner_provider=None if owner is None else owner.provider,
            now=self._clock.now(),
        )
        if name is None:
            return await self._store.records(query, after, limit)
        found = [record async for record in all_records(self._store, query) if record.name == name]
        start = 0
        if after:
            ids = [record.id for record in found]
            if after not in ids:
                raise ValueError("not a cursor of this list")
            start = ids.index(after) + 1
        shown = tuple(found[start : start + limit])
        return Page(shown, after=shown[-1].id if start + limit < len(found) else "", total=len(found))

    async def show(self, identifier: str) -> TokenRecord | None:
        """The record of a session, in force or not. Raises Unavailable."""
        record = await self._store.record(identifier)
        return record if record is not None and record.kind is TokenKind.BROWSER else None

    async def issued_within(self, issuer: str, subject: str, second: float) -> list[TokenRecord]:
        """The sessions in force of a subject whose ID token has an ``iat`` in the second from ``second`` on.

        Those that no secret of this process opens are among them. Raises Unavailable.
        """
        owner = (SESSION_OWNER, person_key(issuer, subject))
        query = RecordQuery(kind=TokenKind.BROWSER.value, active=True, owner=owner, now=self._clock.now())
        found = []
        async for record in all_records(self._store, query):
            stored = await self.read(record)
            if stored is None or second <= stored.content.issued_at < second + 1:
                found.append(record)
        return found

    async def _known_content(self, record: TokenRecord) -> "_Known":
        """The content for a request; while the store does not answer, the one that this process has read last."""
        try:
            stored = await self._store.companion(record.id)
        except Unavailable:
            known = self._known.get(record.id)
            if known is None:
                raise
            return known
        if stored is None:  # the store was emptied: only a login brings it back
            raise _ended(Cause.SESSION_UNKNOWN)
        content = open_content(record.id, stored.text, self._sealer)
        if content is None:
            raise _ended(Cause.SESSION_UNSEALED)
        return self._known.put(record.id, stored.text, content)

    async def _record(self, secret: str) -> TokenRecord:
        if not is_secret(secret):
            raise _ended(Cause.SESSION_UNKNOWN if secret else Cause.COOKIE_TWICE)
        identifier = session_id(secret)
        record = self._records.record(identifier)
        if record is None:
            if not self._may_ask():
                raise _ended(Cause.THROTTLED)
            record = await self._records.lookup(identifier)
        if record is None or not _belongs(record, secret):
            raise _ended(Cause.SESSION_UNKNOWN)
        return record

    def end_of(self, record: TokenRecord) -> float:
        """When the session expires. A ``maxAge`` that was lowered ends it earlier; a raised one changes nothing."""
        end = record.created_at + self._times.max_age
        return end if record.expires_at is None else min(end, record.expires_at)

    async def _lookup(self, secret: str) -> TokenRecord | None:
        """As :meth:`stored`, without its limit. A copy that lags must not make a session that is in force unknown."""
        if not is_secret(secret):
            return None
        record = await self._records.lookup(session_id(secret))
        return record if record is not None and _belongs(record, secret) else None

    def _may_ask(self) -> bool:
        """Whether the store may be asked about one more unknown cookie now; counts it."""
        now = self._clock.monotonic()
        self._asked = [at for at in self._asked if now - at < 1.0]
        if len(self._asked) >= _MAX_UNKNOWN_PER_SECOND:
            return False
        self._asked.append(now)
        return True

    async def _check_idle(self, record: TokenRecord) -> None:
        """Raises Refused(SESSION_ENDED) for a session that no process has seen in use for too long.

        Other processes' uses are in the store alone, and best effort: before this process calls a session idle it reads
        them once. While the store does not answer, no session is idle.
        """
        now, idle = self._clock.now(), self._times.idle + _TOUCH_PERIOD
        last = max(self._seen.get(record.id, 0.0), record.created_at, record.last_used_at or 0.0)
        if now - last >= idle:
            try:
                stored = await self._store.record(record.id)
            except Unavailable:
                stored, last = None, now
            if stored is not None:
                last = max(last, stored.last_used_at or 0.0)
            if now - last >= idle:
                raise _ended(Cause.SESSION_IDLE)
        if len(self._seen) >= _MAX_SEEN and record.id not in self._seen:
            self._seen = {known: at for known, at in self._seen.items() if now - at < idle}
            if len(self._seen) >= _MAX_SEEN:
                return
        self._seen[record.id] = now

    async def _superfluous(self, record: TokenRecord, now: float) -> list[TokenRecord]:
        """The sessions of the same person that have to end, so that with ``record`` there are as many as allowed."""
        owner = record.owner
        query = RecordQuery(
            kind=TokenKind.BROWSER.value,
            active=True,
            owner=(owner.issuer, owner.subject),
            owner_provider=owner.provider,
            now=now,
        )
        found = [one async for one in all_records(self._store, query)]
        found.sort(key=lambda one: max(one.created_at, one.last_used_at or 0.0))
        return found[: max(0, len(found) + 1 - self._times.per_person)]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a process keeps of a session: no token of the provider."""

    content: SessionContent
    is_refreshable: bool
    size: int


class _Contents:
    """The contents that this process has read last, by the id of the record, in a limited number of bytes."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._size = 0

    def get(self, record_id: str) -> _Known | None:
        return self._known.get(record_id)

    def put(self, record_id: str, text: str, content: SessionContent) -> _Known:
        before = self._known.pop(record_id, None)
        bare = replace(content, id_token="", refresh_token="")
        known = self._known[record_id] = _Known(bare, bool(content.refresh_token), 2 * len(text))
        self._size += known.size - (before.size if before else 0)
        while self._size > _MAX_KNOWN_BYTES:
            self._size -= self._known.popitem(last=False)[1].size
        return known


def audit_session_ended(record: TokenRecord, *, by: str, cause: str) -> None:
    """Write the audit log line of the end of a session."""
    _audit.info(
        "session ended",
        extra={
            "event": "session_ended",
            "session_id": record.id,
            "actor": record.name,
            "provider": record.owner.provider,
            "by": by,
            "cause": cause,
        },
    )


def _belongs(record: TokenRecord, secret: str) -> bool:
    return record.kind is TokenKind.BROWSER and compare_digest(record.token_hash, hash_token(secret))


def _ended(cause: Cause) -> Refused:
    return Refused(Reason.SESSION_ENDED, cause)
