"""The deny list, managed: which tokens of any issuer are refused from now on, and for how long that is kept."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from sidecar.clock import Clock
from sidecar.errors import Reason, Refused
from sidecar.identity import claims
from sidecar.identity.actor import ActorType
from sidecar.logs import AUDIT
from sidecar.store.base import Batch, Page, RecordQuery, Store
from sidecar.store.denial import Denial, Scope, actor_name, make_denial
from sidecar.store.moment import from_text, to_text
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.tokens.compact import Unverified
from sidecar.tokens.deny_rule import DenyRule
from sidecar.tokens.mint import Write
from sidecar.tokens.service import note_revoked

_audit = logging.getLogger(AUDIT)

MOST_ENTRIES = 1000
"""Most entries that are written at once."""
_LONGEST_NAME = 2048
_LONGEST_REASON = 512
_PAGE = 500
# What an entry may be about: its members besides those that every entry may have.
_SHAPES: Mapping[frozenset[str], Scope] = {
    frozenset({"token"}): Scope.TOKEN,
    frozenset({"issuer", "jti"}): Scope.TOKEN,
    frozenset({"issuer", "subject"}): Scope.SUBJECT,
    frozenset({"issuer", "subject", "issuedBefore"}): Scope.SUBJECT,
    frozenset({"issuer", "issuedBefore"}): Scope.ISSUER,
    frozenset({"actor"}): Scope.ACTOR,
    frozenset({"actor", "issuedBefore"}): Scope.ACTOR,
}
_ALWAYS_ALLOWED = frozenset({"reason", "expiresAt"})


@dataclass(frozen=True, slots=True)
class DenyWish:
    """What is to be denied. Times are seconds since the epoch, None: not said.

    ``token`` is a token's text that nobody has verified yet: :func:`about_token` then fills in the rest.
    """

    scope: Scope
    issuer: str = ""
    name: str = ""
    issued_before: float | None = None
    expires_at: float | None = None
    reason: str = ""
    token: str = ""
    token_ends: float | None = None


def read_wish(document: object) -> DenyWish:
    """What one entry in JSON asks for. Raises ValueError with a text that repeats none of its values."""
    if not isinstance(document, dict):
        raise ValueError("an entry is an object")
    scope = _SHAPES.get(frozenset(document) - _ALWAYS_ALLOWED)
    if scope is None:
        raise ValueError(
            "an entry is one of token; issuer and jti; issuer and subject; issuer and issuedBefore; actor;"
            " the last three may have issuedBefore, all of them reason and expiresAt"
        )
    wish = DenyWish(
        scope,
        issuer=_text(document, "issuer"),
        issued_before=_moment(document, "issuedBefore"),
        expires_at=_moment(document, "expiresAt"),
        reason=_text(document, "reason", _LONGEST_REASON, blank=True),
        token=_text(document, "token", 1024 * 1024),
    )
    if scope is Scope.ACTOR:
        return replace(wish, name=_actor(document["actor"]))
    return replace(wish, name=_text(document, "jti") or _text(document, "subject"))


def about_token(wish: DenyWish, token: Unverified) -> DenyWish:
    """``wish`` about ``token``, whose signature somebody has verified."""
    said = token.claims
    filled = replace(wish, token="", issuer=said.get("iss", ""), token_ends=said.get("exp"))
    if said.get("jti"):
        return replace(filled, scope=Scope.TOKEN, name=said["jti"])
    return replace(filled, scope=Scope.DIGEST, name=sha256(token.signing_input).hexdigest())


def describe(denial: Denial) -> dict[str, Any]:
    """The entry as it is shown: times RFC 3339 UTC."""
    about: dict[str, Any] = {} if denial.scope is Scope.ACTOR else {"issuer": denial.issuer}
    match denial.scope:
        case Scope.TOKEN:
            about["jti"] = denial.name
        case Scope.DIGEST:
            about["digest"] = denial.name
        case Scope.SUBJECT:
            about["subject"] = denial.name
        case Scope.ACTOR:
            kind, _, actor_id = denial.name.partition(":")
            about["actor"] = {"type": kind, "id": actor_id}
    if denial.issued_before is not None:
        about["issuedBefore"] = to_text(denial.issued_before)
    return {
        "id": denial.id,
        **about,
        "reason": denial.reason,
        "createdAt": to_text(denial.created_at),
        "createdBy": denial.created_by,
        "expiresAt": to_text(denial.expires_at),
    }


class Revocations:
    """Every method raises Unavailable(STORE_UNAVAILABLE) when the store does not answer."""

    def __init__(self, store: Store, write: Write, clock: Clock, rule: DenyRule, *, own_issuer: str) -> None:
        self._store = store
        self._write = write
        self._clock = clock
        self._rule = rule
        self._own_issuer = own_issuer

    async def add(self, wishes: Sequence[DenyWish], *, by: str) -> list[Denial]:
        """Deny all of ``wishes`` or, when it raises, none. Returns an entry for each.

        While nobody knows how an issuer's tokens spell it, there are further entries for its other spellings.
        Own tokens that they concern are ended on record as well: a record lasts longer than an entry has to.
        Raises Refused(REQUEST_INVALID).
        """
        now = self._clock.now()
        prepared = [await self._prepared(wish, now) for wish in wishes]
        prepared += [
            replace(wish, issuer=other) for wish in prepared for other in self._rule.spellings(wish.issuer)[1:]
        ]
        denials = [self._denial(wish, now, by) for wish in prepared]
        await self._end(prepared, denials, now, by)
        if any(denial.issued_before is not None for denial in denials):
            # once more, for what was being minted while the cut-off was being written
            await self._end(prepared, (), now, by)
        for denial in denials:
            _audit.info("denial added", extra={**_audited(denial), "by": by})
        return denials[: len(wishes)]

    async def end(self, token: Unverified, *, by: str) -> None:
        """End one token whose signature is good: on its record where it has one, else by an entry."""
        wish = about_token(DenyWish(Scope.TOKEN), token)
        record = await self._store.record(wish.name) if self._may_be_own(wish) else None
        if record is None:
            if not await self._stands(wish):
                await self.add([wish], by=by)
        elif record.revoked_at is None:
            await self._write(Batch(revoke=((record.id, self._clock.now()),)))
            note_revoked(record, by=by)

    async def page(self, issuer: str | None, after: str, limit: int) -> Page:
        """A page of the entries that stand. Raises ValueError for an ``after`` that is no mark."""
        named = None if issuer is None else self._rule.spellings(issuer)[0]
        return await self._store.denials(named, after, limit, self._clock.now())

    async def remove(self, denial_id: str, *, by: str) -> None:
        """Take an entry off the list. Raises Refused(NOT_FOUND)."""
        denial = await self._store.denial(denial_id)
        if denial is None:
            raise Refused(Reason.NOT_FOUND)
        await self._write(Batch(forgive=(denial_id,)))
        _audit.info("denial removed", extra={**_audited(denial), "by": by})

    async def _prepared(self, wish: DenyWish, now: float) -> DenyWish:
        """``wish`` with what it leaves open: the spelling of the issuer, the cut-off, the end of an own token."""
        wish = replace(wish, issuer=self._rule.spellings(wish.issuer)[0])
        if wish.scope in (Scope.SUBJECT, Scope.ISSUER, Scope.ACTOR):
            return replace(wish, issued_before=now) if wish.issued_before is None else wish
        if wish.token_ends is None and self._may_be_own(wish):
            record = await self._store.record(wish.name)
            return wish if record is None else replace(wish, token_ends=record.expires_at)
        return wish

    async def _stands(self, wish: DenyWish) -> bool:
        """Whether an entry that lasts as long is there already: its token's bearer must not write over it."""
        now = self._clock.now()
        wanted = self._denial(await self._prepared(wish, now), now, "")
        found = await self._store.denial(wanted.id)
        if found is None or found.expires_at is None:
            return found is not None
        return wanted.expires_at is not None and found.expires_at >= wanted.expires_at

    def _denial(self, wish: DenyWish, now: float, by: str) -> Denial:
        end = self._rule.end(wish.scope, wish.issuer, now, issued_before=wish.issued_before, token_ends=wish.token_ends)
        try:
            end = self._rule.chosen_end(end, wish.expires_at, now, token_ends=wish.token_ends)
        except ValueError as error:
            raise Refused(Reason.REQUEST_INVALID, message=f"The entry cannot be kept so: {error}") from error
        return make_denial(
            wish.scope,
            wish.issuer,
            wish.name,
            now,
            issued_before=wish.issued_before,
            expires_at=end,
            reason=wish.reason,
            created_by=by,
        )

    async def _end(self, wishes: Sequence[DenyWish], denials: Sequence[Denial], now: float, by: str) -> None:
        """Write ``denials``, and with them the end of the records that ``wishes`` concern."""
        ended = {record.id: record for wish in wishes async for record in self._concerned(wish, now)}
        if denials or ended:
            await self._write(Batch(revoke=tuple((token_id, now) for token_id in ended), deny=denials))
        for record in ended.values():
            note_revoked(record, by=by)

    async def _concerned(self, wish: DenyWish, now: float) -> AsyncIterator[TokenRecord]:
        """Standing records of own tokens that ``wish`` is about."""
        if wish.scope in (Scope.TOKEN, Scope.DIGEST):
            record = await self._store.record(wish.name) if self._may_be_own(wish) else None
            if record is not None and record.revoked_at is None and record.kind is not TokenKind.BOT_NAME:
                yield record
            return
        for query in self._queries(wish, now):
            async for record in self._all(query):
                if record.created_at < (wish.issued_before or now) and self._is_meant(wish, record):
                    yield record

    def _may_be_own(self, wish: DenyWish) -> bool:
        return wish.scope is Scope.TOKEN and bool(self._own_issuer) and wish.issuer == self._own_issuer

    def _queries(self, wish: DenyWish, now: float) -> list[RecordQuery]:
        if wish.scope is Scope.ISSUER:
            return [RecordQuery(active=True, now=now)]
        if wish.scope is Scope.ACTOR:
            return [RecordQuery(actor_id=wish.name.partition(":")[2], active=True, now=now)]
        queries = [RecordQuery(owner=(wish.issuer, wish.name), active=True, now=now)]
        if wish.issuer == self._own_issuer:
            queries.append(RecordQuery(actor_id=wish.name, active=True, now=now))
        return queries

    def _is_meant(self, wish: DenyWish, record: TokenRecord) -> bool:
        if wish.scope is Scope.ISSUER:
            return wish.issuer in (record.owner.issuer, self._own_issuer)
        if wish.scope is Scope.ACTOR:
            return wish.name == actor_name(record.actor_type, record.actor_id)
        return True

    async def _all(self, query: RecordQuery) -> AsyncIterator[TokenRecord]:
        after = ""
        while True:
            page = await self._store.records(query, after, _PAGE)
            for record in page.records:
                yield record
            after = page.after
            if not after:
                return


def _audited(denial: Denial) -> dict[str, str]:
    return {"denial_id": denial.id, "scope": denial.scope.value, "issuer": denial.issuer}


def _text(document: Mapping[str, Any], name: str, longest: int = _LONGEST_NAME, *, blank: bool = False) -> str:
    """A member's text; empty where it is absent, which the entry's shape has allowed."""
    value = document.get(name, ...)
    if value is ...:
        return ""
    if not isinstance(value, str) or not (value or blank) or len(value) > longest:
        raise ValueError(f"{name} is a text of {0 if blank else 1} to {longest} characters")
    return value


def _moment(document: Mapping[str, Any], name: str) -> float | None:
    text = _text(document, name)
    if not text:
        return None
    try:
        return from_text(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _actor(value: object) -> str:
    if not isinstance(value, dict) or value.keys() != {"type", "id"} or value["type"] not in tuple(ActorType):
        raise ValueError("actor is type (USER or SERVICE) and id")
    try:
        # as Actors are spelled: an entry under another spelling would concern nobody
        return actor_name(value["type"], claims.actor_name(_text(value, "id")))
    except Refused as refusal:
        raise ValueError("actor.id is a name without white space and without @") from refusal
