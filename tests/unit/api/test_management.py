"""The API over real sockets: who may call what, what goes in, what comes out."""

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from joserfc.jwk import ECKey

from sidecar.store.replica.bot_names import registration_id
from sidecar.tokens.jwt.compact import parse
from tests.support import forge
from tests.support.http_client import Reply
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.loopback_server import LoopbackServer
from tests.support.managed_sidecar import ISSUER, LISTENERS, ManagedSidecar, managed_sidecar


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[ManagedSidecar]:
    async with managed_sidecar(tmp_path) as running:
        yield running


def claims_of(token: str) -> dict[str, Any]:
    return parse(token, 16_384).claims


def refusal(reply: Reply) -> tuple[int, str]:
    assert reply.json()["code"] == reply.status
    assert reply.all("Cache-Control") == ["no-store"]
    return reply.status, reply.json()["reason"]


# The status for each caller and operation. ``own``/``foreign``: on a token of the caller / of another user.
CALLERS = ("anonymous", "person", "personal", "admin", "admin_personal", "bot", "bot_named", "service")
MATRIX: dict[str, tuple[int, ...]] = {
    #                    anon.  person pers. admin a.pers bot  named service
    "mint personal": (401, 201, 403, 201, 201, 403, 401, 403),
    "mint bot": (401, 403, 403, 201, 201, 403, 401, 403),
    "mint session": (401, 403, 403, 201, 201, 403, 401, 403),
    "mint for another": (401, 403, 403, 201, 201, 403, 401, 403),
    "mint with roles": (401, 403, 403, 201, 201, 403, 401, 403),
    "mint impersonating bot": (401, 403, 403, 201, 201, 403, 401, 403),
    "list": (401, 200, 200, 200, 200, 200, 401, 200),
    "show foreign": (401, 404, 404, 200, 200, 404, 401, 404),
    "revoke foreign": (401, 404, 404, 204, 204, 404, 401, 404),
    "show own": (401, 200, 200, 200, 200, 200, 401, 404),
    "revoke own": (401, 204, 204, 204, 204, 204, 401, 404),
    "deny": (401, 403, 403, 201, 201, 403, 401, 403),
    "list entries": (401, 403, 403, 200, 200, 403, 401, 403),
    "remove entry": (401, 403, 403, 204, 204, 403, 401, 403),
    "register a bot": (401, 403, 403, 201, 201, 403, 401, 403),
    "list bots": (401, 403, 403, 200, 200, 403, 401, 403),
    "release a bot": (401, 403, 403, 204, 204, 403, 401, 403),
    "RFC 7009 foreign": (200, 403, 403, 200, 200, 403, 401, 403),
    "RFC 7009 own": (200, 200, 200, 200, 200, 200, 401, 200),
    "introspect": (401, 200, 200, 200, 200, 200, 401, 200),
}


async def call(name: str, sidecar: ManagedSidecar, token: str | None, own: dict[str, str]) -> Reply:
    admin, eve = sidecar.token_of("root"), sidecar.token_of("eve")
    match name:
        case "mint personal":
            return await sidecar.call("POST", "/tokens", token, body={"name": "a"})
        case "mint bot":
            return await sidecar.call("POST", "/tokens", token, body={"name": "etl", "kind": "bot"})
        case "mint session":
            return await sidecar.call("POST", "/tokens", token, body={"name": "a", "kind": "session"})
        case "mint for another":
            body: dict[str, Any] = {"name": "a", "actor": {"type": "USER", "id": "zoe"}}
            return await sidecar.call("POST", "/tokens", token, body=body)
        case "mint with roles":
            return await sidecar.call("POST", "/tokens", token, body={"name": "a", "roles": []})
        case "mint impersonating bot":
            body = {"name": "etl", "kind": "bot", "allowImpersonation": True}
            return await sidecar.call("POST", "/tokens", token, body=body)
        case "list":
            return await sidecar.call("GET", "/tokens", token)
        case "show foreign" | "revoke foreign":
            foreign = await sidecar.mint(eve)
            return await sidecar.call("GET" if name == "show foreign" else "DELETE", f"/tokens/{foreign['id']}", token)
        case "show own" | "revoke own":
            return await sidecar.call("GET" if name == "show own" else "DELETE", f"/tokens/{own['id']}", token)
        case "deny":
            return await sidecar.call(
                "POST", "/revocations", token, body={"issuer": "x", "jti": "y", "unknownIssuer": True}
            )
        case "list entries":
            return await sidecar.call("GET", "/revocations", token)
        case "remove entry":
            entry = (
                await sidecar.call(
                    "POST", "/revocations", admin, body={"issuer": "x", "jti": "z", "unknownIssuer": True}
                )
            ).json()
            return await sidecar.call("DELETE", f"/revocations/{entry['id']}", token)
        case "register a bot":
            # a name for each caller: a repeated registration gets 200
            return await sidecar.call("POST", "/bots", token, body={"name": f"new{len(token or '')}{hash(token)}"})
        case "list bots":
            return await sidecar.call("GET", "/bots", token)
        case "release a bot":
            await sidecar.call("POST", "/bots", admin, body={"name": "free"})
            return await sidecar.call("DELETE", "/bots/free", token)
        case "RFC 7009 foreign":
            return await sidecar.call("POST", "/revoke", token, form={"token": eve})
        case "RFC 7009 own":
            return await sidecar.call("POST", "/revoke", token, form={"token": token or own["token"]})
        case "introspect":
            return await sidecar.call("POST", "/introspect", token, form={"token": eve})
    raise AssertionError(name)


