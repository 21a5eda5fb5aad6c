"""Tokens of bots in a secrets manager, from which OpenMetadata's ingestion reads them.

A token is on the revocation list before its text leaves this process, and the batch that puts it on record takes it
off the list. So whatever fails in between, no text in the secrets manager is a valid token that is not on record.
:class:`CopyCleaner` deletes what a failure or a revocation has left there.

Revoking never waits for the secrets manager.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sidecar.clock import Clock
from sidecar.concurrency import cancel
from sidecar.errors import Cause, Failed, Reason, Refused, SidecarError, Unavailable, quoted
from sidecar.identity.names import folded
from sidecar.logs import AUDIT, traceback_locations
from sidecar.store.base import Batch, Store, WriteBatch
from sidecar.store.merge import DAY
from sidecar.store.record import TokenKind, TokenRecord, hash_token
from sidecar.store.redis.codec import is_id
from sidecar.store.revocation_entry import RevocationEntry, Scope, entry_id, entry_key, make_entry
from sidecar.tokens.datahub import FORMAT
from sidecar.tokens.jwt.compact import decode_segment, json_object, split

_log = logging.getLogger("sidecar.secrets")
_audit = logging.getLogger(AUDIT)
UNRECORDED = "bot token being written to secret:"
"""Begins the reason of the revocation entry of a token that is not on record yet; its id in the secrets manager
follows."""
UNRECORDED_FOR = 60.0
"""Seconds after which a token that is still not on record is deleted."""
_MAX_TOKEN = 64 * 1024
_PAGE = 100
_FIRST_PAGES = 100
_PAUSE = 30.0
_LONGEST_PAUSE = 300.0
_SPREAD = (2.0, 5.0)


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """What the secrets manager holds under an id.

    ``text`` is empty if it holds nothing usable as a secret, and None if it cannot be read as text. ``version`` None:
    unknown.
    """

    text: str | None = field(repr=False)
    version: str | None
    problem: str = ""


class CopyError(SidecarError):
    """The secrets manager has not done what was asked. ``detail`` has no content of a secret.

    ``is_conflict``: another version was written in the meantime. ``may_be_done``: it may have done it all the same.
    """

    def __init__(self, detail: str, *, is_conflict: bool = False, may_be_done: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.is_conflict = is_conflict
        self.may_be_done = may_be_done


class CopyVault(Protocol):
    """What is needed of a secrets manager. The asynchronous methods raise CopyError."""

    name: str

    def id_of(self, bot: str) -> str:
        """The id of the token of ``bot``. Raises ValueError if the name makes no valid id."""

    async def read(self, secret_id: str) -> HeldCopy | None:
        """The newest version; None: there is none."""

    async def write(self, secret_id: str, text: str, replaces: str | None) -> str:
        """Write a version and return its name. ``replaces`` as in :meth:`sidecar.vaults.base.Vault.set`."""

    async def remove(self, secret_id: str, version: str | None) -> None:
        """Delete the secret if ``version`` is the newest."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new token is to be written. ``replaces``: the version that is there, empty: none, None: unknown."""

    secret_id: str
    replaces: str | None


