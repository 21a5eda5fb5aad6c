"""``sidecar sessions list|end``: browser sessions, directly in the store."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sidecar.cli.options import add_config_option, load_settings
from sidecar.cli.table import table
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.errors import Reason, Refused
from sidecar.metrics import Metrics
from sidecar.sessions.records import describe_session
from sidecar.sessions.service import audit_session_ended
from sidecar.store.base import Batch, RecordQuery, Store
from sidecar.store.open import open_store
from sidecar.store.pages import PAGE_SIZE, all_records
from sidecar.store.record import TokenKind, TokenRecord

_BY = "command line"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser("sessions", help="list and end browser sessions").add_subparsers(
        metavar="ACTION", required=True
    )
    lists = actions.add_parser("list", help="list sessions, newest first")
    add_config_option(lists)
    lists.add_argument("--actor", metavar="ID", help="only those of this Actor")
    lists.add_argument("--all", action="store_true", help="also sessions that have ended")
    lists.add_argument("--json", action="store_true", help="one JSON object per line")
    lists.set_defaults(run=run_list)
    ends = actions.add_parser("end", help="end one session, or all sessions of an Actor")
    add_config_option(ends)
    which = ends.add_mutually_exclusive_group(required=True)
    which.add_argument("id", metavar="ID", nargs="?", help="id of a session")
    which.add_argument("--actor", metavar="ID", help="all sessions of this Actor")
    ends.set_defaults(run=run_end)


def run_list(options: argparse.Namespace) -> int:
    """Print the sessions."""
    found = asyncio.run(_list(load_settings(options), options.actor, ended=options.all))
    if options.json:
        for session in found:
            print(json.dumps(session))
    else:
        columns = ("id", "actor", "provider", "createdAt", "lastUsedAt", "expiresAt")
        shown = ({**one, "actor": one["actor"]["id"]} for one in found)
        rows = (tuple(one[name] for name in columns) for one in shown)
        print(table(("ID", "ACTOR", "PROVIDER", "CREATED", "LAST USED", "EXPIRES"), rows))
    return 0


async def _list(loaded: Loaded, actor: str | None, *, ended: bool) -> list[dict[str, Any]]:
    async with _opened(loaded) as store:
        times = loaded.settings.login.session
        return [
            describe_session(record, max_age=times.max_age, idle=times.idle)
            async for record in _sessions(store, actor, ended=ended)
        ]


def run_end(options: argparse.Namespace) -> int:
    """End the sessions and print how many. Running sidecars apply it within milliseconds."""
    ended = asyncio.run(_end(load_settings(options), options.id, options.actor))
    print(f"Sessions ended: {ended}")
    return 0


async def _end(loaded: Loaded, session_id: str | None, actor: str | None) -> int:
    async with _opened(loaded) as store:
        if session_id is None:
            found = [record async for record in _sessions(store, actor, ended=False)]
        else:
            record = await store.record(session_id)
            if record is None or record.kind is not TokenKind.BROWSER:
                raise Refused(Reason.NOT_FOUND, message=f"There is no session {session_id}")
            found = [] if record.revoked_at is not None else [record]
        now = SystemClock.now()
        for start in range(0, len(found), PAGE_SIZE):
            part = found[start : start + PAGE_SIZE]
            await store.write(Batch(revoke=tuple((record.id, now) for record in part)))
            for record in part:
                audit_session_ended(record, by=_BY, cause="command_line")
        return len(found)


async def _sessions(store: Store, actor: str | None, *, ended: bool) -> AsyncIterator[TokenRecord]:
    query = RecordQuery(kind=TokenKind.BROWSER.value, active=None if ended else True, now=SystemClock.now())
    async for record in all_records(store, query):
        if actor in (None, record.name):
            yield record


@asynccontextmanager
async def _opened(loaded: Loaded) -> AsyncIterator[Store]:
    store = await open_store(loaded.settings.store, Metrics(), SystemClock())
    try:
        yield store
    finally:
        await store.aclose()
