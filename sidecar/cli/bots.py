"""``sidecar bots list|register|release``: reserved bot names, directly in the store."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.app.bot_tokens import bot_token_copies
from sidecar.app.issuers import reserved_names
from sidecar.app.management import build_bots
from sidecar.authn.registry import build_specs
from sidecar.cli.options import add_config_option, load_settings
from sidecar.cli.table import table
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.metrics import Metrics
from sidecar.store.open import open_store
from sidecar.store.pages import all_pages
from sidecar.tokens.issued.bots import BotRegistry

_BY = "command line"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser("bots", help="manage reserved bot names").add_subparsers(
        metavar="ACTION", required=True
    )
    lists = actions.add_parser("list", help="list reserved bot names")
    add_config_option(lists)
    lists.add_argument("--json", action="store_true", help="one JSON object per line")
    lists.set_defaults(run=run_list)
    registers = actions.add_parser("register", help="reserve a name for a bot; users with this name are then rejected")
    add_config_option(registers)
    registers.add_argument("name", metavar="NAME")
    add_replace_person_option(registers)
    registers.set_defaults(run=run_register)
    releases = actions.add_parser("release", help="release a bot name for users; the tokens of the bot must have ended")
    add_config_option(releases)
    releases.add_argument("name", metavar="NAME")
    releases.set_defaults(run=run_release)


def add_replace_person_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--replace-person`` to ``parser``."""
    parser.add_argument(
        "--replace-person",
        action="store_true",
        help="also if a user or an admin has the name; that user is rejected until the name is released",
    )


def run_list(options: argparse.Namespace) -> int:
    """Print all names, newest first."""
    names = asyncio.run(_list(load_settings(options)))
    if options.json:
        for name in names:
            print(json.dumps(name))
    else:
        print(table(("NAME", "REGISTERED", "BY", "SECRET"), (tuple(name.values()) for name in names)))
    return 0


async def _list(loaded: Loaded) -> list[dict[str, object]]:
    async with _opened(loaded) as bots:
        return [bots.describe(record) async for page in all_pages(bots.page) for record in page.records]


def run_register(options: argparse.Namespace) -> int:
    """Print the name after it is stored durably."""
    loaded = load_settings(options)
    print(json.dumps(asyncio.run(_register(loaded, options.name, replace_person=options.replace_person))))
    return 0


async def _register(loaded: Loaded, name: str, *, replace_person: bool) -> dict[str, object]:
    async with _opened(loaded) as bots:
        registration, _ = await bots.register(name, by=_BY, replace_person=replace_person)
        return bots.describe(registration)


def run_release(options: argparse.Namespace) -> int:
    """Release the name. Prints nothing."""
    asyncio.run(_release(load_settings(options), options.name))
    return 0


async def _release(loaded: Loaded, name: str) -> None:
    async with _opened(loaded) as bots:
        await bots.release(name, by=_BY)


@asynccontextmanager
async def _opened(loaded: Loaded) -> AsyncIterator[BotRegistry]:
    clock, metrics = SystemClock(), Metrics()
    store = await open_store(loaded.settings.store, metrics, clock)
    try:
        reserved = reserved_names(loaded.settings, build_specs(loaded.authenticators))
        copies = bot_token_copies(loaded, store, clock, metrics)
        yield build_bots(loaded.settings, store, store.write, clock, reserved, copies)
    finally:
        await store.aclose()