class BotTokenCopies:
    """Writes new tokens of bots to ``vault``. ``issuer`` is that of the tokens; ``deny`` writes to the store.

    Tokens in DataHub's format are not written: OpenMetadata could not use them.
    """

    def __init__(self, vault: CopyVault, deny: WriteBatch, clock: Clock, *, issuer: str) -> None:
        self.vault = vault
        self.issuer = issuer
        self._deny = deny
        self._clock = clock

    def keeps(self, record: TokenRecord) -> bool:
        """Whether tokens such as that of ``record`` are written to the secrets manager."""
        return record.kind is TokenKind.BOT and record.format != FORMAT

    def location(self, record: TokenRecord) -> str | None:
        """The reference by which OpenMetadata's ingestion reads the token of ``record``; None: it is not there."""
        return self.location_of(record.actor_id) if self.keeps(record) and record.revoked_at is None else None

    def location_of(self, bot: str) -> str | None:
        """The reference by which OpenMetadata's ingestion reads the token of ``bot``; None: its name makes no id."""
        with suppress(ValueError):
            return f"secret:{self.vault.id_of(bot)}"
        return None

    async def store(self, record: TokenRecord, text: str, write: WriteBatch, batch: Batch, place: Place) -> str:
        """Write ``text``, then ``batch``, which puts it on record. Returns the version in the secrets manager.

        Raises Refused(CONFLICT) and Unavailable; then the token is not valid, and the bot's former token still is.
        """
        pending = self._pending_entry(record, place.secret_id)
        await self._deny(Batch(add_entries=(pending,)))
        try:
            version = await self.vault.write(place.secret_id, text, place.replaces)
        except CopyError as error:
            if not error.may_be_done:
                await self._deny(Batch(remove_entries=(pending.id,)))
            raise self._failure(error, place.secret_id) from None
        await self._check_written(place.secret_id, text)
        await write(replace(batch, remove_entries=(*batch.remove_entries, pending.id)))
        return version

    async def place_for(self, bot: str, *, overwrite: bool) -> Place:
        """Where the token of ``bot`` is to be written. Raises Refused and Unavailable.

        CONFLICT: the secret is something else than a token of that bot and issuer, and not to be overwritten.
        """
        try:
            secret_id = self.vault.id_of(bot)
        except ValueError as error:
            message = f"The token cannot be kept in {self.vault.name}: {error}; choose another name"
            raise Refused(Reason.REQUEST_INVALID, message=message) from error
        try:
            held = await self.vault.read(secret_id)
        except CopyError as error:
            raise self._failure(error, secret_id) from None
        if held is None:
            return Place(secret_id, "")
        problem = "" if overwrite else self._conflict(held, bot)
        if problem:
            raise Refused(
                Reason.CONFLICT,
                message=f"{self.vault.name} has a secret {secret_id} that {problem}, not a token of {quoted(bot)} of "
                f"this issuer. To overwrite it, set replace (--replace)",
            )
        return Place(secret_id, held.version)

    def _conflict(self, held: HeldCopy, bot: str) -> str:
        """What ``held`` is, if it must not be overwritten; empty: it may be."""
        if held.text is None:
            return f"cannot be read ({held.problem})"
        if not held.text:
            return ""
        claims = claims_of(held.text)
        if claims is None:
            return "is no token"
        if claims.get("iss") != self.issuer:
            return f"is a token of the issuer {quoted(claims.get('iss'))}"
        subject = claims.get("sub")
        is_same = isinstance(subject, str) and folded(subject) == folded(bot) and claims.get("isBot") is True
        return "" if is_same else f"is a token of {quoted(subject)}"

    async def _check_written(self, secret_id: str, text: str) -> None:
        """Raises Refused(CONFLICT) if another process has written to the secret at the same time."""
        try:
            held = await self.vault.read(secret_id)
        except CopyError as error:
            raise self._failure(error, secret_id) from None
        if held is None or held.text != text:
            message = f"Another process wrote to {secret_id} at the same time; the token is not valid. Try again"
            raise Refused(Reason.CONFLICT, message=message)

    async def clean(self, secret_id: str, store: Store) -> str:
        """Delete the secret if its token is revoked or abandoned. Why it could not be; empty: nothing is left to do.

        Raises Unavailable if the store does not answer.
        """
        try:
            held = await self.vault.read(secret_id)
            if held is None or not held.text or not await self._is_void(held.text, store):
                return ""
            await self.vault.remove(secret_id, held.version)
        except CopyError as error:
            return "" if error.is_conflict else error.detail
        _audit.info(
            "revoked token deleted from the secrets manager",
            extra={"event": "secret_deleted", "secret": secret_id, "version": held.version},
        )
        return ""

    async def _is_void(self, text: str, store: Store) -> bool:
        """Whether ``text`` is a token of this issuer that is revoked, or denied because it was never put on record."""
        claims = claims_of(text)
        if claims is None or claims.get("iss") != self.issuer:
            return False
        token_id = claims.get("jti")
        if not isinstance(token_id, str) or not is_id(token_id):
            return False
        record = await store.record(token_id)
        if record is not None:
            return record.revoked_at is not None and record.token_hash == hash_token(text)
        entry = await store.entry(entry_id(entry_key(Scope.TOKEN, self.issuer, token_id), None))
        if entry is None or not entry.reason.startswith(UNRECORDED):
            return False
        return entry.created_at <= self._clock.now() - UNRECORDED_FOR

    def _failure(self, error: CopyError, secret_id: str) -> Failed:
        if error.is_conflict:
            message = f"Another process wrote to {secret_id} at the same time; the token is not valid. Try again"
            return Refused(Reason.CONFLICT, message=message)
        return Unavailable(Cause.SECRETS_MANAGER, f"{self.vault.name}: {secret_id}: {error.detail}")

    def _pending_entry(self, record: TokenRecord, secret_id: str) -> RevocationEntry:
        expires = record.expires_at
        return make_entry(
            Scope.TOKEN,
            self.issuer,
            record.id,
            self._clock.now(),
            # later than any tolerance for exp
            expires_at=None if expires is None else expires + DAY,
            reason=f"{UNRECORDED}{secret_id}",
        )