async def callers(sidecar: ManagedSidecar) -> dict[str, tuple[str | None, dict[str, str]]]:
    """Each caller's token and a token of its own on record."""
    sam, root = sidecar.token_of("sam"), sidecar.token_of("root")
    personal, admin_personal = await sidecar.mint(sam), await sidecar.mint(root)
    bot = await sidecar.mint(root, name="ingest", kind="bot")
    nothing = {"id": "none", "token": "none"}
    return {
        "anonymous": (None, nothing),
        "person": (sam, personal),
        "personal": (personal["token"], personal),
        "admin": (root, admin_personal),
        "admin_personal": (admin_personal["token"], admin_personal),
        "bot": (bot["token"], bot),
        "bot_named": (sidecar.token_of("ingest"), nothing),
        "service": (sidecar.token_of("job", kind="job"), nothing),
    }


@pytest.mark.parametrize("name", MATRIX)
async def test_who_may_call_what(sidecar: ManagedSidecar, name: str) -> None:
    got = {}
    for caller in CALLERS:
        token, own = (await callers(sidecar))[caller]
        got[caller] = (await call(name, sidecar, token, own)).status
    assert got == dict(zip(CALLERS, MATRIX[name], strict=True))


async def test_minted_token_is_shown_once_and_works_until_it_is_revoked(sidecar: ManagedSidecar) -> None:
    sam = sidecar.token_of("sam")
    reply = await sidecar.call(
        "POST", "/tokens", sam, body={"name": "laptop", "description": "mine", "expiry": 7, "kind": "personal"}
    )
    made = reply.json()
    assert reply.all("Cache-Control") == ["no-store"]
    token = made.pop("token")
    claims = claims_of(token)
    assert (claims["jti"], claims["sub"], claims["exp"] - claims["iat"]) == (made["id"], "sam", 7 * 86_400)
    assert made.keys() == {
        "id", "name", "kind", "format", "description", "actor", "roles", "allowImpersonation", "owner", "createdAt",
        "expiresAt", "lastUsedAt", "revokedAt", "secret",
    }  # fmt: skip
    shown = (await sidecar.call("GET", f"/tokens/{made['id']}", sam)).json()
    assert {**shown, "lastUsedAt": None} == made
    listed = (await sidecar.call("GET", "/tokens", sam)).json()
    assert [record["id"] for record in listed["data"]] == [made["id"]]
    assert listed["paging"] == {"after": None, "total": 1}
    assert await sidecar.status(token) == 200
    ended = await sidecar.call("DELETE", f"/tokens/{made['id']}", sam)
    assert (ended.status, ended.body) == (204, b"")
    assert await sidecar.status(token) == 401
    assert (await sidecar.call("DELETE", f"/tokens/{made['id']}", sam)).status == 204
    assert (await sidecar.call("GET", f"/tokens/{made['id']}", sam)).json()["revokedAt"] is not None
    assert (await sidecar.call("GET", "/tokens?active=true", sam)).json()["data"] == []
    assert sidecar.folder.joinpath("sidecar.db").read_bytes().find(token.rpartition(".")[2].encode()) == -1


async def test_lists_come_in_pages(sidecar: ManagedSidecar) -> None:
    root = sidecar.token_of("root")
    for name in ("a", "b", "c"):
        await sidecar.mint(root, name=name, kind="bot")
    await sidecar.mint(root, name="d")
    seen, after = [], ""
    while True:
        page = (await sidecar.call("GET", f"/tokens?kind=bot&limit=2{after}", root)).json()
        seen += [record["name"] for record in page["data"]]
        assert page["paging"]["total"] == 3
        if page["paging"]["after"] is None:
            break
        after = f"&after={page['paging']['after']}"
    assert sorted(seen) == ["a", "b", "c"]
    named = (await sidecar.call("GET", "/tokens?actor=b", root)).json()
    assert [record["name"] for record in named["data"]] == ["b"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "limit=", "after=%00", "kind=root", "active=1", "limit=1&limit=1", "color=red"],
)
async def test_queries_that_are_refused(sidecar: ManagedSidecar, query: str) -> None:
    assert refusal(await sidecar.call("GET", f"/tokens?{query}", sidecar.token_of("root"))) == (400, "request_invalid")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"name":"a","name":"b"}',
        b'{"name":"a","color":1}',
        b'{"name":""}',
        b'{"name":5}',
        b'{"name":"a\\nb"}',
        b'{"name":"a\\ud800"}',
        b'{"name":"' + b"x" * 257 + b'"}',
        b'{"name":"a","kind":"root"}',
        b'{"name":"a","kind":null}',
        b'{"name":"a","format":"jwt"}',
        b'{"name":"a","expiry":true}',
        b'{"name":"a","expiry":1.5}',
        b'{"name":"a","expiry":"Unlimited"}',
        b'{"name":"a","roles":"x"}',
        b'{"name":"a","roles":[1]}',
        b'{"name":"a","actor":"sam"}',
        b'{"name":"a","actor":{"type":"USER"}}',
        b'{"name":"a","actor":{"id":"x","type":"GOD"}}',
        b'{"name":"a","actor":{"id":"anonymous"}}',
        b'{"name":"a","allowImpersonation":"yes"}',
        b'{"name":"a","allowImpersonation":true}',
        b"\xff\xfe{}",
        b"[" * 100_000,
    ],
)
async def test_bodies_that_are_refused(sidecar: ManagedSidecar, body: bytes) -> None:
    reply = await sidecar.call(
        "POST", "/tokens", sidecar.token_of("root"), raw=body, headers=(("Content-Type", "application/json"),)
    )
    assert refusal(reply) == (400, "request_invalid")
    assert "code" not in reply.json()["message"]
    assert (await sidecar.call("GET", "/tokens", sidecar.token_of("root"))).json()["data"] == []


