"""``sidecar revocations add|import|list|remove``: the revocation list, directly in the store."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from sidecar.app.authentication import build_authenticators, build_decider
from sidecar.app.issuers import open_issuers
from sidecar.app.management import build_caller_authentication, build_revocations
from sidecar.app.process_context import ProcessContext
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.cli.options import add_config_option, load_settings, read_token
from sidecar.cli.table import table
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.errors import Refused, SidecarError
from sidecar.identity.actor import ActorType
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.store.open import open_store
from sidecar.store.pages import all_pages
from sidecar.store.revocation_entry import Scope
from sidecar.tokens.jwt.compact import strict_json
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.revocation.service import (
    MAX_ENTRIES,
    AddedEntry,
    RevocationRequest,
    RevocationService,
    describe_added,
    describe_entry,
    for_token,
    parse_request,
)

_audit = logging.getLogger(AUDIT)

BY = "command line"
_MAX_LINE = 64 * 1024
_LOAD_TIMEOUT = 15.0
_MAX_SHOWN_ERRORS = 20
_ABOUT = ("jti", "digest", "subject", "actor")
T = TypeVar("T")


class BadEntryError(SidecarError):
    """An entry is invalid; the text says where and why."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser(
        "revocations", help="manage the revocation list for tokens of any issuer"
    ).add_subparsers(metavar="ACTION", required=True)
    add = actions.add_parser("add", help="revoke a token, or all tokens issued before a time")
    add_config_option(add)
    add.add_argument("--token", metavar="TOKEN", help="the token, or - for standard input; its signature is checked")
    add.add_argument("--issuer", metavar="ISS")
    add.add_argument("--jti", metavar="ID")
    add.add_argument("--subject", metavar="SUB", help="the sub claim, which may differ from the user name")
    add.add_argument(
        "--actor", metavar="TYPE:ID", type=_actor, help="for example USER:sam; revokes tokens of every issuer"
    )
    add.add_argument(
        "--issued-before",
        metavar="TIME",
        help="now, or for example 2026-11-21T12:00:00Z (default with --subject and --actor: now)",
    )
    _add_unknown_issuer(add)
    add.add_argument(
        "--expires-at",
        metavar="TIME",
        help="when the entry expires (default: when no affected token can be valid any more)",
    )
    add.add_argument(
        "--until-removed",
        action="store_true",
        help="with --issuer and --subject: also affect tokens that are issued later, until the entry is removed",
    )
    add.add_argument(
        "--scope",
        choices=(Scope.SESSION.value, Scope.SUBJECT_SESSIONS.value),
        help="end sessions at the issuer and the issuer's tokens of them only: of --sid, or of --subject",
    )
    add.add_argument("--sid", metavar="SID", help="with --issuer and --scope session: the session at the issuer")
    add.add_argument("--reason", metavar="TEXT")
    add.set_defaults(run=run_add)
    imports = actions.add_parser(
        "import", help="import revocation entries from a JSON Lines file (same format as POST /oauth2/revocations)"
    )
    add_config_option(imports)
    imports.add_argument("file", metavar="FILE", help="the file, or - for standard input")
    _add_unknown_issuer(imports)
    imports.set_defaults(run=run_import)
    lists = actions.add_parser("list", help="list active entries")
    add_config_option(lists)
    lists.add_argument("--issuer", metavar="ISS")
    lists.add_argument("--json", action="store_true", help="one JSON object per line")
    lists.set_defaults(run=run_list)
    remove = actions.add_parser("remove", help="remove an entry")
    add_config_option(remove)
    remove.add_argument("id", metavar="ID")
    remove.set_defaults(run=run_remove)


def _add_unknown_issuer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unknown-issuer",
        action="store_true",
        help="accept an issuer that no provider and no token on record has",
    )


def _actor(text: str) -> dict[str, str]:
    kind, colon, actor_id = text.partition(":")
    if not colon or kind not in tuple(ActorType):
        raise argparse.ArgumentTypeError("must be USER:id or SERVICE:id")
    return {"type": kind, "id": actor_id}


def run_add(options: argparse.Namespace) -> int:
    """Print the entry after it is stored durably."""
    named = {
        "token": None if options.token is None else read_token(options.token),
        "issuer": options.issuer,
        "jti": options.jti,
        "subject": options.subject,
        "actor": options.actor,
        "issuedBefore": options.issued_before,
        "expiresAt": options.expires_at,
        "reason": options.reason,
        "unknownIssuer": options.unknown_issuer or None,
        "scope": options.scope,
        "sid": options.sid,
    }
    until: dict[str, None] = {"until": None} if options.until_removed else {}
    try:
        request = parse_request({name: value for name, value in named.items() if value is not None} | until)
    except ValueError as error:
        raise BadEntryError(f"{error}; see sidecar revocations add --help") from error
    added = asyncio.run(_add(load_settings(options), request))
    print(json.dumps(describe_added(added)))
    print(_summary(added), file=sys.stderr)
    return 0


def _summary(added: AddedEntry) -> str:
    """How many known tokens the entry revokes."""
    text = f"{added.ended_tokens} own token{'' if added.ended_tokens == 1 else 's'} on record revoked"
    if added.entry.scope is Scope.SUBJECT and not added.ended_tokens:
        return f"{text}; affected tokens of other issuers are not known here: check that the subject is the sub claim"
    return f"{text}; affected tokens of other issuers are not known here"


async def _add(loaded: Loaded, request: RevocationRequest) -> AddedEntry:
    if request.token:
        request = await _verified(loaded, request)
    async with _opened(loaded) as revocations:
        (added,) = await revocations.add([request], by=BY)
    return added


