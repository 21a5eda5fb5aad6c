"""``sidecar revocations add|import|list|remove``: the deny list, on the store itself. No sidecar has to run."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from sidecar.app.authentication import build_authenticators, build_decider
from sidecar.app.issuers import open_issuers
from sidecar.app.management import build_door, build_revocations
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
from sidecar.store.revocation_entry import RevocationEntry, Scope
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
_SHOWN_MISTAKES = 20
_ABOUT = ("jti", "digest", "subject", "actor")
T = TypeVar("T")


class BadEntryError(SidecarError):
    """What is to be denied cannot be; the text says where and why."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser("revocations", help="the deny list for tokens of any issuer").add_subparsers(
        metavar="ACTION", required=True
    )
    add = actions.add_parser("add", help="deny a token, or all tokens issued before an instant")
    add_config_option(add)
    add.add_argument("--token", metavar="TOKEN", help="the token, or - for standard input; its signature is checked")
    add.add_argument("--issuer", metavar="ISS")
    add.add_argument("--jti", metavar="ID")
    add.add_argument("--subject", metavar="SUB", help="the raw sub, which need not be the user's name")
    add.add_argument("--actor", metavar="TYPE:ID", type=_actor, help="such as USER:sam: tokens of every issuer")
    add.add_argument(
        "--issued-before",
        metavar="TIME",
        help="now, or such as 2026-11-21T12:00:00Z (default with --subject and --actor: now)",
    )
    _add_unknown_issuer(add)
    add.add_argument("--expires-at", metavar="TIME", help="until when to keep it (default: as long as it matters)")
    add.add_argument("--reason", metavar="TEXT")
    add.set_defaults(run=run_add)
    imports = actions.add_parser("import", help="deny what a file of JSON lines names, as POST revocations takes it")
    add_config_option(imports)
    imports.add_argument("file", metavar="FILE", help="the file, or - for standard input")
    _add_unknown_issuer(imports)
    imports.set_defaults(run=run_import)
    lists = actions.add_parser("list", help="show the entries that stand")
    add_config_option(lists)
    lists.add_argument("--issuer", metavar="ISS")
    lists.add_argument("--json", action="store_true", help="one JSON object per line")
    lists.set_defaults(run=run_list)
    remove = actions.add_parser("remove", help="take an entry off the list")
    add_config_option(remove)
    remove.add_argument("id", metavar="ID")
    remove.set_defaults(run=run_remove)


def _add_unknown_issuer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unknown-issuer",
        action="store_true",
        help="take an issuer that no provider and no token on record has",
    )


def _actor(text: str) -> dict[str, str]:
    kind, colon, actor_id = text.partition(":")
    if not colon or kind not in tuple(ActorType):
        raise argparse.ArgumentTypeError("must be USER:id or SERVICE:id")
    return {"type": kind, "id": actor_id}


def run_add(options: argparse.Namespace) -> int:
    """Print the entry once it is on disk."""
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
    }
    try:
        wish = parse_request({name: value for name, value in named.items() if value is not None})
    except ValueError as error:
        raise BadEntryError(f"{error}; see sidecar revocations add --help") from error
    added = asyncio.run(_add(load_settings(options), wish))
    print(json.dumps(describe_added(added)))
    print(_meets(added), file=sys.stderr)
    return 0


def _meets(added: AddedEntry) -> str:
    """How many known tokens the entry has met, for people."""
    text = f"{added.ended_tokens} own token{'' if added.ended_tokens == 1 else 's'} on record ended"
    if added.entry.scope is Scope.SUBJECT and not added.ended_tokens:
        return f"{text}; how many others' tokens it meets is not known here: make sure that the subject is the raw sub"
    return f"{text}; how many others' tokens it meets is not known here"


async def _add(loaded: Loaded, wish: RevocationRequest) -> AddedEntry:
    if wish.token:
        wish = await _verified(loaded, wish)
    async with _opened(loaded) as revocations:
        (added,) = await revocations.add([wish], by=BY)
    return added


async def _verified(loaded: Loaded, wish: RevocationRequest) -> RevocationRequest:
    """``wish`` about its token. Raises Failed when the token is not genuine or its issuer's keys cannot be had."""
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        trust = await open_issuers(loaded, ProcessContext(metrics, clock), stack)
        await trust.mirror.wait_first_load(_LOAD_TIMEOUT)
        members = AuthenticatorSet(
            tuple(build_authenticators(loaded, trust, VerifiedCache(0, metrics), clock).values())
        )
        decider = build_decider(loaded.settings, trust, members, metrics, clock)
        found = await build_door(loaded.settings, trust, decider, clock).verify_submitted(wish.token)
    token = found.revocable_token()
    if token is None:
        assert found.failure is not None  # noqa: S101 - what passes is genuine
        raise found.failure
    return for_token(wish, token)