def claims_of(text: str) -> dict[str, Any] | None:
    """The claims of ``text``, not verified; None: it is no token."""
    try:
        _, claims, _ = split(text, _MAX_TOKEN)
        return json_object(decode_segment(claims), Cause.ENCODING)
    except Refused:
        return None


class CopyCleaner:
    """Deletes tokens from the secrets manager that are revoked, or were never put on record.

    ``records`` returns all records that this process knows, ``changed`` waits until they change. Every process of every
    replica does this; deleting twice is harmless.
    """

    def __init__(
        self,
        copies: BotTokenCopies,
        store: Store,
        records: Callable[[], Iterable[TokenRecord]],
        changed: Callable[[float], Awaitable[None]],
        clock: Clock,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._copies = copies
        self._store = store
        self._records = records
        self._changed = changed
        self._clock = clock
        self._wait = wait
        self._done: set[str] = set()
        self._left: dict[str, str] = {}
        self._is_first = True
        self._cleaner: asyncio.Task[None] | None = None

    @property
    def left(self) -> int:
        """How many secrets hold, or may hold, a token that is revoked."""
        return len(self._left)

    @property
    def problem(self) -> str:
        """Why a revoked token could not be deleted; empty: none is left."""
        return next((f"{self._copies.vault.name}: {name}: {why}" for name, why in self._left.items()), "")

    async def start(self) -> None:
        """Start cleaning in the background."""
        self._cleaner = asyncio.create_task(self._run(), name="clean bot tokens")

    async def aclose(self) -> None:
        """Stop."""
        await cancel(self._cleaner)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self.clean()
            except Unavailable as error:
                failures += 1
                _log.debug("store cannot be read", extra={"event": "secrets_clean_failed", "cause": error.cause})
            except Exception as error:  # noqa: BLE001 - revoked tokens would stay for ever if this task ended
                failures += 1
                _log.error(
                    "unhandled error while deleting revoked tokens",
                    extra={
                        "event": "secrets_clean_error",
                        "error": type(error).__name__,
                        "places": traceback_locations(error),
                    },
                )
            else:
                failures = failures + 1 if self._left else 0
            pause = min(_PAUSE * 2 ** min(max(failures - 1, 0), 10), _LONGEST_PAUSE)
            if failures:
                await self._wait(pause)
            else:
                await self._changed(pause)
                # together with what else is revoked now; not all replicas at the same moment
                await self._wait(random.uniform(*_SPREAD))  # noqa: S311 - jitter

    async def clean(self) -> None:
        """Delete what is known to be revoked or abandoned. Raises Unavailable if the store does not answer."""
        pages, self._is_first = (_FIRST_PAGES if self._is_first else 1), False
        due: dict[str, set[str]] = {name: set() for name in self._left}
        for token_id, secret_id in (*self._revoked(), *await self._abandoned(pages)):
            due.setdefault(secret_id, set()).add(token_id)
        for secret_id, ids in due.items():
            problem = await self._copies.clean(secret_id, self._store)
            if not problem:
                self._done |= ids
                self._left.pop(secret_id, None)
                continue
            if self._left.get(secret_id) != problem:
                _log.warning(
                    "revoked token cannot be deleted from the secrets manager; retrying",
                    extra={"event": "secret_not_deleted", "secret": secret_id, "detail": problem},
                )
            self._left[secret_id] = problem

    def _revoked(self) -> Iterator[tuple[str, str]]:
        """Ids of revoked tokens that have not been dealt with, and where they may be."""
        known = set()
        for record in self._records():
            if record.revoked_at is None or not self._copies.keeps(record):
                continue
            known.add(record.id)
            if record.id not in self._done:
                with suppress(ValueError):
                    yield record.id, self._copies.vault.id_of(record.actor_id)
        self._done = {done for done in self._done if done in known or done.startswith(UNRECORDED)}

    async def _abandoned(self, pages: int) -> list[tuple[str, str]]:
        """The same for tokens that were written and not put on record in time: the newest entries."""
        found = []
        after, newest = "", self._clock.now() - UNRECORDED_FOR
        for _ in range(pages):
            page = await self._store.entries(self._copies.issuer, after, _PAGE, self._clock.now())
            for entry in page.entries:
                key = f"{UNRECORDED}{entry.name}"
                if entry.reason.startswith(UNRECORDED) and entry.created_at <= newest and key not in self._done:
                    found.append((key, entry.reason.removeprefix(UNRECORDED)))
            after = page.after
            if not after:
                break
        return found
