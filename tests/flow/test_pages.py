"""The pages: what they show, what their forms do, and what forms of others do not."""

import asyncio
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_client import request
from tests.support.login_provider import NAVIGATION
from tests.support.pages_world import FORM, PagesWorld, Person, form_token, pages_world, shown_token
from tests.support.ports import free_port

LAPTOP = {"name": "laptop", "description": "My <b>laptop</b>", "expiry": "7"}
EVERY_PAGE = ("/me", "/me/tokens", "/me/sessions", "/admin", "/admin/tokens", "/admin/sessions", "/admin/revocations")
SESSION = "sidecar_session"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[PagesWorld]:
    async with pages_world(tmp_path) as made:
        yield made


async def test_login_returns_to_the_page_that_was_asked_for(world: PagesWorld) -> None:
    person = await world.login()
    person.cookies.clear()
    reply = await person.open("/me/tokens?all=true")
    assert (reply.status, person.seen[-1]) == (200, f"{world.url}/oauth2/me/tokens?all=true")


async def test_a_token_is_created_shown_once_used_and_revoked(world: PagesWorld) -> None:
    alice = await world.login()
    created = await alice.submit("/me/tokens", **LAPTOP)
    token = shown_token(created)
    assert token
    assert b"My &lt;b&gt;laptop&lt;/b&gt;" in created.body
    assert b"in 7 days" in (await alice.open("/me/tokens")).body
    bearer = [("Authorization", f"Bearer {token}")]
    accepted = await asyncio.to_thread(request, world.url + "/x", headers=bearer)
    assert accepted.status == 200
    # reloaded, and opened again
    for _ in range(2):
        again = await alice.open("/me/tokens")
        assert shown_token(again) is None
        assert token.encode() not in again.body
    assert b"laptop" in again.body
    listed = await asyncio.to_thread(request, world.url + "/oauth2/tokens", headers=bearer)
    (record,) = listed.json()["data"]
    assert record["id"].startswith("s_")
    assert record["owner"] == {"issuer": world.idp.issuer, "provider": "corp", "id": "alice"}
    question = await alice.open(f"/me/tokens/{record['id']}")
    assert b"This cannot be undone" in question.body
    done = await alice.submit(f"/me/tokens/{record['id']}")
    assert b"The token laptop was revoked." in done.body
    refused = await asyncio.to_thread(request, world.url + "/x", headers=bearer)
    assert (refused.status, refused.json()["reason"]) == (401, "token_revoked")
    assert b"laptop" not in (await alice.open("/me/tokens")).body
    assert b"laptop" in (await alice.open("/me/tokens?all=true")).body


async def test_head_leaves_the_new_token_to_the_page(world: PagesWorld) -> None:
    alice = await world.login()
    page = await alice.open("/me/tokens")
    reply = await alice.post("/me/tokens", {"form": form_token(page), **LAPTOP})
    target = world.url + reply.all("Location")[0]
    assert (await alice.send(target, method="HEAD", headers=NAVIGATION)).status == 200
    assert shown_token(await alice.get(target)) is not None


async def test_a_form_that_is_sent_twice_creates_one_token(world: PagesWorld) -> None:
    alice = await world.login()
    page = await alice.open("/me/tokens")
    fields = {"form": form_token(page), **LAPTOP}
    replies = await asyncio.gather(*(alice.post("/me/tokens", fields) for _ in range(4)))
    assert [reply.status for reply in replies] == [303] * 4
    reply = await alice.post("/me/tokens", fields)
    shown = await alice.get(world.url + reply.all("Location")[0])
    assert b"was sent before" in shown.body
    assert shown_token(shown) is None
    assert shown.body.count(b">laptop<") == 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, b"name must be a string"),
        ({"name": "a\x00b"}, b"name must be a string"),
        ({"name": "\u202eevil"}, b"name must be a string"),
        ({"name": "n" * 257}, b"name must be a string"),
        ({"description": "d" * 1025}, b"description must be a string"),
        ({"description": "a\nb"}, b"description must be a string"),
        ({"expiry": "36500"}, b"not one of those that the page offers"),
        ({"expiry": "Unlimited"}, b"not one of those that the page offers"),
        ({"expiry": "<script>"}, b"not one of those that the page offers"),
        ({"name": "n" * 10_000}, b"name must be a string"),
    ],
)
async def test_bad_input_is_explained(world: PagesWorld, fields: dict[str, str], text: bytes) -> None:
    alice = await world.login()
    page = await alice.open("/me/tokens")
    reply = await alice.post("/me/tokens", {"form": form_token(page), **LAPTOP, **fields})
    assert reply.status == 400
    assert text in reply.body
    assert b"\x00" not in reply.body
    assert "\u202e" not in reply.body.decode()
    assert shown_token(reply) is None
    assert b"You have no valid tokens" in (await alice.open("/me/tokens")).body