async def test_other_content_types_large_and_compressed_bodies_are_refused(sidecar: ManagedSidecar) -> None:
    root, json = sidecar.token_of("root"), ("Content-Type", "application/json")
    for headers in ((), (("Content-Type", "text/plain"),), (("Content-Type", "application/x-www-form-urlencoded"),)):
        reply = await sidecar.call("POST", "/tokens", root, raw=b'{"name":"a"}', headers=headers)
        assert refusal(reply) == (400, "request_invalid")
    reply = await sidecar.call("POST", "/tokens", root, raw=b"x", headers=(json, ("Content-Encoding", "gzip")))
    assert refusal(reply) == (400, "request_invalid")
    reply = await sidecar.call("POST", "/tokens", root, raw=b" " * (1024 * 1024 + 1), headers=(json,))
    assert refusal(reply) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/tokens", "GET, POST, HEAD"),
        ("POST", "/tokens/x", "GET, DELETE, HEAD"),
        ("PUT", "/revocations", "GET, POST, HEAD"),
        ("GET", "/revocations/x", "DELETE"),
        ("GET", "/revoke", "POST"),
        ("GET", "/introspect", "POST"),
        ("POST", "/userinfo", "GET, HEAD"),
    ],
)
async def test_methods_that_there_are_not(sidecar: ManagedSidecar, method: str, path: str, allowed: str) -> None:
    reply = await sidecar.call(method, path, sidecar.token_of("root"))
    assert refusal(reply) == (405, "method_not_allowed")
    assert reply.all("Allow") == [allowed]


@pytest.mark.parametrize(
    "path", ["/tokens/", "/tokens/a/b", "/tokens/%2e", "/tokens/none", "/revocations/", "/tokensx"]
)
async def test_paths_that_there_are_not(sidecar: ManagedSidecar, path: str) -> None:
    reply = await sidecar.call("DELETE", path, sidecar.token_of("root"))
    assert refusal(reply) == (404, "not_found")


# --- the revocation list


@pytest.mark.parametrize("by", ["token", "jti", "subject", "issuedBefore", "actor"])
async def test_foreign_tokens_are_refused_from_then_on(sidecar: ManagedSidecar, by: str) -> None:
    root, sam, eve = (sidecar.token_of(name) for name in ("root", "sam", "eve"))
    own = await sidecar.mint(sam)
    entry = {
        "token": {"token": sam},
        "jti": {"issuer": sidecar.idp.issuer, "jti": claims_of(sam)["jti"]},
        "subject": {"issuer": sidecar.idp.issuer, "subject": "sub-sam"},
        "issuedBefore": {"issuer": sidecar.idp.issuer, "issuedBefore": "2100-01-01T00:00:00Z"},
        "actor": {"actor": {"type": "USER", "id": "sam"}},
    }[by]
    assert [await sidecar.status(token) for token in (sam, eve, own["token"])] == [200, 200, 200]
    reply = await sidecar.call("POST", "/revocations", root, body={**entry, "reason": "lost"})
    assert reply.status == 201
    made = reply.json()
    assert made["reason"] == "lost"
    assert made["createdBy"] == "USER:root"
    assert made.pop("matches") == {"own": 0 if by in ("token", "jti") else 1, "foreign": "unknown"}
    is_for_issuer = by == "issuedBefore"
    also_own = by not in ("token", "jti")
    assert await sidecar.status(sam) == 401
    assert await sidecar.status(eve) == (401 if is_for_issuer else 200)
    assert await sidecar.status(own["token"]) == (401 if also_own else 200)
    if is_for_issuer:
        return
    listed = (await sidecar.call("GET", "/revocations", root)).json()
    assert listed == {"data": [made], "paging": {"after": None, "total": 1}}
    assert (await sidecar.call("DELETE", f"/revocations/{made['id']}", root)).status == 204
    assert (await sidecar.call("DELETE", f"/revocations/{made['id']}", root)).status == 404
    assert await sidecar.status(sam) == 200
    # what has ended on record stays so
    assert await sidecar.status(own["token"]) == (401 if also_own else 200)