def run_import(options: argparse.Namespace) -> int:
    """Print how many entries were taken. Lines that are no entries are named, and the rest is taken; then exit 1."""
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
    """What has become of the lines so far."""

    taken: int = 0
    refused: int = 0
    ended: int = 0

    def complain(self, number: int, problem: str) -> None:
        """A line was refused; the first few are named."""
        self.refused += 1
        if self.refused <= _SHOWN_MISTAKES:
            print(f"line {number}: {problem}", file=sys.stderr)

    def take(self, added: list[AddedEntry]) -> None:
        """Entries were written."""
        self.taken += len(added)
        self.ended += sum(entry.ended_tokens for entry in added)


async def _import(loaded: Loaded, lines: Iterable[bytes], *, unknown_issuer: bool) -> int:
    counts = _Counts()
    shows_progress = sys.stderr.isatty()
    try:
        async with _opened(loaded) as revocations:
            for part in _batches(_requests(lines, counts.complain, unknown_issuer=unknown_issuer), MAX_ENTRIES):
                await _add_batch(revocations, part, counts)
                if shows_progress:
                    print(f"\r{counts.taken} entries taken", end="", file=sys.stderr, flush=True)
    finally:
        if shows_progress:
            print(file=sys.stderr)
        # what was written stands, also when the rest could not be
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
    print(f"{counts.taken} entries taken, {counts.refused} refused")
    return 1 if counts.refused else 0


async def _add_batch(
    revocations: RevocationService, part: list[tuple[int, RevocationRequest]], counts: _Counts
) -> None:
    """Write them at once, or where one of them cannot be kept, one by one."""
    try:
        counts.take(await revocations.add([wish for _, wish in part], by=BY, quiet=True))
    except Refused:
        for number, wish in part:
            try:
                counts.take(await revocations.add([wish], by=BY, quiet=True))
            except Refused as refusal:
                counts.complain(number, refusal.message)


def _requests(
    lines: Iterable[bytes], complain: Callable[[int, str], None], *, unknown_issuer: bool
) -> Iterator[tuple[int, RevocationRequest]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > _MAX_LINE:
                raise ValueError("longer than an entry can be")
            wish = parse_request(strict_json(line))
            if wish.token:
                raise ValueError("a token is not taken from a file; name its issuer and jti")
        except ValueError as error:
            complain(number, str(error))
        else:
            yield number, replace(wish, unknown_issuer=wish.unknown_issuer or unknown_issuer)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def run_list(options: argparse.Namespace) -> int:
    """Print every entry that stands, newest first."""
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
        entries = _all(lambda after: _page(revocations, issuer, after))
        # what is written anew meanwhile comes twice
        return list({denial.id: describe_entry(denial) async for denial in entries}.values())


async def _page(
    revocations: RevocationService, issuer: str | None, after: str
) -> tuple[tuple[RevocationEntry, ...], str]:
    page = await revocations.page(issuer, after, 500)
    return page.entries, page.after


async def _all(read: Callable[[str], Awaitable[tuple[tuple[T, ...], str]]]) -> AsyncIterator[T]:
    after = ""
    while True:
        items, after = await read(after)
        for item in items:
            yield item
        if not after:
            return


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    about = next((f"{name} {_short(entry[name])}" for name in _ABOUT if name in entry), "every token")
    return entry["id"], entry.get("issuer"), about, entry.get("issuedBefore"), entry["expiresAt"], entry["reason"]


def _short(value: Any) -> str:
    return f"{value['type']}:{value['id']}" if isinstance(value, dict) else str(value)


def run_remove(options: argparse.Namespace) -> int:
    """Remove it, and print nothing."""
    asyncio.run(_remove(load_settings(options), options.id))
    return 0


async def _remove(loaded: Loaded, denial_id: str) -> None:
    async with _opened(loaded) as revocations:
        await revocations.remove(denial_id, by=BY)


@asynccontextmanager
async def _opened(loaded: Loaded) -> AsyncIterator[RevocationService]:
    clock = SystemClock()
    store = await open_store(loaded.settings.store, Metrics(), clock)
    try:
        yield build_revocations(loaded, store, store.write, clock)
    finally:
        await store.aclose()