async def test_forms_of_others_do_nothing(world: PagesWorld) -> None:
    alice, other = await world.login(), await world.login()
    good = form_token(await alice.open("/me/tokens"))
    of_other_session = form_token(await other.open("/me/tokens"))
    of_other_page = form_token(await alice.open("/me/sessions"))
    bad_tokens = ("", "x", f".{good.partition('.')[2]}", of_other_session, of_other_page, good[:-1], "\udc80", "a.b.c")
    for token in bad_tokens:
        reply = await alice.post("/me/tokens", {"form": token, **LAPTOP})
        assert reply.status in (400, 403), (token, reply)
    bad_headers: tuple[dict[str, str | None], ...] = (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": None, "Origin": "https://evil.example.com"},
        {"Sec_Fetch_Site": None, "Origin": "null"},
        {"Sec_Fetch_Site": None, "Origin": None},
        {"Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"},
        {"Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Mode": None},
        {"Origin": "https://evil.example.com"},
        {"Authorization": "Bearer x"},
    )
    for headers in bad_headers:
        reply = await alice.post("/me/tokens", {"form": good, **LAPTOP}, **headers)
        assert reply.status in (401, 403), (headers, reply)
    as_json = await alice.send(
        world.url + "/oauth2/me/tokens",
        "POST",
        headers=[("Origin", world.url), ("Content-Type", "text/plain")],
        body=b"",
    )
    assert as_json.status == 400
    assert b"You have no valid tokens" in (await alice.open("/me/tokens")).body
    assert (await alice.post("/me/tokens", {"form": good, **LAPTOP})).status == 303


async def test_a_script_cannot_read_a_page_or_write_with_the_cookie(world: PagesWorld) -> None:
    alice = await world.login()
    page = world.url + "/oauth2/me/tokens"
    scripts = (
        (("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty"), ("Sec-Fetch-Site", "same-origin")),
        (("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe"), ("Sec-Fetch-Site", "same-origin")),
        (("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Site", "same-origin")),
    )
    for headers in scripts:
        reply = await alice.send(page, headers=headers)
        assert reply.status == 403
        assert b'name="form"' not in reply.body
    origin = (("Origin", world.url), ("Sec-Fetch-Site", "same-origin"))
    made = await alice.send(
        world.url + "/oauth2/tokens",
        "POST",
        headers=(*origin, ("Content-Type", "application/json")),
        body=b'{"name":"x"}',
    )
    assert made.status == 401
    for path in ("/sessions?others=true", "/sessions/s_x"):
        assert (await alice.send(world.url + "/oauth2" + path, "DELETE", headers=origin)).status == 401
    assert (await alice.send(world.url + "/oauth2/sessions", headers=origin)).status == 200


async def test_pages_are_not_stored_framed_or_shared(world: PagesWorld) -> None:
    root = await world.login("root")
    for path in EVERY_PAGE:
        reply = await root.open(path)
        assert reply.status == 200, (path, reply)
        assert reply.all("Cache-Control") == ["no-store"]
        assert reply.all("Cross-Origin-Opener-Policy") == ["same-origin"]
        assert reply.all("X-Frame-Options") == ["DENY"]
        (policy,) = reply.all("Content-Security-Policy")
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert b"<script>" not in reply.body
        assert b"style=" not in reply.body
        assert b"onclick" not in reply.body