async def test_revoked_issued_token_is_revoked_on_record(sidecar: ManagedSidecar) -> None:
    root = sidecar.token_of("root")
    for body in ("token", "jti"):
        made = await sidecar.mint(root, name=f"for {body}")
        entry = {"token": made["token"]} if body == "token" else {"issuer": ISSUER, "jti": made["id"]}
        assert (await sidecar.call("POST", "/revocations", root, body=entry)).status == 201
        assert (await sidecar.call("GET", f"/tokens/{made['id']}", root)).json()["revokedAt"] is not None


async def test_list_of_entries_is_taken_whole_or_not_at_all(sidecar: ManagedSidecar) -> None:
    root = sidecar.token_of("root")
    entries: list[dict[str, Any]] = [
        {"issuer": "x", "jti": str(number), "unknownIssuer": True} for number in range(1000)
    ]
    for wrong in ([], [*entries, entries[0]], [*entries[:5], {"issuer": "x"}], [entries[0], {"token": "nonsense"}]):
        assert refusal(await sidecar.call("POST", "/revocations", root, body=wrong)) == (400, "request_invalid")
    assert (await sidecar.call("GET", "/revocations", root)).json()["paging"]["total"] == 0
    reply = await sidecar.call("POST", "/revocations", root, body=entries)
    assert (reply.status, len(reply.json()["data"])) == (201, 1000)
    assert (await sidecar.call("GET", "/revocations?issuer=x&limit=500", root)).json()["paging"]["total"] == 1000
    assert (await sidecar.call("GET", "/revocations?issuer=y", root)).json()["data"] == []


async def test_issuer_that_nothing_has_is_400_unless_it_is_said_to_be_unknown(sidecar: ManagedSidecar) -> None:
    root, issuer = sidecar.token_of("root"), sidecar.idp.issuer
    reply = await sidecar.call("POST", "/revocations", root, body={"issuer": issuer + "/", "subject": "sub-sam"})
    assert refusal(reply) == (400, "request_invalid")
    assert f'Did you mean "{issuer}"' in reply.json()["message"]
    entry = {"issuer": issuer + "/", "subject": "sub-sam", "unknownIssuer": True}
    assert (await sidecar.call("POST", "/revocations", root, body=entry)).status == 201
    listed = (await sidecar.call("GET", "/revocations", root)).json()["data"]
    assert [("matches" in shown, "unknownIssuer" in shown) for shown in listed] == [(False, False)]


async def test_only_genuine_tokens_can_be_denied(sidecar: ManagedSidecar) -> None:
    root = sidecar.token_of("root")
    own = await sidecar.mint(root)
    expired = sidecar.idp.mint(lifetime=-600)
    for token in ("nonsense", forge.token(), expired, own["token"][:-4] + "AAAA"):
        reply = await sidecar.call("POST", "/revocations", root, body={"token": token})
        assert refusal(reply) == (400, "request_invalid")
    revoked = sidecar.token_of("sam")
    for _ in range(2):
        assert (await sidecar.call("POST", "/revocations", root, body={"token": revoked})).status == 201
    assert (await sidecar.call("GET", "/revocations", root)).json()["paging"]["total"] == 1


# --- RFC 7009 and RFC 7662


async def test_bearer_may_revoke_its_token_without_another_credential(sidecar: ManagedSidecar) -> None:
    sam = sidecar.token_of("sam")
    bot = (await sidecar.mint(sidecar.token_of("root"), name="etl", kind="bot"))["token"]
    for token in (sam, bot):
        assert await sidecar.status(token) == 200
        for _ in range(2):
            reply = await sidecar.call("POST", "/revoke", form={"token": token, "token_type_hint": "whatever"})
            assert (reply.status, reply.all("Cache-Control")) == (200, ["no-store"])
        assert await sidecar.status(token) == 401


async def test_token_that_is_not_valid_yet_can_be_revoked(sidecar: ManagedSidecar) -> None:
    """It would become valid, and its bearer has been told that it is gone."""
    later = sidecar.idp.mint(lifetime=7200, nbf=claims_of(sidecar.idp.mint())["exp"])
    assert (await sidecar.call("POST", "/revoke", form={"token": later})).status == 200
    entries = (await sidecar.call("GET", "/revocations", sidecar.token_of("root"))).json()["data"]
    assert [entry["jti"] for entry in entries] == [claims_of(later)["jti"]]


async def test_revoking_what_is_no_token_is_fine(sidecar: ManagedSidecar) -> None:
    for token in ("nonsense", forge.token(), sidecar.idp.mint(lifetime=-600)):
        for credential in (None, sidecar.token_of("sam")):
            assert (await sidecar.call("POST", "/revoke", credential, form={"token": token})).status == 200
    assert (await sidecar.call("GET", "/revocations", sidecar.token_of("root"))).json()["data"] == []


CERTIFICATE = "Hash=" + hashlib.sha256(b"certificate").hexdigest()
THUMBPRINT = forge.b64(hashlib.sha256(b"certificate").digest())


