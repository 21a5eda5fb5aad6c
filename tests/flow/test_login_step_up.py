"""Rules that require a recent or a stronger authentication, silent logins, and the parameters of ``/start``."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.flow.test_login import API, FORM, SESSION, World, received, world_of
from tests.support.http_client import request
from tests.support.login_provider import NAVIGATION, Browser, query_of

RULES = [
    {"path": "/admin/**", "require": {"maxAge": "15m"}},
    {"path": "/vault/**", "require": {"acr": ["gold", "platinum"], "maxAge": "1h"}},
    {"path": "/readers/**", "require": {"groups": ["others"], "maxAge": "15m"}},
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path, rules=RULES) as made:
        yield made


async def test_old_authentication_is_repeated_for_a_rule_that_asks(world: World) -> None:
    world.idp.authenticated_ago = 7200
    browser = await world.login()
    before = browser.cookies[SESSION]
    reply = await browser.send(world.url + "/admin/x", headers=API)
    assert (reply.status, reply.json()["reason"]) == (401, "step_up_required")
    (challenge,) = reply.all("WWW-Authenticate")
    assert 'error="insufficient_user_authentication"' in challenge
    assert challenge.endswith("max_age=900")
    reply = await browser.get(world.url + "/admin/x?a=1")
    assert (reply.status, received(reply).target) == (200, "/admin/x?a=1")
    assert world.idp.requests[-1]["max_age"] == "900"
    assert browser.cookies[SESSION] != before


async def test_class_of_authentication_is_requested_and_checked(world: World) -> None:
    browser = await world.login()
    reply = await browser.send(world.url + "/vault/x", headers=API)
    assert 'acr_values="gold platinum", max_age=3600' in reply.all("WWW-Authenticate")[0]
    reply = await browser.get(world.url + "/vault/x")
    assert reply.status == 200
    assert world.idp.requests[-1]["acr_values"] == "gold platinum"


@pytest.mark.parametrize(("path", "wrong"), [("/admin/x", "max_age is ignored"), ("/vault/x", "acr is ignored")])
async def test_provider_that_does_not_do_what_was_asked_causes_no_loop(world: World, path: str, wrong: str) -> None:
    world.idp.wrong, world.idp.authenticated_ago = wrong, 7200
    browser = await world.login()
    kept = browser.cookies[SESSION]
    reply = await browser.get(world.url + path)
    assert reply.status == 400
    assert len(browser.seen) == 3
    # the session that stood before stands
    assert browser.cookies[SESSION] == kept
    assert (await browser.send(world.url + "/", headers=API)).status == 200


async def test_authentication_that_is_still_to_come_meets_no_rule(world: World) -> None:
    """Milliseconds, for example, would be recent for ever."""
    world.idp.extra = {"auth_time": int(time.time() * 1000)}
    browser = await world.login()
    reply = await browser.send(world.url + "/admin/x", headers=API)
    assert (reply.status, reply.json().get("reason")) == (401, "step_up_required")
    reply = await browser.get(world.url + "/admin/x")
    assert (reply.status, len(browser.seen)) == (400, 3)
    # the difference of two clocks is no fault
    world.idp.extra = {"auth_time": int(time.time()) + 20}
    assert (await browser.get(world.url + "/admin/x")).status == 200


@pytest.mark.parametrize("at", ["login", "refresh"])
async def test_userinfo_says_nothing_about_the_authentication(tmp_path: Path, at: str) -> None:
    """Claims of UserInfo may be those of a profile that its owner edits."""
    recheck = {"session": {"recheck": "1s"}}
    async with world_of(tmp_path, rules=RULES, login=recheck, registration={"userinfo": "always"}) as world:
        world.idp.gives_refresh_tokens = True
        told = {"acr": "gold", "auth_time": int(time.time()), "sid": "sid-of-another"}
        world.idp.extra = {"auth_time": None}
        if at == "login":
            world.idp.more_userinfo = told
        browser = await world.login()
        if at == "refresh":
            world.idp.more_userinfo, world.idp.wrong = told, "refresh: no id token"
            for _ in range(100):
                await asyncio.sleep(0.1)
                await browser.send(world.url + "/", headers=API)
                if world.idp.refreshes > 1:
                    break
            assert world.idp.refreshes > 1
        for path in ("/vault/x", "/admin/x"):
            reply = await browser.send(world.url + path, headers=API)
            assert (reply.status, reply.json()["reason"]) == (401, "step_up_required"), path
        # the logout of another session at the provider does not end this one, that of its subject does
        for claims, status in (({"sid": "sid-of-another", "sub": None}, 200), ({"sid": None}, 401)):
            body = urlencode({"logout_token": world.idp.logout_token(**claims)}).encode()
            url = world.url + "/oauth2/backchannel_logout"
            reply = await asyncio.to_thread(request, url, "POST", headers=[FORM], body=body)
            assert reply.status == 200
            assert (await browser.send(world.url + "/", headers=API)).status == status


async def test_who_lacks_more_does_not_authenticate_in_vain(world: World) -> None:
    world.idp.authenticated_ago = 7200
    browser = await world.login()
    reply = await browser.get(world.url + "/readers/x")
    assert (reply.status, reply.json()["reason"]) == (403, "forbidden")


async def test_token_proves_its_authentication_as_a_session_does(world: World) -> None:
    for ago, status in ((60, 200), (3600, 401)):
        token = world.idp.mint(auth_time=int(time.time()) - ago)
        headers = [("Authorization", f"Bearer {token}")]
        reply = await asyncio.to_thread(request, world.url + "/admin/x", headers=headers)
        assert reply.status == status
    for claim in (None, "now", True, [1], -5):
        headers = [("Authorization", f"Bearer {world.idp.mint(auth_time=claim)}")]
        reply = await asyncio.to_thread(request, world.url + "/admin/x", headers=headers)
        assert (reply.status, reply.json()["reason"]) == (401, "step_up_required"), claim


async def test_form_that_needs_a_new_authentication_is_a_page(world: World) -> None:
    world.idp.authenticated_ago = 7200
    browser = await world.login()
    headers = (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"))
    reply = await browser.send(world.url + "/admin/x", "POST", headers=headers, body=b"a=1")
    assert (reply.status, reply.all("Location")) == (401, [])
    assert b"/oauth2/start?prompt=login" in reply.body


async def test_silent_login_that_fails_shows_the_sign_in_page(world: World) -> None:
    for error in ("login_required", "interaction_required", "consent_required", "account_selection_required"):
        world.idp.wrong = f"error {error}"
        browser = Browser()
        reply = await browser.get(world.url + "/oauth2/start?prompt=none&rd=/a")
        assert world.idp.requests[-1]["prompt"] == "none"
        assert (reply.status, len(browser.seen)) == (401, 3)
        assert b"/oauth2/start?provider=corp&amp;rd=%2Fa" in reply.body
    world.idp.wrong = ""
    reply = await Browser().get(world.url + "/oauth2/start?prompt=none&rd=/a")
    assert received(reply).target == "/a"


@pytest.mark.parametrize("query", ["prompt=consent", "prompt=none%20login", "prompt=", "prompt=none&prompt=login"])
async def test_prompt_is_of_a_fixed_list(world: World, query: str) -> None:
    reply = await Browser().send(f"{world.url}/oauth2/start?{query}", headers=NAVIGATION)
    expected = 303 if query == "prompt=" else 400
    assert reply.status == expected


async def test_parameters_of_the_provider_are_not_taken_from_the_query(world: World) -> None:
    query = "max_age=0&acr_values=x&scope=admin&redirect_uri=https://evil.example&login_hint=a&nonce=1&state=2"
    reply = await Browser().send(f"{world.url}/oauth2/start?{query}", headers=NAVIGATION)
    sent = query_of(reply.all("Location")[0])
    assert {"max_age", "acr_values", "login_hint"}.isdisjoint(sent)
    assert sent["scope"] == "openid profile email"
    assert sent["redirect_uri"].endswith("/oauth2/callback/corp")