async def test_other_sessions_are_seen_and_ended(world: PagesWorld) -> None:
    here, there, third = await world.login(), await world.login(), await world.login()
    stranger = await world.login("mallory")
    page = await here.open("/me/sessions")
    assert page.body.count(b"this browser") == 1
    assert page.body.count(b">End</a>") == 2
    listed = (await there.send(world.url + "/oauth2/sessions")).json()["data"]
    (there_id,) = [one["id"] for one in listed if one["current"]]
    assert (await stranger.open(f"/me/sessions/{there_id}")).status == 404
    done = await here.submit(f"/me/sessions/{there_id}")
    assert b"The session was ended." in done.body
    ended = await there.send(world.url + "/x", headers=(("Accept", "application/json"),))
    assert (ended.status, ended.json()["reason"]) == (401, "session_ended")
    done = await here.submit("/me/sessions")
    assert b"Other sessions that were ended: 1." in done.body
    assert (await third.send(world.url + "/x")).status == 401
    assert (await here.send(world.url + "/x")).status == 200
    assert (await stranger.send(world.url + "/x")).status == 200


async def test_a_session_can_end_with_its_tokens(world: PagesWorld) -> None:
    here, there = await world.login(), await world.login()
    stolen = shown_token(await there.submit("/me/tokens", **LAPTOP))
    kept = shown_token(await here.submit("/me/tokens", **LAPTOP))
    listed = (await there.send(world.url + "/oauth2/sessions")).json()["data"]
    (there_id,) = [one["id"] for one in listed if one["current"]]
    await here.submit(f"/me/sessions/{there_id}", tokens="true")
    statuses = [
        (await asyncio.to_thread(request, world.url + "/x", headers=[("Authorization", f"Bearer {token}")])).status
        for token in (stolen, kept)
    ]
    assert statuses == [401, 200]


async def test_the_status_page_has_the_parts_of_readyz(tmp_path: Path) -> None:
    """Also the upstream that the start waits for."""
    port = free_port()
    async with pages_world(tmp_path, upstream={"url": f"http://127.0.0.1:{port}", "waitAtStart": "1m"}) as world:
        root = Person(world.url)
        world.idp.user = "root"
        await root.get(f"{world.url}/oauth2/start?provider=corp")
        page = await root.open("/admin")
        assert page.status == 200
        assert f"http://127.0.0.1:{port}" in page.body.decode()


async def test_admin_pages_are_for_admins(world: PagesWorld) -> None:
    alice, root = await world.login(), await world.login("root")
    assert shown_token(await alice.submit("/me/tokens", **LAPTOP))
    for path in EVERY_PAGE[3:]:
        assert (await alice.open(path)).status == 403, path
    page = await root.open("/admin/tokens?actor=alice")
    assert b"laptop" in page.body
    assert b"laptop" not in (await root.open("/me/tokens")).body
    token_id = page.body.decode().partition("/oauth2/admin/tokens/")[2].partition('"')[0]
    assert (await root.open(f"/me/tokens/{token_id}")).status == 404
    assert (await alice.open(f"/admin/tokens/{token_id}")).status == 403
    done = await root.submit(f"/admin/tokens/{token_id}")
    assert b"was revoked" in done.body
    listed = await root.open("/admin/sessions?actor=alice")
    session_id = listed.body.decode().partition("/oauth2/admin/sessions/")[2].partition('"')[0]
    await root.submit(f"/admin/sessions/{session_id}")
    assert (await alice.send(world.url + "/x")).status == 401
    status = await root.open("/admin")
    assert b"provider corp" in status.body
    assert b"usable" in status.body


async def test_what_lasts_needs_a_recent_login(tmp_path: Path) -> None:
    # the clock jumps, and with it the age of what was read from the store
    async with pages_world(tmp_path, revocation={"maxStaleness": "1h"}) as world:
        await _check_freshness(world)


