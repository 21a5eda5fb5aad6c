"""Browser login with a real browser, a real provider and two replicas on a real Redis."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import WSMsgType, web
from playwright.async_api import Browser, BrowserContext, Error, Page

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from tests.support.browser import chromium
from tests.support.http_client import request as send
from tests.support.keycloak import running_keycloak
from tests.support.keycloak_realm import CLIENT, PASSWORD, PERSON, SECRET, Realm
from tests.support.loopback_server import LoopbackServer
from tests.support.ports import free_port
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.heavy

DEEP = "/deep/path?x=1&y=a%2Fb%20c"
SESSION = "sidecar_session"
TABS = 12


async def service(asked: web.BaseRequest) -> web.StreamResponse:
    """A page that says what was asked for and by whom, and a WebSocket."""
    if asked.headers.get("Upgrade", "").lower() == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(asked)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket
    told = {
        "target": asked.raw_path,
        "user": asked.headers.get("X-Auth-Request-User"),
        "cookie": asked.headers.get("Cookie", ""),
    }
    text = f"<!doctype html><title>The page</title><pre>{json.dumps(told)}</pre><a href='/oauth2/sign_out'>Log out</a>"
    return web.Response(text=text, content_type="text/html")


@dataclass
class World:
    """Two replicas, the first at ``url``, the second at ``other``, and a browser."""

    url: str
    other: str
    realm: Realm
    browser: Browser
    context: BrowserContext

    async def login(self, path: str = DEEP) -> Page:
        """A tab in which the person has logged in."""
        page = await self.context.new_page()
        await page.goto(self.url + path)
        await fill(page)
        return page

    async def cookie(self) -> str:
        """The session cookie of the browser."""
        (found,) = [one["value"] for one in await self.context.cookies(self.url) if one.get("name") == SESSION]
        return found

    async def status(self, cookie: str, url: str | None = None) -> int:
        """What a program that has the cookie gets."""
        headers = [("Cookie", f"{SESSION}={cookie}"), ("Accept", "application/json")]
        reply = await asyncio.to_thread(send, url or self.url, target="/x", headers=headers)
        return reply.status


async def fill(page: Page) -> None:
    """Complete the provider's form."""
    await page.fill("#username", PERSON)
    await page.fill("#password", PASSWORD)
    await page.click("#kc-login")
    await page.wait_for_selector("text=Log out")


async def told(page: Page) -> dict[str, str]:
    """What the service was asked."""
    found: dict[str, str] = json.loads(await page.inner_text("pre"))
    return found