@pytest.mark.parametrize("way", ["bearer", "credential", "admin", "entry"])
async def test_token_bound_to_a_certificate_is_ended_by_its_text(tmp_path: Path, way: str) -> None:
    """Who hands it over to be ended does not present it, and need not have its certificate."""
    server = {"clientCertificates": "envoy", "trustedProxies": ["127.0.0.1/32"]}
    async with managed_sidecar(tmp_path, server={**LISTENERS, **server}) as sidecar:
        root, shown = sidecar.token_of("root"), (("X-Forwarded-Client-Cert", CERTIFICATE),)
        bound = sidecar.token_of("sam", cnf={"x5t#S256": THUMBPRINT})

        async def passes() -> bool:
            return (await sidecar.call("GET", "/auth", bound, headers=shown)).status == 200

        assert await passes()
        said = (await sidecar.call("POST", "/introspect", root, form={"token": bound})).json()
        assert (said["active"], said["cnf"]) == (True, {"x5t#S256": THUMBPRINT})
        match way:
            case "entry":
                reply = await sidecar.call("POST", "/revocations", root, body={"token": bound})
            case "credential":
                reply = await sidecar.call("POST", "/revoke", bound, form={"token": bound}, headers=shown)
            case _:
                reply = await sidecar.call("POST", "/revoke", root if way == "admin" else None, form={"token": bound})
        assert reply.status == (201 if way == "entry" else 200)
        assert not await passes()
        assert (await sidecar.call("POST", "/introspect", root, form={"token": bound})).json() == {"active": False}


async def test_bound_token_is_ended_while_no_proxy_passes_certificates_on(sidecar: ManagedSidecar) -> None:
    """It is refused today; with another setting it would pass."""
    bound = sidecar.token_of("sam", cnf={"x5t#S256": THUMBPRINT})
    assert await sidecar.status(bound) == 401
    assert (await sidecar.call("POST", "/revoke", form={"token": bound})).status == 200
    assert await entries_about(sidecar) == [claims_of(bound)["jti"]]


async def test_token_that_has_expired_within_the_tolerance_is_ended(sidecar: ManagedSidecar) -> None:
    late = sidecar.idp.mint(lifetime=-5)
    assert await sidecar.status(late) == 200
    assert (await sidecar.call("POST", "/revoke", form={"token": late})).status == 200
    assert await sidecar.status(late) == 401


async def entries_about(sidecar: ManagedSidecar) -> list[str]:
    entries = (await sidecar.call("GET", "/revocations", sidecar.token_of("root"))).json()["data"]
    return [entry["jti"] for entry in entries]


async def test_token_for_another_audience_is_ended_for_who_may_and_never_said_to_be(sidecar: ManagedSidecar) -> None:
    """The issuer issues such tokens to all its users: a bearer of one must not write an entry."""
    theirs = sidecar.token_of("sam", aud="another")
    reply = await sidecar.call("POST", "/revoke", form={"token": theirs})
    assert (*refusal(reply), reply.json()["error"]) == (400, "request_invalid", "unsupported_token_type")
    reply = await sidecar.call("POST", "/revoke", sidecar.token_of("eve"), form={"token": theirs})
    assert refusal(reply) == (403, "forbidden")
    assert await entries_about(sidecar) == []
    assert (await sidecar.call("POST", "/revoke", sidecar.token_of("sam"), form={"token": theirs})).status == 200
    assert await entries_about(sidecar) == [claims_of(theirs)["jti"]]


@pytest.mark.parametrize("claims", [{"auth_sidecar": "upstream"}, {"events": {}}, {"jti": 5}, {"sub": []}])
async def test_what_no_entry_could_end_is_never_said_to_have_ended(
    sidecar: ManagedSidecar, claims: dict[str, Any]
) -> None:
    token = sidecar.token_of("sam", **claims)
    root = sidecar.token_of("root")
    for credential in (None, root):
        reply = await sidecar.call("POST", "/revoke", credential, form={"token": token})
        assert (*refusal(reply), reply.json()["error"]) == (400, "request_invalid", "unsupported_token_type")
    reply = await sidecar.call("POST", "/revocations", root, body={"token": token})
    assert refusal(reply) == (400, "request_invalid")
    assert await entries_about(sidecar) == []


async def test_without_the_issuers_keys_no_token_is_said_to_have_ended(tmp_path: Path) -> None:
    with IdentityProvider() as away:
        lost = away.mint()
    provider = {"name": "away", "issuer": away.issuer, "audiences": [AUDIENCE]}
    async with managed_sidecar(tmp_path, more_providers=[provider]) as sidecar:
        root = sidecar.token_of("root")
        for path, credential in (("/revoke", None), ("/revoke", root), ("/introspect", root)):
            reply = await sidecar.call("POST", path, credential, form={"token": lost})
            assert (reply.status, reply.json()["error"]) == (503, "temporarily_unavailable")
        assert (await sidecar.call("POST", "/revocations", root, body={"token": lost})).status == 503


async def test_another_persons_token_that_is_not_valid_yet_is_not_said_to_have_ended(sidecar: ManagedSidecar) -> None:
    later = sidecar.token_of("sam", nbf=claims_of(sidecar.idp.mint())["exp"])
    reply = await sidecar.call("POST", "/revoke", sidecar.token_of("eve"), form={"token": later})
    assert refusal(reply) == (403, "forbidden")