async def _check_freshness(world: PagesWorld) -> None:
    await world.login()
    alice, root = await world.login(), await world.login("root")
    token = form_token(await alice.open("/me/tokens"))
    await alice.submit("/me/tokens", **LAPTOP)
    listed = (await alice.send(world.url + "/oauth2/sessions")).json()["data"]
    record = (await root.open("/admin/tokens")).body.decode().partition("/oauth2/admin/tokens/")[2].partition('"')[0]
    pages = (f"/admin/sessions/{listed[0]['id']}", f"/admin/tokens/{record}")
    tokens = [form_token(await root.open(path)) for path in pages]
    world.clock.ahead = 901
    page = await alice.open("/me/tokens")
    assert b"Sign in again" in page.body
    assert b'name="form"' not in page.body
    refused = [await alice.post("/me/tokens", {"form": token, **LAPTOP})]
    refused += [await root.post(path, {"form": one}) for path, one in zip(pages, tokens, strict=True)]
    assert [reply.status for reply in refused] == [403] * 3
    # what only ends the person's own sessions does not
    assert (await alice.submit("/me/sessions")).status == 200
    assert (await alice.send(world.url + "/x")).status == 200
    # and the way back leads to the page
    again = unescape(page.body.decode().partition('href="/oauth2/start')[2].partition('"')[0])
    world.idp.user = "alice"
    world.clock.ahead = 0
    reply = await alice.get(f"{world.url}/oauth2/start{again}")
    assert alice.seen[-1] == f"{world.url}/oauth2/me/tokens"
    assert b'name="form"' in reply.body


async def test_hostile_names_are_text(world: PagesWorld) -> None:
    world.idp.groups = ["<script>alert(1)</script>", "a\x00b\x1b[31m", "\u202egnp.exe", "g" * 10_000, "'\"&"]
    alice = await world.login()
    page = (await alice.open("/me")).body.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not {"\x00", "\x1b", "\u202e"} & set(page)
    assert len(page) < 5000
    for path in ("/me/tokens/%3Cscript%3E", "/me/sessions/x", "/me/x", "/me/tokens/" + "a" * 10_000, "/admin/x"):
        assert (await alice.open(path)).status == 404, path
    for query in ("?after=%3Cscript%3E", "?after=" + "x" * 5000, "?all=%ff&all=true", "?after=\\u0000"):
        for path in ("/me/tokens", "/me/sessions"):
            reply = await alice.open(path + query)
            assert reply.status in (200, 400), (path, query, reply)
            assert b"<script>" not in reply.body


async def test_assets_are_immutable_and_named_by_content(world: PagesWorld) -> None:
    alice = await world.login()
    page = (await alice.open("/me")).body.decode()
    for suffix in (".css", ".js", ".svg"):
        path = next(part.partition('"')[0] for part in page.split('"') if part.endswith(suffix))
        reply = await asyncio.to_thread(request, world.url + path)
        assert (reply.status, reply.all("Cache-Control")) == (200, ["public, max-age=31536000, immutable"])
        assert reply.all("X-Content-Type-Options") == ["nosniff"]
    assert (await asyncio.to_thread(request, world.url + "/oauth2/assets/../style.css")).status == 404
    assert (await asyncio.to_thread(request, world.url + "/oauth2/assets/x.css")).status == 404


async def test_pages_without_session_lead_to_the_login_or_say_so(world: PagesWorld) -> None:
    reply = await asyncio.to_thread(request, world.url + "/oauth2/me", headers=NAVIGATION)
    assert reply.status == 303
    reply = await asyncio.to_thread(request, world.url + "/oauth2/me")
    assert reply.status == 401
    bearer = [("Authorization", f"Bearer {world.idp.mint(preferred_username='alice')}"), *NAVIGATION]
    reply = await asyncio.to_thread(request, world.url + "/oauth2/me", headers=bearer)
    assert reply.status == 403
    reply = await asyncio.to_thread(
        request, world.url + "/oauth2/me/tokens", "POST", headers=(*NAVIGATION, *FORM), body=b"form=x"
    )
    assert reply.status == 401
    assert b"What you sent was not kept" in reply.body
    reply = await asyncio.to_thread(request, world.url + "/oauth2/me", "PUT")
    assert (reply.status, reply.all("Allow")) == (405, ["GET, HEAD"])