@pytest.fixture(scope="module")
def keycloak(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = require_tool("keycloak")
    with running_keycloak(script, tmp_path_factory.mktemp("keycloak")) as url:
        yield url


@pytest.fixture
async def world(require_tool: Callable[[str], Path], keycloak: str, tmp_path: Path) -> AsyncIterator[World]:
    program = require_tool("chromium")
    store = RedisServer(require_tool("redis-server"), tmp_path / "redis")
    first, second = free_port(), free_port()
    url, other = f"http://127.0.0.1:{first}", f"http://127.0.0.1:{second}"
    realm = Realm(keycloak, f"r{uuid4().hex[:8]}")
    await asyncio.to_thread(realm.create, url, "corp")
    await asyncio.to_thread(store.start)
    provider = {
        "name": "corp",
        "issuer": realm.issuer,
        "audiences": ["metadata"],
        "login": {"clientId": CLIENT, "clientSecret": SECRET},
    }
    with LoopbackServer(service) as upstream:
        async with AsyncExitStack() as stack:
            for port in (first, second):
                document = {
                    "server": {"listen": f"127.0.0.1:{port}", "adminListen": "127.0.0.1:0", "publicUrl": url},
                    "upstream": {"url": upstream.url, "credentials": "none"},
                    "store": {"url": f"redis://127.0.0.1:{store.port}/0"},
                    "login": {"secrets": ["a secret of the tests with 32 bytes or more"]},
                    "authenticationConfiguration": {"providers": [provider]},
                }
                path = tmp_path / f"{port}.yaml"
                path.write_text(json.dumps(document), encoding="utf-8")
                await stack.enter_async_context(run_sidecar(load([str(path)], {})))
            browser = await stack.enter_async_context(chromium(program))
            yield World(url, other, realm, browser, await browser.new_context())
    await asyncio.to_thread(store.stop)


async def test_deep_link_ends_at_the_right_page_with_few_redirects(world: World) -> None:
    page = await world.context.new_page()
    hops: list[str] = []
    page.on("response", lambda response: hops.append(response.url) if response.status in (302, 303) else None)
    await page.goto(f"{world.url}{DEEP}")
    assert len(hops) == 1
    await fill(page)
    assert page.url == world.url + DEEP
    found = await told(page)
    assert (found["target"], found["user"], found["cookie"]) == (DEEP, PERSON, "")
    # the provider's form posts, which answers with the first of two redirects
    assert len(hops) == 3, hops
    # with the provider's session alive
    await world.context.clear_cookies(name=SESSION)
    hops.clear()
    await page.goto(f"{world.url}/again?a=b")
    assert page.url == f"{world.url}/again?a=b"
    assert len(hops) == 3, hops
    mine = [one for one in await world.context.cookies(world.url) if one.get("name", "").startswith("sidecar")]
    assert all(len(one["name"]) + 1 + len(one["value"]) <= 80 for one in mine)


async def test_tabs_that_were_opened_at_once_all_end_where_they_began(
    world: World, record_property: Callable[[str, str], None]
) -> None:
    pages = [await world.context.new_page() for _ in range(TABS)]
    paths = [f"/tab/{number}?a={number}&b=%2F" for number in range(TABS)]
    await asyncio.gather(*(page.goto(world.url + path) for page, path in zip(pages, paths, strict=True)))
    waiting = [one for one in await world.context.cookies(world.url) if one.get("name") == "sidecar_login"]
    assert len(waiting) == 1
    await pages[0].fill("#username", PERSON)
    await pages[0].fill("#password", PASSWORD)
    await pages[0].click("#kc-login")
    clicks = 0
    for page, path in zip(pages, paths, strict=True):
        # Keycloak's page sees the login of the other tab and goes on by itself
        began = time.monotonic()
        while page.url != world.url + path and time.monotonic() - began < 20:
            with suppress(Error):  # the page may be leaving at that moment
                if page.url.startswith(f"{world.url}/oauth2/callback"):
                    await page.click("a:has-text('Sign in')", timeout=2000)
                    clicks += 1  # the login cookie of this tab had been replaced by that of another one
                elif time.monotonic() - began > 8:
                    await page.reload()
            await page.wait_for_timeout(300)
        assert page.url == world.url + path
    record_property("tabs", f"{TABS} tabs, {clicks} clicks on Sign in")
    assert [(await told(page))["target"] for page in pages] == paths


async def test_two_tabs_at_the_form_both_finish(world: World) -> None:
    first, second = await world.context.new_page(), await world.context.new_page()
    # the form of a realm keeps its state in the address: both can be sent
    await first.goto(f"{world.url}/one?a=1")
    await second.goto(f"{world.url}/two?b=2")
    await fill(first)
    if not second.url.startswith(world.url):
        await second.reload()
    await second.wait_for_selector("text=Log out")
    assert ((await told(first))["target"], (await told(second))["target"]) == ("/one?a=1", "/two?b=2")


async def test_sign_out_ends_everything_everywhere(world: World) -> None:
    page = await world.login()
    cookie = await world.cookie()
    assert await world.status(cookie) == await world.status(cookie, world.other) == 200
    await page.evaluate(
        """() => new Promise((resolve) => {
            const socket = new WebSocket(location.origin.replace('http', 'ws') + '/ws');
            socket.onopen = () => resolve();
            socket.onclose = () => { window.ended = true; };
        })"""
    )
    leaving = await world.context.new_page()
    await leaving.goto(f"{world.url}/leave")
    await leaving.click("text=Log out")
    await leaving.wait_for_url(f"{world.url}/oauth2/signed_out**")
    assert await world.status(cookie) == await world.status(cookie, world.other) == 401
    await page.wait_for_function("() => window.ended", timeout=2000)
    # the session of the provider ended with it: the form is shown again
    await leaving.goto(f"{world.url}/")
    await leaving.wait_for_selector("#username")


async def test_callback_that_is_seen_twice_leads_to_the_page(world: World) -> None:
    page = await world.context.new_page()
    callbacks: list[str] = []
    page.on("request", lambda asked: callbacks.append(asked.url) if "/oauth2/callback" in asked.url else None)
    await page.goto(world.url + DEEP)
    await fill(page)
    await page.goto(callbacks[0])
    assert page.url == world.url + DEEP


async def test_back_into_the_form_ends_at_the_right_page(world: World) -> None:
    page = await world.login()
    await page.go_back()
    if not page.url.startswith(world.url):
        await page.reload()
    await page.wait_for_selector("text=Log out")
    assert page.url == world.url + DEEP


async def test_sessions_that_an_administrator_ends_are_refused_at_once(
    world: World, record_property: Callable[[str, str], None]
) -> None:
    page = await world.login()
    cookie = await world.cookie()
    await asyncio.to_thread(world.realm.end_sessions)
    began = time.monotonic()
    for url in (world.url, world.other):
        while await world.status(cookie, url) == 200:
            assert time.monotonic() - began < 2
    record_property("refused after", f"{1000 * (time.monotonic() - began):.0f} ms")
    await page.goto(f"{world.url}/x")
    await page.wait_for_selector("#username")


async def test_second_login_has_another_id_and_ends_the_first(world: World) -> None:
    page = await world.login()
    cookie = await world.cookie()
    await page.goto(f"{world.url}/oauth2/start?rd=/again")
    await page.wait_for_selector("text=Log out")
    assert await world.cookie() != cookie
    assert await world.status(cookie) == await world.status(cookie, world.other) == 401


async def test_page_of_another_site_can_do_nothing_with_the_cookie(world: World) -> None:
    await world.login()
    cookie = await world.cookie()
    evil = await world.context.new_page()

    async def hostile(asked: web.BaseRequest) -> web.StreamResponse:
        form = f"<form method=post action='{world.url}/x'><button>Go</button></form>"
        text = f"{form}<a href='{world.url}/oauth2/sign_out'>Leave</a>"
        return web.Response(text=text, content_type="text/html")

    with LoopbackServer(hostile) as site:
        await evil.goto(site.url.replace("127.0.0.1", "localhost"))
        async with evil.expect_navigation() as navigation:
            await evil.click("text=Go")
        answer = await navigation.value
        assert answer is not None
        assert answer.status in (401, 403)
        await evil.goto(site.url.replace("127.0.0.1", "localhost"))
        await evil.click("text=Leave")
        await evil.wait_for_selector("button")
    assert await world.status(cookie) == 200


async def test_program_of_a_page_gets_json(world: World) -> None:
    page = await world.context.new_page()
    await page.goto(f"{world.url}/oauth2/sign_in")
    # the policy of the page allows no scripts to connect: ask as a page of the origin
    answer = await page.request.get(f"{world.url}/x", headers={"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"})
    assert answer.status == 401
    assert (await answer.json())["login"] == "/oauth2/start"
    assert not [one for one in await world.context.cookies(world.url) if one.get("name") == "sidecar_login"]


async def test_page_is_not_shown_again_after_the_sign_out(world: World) -> None:
    page = await world.login()
    await page.click("text=Log out")
    await page.wait_for_url(f"{world.url}/oauth2/signed_out**")
    for _ in range(4):
        with suppress(Error):  # from the back/forward cache no load event comes
            await page.go_back(timeout=3000)
        assert "The page" not in await page.title(), page.url
