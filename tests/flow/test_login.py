"""Browser login in forward mode: a person ends where the navigation began, and nothing else gets a session."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from aiohttp import ClientSession, WSMsgType, web

from sidecar.app.running import Sidecar, run_sidecar
from sidecar.cli.main import main
from sidecar.config.load import load
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import Reply
from tests.support.identity_provider import AUDIENCE
from tests.support.login_provider import CLIENT_ID, CLIENT_SECRET, NAVIGATION, Browser, LoginProvider, query_of
from tests.support.loopback_server import LoopbackServer
from tests.support.ports import free_port

SESSION, LOGIN = "sidecar_session", "sidecar_login"
API = (("Accept", "application/json"),)
SAME_ORIGIN = (("Sec-Fetch-Site", "same-origin"),)
DEEP = "/deep/path?x=1&y=a%2Fb%20c"
FORM = ("Content-Type", "application/x-www-form-urlencoded")


@dataclass
class World:
    """A sidecar in front of an upstream, and its provider."""

    url: str
    idp: LoginProvider
    other: LoginProvider
    sidecar: Sidecar

    async def login(self, path: str = "/", browser: Browser | None = None) -> Browser:
        """A browser whose person has logged in."""
        browser = browser or Browser()
        reply = await browser.get(self.url + path)
        assert reply.status == 200, (reply.status, reply.body, browser.seen)
        return browser


def provider_block(idp: LoginProvider, name: str, **login: Any) -> dict[str, Any]:
    return {
        "name": name,
        "issuer": idp.issuer,
        "audiences": [AUDIENCE],
        "groupsClaim": "groups",
        "login": {"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET, **login},
    }


@asynccontextmanager
async def world_of(
    folder: Path,
    *,
    both: bool = False,
    registration: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    port: int = 0,
    provider: dict[str, Any] | None = None,
    **blocks: Any,
) -> AsyncIterator[World]:
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with LoginProvider() as idp, LoginProvider() as other, echo_upstream() as upstream:
        providers = [{**provider_block(idp, "corp", **(registration or {})), **(provider or {})}]
        providers += [provider_block(other, "other", displayName="The <other>")] if both else []
        document = {
            "server": {
                "listen": f"127.0.0.1:{port}",
                "adminListen": "127.0.0.1:0",
                "publicUrl": url,
                **(limits or {}),
            },
            "upstream": {"url": upstream.url, "credentials": "none"},
            "store": {"url": f"sqlite:///{folder}/sidecar.db"},
            "authenticationConfiguration": {"providers": providers},
            "rules": [{"path": "/open", "access": "public"}],
            **blocks,
        }
        path = folder / "sidecar.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        async with run_sidecar(load([str(path)], {})) as sidecar:
            yield World(url, idp, other, sidecar)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


def received(reply: Reply) -> Received:
    return Received.of(reply.json())


async def test_person_ends_at_the_page_that_was_asked_for(world: World) -> None:
    browser = Browser()
    reply = await browser.get(world.url + DEEP)
    assert received(reply).target == DEEP
    assert received(reply).all("X-Auth-Request-User") == ["alice"]
    # one redirect to the form, two back
    assert [urlsplit(url).path for url in browser.seen] == [
        "/deep/path",
        "/authorize",
        "/oauth2/callback/corp",
        "/deep/path",
    ]
    asked = world.idp.requests[0]
    assert asked["code_challenge_method"] == "S256"
    assert asked["tenant"] == "a"
    assert len(browser.cookies[SESSION]) == 43
    assert len(browser.cookies[LOGIN]) == 43


async def test_cookies_never_reach_the_upstream(world: World) -> None:
    browser = await world.login()
    browser.cookies |= {"theme": "dark", "lang": "en"}
    reply = await browser.send(world.url + "/a")
    assert received(reply).all("Cookie") == ["theme=dark; lang=en"]
    browser.cookies = {name: value for name, value in browser.cookies.items() if name in (SESSION, LOGIN)}
    reply = await browser.send(world.url + "/open")
    assert (reply.status, received(reply).all("Cookie")) == (200, [])


@pytest.mark.parametrize(
    "headers",
    [
        API,
        (("Accept", "*/*"),),
        (),
        (("Sec-Fetch-Mode", "cors"), ("Accept", "text/html")),
        (*NAVIGATION, ("X-Requested-With", "XMLHttpRequest")),
        (*NAVIGATION, ("Sec-Purpose", "prefetch")),
        (("Accept", "text/event-stream"),),
    ],
)
async def test_only_a_navigation_begins_a_login(world: World, headers: tuple[tuple[str, str], ...]) -> None:
    reply = await Browser().get(world.url + "/a", headers=headers)
    assert (reply.status, reply.all("Set-Cookie"), reply.all("Location")) == (401, [], [])
    assert reply.json()["login"] == "/oauth2/start"
    assert world.idp.requests == []


async def test_frames_and_posted_pages_are_not_redirected(world: World) -> None:
    frame = [(name, "iframe" if name == "Sec-Fetch-Dest" else value) for name, value in NAVIGATION]
    for reply in (
        await Browser().get(world.url + "/a", headers=frame),
        await Browser().send(world.url + "/a", "POST", headers=NAVIGATION, body=b"x"),
    ):
        assert (reply.status, reply.all("Set-Cookie")) == (401, [])
        assert reply.all("Content-Type") == ["text/html; charset=utf-8"]


async def test_two_tabs_at_once_both_end_where_they_began(world: World) -> None:
    browser = Browser()
    first = await browser.get(world.url + "/one", follow=False)
    second = await browser.get(world.url + "/two", follow=False)
    assert received(await browser.get(second.all("Location")[0])).target == "/two"
    assert received(await browser.get(first.all("Location")[0])).target == "/one"


async def test_answer_that_came_twice_redeems_one_code(world: World) -> None:
    """Seen again, in the same browser it leads to the page; at once, both answers are the same session."""
    browser = Browser()
    start = await browser.get(world.url + "/one", follow=False)
    callback = (await browser.get(start.all("Location")[0], follow=False)).all("Location")[0]
    both = await asyncio.gather(*(Browser(dict(browser.cookies)).get(callback, follow=False) for _ in range(2)))
    assert {reply.all("Location")[0] for reply in both} == {"/one"}
    assert len({reply.all("Set-Cookie")[0] for reply in both}) == 1
    await browser.get(callback, follow=False)
    assert world.idp.redeemed == 1


async def test_callback_of_another_browser_begins_nothing(world: World) -> None:
    stranger = Browser()
    start = await stranger.get(world.url + "/one", follow=False)
    callback = (await stranger.get(start.all("Location")[0], follow=False)).all("Location")[0]
    reply = await Browser().get(callback, follow=False)
    assert (reply.status, reply.all("Set-Cookie")) == (400, [])
    assert b'href="/oauth2/start?rd=%2Fone"' in reply.body
    # a browser that has begun a login begins one of its own, as with any link to /start
    victim = Browser({LOGIN: "A" * 43})
    reply = await victim.get(callback, follow=False)
    (location,) = reply.all("Location")
    assert location.startswith(f"{world.idp.issuer}/authorize?")
    assert query_of(location)["state"] != query_of(callback)["state"]
    assert (reply.status, SESSION in victim.cookies, victim.cookies[LOGIN]) == (303, False, "A" * 43)
    assert world.idp.redeemed == 0
    # with a session: to the page in the state, which any link could name
    victim = await world.login()
    reply = await victim.get(callback, follow=False)
    assert (reply.all("Location"), reply.all("Set-Cookie")) == (["/one"], [])
    assert world.idp.redeemed == 1


async def test_tabs_that_are_opened_at_once_without_a_cookie_end_where_they_began(world: World) -> None:
    browser = Browser()
    tabs = [Browser() for _ in range(12)]
    forms = [
        (await tab.get(f"{world.url}/tab/{number}", follow=False)).all("Location")[0] for number, tab in enumerate(tabs)
    ]
    # the last response wins
    browser.cookies = dict(tabs[-1].cookies)
    callbacks = [(await browser.get(form, follow=False)).all("Location")[0] for form in forms]
    # the first one before there is a session, the others with it
    for number, callback in enumerate(callbacks):
        assert received(await browser.get(callback)).target == f"/tab/{number}"
    assert world.idp.redeemed == 2  # of the new attempt of the first tab, and of the last tab


async def test_second_login_ends_the_session_that_the_browser_brought(world: World) -> None:
    browser = await world.login()
    old = dict(browser.cookies)
    await browser.get(f"{world.url}/oauth2/start?rd=/again")
    assert browser.cookies[SESSION] != old[SESSION]
    reply = await Browser(old).send(world.url + "/", headers=API)
    assert (reply.status, reply.json()["reason"]) == (401, "session_ended")


WRONG = [
    "nonce", "no nonce", "audience", "two audiences", "azp", "issuer", "expired", "old", "future", "no iat", "no sub",
    "long sub", "at_hash", "events", "signature", "unsigned", "iss of another", "no iss", "no id token", "token type",
    "no json", "client refused", "error access_denied", "error <script>",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_answer_of_a_provider_begins_no_session(world: World, wrong: str) -> None:
    world.idp.wrong = wrong
    browser = Browser()
    reply = await browser.get(world.url + "/one")
    assert reply.status == 400, reply.body
    assert SESSION not in browser.cookies
    assert b"<script>" not in reply.body
    assert b"alert" not in reply.body
    world.idp.wrong = ""
    await world.login("/one", browser)


async def test_userinfo_counts_for_the_same_subject_only(world: World) -> None:
    world.idp.groups = None
    browser = await world.login()
    assert received(await browser.get(world.url + "/")).all("X-Auth-Request-Groups") == ["from-userinfo"]
    for wrong in ("sub of userinfo", "userinfo is a list"):
        world.idp.wrong = wrong
        assert (await Browser().get(world.url + "/")).status == 400


async def test_provider_that_is_down_is_a_page_with_503(world: World) -> None:
    world.idp.wrong = "token endpoint down"
    reply = await Browser().get(world.url + "/one")
    assert (reply.status, reply.all("Retry-After")) == (503, ["5"])


@pytest.mark.parametrize(
    "query",
    ["", "?state=x", "?state=x&state=y&code=c", "?code=%00", "?state=" + "s" * 9000, "?state=%ff&code=x", "?error=x"],
)
async def test_garbage_at_the_callback_is_400(world: World, query: str) -> None:
    reply = await Browser().get(f"{world.url}/oauth2/callback/corp{query}", follow=False)
    assert (reply.status, reply.all("Set-Cookie")) == (400, [])


async def test_page_of_another_origin_cannot_act_with_the_cookie(world: World) -> None:
    browser = await world.login()
    url = world.url + "/api"
    for headers, status in (
        ((("Sec-Fetch-Site", "same-origin"),), 200),
        ((("Sec-Fetch-Site", "cross-site"),), 403),
        ((("Sec-Fetch-Site", "same-site"),), 403),
        ((("Origin", world.url),), 200),
        ((("Origin", "https://evil.example.com"),), 403),
        ((("Origin", "null"),), 403),
        ((), 403),
        ((("Origin", world.url), ("Origin", world.url)), 403),
    ):
        reply = await browser.send(url, "POST", headers=headers, body=b"x")
        assert reply.status == status, headers
    handshake = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]
    reply = await browser.send(url, headers=[*handshake, ("Origin", "https://evil.example.com")])
    assert reply.status == 403
    assert (await browser.send(url, headers=[("X-HTTP-Method-Override", "DELETE")])).status == 200  # removed upstream


async def test_authorization_goes_before_the_cookie(world: World) -> None:
    """A cookie is no credential beside it, and its value is none as a token."""
    browser = await world.login()
    token = world.idp.mint(preferred_username="bob", sub="sub-bob", email="bob@example.com")
    reply = await browser.send(world.url + "/", headers=[("Authorization", f"Bearer {token}")])
    assert received(reply).all("X-Auth-Request-User") == ["bob"]
    stolen = browser.cookies[SESSION]
    reply = await Browser().send(world.url + "/", headers=[("Authorization", f"Bearer {stolen}")])
    assert reply.status == 401


async def test_cookie_that_came_twice_counts_as_none(world: World) -> None:
    browser = await world.login()
    value = browser.cookies[SESSION]
    reply = await Browser().send(
        world.url + "/", headers=[*API, ("Cookie", f"{SESSION}={value}; {SESSION}={'A' * 43}")]
    )
    assert (reply.status, reply.json()["reason"]) == (401, "session_ended")


async def test_api_takes_no_cookie_but_userinfo_does(world: World) -> None:
    browser = await world.login()
    assert (await browser.send(f"{world.url}/oauth2/userinfo", headers=API)).json()["actor"]["id"] == "alice"
    for method, path in (("GET", "/tokens"), ("POST", "/tokens"), ("POST", "/revocations"), ("GET", "/auth")):
        reply = await browser.send(f"{world.url}/oauth2{path}", method, headers=[*API, *SAME_ORIGIN], body=b"{}")
        assert reply.status == 401, path


async def test_sign_out_asks_unless_the_page_is_ours(world: World) -> None:
    browser = await world.login()
    cookies = dict(browser.cookies)
    foreign = [(name, "cross-site" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
    page = await browser.get(f"{world.url}/oauth2/sign_out", headers=foreign)
    assert page.status == 200
    assert (await browser.send(world.url + "/", headers=API)).status == 200
    token = page.body.decode().split('name="token" value="')[1].split('"')[0]
    for sent, headers, status in (
        ("wrong", SAME_ORIGIN, 403),
        (token, (("Sec-Fetch-Site", "cross-site"),), 403),
        (token, SAME_ORIGIN, 303),
    ):
        body = urlencode({"token": sent}).encode()
        reply = await browser.send(f"{world.url}/oauth2/sign_out", "POST", headers=[FORM, *headers], body=body)
        assert reply.status == status
    assert SESSION not in browser.cookies
    location = reply.all("Location")[0]
    asked = query_of(location)
    assert asked["post_logout_redirect_uri"] == f"{world.url}/oauth2/signed_out"
    assert asked["client_id"] == CLIENT_ID
    assert asked["id_token_hint"].count(".") == 2
    assert (await browser.get(location)).status == 200
    # a captured cookie is worth nothing
    assert (await Browser(cookies).send(world.url + "/", headers=API)).json()["reason"] == "session_ended"


async def test_link_of_our_own_origin_signs_out_at_once(world: World) -> None:
    browser = await world.login()
    own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
    reply = await browser.get(f"{world.url}/oauth2/sign_out", headers=own)
    assert (reply.status, world.idp.logouts != []) == (200, True)
    assert SESSION not in browser.cookies


@pytest.mark.parametrize(
    "headers",
    [
        (("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image"), ("Accept", "image/*")),
        (("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty"), ("Accept", "*/*")),
        (("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe"), ("Accept", "text/html")),
    ],
)
async def test_image_script_or_frame_of_our_own_origin_signs_no_viewer_out(
    world: World, headers: tuple[tuple[str, str], ...]
) -> None:
    browser = await world.login()
    reply = await browser.send(f"{world.url}/oauth2/sign_out", headers=[*SAME_ORIGIN, *headers])
    assert (reply.status, reply.all("Set-Cookie")) == (200, [])
    assert (await browser.send(world.url + "/", headers=API)).status == 200


async def test_logout_token_ends_sessions_and_tokens_of_that_session(world: World) -> None:
    browser = await world.login()
    bearer = world.idp.mint(preferred_username="alice", sub="sub-alice", sid="sid-alice")
    headers = [("Authorization", f"Bearer {bearer}")]
    assert (await Browser().send(world.url + "/", headers=headers)).status == 200
    assert (await logout(world, world.idp.logout_token())).status == 200
    assert (await browser.send(world.url + "/", headers=API)).json()["reason"] == "session_ended"
    assert (await Browser().send(world.url + "/", headers=headers)).json()["reason"] == "token_revoked"
    # repeated, it says the same again
    assert (await logout(world, world.idp.logout_token())).status == 200


async def test_logout_token_with_a_subject_alone_ends_what_is_older(world: World) -> None:
    browser = await world.login()
    await asyncio.sleep(1.1)  # iat has whole seconds
    assert (await logout(world, world.idp.logout_token(sid=None))).status == 200
    assert (await browser.send(world.url + "/", headers=API)).json()["reason"] == "session_ended"
    await world.login(browser=browser)


async def test_logout_token_of_the_same_second_ends_the_sessions_that_there_are(world: World) -> None:
    now = int(time.time())
    world.idp.extra = {"iat": now}
    browser = await world.login()
    world.idp.user = "bob"
    bob = await world.login()
    world.idp.user = "alice"
    assert (await logout(world, world.idp.logout_token(sid=None, iat=now))).status == 200
    assert (await browser.send(world.url + "/", headers=API)).json()["reason"] == "session_ended"
    assert (await bob.send(world.url + "/", headers=API)).status == 200
    await world.login()  # the login after it is of the same second too, and stands


async def test_revocation_is_the_same_at_the_login_as_after_it(tmp_path: Path) -> None:
    """A person whose session would end at once gets none: the browser would be led in circles."""
    async with world_of(tmp_path) as world:
        until = datetime.fromtimestamp(time.time() + 20, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        about = ["--issuer", world.idp.issuer, "--subject", "sub-alice", "--issued-before", until]
        words = ["revocations", "add", *about, "--config", str(tmp_path / "sidecar.yaml")]
        assert await asyncio.to_thread(main, words) == 0
        await asyncio.sleep(0.5)
        world.idp.extra = {"iat": int(time.time()) + 28}
        browser = Browser()
        assert (await browser.get(world.url + "/")).status == 403
        assert SESSION not in browser.cookies


async def test_websocket_ends_with_its_session(world: World) -> None:
    browser = await world.login()
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    async with (
        ClientSession() as client,
        client.ws_connect(world.url + "/ws", headers={"Origin": world.url, "Cookie": cookies}) as socket,
    ):
        assert await socket.receive_str() == "alice"
        assert (await logout(world, world.idp.logout_token())).status == 200
        ended = await socket.receive(timeout=5)
        assert ended.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING), ended


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"}, {"iss": "https://other.example.com"}, {"iat": None}, {"iat": 1_000_000_000},
        {"events": None}, {"events": {}}, {"nonce": "n"}, {"jti": None}, {"sub": None, "sid": None},
        {"exp": 1_000_000_000}, {"sid": 7}, {"aud": 5}, {"aud": True}, {"aud": {CLIENT_ID: 1}}, {"aud": [CLIENT_ID, 5]},
        {"sub": 7}, {"nbf": "x"},
    ],
)  # fmt: skip
async def test_wrong_logout_token_ends_nothing(world: World, claims: dict[str, Any]) -> None:
    browser = await world.login()
    reply = await logout(world, world.idp.logout_token(**claims))
    assert (reply.status, reply.json()) == (400, {"error": "invalid_request"})
    assert (await browser.send(world.url + "/", headers=API)).status == 200


async def test_id_token_is_no_logout_token(world: World) -> None:
    browser = await world.login()
    forged = world.idp.logout_token(key=world.other.keys[0])
    for token in (world.idp.mint(aud=CLIENT_ID), "", "a.b.c", forged):
        assert (await logout(world, token)).status == 400
    assert (await browser.send(world.url + "/", headers=API)).status == 200


async def logout(world: World, token: str) -> Reply:
    body = urlencode({"logout_token": token}).encode()
    return await Browser().send(f"{world.url}/oauth2/backchannel_logout", "POST", headers=[FORM], body=body)


async def test_several_providers_are_chosen_in_place_and_not_mixed_up(tmp_path: Path) -> None:
    async with world_of(tmp_path, both=True) as world:
        browser = Browser()
        page = await browser.get(world.url + DEEP)
        assert (page.status, browser.seen) == (401, [world.url + DEEP])
        assert b"Sign in with The &lt;other&gt;" in page.body
        start = f"{world.url}/oauth2/start?provider=other&rd={quote(DEEP, safe='')}"
        assert f"rd={quote(DEEP, safe='').replace('%20', '+')}" in page.body.decode() or b"rd=" in page.body
        sent = await browser.get(start, follow=False)
        callback = (await browser.get(sent.all("Location")[0], follow=False)).all("Location")[0]
        mixed = callback.replace("/callback/other", "/callback/corp")
        assert (await browser.get(mixed, follow=False)).status == 400
        assert (world.idp.redeemed, world.other.redeemed) == (0, 0)
        assert received(await browser.get(callback)).target == DEEP
        # one provider that is down leaves the other one
        world.idp.published = False
        assert (await Browser().get(f"{world.url}/oauth2/start?provider=corp")).status == 503
        assert (await Browser().get(f"{world.url}/oauth2/start?provider=other")).status == 200
        assert (await Browser().get(f"{world.url}/oauth2/start?provider=unknown")).status == 404


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_client_secret_is_sent_as_configured(tmp_path: Path, method: str) -> None:
    async with world_of(tmp_path, registration={"clientAuthentication": method}) as world:
        await world.login()
        form, authorization = world.idp.token_requests[0]
        assert (bool(authorization), "client_secret" in form) == (method.endswith("basic"), method.endswith("post"))


async def test_private_key_signs_for_the_issuer_alone(tmp_path: Path) -> None:
    from sidecar.keys.key_files import generate, write_pair

    write_pair(tmp_path / "client", generate("ES256"))
    key = {"clientSecret": None, "clientKeyFile": str(tmp_path / "client" / "private_key.pem")}
    async with world_of(tmp_path, registration=key) as world:
        await world.login()
        await world.login()
        claims = [_payload(form["client_assertion"]) for form, _ in world.idp.token_requests]
        assert {one["aud"] for one in claims} == {world.idp.issuer}
        assert len({one["jti"] for one in claims}) == 2
        assert claims[0]["exp"] - claims[0]["iat"] <= 61


def _payload(token: str) -> dict[str, Any]:
    import base64

    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


async def test_pushed_request_keeps_state_out_of_the_address(tmp_path: Path) -> None:
    async with world_of(tmp_path, registration={"pushed": "always"}) as world:
        browser = Browser()
        reply = await browser.get(world.url + "/a", follow=False)
        assert set(query_of(reply.all("Location")[0])) == {"tenant", "client_id", "request_uri"}
        assert received(await browser.get(reply.all("Location")[0])).target == "/a"


async def test_redirect_of_a_refusal_waits_within_the_limits_of_a_decision(tmp_path: Path) -> None:
    limits = {
        "checkDeadline": "300ms",
        "limits": {"maxInFlight": 8},  # two requests may wait for a verdict
        "trustedProxies": ["127.0.0.1/32"],
    }
    check = (*NAVIGATION, ("X-Forwarded-Uri", "/a"), ("X-Forwarded-Method", "GET"))
    async with world_of(tmp_path, registration={"pushed": "always"}, limits=limits) as world:
        await Browser().get(world.url + "/a")  # discovery
        world.idp.wrong = "slow"
        for url, headers in ((f"{world.url}/a", NAVIGATION), (f"{world.url}/oauth2/forward_auth", check)):
            started = time.monotonic()
            pages = [Browser().get(url, headers=headers, follow=False) for _ in range(5)]
            replies = await asyncio.gather(*pages)
            assert time.monotonic() - started < 1.5
            assert [reply.status for reply in replies] == [503] * 5
            assert all(reply.all("Retry-After") for reply in replies)
            assert world.idp.pushed <= 1 + 2
            world.idp.pushed = 1


async def test_endpoints_of_the_login_wait_within_the_limits_of_a_decision(tmp_path: Path) -> None:
    limits = {"checkDeadline": "300ms", "limits": {"maxInFlight": 8}}  # two requests may wait, one of them a callback
    async with world_of(tmp_path, registration={"pushed": "always"}, limits=limits) as world:
        callbacks = []
        for _ in range(6):
            browser = Browser()
            sent = await browser.get(world.url + "/a", follow=False)
            reply = await browser.get(sent.all("Location")[0], follow=False)
            callbacks.append((browser, reply.all("Location")[0]))
        world.idp.wrong, world.idp.pushed = "slow", 0
        started = time.monotonic()
        pages = [Browser().get(world.url + "/oauth2/start", follow=False) for _ in range(5)]
        assert [reply.status for reply in await asyncio.gather(*pages)] == [503] * 5
        assert time.monotonic() - started < 1.5
        assert world.idp.pushed <= 2
        replies = await asyncio.gather(*(browser.get(address, follow=False) for browser, address in callbacks))
        assert sorted(reply.status for reply in replies) == [303] + [503] * 5
        assert len(world.idp.token_requests) == 1
        # what found no place is not used up
        world.idp.wrong = ""
        for (browser, address), reply in zip(callbacks, replies, strict=True):
            if reply.status == 503:
                assert (await browser.get(address, follow=False)).status == 303


async def test_flood_of_navigations_leaves_places_for_those_who_come_back(tmp_path: Path) -> None:
    limits = {"checkDeadline": "3s", "limits": {"maxInFlight": 16}}  # four requests may wait
    async with world_of(tmp_path, registration={"pushed": "always"}, limits=limits) as world:
        browser = Browser()
        sent = await browser.get(world.url + "/a", follow=False)
        reply = await browser.get(sent.all("Location")[0], follow=False)
        world.idp.wrong, world.idp.pushed = "slow", 0
        flood = [asyncio.create_task(Browser().get(world.url + "/oauth2/start", follow=False)) for _ in range(8)]
        await asyncio.sleep(0.5)
        assert world.idp.pushed == 1
        assert (await browser.get(reply.all("Location")[0], follow=False)).status == 303
        assert sorted([one.status for one in await asyncio.gather(*flood)]) == [303] + [503] * 7


async def test_logout_token_waits_within_the_limits_of_a_decision(tmp_path: Path) -> None:
    limits = {"checkDeadline": "300ms", "limits": {"maxInFlight": 8}}
    async with world_of(tmp_path, limits=limits) as world:
        assert (await logout(world, world.idp.logout_token())).status == 200
        world.idp.rotate()
        world.idp.wrong = "slow keys"
        started = time.monotonic()
        replies = await asyncio.gather(*(logout(world, world.idp.logout_token()) for _ in range(5)))
        assert [reply.status for reply in replies] == [503] * 5
        assert time.monotonic() - started < 1.5


async def test_sign_out_at_another_replica_right_after_the_login_ends_the_session(tmp_path: Path) -> None:
    """The copy of that replica does not have the session yet."""
    async with world_of(tmp_path) as world:
        port = free_port()
        document = json.loads((tmp_path / "sidecar.yaml").read_text(encoding="utf-8"))
        document["server"]["listen"] = f"127.0.0.1:{port}"
        (tmp_path / "other.yaml").write_text(json.dumps(document), encoding="utf-8")
        own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
        async with run_sidecar(load([str(tmp_path / "other.yaml")], {})):
            for _ in range(3):
                browser = await world.login()
                leaving = Browser(dict(browser.cookies))
                reply = await leaving.send(f"http://127.0.0.1:{port}/oauth2/sign_out", headers=own)
                assert (reply.status, SESSION in leaving.cookies) == (303, False)
                assert reply.all("Location")[0].startswith(f"{world.idp.issuer}/logout")
                # this process learns it within its period of polling
                for _ in range(50):
                    after = await browser.send(world.url + "/", headers=API)
                    if after.status == 401:
                        break
                    await asyncio.sleep(0.1)
                assert after.json()["reason"] == "session_ended"


async def test_session_that_was_ended_after_its_login_causes_no_redirect_loop(tmp_path: Path) -> None:
    """Neither in a check nor at the endpoint that nginx asks for the response."""
    async with world_of(tmp_path, limits={"trustedProxies": ["127.0.0.1/32"]}) as world:
        browser = await world.login()
        kept = dict(browser.cookies)
        own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
        await browser.get(f"{world.url}/oauth2/sign_out", headers=own)
        for path, header in (("forward_auth", "X-Forwarded"), ("challenge", "X-Original")):
            asked = (*NAVIGATION, (f"{header}-Uri", "/a"), (f"{header}-Method", "GET"))
            reply = await Browser(kept).send(f"{world.url}/oauth2/{path}", headers=asked)
            assert (reply.status, reply.all("Location")) == (401, []), path
            # without the session a login begins
            reply = await Browser().send(f"{world.url}/oauth2/{path}", headers=asked)
            assert reply.status == 303, path


async def test_check_keeps_every_byte_of_other_cookies(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits={"trustedProxies": ["127.0.0.1/32"]}) as world:
        browser = await world.login()
        own = f"{SESSION}={browser.cookies[SESSION]}"
        for kept in ("name=Jérôme; k=Ċč".encode(), b"name=\xff\xfe\xe9", b"a=b"):
            line = kept.decode("latin-1") + "; " + own
            asked = [("X-Forwarded-Uri", "/a"), ("X-Forwarded-Method", "GET"), ("Cookie", line)]
            reply = await Browser().send(f"{world.url}/oauth2/forward_auth", headers=asked)
            assert (reply.status, [value.encode("latin-1") for value in reply.all("Cookie")]) == (200, [kept])


async def test_authentication_must_be_as_recent_as_asked(tmp_path: Path) -> None:
    async with world_of(tmp_path, registration={"maxAge": "5m", "acrValues": ["gold"]}) as world:
        world.idp.extra = {"acr": "gold"}
        await world.login()
        assert (world.idp.requests[0]["max_age"], world.idp.requests[0]["acr_values"]) == ("300", "gold")
        for extra in ({"acr": "gold", "auth_time": None}, {"acr": "gold", "auth_time": 1_000_000_000}, {"acr": "tin"}):
            world.idp.extra = extra
            assert (await Browser().get(world.url + "/")).status == 400


async def test_person_who_may_not_enter_gets_no_session(tmp_path: Path) -> None:
    blocks: dict[str, Any] = {
        "authorizerConfiguration": {"principalDomain": "example.com", "enforcePrincipalDomain": True}
    }
    async with world_of(tmp_path, **blocks) as world:
        world.idp.extra = {"email": "eve@evil.example"}
        browser = Browser()
        assert (await browser.get(world.url + "/")).status == 403
        assert SESSION not in browser.cookies


async def test_login_that_a_third_party_initiates_names_an_issuer_that_is_known(world: World) -> None:
    query = urlencode({"iss": world.idp.issuer, "target_link_uri": world.url + "/deep", "login_hint": "x"})
    assert received(await Browser().get(f"{world.url}/oauth2/start?{query}")).target == "/deep"
    assert "login_hint" not in world.idp.requests[0]
    assert (await Browser().get(f"{world.url}/oauth2/start?iss=https://evil.example.com")).status == 400
    reply = await Browser().get(f"{world.url}/oauth2/start", headers=API)
    assert (reply.status, reply.json()["reason"], reply.all("Set-Cookie")) == (401, "token_missing", [])


async def test_paths_of_an_api_are_never_redirected(tmp_path: Path) -> None:
    async with world_of(tmp_path, login={"apiPaths": ["/api/**"]}) as world:
        assert (await Browser().get(world.url + "/api/v1", follow=False)).status == 401
        assert (await Browser().get(world.url + "/apis", follow=False)).status == 303


async def test_session_that_no_secret_opens_causes_no_redirect_loop(tmp_path: Path) -> None:
    with LoginProvider() as idp:
        same: dict[str, Any] = {"port": free_port(), "provider": {"issuer": idp.issuer}}
        async with world_of(tmp_path, login={"secrets": ["a" * 32]}, **same) as world:
            browser = await world.login()
        async with world_of(tmp_path, login={"secrets": ["b" * 32]}, **same) as world:
            reply = await browser.get(world.url + "/a", follow=False)
            assert (reply.status, reply.all("Location")) == (401, [])
        async with world_of(tmp_path, login={"secrets": ["b" * 32, "a" * 32]}, **same) as world:
            assert (await browser.get(world.url + "/a", follow=False)).status == 200


async def test_session_ends_if_its_provider_has_another_issuer(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        browser = await world.login()
    async with world_of(tmp_path) as world:  # each has an issuer of its own, under the same name
        reply = await browser.send(world.url + "/", headers=API)
        assert (reply.status, reply.json()["reason"]) == (401, "session_ended")
        await world.login(browser=browser)


async def test_session_ends_if_a_claim_is_required_that_it_lacks(tmp_path: Path) -> None:
    port = free_port()
    with LoginProvider() as idp:
        same = {"issuer": idp.issuer}
        async with world_of(tmp_path, port=port, provider=same) as world:
            browser = await world.login()
        for required, status in (({"groups": ["writers"]}, 401), ({"groups": ["readers"], "aud": [CLIENT_ID]}, 200)):
            async with world_of(tmp_path, port=port, provider={**same, "requiredClaims": required}) as world:
                reply = await browser.send(world.url + "/", headers=API)
                assert reply.status == status, required
                assert status == 200 or reply.json()["reason"] == "session_ended"


async def test_everything_of_the_login_is_404_without_it(tmp_path: Path) -> None:
    from tests.support.managed_sidecar import managed_sidecar

    async with managed_sidecar(tmp_path) as sidecar:
        for path in ("/start", "/sign_in", "/sign_out", "/signed_out", "/challenge", "/callback/corp"):
            assert (await sidecar.call("GET", path)).status == 404
        assert (await sidecar.call("POST", "/backchannel_logout", form={"logout_token": "x"})).status == 404


@pytest.mark.parametrize(
    ("setting", "expected"), [({}, ["max-age=60", "no-store"]), ({"protectPages": "off"}, ["max-age=60"])]
)
async def test_page_of_a_session_is_not_stored(tmp_path: Path, setting: dict[str, str], expected: list[str]) -> None:
    async def pages(asked: web.BaseRequest) -> web.StreamResponse:
        kind = "text/html; charset=utf-8" if asked.path == "/page" else "text/css"
        return web.Response(text="<p>", headers={"Content-Type": kind, "Cache-Control": "max-age=60"})

    with LoopbackServer(pages) as upstream:
        block = {"url": upstream.url, "credentials": "none"}
        async with world_of(tmp_path, upstream=block, login=setting) as world:
            browser = Browser()
            assert (await browser.get(world.url + "/page")).all("Cache-Control") == expected
            assert (await browser.get(world.url + "/style")).all("Cache-Control") == ["max-age=60"]
            token = ("Authorization", f"Bearer {world.idp.mint()}")
            assert (await Browser().send(world.url + "/page", headers=[token])).all("Cache-Control") == ["max-age=60"]