async def test_own_token_without_a_record_gets_an_entry(sidecar: ManagedSidecar) -> None:
    """A server that shares the key may have made it, and ``requireRecord: false`` would let it pass."""
    key = ECKey.import_key((sidecar.folder / "keys" / "private_key.pem").read_bytes())
    claims = {**claims_of((await sidecar.mint(sidecar.token_of("sam")))["token"]), "jti": "elsewhere"}
    made = forge.token(claims, forge.header(alg="ES256", kid="own1"), key=key, algorithm="ES256")
    reply = await sidecar.call("GET", "/auth", made)
    assert (reply.status, reply.json()["reason"]) == (401, "token_invalid")
    assert (await sidecar.call("POST", "/revoke", form={"token": made})).status == 200
    assert await entries_about(sidecar) == ["elsewhere"]
    borrowed = forge.token(
        {**claims_of((await sidecar.mint(sidecar.token_of("sam")))["token"]), "nbf": claims["exp"]},
        forge.header(alg="ES256", kid="own1"), key=key, algorithm="ES256",
    )  # fmt: skip
    assert (await sidecar.call("POST", "/revoke", form={"token": borrowed})).status == 200
    assert await entries_about(sidecar) == ["elsewhere"]


@pytest.mark.parametrize("said", [{}, {"jti": "j"}])
async def test_opaque_token_is_judged_and_ended_by_its_text(tmp_path: Path, said: dict[str, Any]) -> None:
    """The admin's own credential is not rejected."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        token = parse_qs((await request.read()).decode())["token"][0]
        about = {
            "active": True,
            "sub": "sub-sam",
            "preferred_username": "sam",
            "aud": AUDIENCE,
            **{name: value + token for name, value in said.items()},
        }
        return web.json_response(about if token.startswith("good") else {"active": False})

    with LoopbackServer(answer) as endpoint:
        asked = {"provider": "corp", "url": endpoint.url, "clientId": "c", "clientSecret": "s"}
        chain = [{"type": "jwt"}, {"type": "introspection", "configs": asked}]
        async with managed_sidecar(tmp_path, authentication={"authenticators": chain}) as sidecar:
            root = sidecar.token_of("root")
            told = (await sidecar.call("POST", "/introspect", root, form={"token": "good1"})).json()
            assert (told["active"], told["username"], told["sub"]) == (True, "sam", "sub-sam")
            for token, credential in (("good1", root), ("good2", None), ("good3", "good3")):
                assert await sidecar.status(token) == 200
                assert (await sidecar.call("POST", "/revoke", credential, form={"token": token})).status == 200
                assert await sidecar.status(token) == 401
            reply = await sidecar.call("POST", "/revoke", sidecar.token_of("eve"), form={"token": "good4"})
            assert refusal(reply) == (403, "forbidden")
            for entry in ("good4", "good4"):
                assert (await sidecar.call("POST", "/revocations", root, body={"token": entry})).status == 201
            assert await sidecar.status("good4") == 401
            assert (await sidecar.call("POST", "/revoke", root, form={"token": "bad"})).status == 200
            gone = await sidecar.call("POST", "/introspect", root, form={"token": "bad"})
            assert (gone.status, gone.json()) == (200, {"active": False})


async def test_to_ask_about_a_token_is_no_use_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.tokens.issued.usage._WRITE_INTERVAL", 0.05)
    async with managed_sidecar(tmp_path) as sidecar:
        root = sidecar.token_of("root")
        asked, used = await sidecar.mint(root, name="asked"), await sidecar.mint(root, name="used")
        assert (await sidecar.call("POST", "/introspect", root, form={"token": asked["token"]})).json()["active"]
        assert await sidecar.status(used["token"]) == 200

        async def last_use(made: dict[str, Any]) -> object:
            return (await sidecar.call("GET", f"/tokens/{made['id']}", root)).json()["lastUsedAt"]

        async with asyncio.timeout(15):
            while await last_use(used) is None:
                await asyncio.sleep(0.02)
        assert await last_use(asked) is None


async def test_revoking_an_own_token_of_the_same_origin(sidecar: ManagedSidecar) -> None:
    sam = sidecar.token_of("sam")
    made = await sidecar.mint(sam)
    reply = await sidecar.call("POST", "/revoke", sidecar.token_of("eve"), form={"token": made["token"]})
    assert (*refusal(reply), reply.json()["error"]) == (403, "forbidden", "access_denied")
    assert await sidecar.status(made["token"]) == 200
    assert (await sidecar.call("POST", "/revoke", sam, form={"token": made["token"]})).status == 200
    assert await sidecar.status(made["token"]) == 401
    assert (await sidecar.call("GET", "/revocations", sidecar.token_of("root"))).json()["data"] == []


async def test_another_token_under_a_recorded_id_ends_nothing(sidecar: ManagedSidecar) -> None:
    """Another holder of the key cannot revoke an active token by using its id."""
    made = await sidecar.mint(sidecar.token_of("sam"))
    key = ECKey.import_key((sidecar.folder / "keys" / "private_key.pem").read_bytes())
    borrowed = forge.token(
        {**claims_of(made["token"]), "note": "mine"}, forge.header(alg="ES256", kid="own1"), key=key, algorithm="ES256"
    )
    assert (await sidecar.call("POST", "/revoke", form={"token": borrowed})).status == 200
    root = sidecar.token_of("root")
    reply = await sidecar.call("POST", "/revocations", root, body={"token": borrowed})
    assert refusal(reply) == (400, "request_invalid")
    assert await sidecar.status(made["token"]) == 200


@pytest.mark.parametrize("path", ["/revoke", "/introspect"])
async def test_oauth_refusals_say_what_rfc_6749_calls_them(sidecar: ManagedSidecar, path: str) -> None:
    sam = sidecar.token_of("sam")
    cases: list[tuple[Any, str]] = [
        (await sidecar.call("POST", path, "nonsense", form={"token": sam}), "invalid_client"),
        (await sidecar.call("POST", path, sam, form={}), "invalid_request"),
        (await sidecar.call("POST", path, sam, form={"token": ""}), "invalid_request"),
        (await sidecar.call("POST", path, sam, body={"token": sam}), "invalid_request"),
        (await sidecar.call("POST", f"{path}?token=x", sam, form={"token": sam}), "invalid_request"),
        (await sidecar.call("GET", path, sam), "invalid_request"),
    ]
    twice = (("Content-Type", "application/x-www-form-urlencoded"),)
    cases.append((await sidecar.call("POST", path, sam, raw=b"token=a&token=b", headers=twice), "invalid_request"))
    assert [reply.json()["error"] for reply, _ in cases] == [error for _, error in cases]
    assert cases[0][0].all("WWW-Authenticate")


async def test_introspection_tells_what_the_token_says(sidecar: ManagedSidecar) -> None:
    root, job, sam = sidecar.token_of("root"), sidecar.token_of("job", kind="job"), sidecar.token_of("sam")
    personal = (await sidecar.mint(sam))["token"]
    for asking in (root, job, sam, personal):
        for token in (sam, personal):
            answer = (await sidecar.call("POST", "/introspect", asking, form={"token": token})).json()
            claims = claims_of(token)
            names = ("iss", "sub", "exp", "iat", "jti", "aud")
            shown: dict[str, Any] = {name: claims[name] for name in names if name in claims}
            assert answer == {"active": True, "token_type": "Bearer", "username": "sam", **shown}


async def test_introspection_leaves_out_what_is_no_text(sidecar: ManagedSidecar) -> None:
    """These claims are not verified; a number with forty digits could not be serialized."""
    sam = sidecar.token_of("sam", scope="read", client_id=10**39)
    answer = (await sidecar.call("POST", "/introspect", sam, form={"token": sam})).json()
    assert (answer["scope"], "client_id" in answer) == ("read", False)


async def test_introspection_tells_nothing_of_other_tokens(sidecar: ManagedSidecar) -> None:
    root, sam, eve = (sidecar.token_of(name) for name in ("root", "sam", "eve"))
    gone = sidecar.token_of("gone")
    await sidecar.call("POST", "/revoke", form={"token": gone})
    for asking, token in ((eve, sam), (root, "nonsense"), (root, gone), (root, sidecar.idp.mint(lifetime=-600))):
        reply = await sidecar.call("POST", "/introspect", asking, form={"token": token})
        assert (reply.status, reply.json()) == (200, {"active": False})
    reply = await sidecar.call("POST", "/introspect", form={"token": sam})
    assert (*refusal(reply), reply.json()["error"]) == (401, "token_missing", "invalid_client")


# --- without a store; usage


async def test_without_a_store_nothing_succeeds_and_nothing_is_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.store.sqlite.database._BUSY_TIMEOUT", 0.2)
    async with managed_sidecar(tmp_path) as sidecar:
        root, sam = sidecar.token_of("root"), sidecar.token_of("sam")
        made = await sidecar.mint(root)
        assert await sidecar.status(sam) == 200
        blocker = sqlite3.connect(tmp_path / "sidecar.db", isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        try:
            replies = [
                await sidecar.call("POST", "/tokens", root, body={"name": "b"}),
                await sidecar.call("DELETE", f"/tokens/{made['id']}", root),
                await sidecar.call("POST", "/revocations", root, body={"token": sam}),
                await sidecar.call("POST", "/revoke", form={"token": sam}),
            ]
        finally:
            blocker.close()
        assert [reply.status for reply in replies] == [503, 503, 503, 503]
        assert all(reply.all("Retry-After") for reply in replies)
        assert replies[3].json()["error"] == "temporarily_unavailable"
        assert await sidecar.status(sam) == 200
        listed = (await sidecar.call("GET", "/tokens", root)).json()["data"]
        assert [(record["name"], record["revokedAt"]) for record in listed] == [("laptop", None)]


async def test_last_use_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.tokens.issued.usage._WRITE_INTERVAL", 0.05)
    async with managed_sidecar(tmp_path) as sidecar:
        await _check_last_use(sidecar)


async def _check_last_use(sidecar: ManagedSidecar) -> None:
    sam = sidecar.token_of("sam")
    made = await sidecar.mint(sam)
    assert await sidecar.status(made["token"]) == 200

    async def used() -> bool:
        shown = (await sidecar.call("GET", f"/tokens/{made['id']}", sam)).json()
        return shown["lastUsedAt"] is not None

    async with asyncio.timeout(15):
        while not await used():
            await asyncio.sleep(0.02)


async def test_a_bots_name_is_kept_until_it_is_released(sidecar: ManagedSidecar) -> None:
    """Revoking the last token does not release the name."""
    root = sidecar.token_of("root")
    made = await sidecar.mint(root, name="Ingest", kind="bot")
    assert (await sidecar.call("DELETE", f"/tokens/{made['id']}", root)).status == 204
    assert await sidecar.status(sidecar.token_of("INGEST")) == 401
    (listed,) = (await sidecar.call("GET", "/bots", root)).json()["data"]
    assert (listed["name"], listed["registeredBy"]) == ("ingest", "USER:root")
    assert (await sidecar.call("GET", "/tokens", root)).json()["paging"]["total"] == 1
    assert (await sidecar.call("DELETE", "/bots/INGEST", root)).status == 204
    assert await sidecar.status(sidecar.token_of("ingest")) == 200
    assert refusal(await sidecar.call("DELETE", "/bots/ingest", root)) == (404, "not_found")
    assert (await sidecar.call("GET", "/bots", root)).json() == {"data": [], "paging": {"after": None, "total": 0}}


async def test_a_person_who_came_in_is_not_made_a_bot_by_accident(sidecar: ManagedSidecar) -> None:
    """Nor is the name of an admin; with ``replacePerson`` the response says what was done."""
    root, pat = sidecar.token_of("root"), sidecar.token_of("pat")
    assert await sidecar.status(pat) == 200
    for name in ("pat", "chief"):
        wish = {"name": name, "kind": "bot"}
        for path, body in (("/tokens", wish), ("/bots", {"name": name})):
            reply = await sidecar.call("POST", path, root, body=body)
            assert refusal(reply) == (409, "conflict")
            assert "replacePerson" in reply.json()["message"]
    assert await sidecar.status(pat) == 200
    await sidecar.mint(root, name="pat", kind="bot", replacePerson=True)
    assert await sidecar.status(pat) == 401


async def test_registering_again_answers_what_stands(sidecar: ManagedSidecar) -> None:
    root = sidecar.token_of("root")
    first = await sidecar.call("POST", "/bots", root, body={"name": "corp/Nightly"})
    again = await sidecar.call("POST", "/bots", root, body={"name": "corp/nightly"})
    assert (first.status, again.status, first.json()) == (201, 200, again.json())
    assert first.json()["name"] == "corp/nightly"
    assert (await sidecar.call("DELETE", "/bots/corp%2Fnightly", root)).status == 204


@pytest.mark.parametrize(
    "body",
    [[], {}, {"name": 1}, {"name": ""}, {"name": "a b"}, {"name": "a", "x": 1}, {"name": "a", "replacePerson": 1}],
)
async def test_bots_that_cannot_be_registered(sidecar: ManagedSidecar, body: object) -> None:
    root = sidecar.token_of("root")
    assert refusal(await sidecar.call("POST", "/bots", root, body=body)) == (400, "request_invalid")
    assert refusal(await sidecar.call("DELETE", "/bots/%ff", root)) == (400, "request_invalid")


async def test_no_call_about_tokens_ends_a_registration(sidecar: ManagedSidecar) -> None:
    """Nor does a cut-off of the whole own issuer: the names are kept when every token has ended."""
    root = sidecar.token_of("root")
    await sidecar.call("POST", "/bots", root, body={"name": "ingest"})
    token_id = registration_id("ingest", 0)
    assert (await sidecar.call("GET", f"/tokens/{token_id}", root)).status == 404
    assert (await sidecar.call("DELETE", f"/tokens/{token_id}", root)).status == 404
    for entry in ({"issuer": ISSUER, "jti": token_id}, {"issuer": ISSUER, "issuedBefore": "2100-01-01T00:00:00Z"}):
        await sidecar.call("POST", "/revocations", root, body=entry)
    assert await sidecar.status(sidecar.token_of("ingest")) == 401
    assert len((await sidecar.call("GET", "/bots", root)).json()["data"]) == 1


async def test_names_of_bots_from_before_are_registered_at_the_start(tmp_path: Path) -> None:
    """Their tokens' records are forgotten one day; the names are not."""
    async with managed_sidecar(tmp_path) as running:
        await running.mint(running.token_of("root"), name="ingest", kind="bot")
    with sqlite3.connect(tmp_path / "sidecar.db") as database:
        database.execute("DELETE FROM token_records WHERE kind = 'bot_name'")
    database.close()
    async with managed_sidecar(tmp_path) as running:
        root = running.token_of("root")
        async with asyncio.timeout(10):
            while not (listed := (await running.call("GET", "/bots", root)).json()["data"]):
                await asyncio.sleep(0.02)
    assert [(item["name"], item["registeredBy"]) for item in listed] == [("ingest", "earlier tokens")]
