"""Management of the revocation list: which tokens of any issuer are rejected, and how long each entry is kept."""

import difflib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sidecar.clock import Clock
from sidecar.errors import Reason, Refused
from sidecar.identity import claims
from sidecar.identity.actor import ActorType
from sidecar.identity.names import folded
from sidecar.logs import AUDIT
from sidecar.store.base import Batch, Page, RecordQuery, Store, WriteBatch
from sidecar.store.pages import all_records
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.replica.revocation_list import spellings
from sidecar.store.revocation_entry import RevocationEntry, Scope, actor_entry_name, make_entry
from sidecar.store.timestamps import format_rfc3339, parse_rfc3339
from sidecar.tokens.issued.service import audit_token_revoked
from sidecar.tokens.revocation.retention import RetentionPolicy
from sidecar.tokens.submitted import SubmittedToken

_audit = logging.getLogger(AUDIT)

MAX_ENTRIES = 1000
"""Maximum number of entries in one request."""
_MAX_NAME = 2048
_MAX_REASON = 512
_KNOWN_ISSUERS_LIFETIME = 5.0
# Allowed members of an entry besides the common ones, and the scope that they select.
_SHAPES: Mapping[frozenset[str], Scope] = {
    frozenset({"token"}): Scope.TOKEN,
    frozenset({"issuer", "jti"}): Scope.TOKEN,
    frozenset({"issuer", "subject"}): Scope.SUBJECT,
    frozenset({"issuer", "subject", "issuedBefore"}): Scope.SUBJECT,
    frozenset({"issuer", "issuedBefore"}): Scope.ISSUER,
    frozenset({"actor"}): Scope.ACTOR,
    frozenset({"actor", "issuedBefore"}): Scope.ACTOR,
    frozenset({"issuer", "subject", "until"}): Scope.SUBJECT,
    frozenset({"scope", "issuer", "sid"}): Scope.SESSION,
    frozenset({"scope", "issuer", "subject"}): Scope.SUBJECT_SESSIONS,
    frozenset({"scope", "issuer", "subject", "issuedBefore"}): Scope.SUBJECT_SESSIONS,
}
_ALWAYS_ALLOWED = frozenset({"reason", "expiresAt", "unknownIssuer"})
NOW = "now"
"""Value of ``issuedBefore`` that stands for the time of the request."""
_TIME = r"[0-9]{1,12}\.[0-9]{6}"
_CURSOR = re.compile(rf"({_TIME})\+((?:{_TIME})?)\+(.{{0,1100}})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RevocationRequest:
    """The requested entry. Times are seconds since the epoch, None: not specified.

    ``token`` is the text of a token that is not verified yet; :func:`for_token` replaces it. ``unknown_issuer``: the
    issuer need not be known here. ``until_removed``: the entry matches every token, also one issued later, until it is
    removed.
    """

    scope: Scope
    issuer: str = ""
    name: str = ""
    issued_before: float | None = None
    expires_at: float | None = None
    reason: str = ""
    token: str = ""
    token_expires_at: float | None = None
    unknown_issuer: bool = False
    until_removed: bool = False


@dataclass(frozen=True, slots=True)
class AddedEntry:
    """An entry that was written, and the number of issued tokens that it revoked on record."""

    entry: RevocationEntry
    ended_tokens: int = 0


def parse_request(document: object) -> RevocationRequest:
    """The entry that a JSON object requests. Raises ValueError with a text that repeats none of its values."""
    if not isinstance(document, dict):
        raise ValueError("an entry must be an object")
    scope = _SHAPES.get(frozenset(document) - _ALWAYS_ALLOWED)
    if scope is None:
        raise ValueError(
            "an entry has one of: token; issuer and jti; issuer and subject; issuer and issuedBefore; actor; scope"
            " session, issuer and sid; scope subject_sessions, issuer and subject; those of a subject, issuer or actor"
            " allow issuedBefore, that of issuer and subject until, all of them reason, expiresAt and unknownIssuer"
        )
    if "scope" in document and document["scope"] != scope.value:
        raise ValueError(f"scope must be {scope.value} with these members")
    if "until" in document and document["until"] is not None:
        raise ValueError("until must be null: the entry stands until it is removed")
    if "until" in document and document.get("expiresAt") is not None:
        raise ValueError("until and expiresAt exclude each other")
    unknown_issuer = document.get("unknownIssuer", False)
    if not isinstance(unknown_issuer, bool):
        raise ValueError("unknownIssuer must be true or false")
    request = RevocationRequest(
        scope,
        issuer=_text(document, "issuer"),
        issued_before=_timestamp(document, "issuedBefore"),
        expires_at=_timestamp(document, "expiresAt"),
        reason=_text(document, "reason", _MAX_REASON, blank=True),
        token=_text(document, "token", 1024 * 1024),
        unknown_issuer=unknown_issuer,
        until_removed="until" in document,
    )
    if scope is Scope.ACTOR:
        return replace(request, name=_actor(document["actor"]))
    return replace(request, name=_text(document, "jti") or _text(document, "subject") or _text(document, "sid"))


def for_token(request: RevocationRequest, token: SubmittedToken) -> RevocationRequest:
    """``request`` for the verified ``token``, whose issuer is known."""
    return replace(
        request,
        token="",
        scope=token.scope,
        issuer=token.issuer,
        name=token.name,
        token_expires_at=token.expires_at,
        unknown_issuer=True,
    )


def describe_entry(entry: RevocationEntry) -> dict[str, Any]:
    """The entry as JSON; times are RFC 3339 in UTC."""
    about: dict[str, Any] = {} if entry.scope is Scope.ACTOR else {"issuer": entry.issuer}
    match entry.scope:
        case Scope.TOKEN:
            about["jti"] = entry.name
        case Scope.DIGEST:
            about["digest"] = entry.name
        case Scope.SUBJECT:
            about |= {"subject": entry.name} | ({"until": None} if entry.issued_before is None else {})
        case Scope.SESSION:
            about |= {"scope": entry.scope.value, "sid": entry.name}
        case Scope.SUBJECT_SESSIONS:
            about |= {"scope": entry.scope.value, "subject": entry.name}
        case Scope.ACTOR:
            kind, _, actor_id = entry.name.partition(":")
            about["actor"] = {"type": kind, "id": actor_id}
    if entry.issued_before is not None:
        about["issuedBefore"] = format_rfc3339(entry.issued_before)
    return {
        "id": entry.id,
        **about,
        "reason": entry.reason,
        "createdAt": format_rfc3339(entry.created_at),
        "createdBy": entry.created_by,
        "expiresAt": format_rfc3339(entry.expires_at),
    }


def describe_added(added: AddedEntry) -> dict[str, Any]:
    """The entry, with the number of issued tokens that it revoked. Tokens of other issuers are not on record."""
    return {**describe_entry(added.entry), "matches": {"own": added.ended_tokens, "foreign": "unknown"}}


class RevocationService:
    """Every method raises Unavailable(STORE_UNAVAILABLE) if the store does not answer."""

    def __init__(
        self,
        store: Store,
        write: WriteBatch,
        clock: Clock,
        retention: RetentionPolicy,
        *,
        own_issuer: str,
        other_issuers: Callable[[], Awaitable[Collection[str]]] | None = None,
        verbatim: bool = False,
    ) -> None:
        """``other_issuers`` returns known issuers besides those of ``retention``; None: any issuer is allowed.

        ``verbatim``: records may contain names in capital letters and addresses, which entries do not.
        """
        self._list_other_issuers = other_issuers
        self._other_issuers_cache: frozenset[str] = frozenset()
        self._listed_at: float | None = None
        self._store = store
        self._write = write
        self._clock = clock
        self._retention = retention
        self._own_issuer = own_issuer
        self._verbatim = verbatim

    async def add(self, requests: Sequence[RevocationRequest], *, by: str, quiet: bool = False) -> list[AddedEntry]:
        """Add entries for all of ``requests``, or for none if it raises. Returns one entry per request.

        ``quiet``: the caller writes one audit line for all of them.

        While the spelling of an issuer is unknown, entries for its other spellings are added too. Matching issued
        tokens are also revoked on record, because a record outlives its entry. Raises Refused(REQUEST_INVALID), also
        for an issuer that is not known here, because the entry would have no effect.
        """
        await self._check_issuers(requests)
        now = self._clock.now()
        prepared = [await self._completed(request, now) for request in requests]
        prepared += [
            replace(request, issuer=other)
            for request in prepared
            for other in self._retention.spellings(request.issuer)[1:]
        ]
        entries = [self._entry(request, now, by) for request in prepared]
        ended = await self._write_entries(prepared, entries, now)
        if any(entry.issued_before is not None for entry in entries):
            # again, for tokens that were minted while the entries were written
            later = await self._write_entries(prepared, (), now)
            ended = [{**before, **after} for before, after in zip(ended, later, strict=True)]
        if not quiet:
            for record in {record.id: record for records in ended for record in records.values()}.values():
                audit_token_revoked(record, by=by)
            for entry in entries:
                _audit.info(
                    "revocation entry added", extra={"event": "revocation_added", **_audit_fields(entry), "by": by}
                )
        return [AddedEntry(entries[place], len(ended[place])) for place in range(len(requests))]

    async def _check_issuers(self, requests: Sequence[RevocationRequest]) -> None:
        """Raises Refused(REQUEST_INVALID) for an issuer that no token can have."""
        if self._list_other_issuers is None:
            return
        named = {request.issuer for request in requests if request.issuer and not request.unknown_issuer}
        unknown = {issuer for issuer in named if self._retention.spellings(issuer)[0] not in self._retention.issuers}
        others = await self._cached_other_issuers(self._list_other_issuers) if unknown else frozenset()
        for issuer in sorted(unknown - others):
            near = _closest_issuer(issuer, {*self._retention.issuers, *others})
            raise Refused(
                Reason.REQUEST_INVALID,
                message=f"No provider, record or token of the last 24 hours has the issuer {json.dumps(issuer)}: "
                f"the entry would have no effect. {f'Did you mean {json.dumps(near)}? ' if near else ''}"
                "To write it anyway, set unknownIssuer to true (--unknown-issuer)",
            )

    async def revoke_token(self, token: SubmittedToken, *, by: str) -> None:
        """Revoke one token: on its record if it has one, else by an entry."""
        request = for_token(RevocationRequest(Scope.TOKEN), token)
        record = await self._store.record(request.name) if self._may_be_issued_here(request) else None
        if record is None:
            if not await self._has_lasting_entry(request):
                await self.add([request], by=by)
        elif record.revoked_at is None:
            await self._write(Batch(revoke=((record.id, self._clock.now()),)))
            audit_token_revoked(record, by=by)

    async def _cached_other_issuers(self, list_issuers: Callable[[], Awaitable[Collection[str]]]) -> frozenset[str]:
        """Cached for some seconds: scanning all records for every entry of an import would take hours."""
        now = self._clock.monotonic()
        if self._listed_at is None or now - self._listed_at >= _KNOWN_ISSUERS_LIFETIME:
            self._other_issuers_cache, self._listed_at = frozenset(await list_issuers()), now
        return self._other_issuers_cache

    async def page(self, issuer: str | None, after: str, limit: int) -> Page:
        """A page of the active entries, newest first. Raises ValueError for an invalid cursor ``after``.

        An entry that is replaced while a client reads the list moves to the front, which the client has read already.
        So after the last page, entries written since the first page follow, possibly for the second time.
        """
        named = None if issuer is None else self._retention.spellings(issuer)[0]
        now = self._clock.now()
        cursor = _PageCursor.parse(after) if after else _PageCursor(now)
        page = await self._store.entries(named, cursor.position, limit, now)
        is_last = not page.after
        if cursor.reread_since is not None and any(entry.created_at <= cursor.since for entry in page.entries):
            page = replace(page, entries=tuple(entry for entry in page.entries if entry.created_at > cursor.since))
            is_last = True
        if not is_last:
            return replace(page, after=str(replace(cursor, position=page.after)))
        if after:
            since = cursor.since if cursor.reread_since is None else cursor.reread_since
            newest = (await self._store.entries(named, "", 1, now)).entries
            if newest and newest[0].created_at > since:
                return replace(page, after=str(_PageCursor(since, now)))
        return replace(page, after="")

    async def remove(self, entry_id: str, *, by: str) -> None:
        """Remove an entry. Raises Refused(NOT_FOUND)."""
        entry = await self._store.entry(entry_id)
        if entry is None:
            raise Refused(Reason.NOT_FOUND)
        await self._write(Batch(remove_entries=(entry_id,)))
        _audit.info("revocation entry removed", extra={"event": "revocation_removed", **_audit_fields(entry), "by": by})

    async def _completed(self, request: RevocationRequest, now: float) -> RevocationRequest:
        """``request`` with defaults: the spelling of the issuer, the cut-off, the expiry of an issued token."""
        request = replace(request, issuer=self._retention.spellings(request.issuer)[0])
        if request.scope in (Scope.SUBJECT, Scope.ISSUER, Scope.ACTOR, Scope.SUBJECT_SESSIONS):
            return replace(request, issued_before=now) if request.issued_before is None else request
        if request.token_expires_at is None and self._may_be_issued_here(request):
            record = await self._store.record(request.name)
            return request if record is None else replace(request, token_expires_at=record.expires_at)
        return request

    async def _has_lasting_entry(self, request: RevocationRequest) -> bool:
        """Whether an entry that lasts as long exists: a token's bearer must not replace it."""
        now = self._clock.now()
        wanted = self._entry(await self._completed(request, now), now, "")
        found = await self._store.entry(wanted.id)
        if found is None or found.expires_at is None:
            return found is not None
        return wanted.expires_at is not None and found.expires_at >= wanted.expires_at

    def _entry(self, request: RevocationRequest, now: float, by: str) -> RevocationEntry:
        if request.until_removed:
            return make_entry(request.scope, request.issuer, request.name, now, reason=request.reason, created_by=by)
        end = self._retention.default_expiry(
            request.scope,
            request.issuer,
            now,
            issued_before=request.issued_before,
            token_expires_at=request.token_expires_at,
        )
        try:
            end = self._retention.entry_expiry(end, request.expires_at, now, token_expires_at=request.token_expires_at)
        except ValueError as error:
            raise Refused(Reason.REQUEST_INVALID, message=f"The entry is not valid: {error}") from error
        return make_entry(
            request.scope,
            request.issuer,
            request.name,
            now,
            issued_before=request.issued_before,
            expires_at=end,
            reason=request.reason,
            created_by=by,
        )

    async def _write_entries(
        self, requests: Sequence[RevocationRequest], entries: Sequence[RevocationEntry], now: float
    ) -> list[dict[str, TokenRecord]]:
        """Write ``entries`` and revoke the records that ``requests`` match. Returns these records by id, for each
        request.
        """
        concerned = [
            {record.id: record async for record in self._matching_records(request, now)} for request in requests
        ]
        ended = dict.fromkeys(token_id for records in concerned for token_id in records)
        if entries or ended:
            await self._write(Batch(revoke=tuple((token_id, now) for token_id in ended), add_entries=entries))
        return concerned

    async def _matching_records(self, request: RevocationRequest, now: float) -> AsyncIterator[TokenRecord]:
        """Unrevoked records of issued tokens that ``request`` matches."""
        if request.scope in (Scope.TOKEN, Scope.DIGEST):
            record = await self._store.record(request.name) if self._may_be_issued_here(request) else None
            if record is not None and record.revoked_at is None and record.kind is not TokenKind.BOT_NAME:
                yield record
            return
        if request.scope in (Scope.SESSION, Scope.SUBJECT_SESSIONS):
            return  # issued tokens remain valid, and browser sessions are compared with the entry
        assert request.issued_before is not None  # noqa: S101 - completed before; 0 is a valid cut-off
        for query in self._queries(request, now):
            async for record in all_records(self._store, query):
                if record.created_at < request.issued_before and self._matches_record(request, record):
                    yield record

    def _may_be_issued_here(self, request: RevocationRequest) -> bool:
        return request.scope is Scope.TOKEN and bool(self._own_issuer) and request.issuer == self._own_issuer

    def _queries(self, request: RevocationRequest, now: float) -> list[RecordQuery]:
        if request.scope is Scope.ISSUER:
            return [RecordQuery(active=True, now=now)]
        if request.scope is Scope.ACTOR:
            actor_id = None if self._verbatim else request.name.partition(":")[2]
            return [RecordQuery(actor_id=actor_id, active=True, now=now)]
        queries = [RecordQuery(owner=(request.issuer, request.name), active=True, now=now)]
        if request.issuer == self._own_issuer:
            queries.append(RecordQuery(actor_id=request.name, active=True, now=now))
        return queries

    def _matches_record(self, request: RevocationRequest, record: TokenRecord) -> bool:
        if request.scope is Scope.ISSUER:
            return request.issuer in (record.owner.issuer, self._own_issuer)
        if request.scope is Scope.ACTOR:
            kind = record.actor_type
            return request.name in {actor_entry_name(kind, spelling) for spelling in spellings(record.actor_id)}
        return True


@dataclass(frozen=True, slots=True)
class _PageCursor:
    """Position of the next page: at ``position`` in the store's list.

    ``reread_since`` None: the list is read for the first time, since ``since``. Otherwise it was read to its end; its
    front is read again since ``reread_since``, down to the entries written at ``since``.
    """

    since: float
    reread_since: float | None = None
    position: str = ""

    def __str__(self) -> str:
        begun = "" if self.reread_since is None else f"{self.reread_since:.6f}"
        return f"{self.since:.6f}+{begun}+{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for an invalid cursor."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise ValueError("not a page cursor")
        return cls(float(found[1]), float(found[2]) if found[2] else None, found[3])


def _closest_issuer(issuer: str, known: Collection[str]) -> str:
    """The known issuer that ``issuer`` probably stands for; empty if there is none."""
    bare = {_without_scheme(other): other for other in sorted(known) if other}
    same = bare.get(_without_scheme(issuer))
    close = difflib.get_close_matches(_without_scheme(issuer), bare, n=1, cutoff=0.8)
    return same or (bare[close[0]] if close else "")


def _without_scheme(issuer: str) -> str:
    return issuer.strip().lower().rstrip("/").removeprefix("https://").removeprefix("http://")


def _audit_fields(entry: RevocationEntry) -> dict[str, str]:
    return {"denial_id": entry.id, "scope": entry.scope.value, "issuer": entry.issuer}


def _text(document: Mapping[str, Any], name: str, longest: int = _MAX_NAME, *, blank: bool = False) -> str:
    """The string value of ``name``; empty if absent, which the shape check allows."""
    value = document.get(name, ...)
    if value is ...:
        return ""
    if not isinstance(value, str) or not (value or blank) or len(value) > longest:
        raise ValueError(f"{name} must be a string of {0 if blank else 1} to {longest} characters")
    return value


def _timestamp(document: Mapping[str, Any], name: str) -> float | None:
    text = _text(document, name)
    if not text or (text == NOW and name == "issuedBefore"):
        return None  # absent and "now" both mean the time of the request
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _actor(value: object) -> str:
    if not isinstance(value, dict) or value.keys() != {"type", "id"} or value["type"] not in tuple(ActorType):
        raise ValueError("actor must have type (USER or SERVICE) and id")
    try:
        # folded like the look-up keys: an entry under another spelling would match no Actor
        return actor_entry_name(value["type"], folded(claims.actor_name(_text(value, "id"), verbatim=True)))
    except Refused as refusal:
        raise ValueError("actor.id must be a name or a plain e-mail address, without white space") from refusal
