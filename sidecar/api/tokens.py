"""``{prefix}/tokens``: mint, list, show and revoke issued tokens."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sidecar.api.body import BodyReader, bad_request, parse_query
from sidecar.api.paging import PARAMETERS, is_record_id, list_response
from sidecar.errors import Reason, Refused
from sidecar.identity.actor import ActorType
from sidecar.store.record import MINTED_KINDS, TOKEN_KINDS, TokenKind, TokenRecord
from sidecar.tokens.issued.service import Caller, TokenService, TokenSpec
from sidecar.web.error_responses import json_answer, no_content

TOKEN_MEMBERS = (
    "name",
    "kind",
    "actor",
    "expiry",
    "format",
    "description",
    "roles",
    "allowImpersonation",
    "replacePerson",
    "replace",
)
MAX_TOKEN_NAME = 256
MAX_DESCRIPTION = 1024
MAX_ROLES = 100


class TokenHandlers:
    """Handlers for authenticated callers."""

    def __init__(self, tokens: TokenService, bodies: BodyReader) -> None:
        self._tokens = tokens
        self._bodies = bodies

    async def mint(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """201 with the record and the token, which is shown only once."""
        parse_query(request, ())
        minted = await self._tokens.mint(caller, parse_spec(await self._bodies.read_json(request)))
        return json_answer(201, {**self._described(minted.record), "token": minted.token})

    async def list_records(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with a page of the records that the caller may see."""
        asked = parse_query(request, ("actor", "kind", "active", *PARAMETERS))
        kind, active = asked.get("kind"), asked.get("active")
        if kind is not None and kind not in TOKEN_KINDS:
            raise bad_request("kind must be bot, personal, session or exchanged")
        if active not in (None, "true", "false"):
            raise bad_request("active must be true or false")
        return await list_response(
            asked,
            lambda after, limit: self._tokens.page(
                caller,
                actor_id=asked.get("actor"),
                kind=kind,
                active=None if active is None else active == "true",
                after=after,
                limit=limit,
            ),
            lambda page: map(self._described, page.records),
        )

    async def show(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """200 with the record."""
        parse_query(request, ())
        return json_answer(200, self._described(await self._tokens.show(caller, _id(rest))))

    async def revoke(self, request: web.BaseRequest, caller: Caller, rest: str) -> web.StreamResponse:
        """204: the token is revoked."""
        parse_query(request, ())
        await self._tokens.revoke(caller, _id(rest))
        return no_content()

    def _described(self, record: TokenRecord) -> dict[str, Any]:
        return {**record.as_json(), "secret": self._tokens.location(record)}


def parse_spec(document: object) -> TokenSpec:
    """The token that a body requests. Raises Refused(REQUEST_INVALID)."""
    if not isinstance(document, dict) or not document.keys() <= set(TOKEN_MEMBERS):
        raise bad_request(f"The body must be an object; allowed members: {', '.join(TOKEN_MEMBERS)}")
    actor_type, actor_id = _actor(document.get("actor", {}))
    allow_impersonation = document.get("allowImpersonation", False)
    replace_person = document.get("replacePerson", False)
    replace = document.get("replace", False)
    if not all(isinstance(flag, bool) for flag in (allow_impersonation, replace_person, replace)):
        raise bad_request("allowImpersonation, replacePerson and replace must be true or false")
    if "name" not in document:
        raise bad_request("name is missing")
    return TokenSpec(
        name=_text(document["name"], "name", MAX_TOKEN_NAME),
        kind=TokenKind(_choice(document, "kind", MINTED_KINDS, TokenKind.PERSONAL)),
        actor_id=actor_id,
        actor_type=actor_type,
        expiry=_expiry(document["expiry"]) if "expiry" in document else None,
        description=_text(document["description"], "description", MAX_DESCRIPTION, blank=True)
        if "description" in document
        else "",
        roles=_roles(document["roles"]) if "roles" in document else None,
        allow_impersonation=allow_impersonation,
        format=_choice(document, "format", ("openmetadata", "datahub"), "openmetadata"),
        replace_person=replace_person,
        replace=replace,
    )


def _actor(value: object) -> tuple[ActorType | None, str | None]:
    """Type and id of ``actor``; both None if absent, the type None if only the id is given."""
    if value == {}:
        return None, None
    if not isinstance(value, dict) or not {"id"} <= value.keys() <= {"type", "id"}:
        raise bad_request("actor must be an object with id and optional type")
    kind = value.get("type")
    if kind is not None and kind not in tuple(ActorType):
        raise bad_request("actor.type must be USER or SERVICE")
    return None if kind is None else ActorType(kind), _text(value["id"], "actor.id", MAX_TOKEN_NAME)


def _expiry(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, "expiry", 64)


def _roles(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ROLES:
        raise bad_request(f"roles must be a list of at most {MAX_ROLES} names")
    return tuple(dict.fromkeys(_text(role, "a role", MAX_TOKEN_NAME) for role in value))


def _choice(document: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = document.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise bad_request(f"{name} must be one of: {', '.join(choices)}")
    return value


def _text(value: object, name: str, longest: int, *, blank: bool = False) -> str:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable() or not (blank or value.strip()):
        raise bad_request(f"{name} must be a string of {0 if blank else 1} to {longest} printable characters")
    return value


def _id(rest: str) -> str:
    if not is_record_id(rest):
        raise Refused(Reason.NOT_FOUND)
    return rest