async def _verified(loaded: Loaded, request: RevocationRequest) -> RevocationRequest:
    """``request`` for its token. Raises Failed if its signature is invalid or the keys are unavailable."""
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        registry = await open_issuers(loaded, ProcessContext(metrics, clock), stack)
        await registry.mirror.wait_first_load(_LOAD_TIMEOUT)
        authenticators = AuthenticatorSet(
            tuple(build_authenticators(loaded, registry, VerifiedCache(0, metrics), clock).values())
        )
        decider = build_decider(loaded.settings, registry, authenticators, metrics, clock)
        verdict = await build_caller_authentication(loaded.settings, registry, decider, clock).verify_submitted(
            request.token
        )
    token = verdict.revocable_token()
    if token is None:
        assert verdict.failure is not None  # noqa: S101 - a token that passes is verified
        raise verdict.failure
    return for_token(request, token)


def run_import(options: argparse.Namespace) -> int:
    """Print how many entries were imported. Invalid lines are reported and skipped; then the exit code is 1."""
    loaded = load_settings(options)
    if options.file == "-":
        return asyncio.run(_import(loaded, sys.stdin.buffer, unknown_issuer=options.unknown_issuer))
    try:
        with open(options.file, "rb") as file:
            return asyncio.run(_import(loaded, file, unknown_issuer=options.unknown_issuer))
    except OSError as error:
        raise BadEntryError(f"{options.file} cannot be read: {error.strerror}") from error


@dataclass(slots=True)
class _Counts:
    """Results so far."""

    taken: int = 0
    refused: int = 0
    ended: int = 0

    def reject(self, number: int, problem: str) -> None:
        """Count a rejected line; the first ones are printed."""
        self.refused += 1
        if self.refused <= _MAX_SHOWN_ERRORS:
            print(f"line {number}: {problem}", file=sys.stderr)

    def add(self, added: list[AddedEntry]) -> None:
        """Count written entries."""
        self.taken += len(added)
        self.ended += sum(entry.ended_tokens for entry in added)


async def _import(loaded: Loaded, lines: Iterable[bytes], *, unknown_issuer: bool) -> int:
    counts = _Counts()
    shows_progress = sys.stderr.isatty()
    try:
        async with _opened(loaded) as revocations:
            for part in _batches(_requests(lines, counts.reject, unknown_issuer=unknown_issuer), MAX_ENTRIES):
                await _add_batch(revocations, part, counts)
                if shows_progress:
                    print(f"\r{counts.taken} entries imported", end="", file=sys.stderr, flush=True)
    finally:
        if shows_progress:
            print(file=sys.stderr)
        # entries that were written stay, even if the rest could not be written
        _audit.info(
            "revocation entries imported",
            extra={
                "event": "revocations_imported",
                "taken": counts.taken,
                "refused": counts.refused,
                "tokens_revoked": counts.ended,
                "by": BY,
            },
        )
    print(f"{counts.taken} entries imported, {counts.refused} rejected")
    return 1 if counts.refused else 0


async def _add_batch(
    revocations: RevocationService, part: list[tuple[int, RevocationRequest]], counts: _Counts
) -> None:
    """Write the entries in one batch; if one of them is rejected, one by one."""
    try:
        counts.add(await revocations.add([wish for _, wish in part], by=BY, quiet=True))
    except Refused:
        for number, wish in part:
            try:
                counts.add(await revocations.add([wish], by=BY, quiet=True))
            except Refused as refusal:
                counts.reject(number, refusal.message)


def _requests(
    lines: Iterable[bytes], reject: Callable[[int, str], None], *, unknown_issuer: bool
) -> Iterator[tuple[int, RevocationRequest]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > _MAX_LINE:
                raise ValueError(f"longer than {_MAX_LINE} bytes")
            request = parse_request(strict_json(line))
            if request.token:
                raise ValueError("token is not allowed in a file; give its issuer and jti")
        except ValueError as error:
            reject(number, str(error))
        else:
            yield number, replace(request, unknown_issuer=request.unknown_issuer or unknown_issuer)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def run_list(options: argparse.Namespace) -> int:
    """Print all active entries, newest first."""
    entries = asyncio.run(_list(load_settings(options), options.issuer))
    if options.json:
        for entry in entries:
            print(json.dumps(entry))
    else:
        head = ("ID", "ISSUER", "ABOUT", "ISSUED BEFORE", "UNTIL", "REASON")
        print(table(head, map(_row, entries)))
    return 0


async def _list(loaded: Loaded, issuer: str | None) -> list[dict[str, Any]]:
    async with _opened(loaded) as revocations:
        pages = all_pages(lambda after, limit: revocations.page(issuer, after, limit))
        # an entry that is rewritten in the meantime appears twice
        return list({entry.id: describe_entry(entry) async for page in pages for entry in page.entries}.values())


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    about = next((f"{name} {_short(entry[name])}" for name in _ABOUT if name in entry), "every token")
    return entry["id"], entry.get("issuer"), about, entry.get("issuedBefore"), entry["expiresAt"], entry["reason"]


def _short(value: Any) -> str:
    return f"{value['type']}:{value['id']}" if isinstance(value, dict) else str(value)


def run_remove(options: argparse.Namespace) -> int:
    """Remove the entry. Prints nothing."""
    asyncio.run(_remove(load_settings(options), options.id))
    return 0


async def _remove(loaded: Loaded, entry_id: str) -> None:
    async with _opened(loaded) as revocations:
        await revocations.remove(entry_id, by=BY)


@asynccontextmanager
async def _opened(loaded: Loaded) -> AsyncIterator[RevocationService]:
    clock = SystemClock()
    store = await open_store(loaded.settings.store, Metrics(), clock)
    try:
        yield build_revocations(loaded, store, store.write, clock)
    finally:
        await store.aclose()
