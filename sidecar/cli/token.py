"""``sidecar token``: mints, lists, shows and revokes tokens in the store; inspects and explains any token."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from sidecar.app.bot_tokens import bot_token_copies
from sidecar.app.datahub import datahub_setup
from sidecar.app.issuers import reserved_names
from sidecar.app.management import build_bots, build_minter
from sidecar.authn.registry import build_specs
from sidecar.cli.bots import add_replace_person_option
from sidecar.cli.explain import explain
from sidecar.cli.explain_session import explain_session
from sidecar.cli.explain_workload import explain_workload
from sidecar.cli.options import add_config_option, load_settings, read_token
from sidecar.cli.output import OutputError, print_durably
from sidecar.cli.table import table
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.config.providers import has_own_keys
from sidecar.config.settings import Settings
from sidecar.errors import Cause, Misconfigured, Problem, Reason, Refused, SidecarError
from sidecar.identity.actor import ActorType
from sidecar.identity.claims import actor_name
from sidecar.identity.names import folded
from sidecar.keys.signing import SigningKeys
from sidecar.metrics import Metrics
from sidecar.store.base import Batch, RecordQuery, Store
from sidecar.store.open import open_store
from sidecar.store.pages import all_records
from sidecar.store.record import MINTED_KINDS, TOKEN_KINDS, TokenKind, TokenRecord
from sidecar.tokens.datahub import FORMAT
from sidecar.tokens.issued.copies import BotTokenCopies
from sidecar.tokens.issued.lifetime import parse_lifetime
from sidecar.tokens.issued.mint import Minted, TokenRequest
from sidecar.tokens.issued.service import REPLACE_IDLE, audit_token_revoked
from sidecar.tokens.jwt.compact import decode_segment, json_object, split
from sidecar.tokens.jwt.policy import admin_names

_BY = "command line"
_NO_KIND = (
    "--kind is missing: use --kind bot for a program (reserves its name; users with this name are then rejected) "
    "or --kind personal for a person"
)
_MAX_NAME = 256
_MAX_TOKEN = 1024 * 1024


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser("token", help="manage issued tokens; inspect and explain any token").add_subparsers(
        metavar="ACTION", required=True
    )
    _register_create(actions)
    _register_managing(actions)
    inspect = actions.add_parser("inspect", help="print header and claims without verification")
    inspect.add_argument("token", metavar="TOKEN", help="the token, or - for standard input")
    inspect.set_defaults(run=run_inspect)
    explained = actions.add_parser("explain", help="validate a token step by step as the server does")
    add_config_option(explained)
    what = explained.add_mutually_exclusive_group(required=True)
    what.add_argument("token", metavar="TOKEN", nargs="?", help="the token, or - for standard input")
    what.add_argument("--cookie", metavar="VALUE", help="instead: the value of a session cookie, or -")
    explained.add_argument("--path", metavar="PATH", help="also apply the rules to a request for this path")
    explained.add_argument("--method", metavar="METHOD", default="GET", help="method of that request (default: GET)")
    explained.add_argument(
        "--workload", action="store_true", help="compare a token of a platform with the rules of the token endpoint"
    )
    explained.set_defaults(run=run_explain)


def _register_create(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "create",
        help="mint a token",
        description="Print a new token; an audit line and its record go to standard error. "
        "Uses the store directly: needs no running sidecar.",
    )
    add_config_option(parser)
    parser.add_argument("--name", required=True, type=_name, help="name of the token in lists")
    parser.add_argument(
        "--kind",
        choices=[kind.value for kind in MINTED_KINDS],
        help="bot for a program (reserves its name); personal or session for a person",
    )
    parser.add_argument("--actor-id", metavar="ID", help="the Actor that the token identifies (default: NAME)")
    parser.add_argument(
        "--actor-type", choices=[item.value for item in ActorType], help="default: SERVICE for bots, else USER"
    )
    parser.add_argument(
        "--expiry",
        type=_expiry,
        default=parse_lifetime("30"),
        help="days, OneHour, an ISO 8601 duration such as P30D, or Unlimited (default: 30)",
    )
    parser.add_argument("--format", choices=("openmetadata", "datahub"), default="openmetadata")
    parser.add_argument("--description", default="", type=_description)
    parser.add_argument("--roles", metavar="ROLE", nargs="+", default=())
    parser.add_argument("--json", action="store_true", help="print token and record as one JSON object")
    add_replace_person_option(parser)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="for --kind bot with tokens.botTokensInVault: overwrite what the secrets manager has under the bot's id",
    )
    parser.set_defaults(run=run_create, misused=parser.error)


def _register_managing(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    lists = actions.add_parser("list", help="list the tokens on record")
    add_config_option(lists)
    lists.add_argument("--actor", metavar="ID", help="only tokens of this Actor")
    lists.add_argument("--kind", choices=[kind.value for kind in TOKEN_KINDS])
    lists.add_argument("--active", action="store_true", help="only tokens that are neither expired nor revoked")
    lists.add_argument("--json", action="store_true", help="one JSON object per line")
    lists.set_defaults(run=run_list)
    for action, text, run in (
        ("show", "print the record of a token", run_show),
        ("revoke", "revoke a token", run_revoke),
    ):
        parser = actions.add_parser(action, help=text)
        add_config_option(parser)
        parser.add_argument("id", metavar="ID", help="id of the record, which is the token's jti")
        parser.set_defaults(run=run)


def run_create(options: argparse.Namespace) -> int:
    """Mint a token and print it after its record is stored durably. A token that cannot be printed is revoked."""
    if options.kind is None:
        options.misused(_NO_KIND)
    if options.replace_person and options.kind != TokenKind.BOT:
        options.misused("--replace-person is for --kind bot")
    loaded = load_settings(options)
    is_kept = options.kind == TokenKind.BOT and loaded.settings.tokens.bot_tokens_in_vault and options.format != FORMAT
    if options.replace and not is_kept:
        options.misused(REPLACE_IDLE)
    minted = asyncio.run(_create(options, loaded))
    record = {**minted.record.as_json(), "secret": minted.location}
    try:
        print_durably(json.dumps({"token": minted.token, "record": record}) if options.json else minted.token)
    except OutputError as error:
        raise OutputError(error.error, _revoke_unprinted(loaded, minted.record.id)) from error
    except BaseException:
        _revoke_unprinted(loaded, minted.record.id)
        raise
    if not options.json:
        with suppress(OSError):
            print(json.dumps(record), file=sys.stderr)
    return 0


def _revoke_unprinted(loaded: Loaded, token_id: str) -> str:
    """Revoke a token that could not be printed; returns a text with the result."""
    try:
        asyncio.run(_revoke(loaded, token_id))
    except SidecarError:
        return f"; the token {token_id} could not be revoked: run sidecar token revoke {token_id}"
    return f"; the token {token_id} was revoked"


async def _create(options: argparse.Namespace, loaded: Loaded) -> Minted:
    settings = loaded.settings
    configuration, authorizer = settings.jwt_token_configuration, settings.authorizer_configuration
    if not has_own_keys(configuration):
        raise _misconfigured(
            "jwtTokenConfiguration",
            "has no signing keys; generate them with sidecar keys generate, which prints the block for this section",
        )
    if options.expiry is None and not settings.tokens.allow_never_expiring:
        raise _misconfigured("tokens.allowNeverExpiring", "must be true for tokens that never expire; or set --expiry")
    keys = SigningKeys(configuration, allow_published=settings.allow_published_secrets)
    metrics, clock = Metrics(), SystemClock()
    kind = TokenKind(options.kind)
    actor_id = options.actor_id or options.name
    specs = build_specs(loaded.authenticators)
    reserved = reserved_names(settings, specs)
    if folded(actor_id) in reserved:
        message = "The actor's name is reserved; give another --actor-id"
        raise Refused(Reason.REQUEST_INVALID, Cause.RESERVED_NAME, message=message)
    default_type = ActorType.SERVICE if kind is TokenKind.BOT else ActorType.USER
    request = TokenRequest(
        name=options.name,
        kind=kind,
        actor_id=actor_id,
        actor_type=ActorType(options.actor_type or default_type),
        lifetime=options.expiry,
        description=options.description,
        roles=tuple(options.roles),
        is_admin=folded(actor_id) in admin_names(authorizer),
        format=options.format,
        minted_by=_BY,
        replace_person=options.replace_person,
        replace=options.replace,
    )
    datahub = datahub_setup(loaded, specs)
    async with _opened(settings) as store:
        copies = bot_token_copies(loaded, store, clock, metrics)
        bots = build_bots(settings, store, store.write, clock, reserved, copies)
        if kind is not TokenKind.BOT and await bots.is_registered(actor_name(actor_id)):
            raise Refused(Reason.CONFLICT, message="The actor is a bot; set kind to bot")
        return await build_minter(loaded, keys, datahub, store.write, bots, clock, metrics, copies).mint(request)


def run_list(options: argparse.Namespace) -> int:
    """Print the selected records, newest first."""
    query = RecordQuery(options.actor, options.kind, True if options.active else None, now=SystemClock().now())
    records = asyncio.run(_list(load_settings(options), query))
    if options.json:
        for record in records:
            print(json.dumps(record))
    else:
        print(table(("ID", "NAME", "KIND", "ACTOR", "EXPIRES", "LAST USED", "REVOKED"), map(_row, records)))
    return 0


async def _list(loaded: Loaded, query: RecordQuery) -> list[dict[str, Any]]:
    async with _opened(loaded.settings) as store:
        copies = bot_token_copies(loaded, store, SystemClock(), Metrics())
        return [_described(record, copies) async for record in all_records(store, query)]


def _described(record: TokenRecord, copies: BotTokenCopies | None) -> dict[str, Any]:
    return {**record.as_json(), "secret": None if copies is None else copies.location(record)}


def _row(record: dict[str, Any]) -> tuple[object, ...]:
    actor = f"{record['actor']['type']}:{record['actor']['id']}"
    times = (record["expiresAt"], record["lastUsedAt"], record["revokedAt"])
    return record["id"], record["name"], record["kind"], actor, *times


def run_show(options: argparse.Namespace) -> int:
    """Print the record."""
    print(json.dumps(asyncio.run(_show(load_settings(options), options.id)), indent=2))
    return 0


async def _show(loaded: Loaded, token_id: str) -> dict[str, Any]:
    async with _opened(loaded.settings) as store:
        copies = bot_token_copies(loaded, store, SystemClock(), Metrics())
        return _described(await _require_record(store, token_id), copies)


def run_revoke(options: argparse.Namespace) -> int:
    """Revoke the token, and delete it from the secrets manager. Prints nothing; idempotent."""
    asyncio.run(_revoke(load_settings(options), options.id))
    return 0


async def _revoke(loaded: Loaded, token_id: str) -> None:
    async with _opened(loaded.settings) as store:
        record = await _require_record(store, token_id)
        copies = bot_token_copies(loaded, store, SystemClock(), Metrics())
        location = None if copies is None or not copies.keeps(record) else copies.location_of(record.actor_id)
        if record.revoked_at is None:
            await store.write(Batch(revoke=((token_id, SystemClock().now()),)))
            audit_token_revoked(record, by=_BY)
        if copies is not None and location is not None:
            problem = await copies.clean(location.removeprefix("secret:"), store)
            if problem:
                text = f"warning: the token is revoked, and still in {copies.vault.name} as {location}: {problem}"
                print(f"{text}. Running sidecars try again", file=sys.stderr)


async def _require_record(store: Store, token_id: str) -> TokenRecord:
    record = await store.record(token_id)
    if record is None or record.kind is TokenKind.BOT_NAME:
        raise Refused(Reason.NOT_FOUND, message="There is no token with this id on record")
    return record


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    store = await open_store(settings.store, Metrics(), SystemClock())
    try:
        yield store
    finally:
        await store.aclose()


def run_inspect(options: argparse.Namespace) -> int:
    """Print header and claims. Raises Refused if it is no token."""
    header, claims, _ = split(read_token(options.token), _MAX_TOKEN)
    shown = {
        "header": json_object(decode_segment(header), Cause.HEADER),
        "claims": json_object(decode_segment(claims), Cause.ENCODING),
    }
    print(json.dumps(shown, indent=2))  # ASCII only: a token must not write escape sequences to a terminal
    print("not verified", file=sys.stderr)
    return 0


def run_explain(options: argparse.Namespace) -> int:
    """Print every step with its result. Returns 0 if the server would accept the token, else 1."""
    loaded = load_settings(options)
    if options.cookie is not None:
        if options.workload:
            raise _misconfigured("--workload", "is for tokens, not for --cookie")
        secret = read_token(options.cookie)
        return asyncio.run(explain_session(secret, loaded, method=options.method, path=options.path))
    if options.workload:
        return asyncio.run(explain_workload(read_token(options.token), loaded))
    return asyncio.run(explain(read_token(options.token), loaded, method=options.method, path=options.path))


def _name(text: str) -> str:
    if not text.isprintable() or not text.strip() or len(text) > _MAX_NAME:
        raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_NAME} printable characters")
    return text


def _description(text: str) -> str:
    if not text.isprintable() or len(text) > 4 * _MAX_NAME:
        raise argparse.ArgumentTypeError(f"must be at most {4 * _MAX_NAME} printable characters")
    return text


def _expiry(text: str) -> float | None:
    try:
        return parse_lifetime(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _misconfigured(path: str, message: str) -> Misconfigured:
    return Misconfigured([Problem(path, message)])