async def test_back_after_signing_out_shows_nothing(world: PagesWorld) -> None:
    alice = await world.login()
    old = dict(alice.cookies)
    await alice.get(f"{world.url}/oauth2/sign_out", headers=(*NAVIGATION[:2], ("Sec-Fetch-Site", "same-origin")))
    assert SESSION not in alice.cookies
    alice.cookies = old
    reply = await alice.get(f"{world.url}/oauth2/me", follow=False)
    assert reply.status == 401
    assert b"alice" not in reply.body


async def test_a_full_page_is_small_and_the_next_one_has_the_rest(world: PagesWorld) -> None:
    alice = await world.login()
    for number in range(10):
        reply = await alice.submit(
            "/me/tokens", name=f"Laptop {number}", description="For the command line", expiry="7"
        )
    page = await alice.open("/me/tokens")
    assets = {part for part in page.body.decode().split('"') if part.startswith("/oauth2/assets/")}
    sizes = [len((await asyncio.to_thread(request, world.url + path)).body) for path in assets]
    assert len(sizes) == 3
    assert len(page.body) + sum(sizes) <= 12 * 1024
    assert shown_token(reply)
    assert len(reply.body) + sum(sizes) <= 12 * 1024
    older = unescape(page.body.decode().partition('href="/oauth2/me/tokens?')[2].partition('"')[0])
    rest = await alice.open(f"/me/tokens?{older}")
    found = [number for number in range(10) if f">Laptop {number}<".encode() in page.body + rest.body]
    assert found == list(range(10))
    assert b"Show older" not in rest.body


async def test_api_lists_and_ends_sessions_with_a_token(world: PagesWorld) -> None:
    alice, other = await world.login(), await world.login()
    mallory = await world.login("mallory")
    bearer = {
        name: [("Authorization", f"Bearer {world.idp.mint(preferred_username=name, sub=f'sub-{name}')}")]
        for name in ("alice", "mallory")
    }
    root = [("Authorization", f"Bearer {world.idp.mint(preferred_username='root', email='root@example.com')}")]

    async def ask(method: str, path: str, headers: list[tuple[str, str]]) -> Any:
        return await asyncio.to_thread(request, f"{world.url}/oauth2/sessions{path}", method, headers=headers)

    mine = (await ask("GET", "", bearer["alice"])).json()
    assert mine["paging"]["total"] == 2
    assert [one["current"] for one in mine["data"]] == [False, False]
    assert set(mine["data"][0]) == {
        "id", "actor", "provider", "createdAt", "expiresAt", "lastUsedAt", "endedAt", "current",
    }  # fmt: skip
    one = mine["data"][0]["id"]
    assert (await ask("GET", f"/{one}", bearer["mallory"])).status == 404
    assert (await ask("DELETE", f"/{one}", bearer["mallory"])).status == 404
    assert (await ask("GET", "?actor=alice", bearer["mallory"])).json()["data"] == []
    every = (await ask("GET", "?limit=2", root)).json()
    assert (len(every["data"]), every["paging"]["total"]) == (2, 3)
    assert len((await ask("GET", f"?limit=2&after={every['paging']['after']}", root)).json()["data"]) == 1
    first = (await ask("GET", "?actor=alice&limit=1", root)).json()
    second = (await ask("GET", f"?actor=alice&limit=1&after={first['paging']['after']}", root)).json()
    assert second["paging"] == {"after": None, "total": 2}
    assert {first["data"][0]["id"], second["data"][0]["id"]} == {one["id"] for one in mine["data"]}
    for query in ("?active=yes", "?others=true&x=1", "?after=x&actor=alice", "?limit=0"):
        assert (await ask("GET", query, root)).status == 400, query
    assert (await ask("DELETE", "", root)).status == 400
    assert (await ask("DELETE", f"/{one}", bearer["alice"])).status == 204
    assert (await ask("GET", "?active=true", bearer["alice"])).json()["paging"]["total"] == 1
    ended = (await ask("DELETE", "?others=true", bearer["alice"])).json()
    assert ended == {"ended": 1}
    statuses = [(await person.send(world.url + "/x")).status for person in (alice, other, mallory)]
    assert statuses == [401, 401, 200]
