"""Providers that answer anything at all: a page with 4xx or 503, never 5xx of another kind, and nothing is stored."""

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_login import API, LOGIN, SESSION, World, world_of
from tests.support.login_provider import NAVIGATION, Browser, query_of

JSON = {"Content-Type": "application/json"}
DEEP = b"[" * 20_000 + b"]" * 20_000
GOOD_HEAD = b'{"access_token":"a","token_type":"Bearer",'
# what is no token response, or one with an ID token that is none
BODIES = {
    "empty": b"",
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "number": b"1e999",
    "not a number": b'{"access_token":"a","token_type":"Bearer","id_token":NaN}',
    "deep": DEEP,
    "not utf-8": b"\xff\xfe",
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": GOOD_HEAD + b'"id_token":"\\ud800"}',
    "nul": GOOD_HEAD + b'"id_token":"a\\u0000.b.c"}',
    "twice": GOOD_HEAD + b'"id_token":"a.b.c","id_token":"d.e.f"}',
    "id token is a list": GOOD_HEAD + b'"id_token":["a.b.c"]}',
    "id token is long": GOOD_HEAD + b'"id_token":"' + b"a" * 200_000 + b'"}',
    "five parts": GOOD_HEAD + b'"id_token":"a.b.c.d.e"}',
    "access token is a number": b'{"access_token":1,"token_type":"Bearer","id_token":"a.b.c"}',
    "no token type": b'{"access_token":"a","id_token":"a.b.c"}',
    "token type is a list": b'{"access_token":"a","token_type":["Bearer"],"id_token":"a.b.c"}',
    "a megabyte": b"{" + b" " * 1_100_000 + b"}",
    "html": b"<html><script>alert(1)</script>",
}
# claims of an ID token whose signature is good
CLAIMS: dict[str, dict[str, Any]] = {
    "sub is a number": {"sub": 7},
    "sub is empty": {"sub": ""},
    "sub is a list": {"sub": ["sub-alice"]},
    "nonce is a list": {"nonce": ["x"]},
    "nonce is a number": {"nonce": 1},
    "iat is text": {"iat": "now"},
    "iat is true": {"iat": True},
    "iat is huge": {"iat": 10**30},
    "exp is text": {"exp": "later"},
    "exp is negative": {"exp": -1},
    "exp is missing": {"exp": None},
    "aud is a number": {"aud": 1},
    "aud is empty": {"aud": []},
    "aud is nested": {"aud": [["metadata web"]]},
    "azp is a list": {"azp": ["metadata web"]},
    "at_hash is a number": {"at_hash": 1},
    "iss is a list": {"iss": ["x"]},
    "name is a list": {"preferred_username": ["alice"], "email": None},
    "name is an object": {"preferred_username": {"a": 1}, "email": None},
    "name with controls": {"preferred_username": "a\u0000b", "email": None},
    "name is long": {"preferred_username": "a" * 5000, "email": None},
    "claims are large": {"x": "y" * 40_000},
}


def stored(folder: Path) -> tuple[int, int]:
    with sqlite3.connect(folder / "sidecar.db") as database:
        count = "SELECT (SELECT count(*) FROM token_records), (SELECT count(*) FROM companions)"
        found: tuple[int, int] = database.execute(count).fetchone()
    return found


@pytest.fixture
async def world(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made
        assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


async def refused(world: World, folder: Path, what: str) -> None:
    browser = Browser()
    reply = await browser.get(world.url + "/one")
    assert reply.status in (400, 403, 503), (what, reply.status, reply.body)
    assert reply.all("Content-Type")[0].startswith("text/html"), what
    assert SESSION not in browser.cookies, what
    assert b"<script>" not in reply.body, what
    assert stored(folder) == (0, 0), what


async def test_answers_of_the_token_endpoint_that_are_none(world: World, tmp_path: Path) -> None:
    for status in (200, 400, 401):
        for what, body in BODIES.items():
            world.idp.instead = {"/token": (status, body, JSON)}
            await refused(world, tmp_path, f"{status} {what}")
    for status in (201, 204, 301, 302, 403, 404, 429, 500, 502, 503):
        world.idp.instead = {"/token": (status, b"{}", {**JSON, "Location": "http://127.0.0.1:9/", "Retry-After": "x"})}
        await refused(world, tmp_path, str(status))
    world.idp.instead = {}
    await world.login()


async def test_claims_of_wrong_types_in_a_signed_id_token(world: World, tmp_path: Path) -> None:
    for what, claims in CLAIMS.items():
        world.idp.extra = claims
        await refused(world, tmp_path, what)


async def test_groups_of_a_wrong_type_are_no_groups(world: World) -> None:
    """As in tokens: a person without them, never an error of the sidecar."""
    for groups in ({"a": 1}, 7, [["a"]], [None], True):
        world.idp.extra = {"groups": groups}
        reply = await Browser().get(world.url + "/one")
        assert reply.status in (200, 400), groups


async def test_answers_of_userinfo_that_are_none(world: World, tmp_path: Path) -> None:
    world.idp.groups = None
    for what, body in BODIES.items():
        world.idp.instead = {"/userinfo": (200, body, JSON)}
        await refused(world, tmp_path, what)
    signed = world.idp.mint(sub="sub-alice", groups=["admins"]).encode()
    world.idp.instead = {"/userinfo": (200, signed, {"Content-Type": "application/jwt"})}
    await refused(world, tmp_path, "signed")
    for status in (302, 401, 403, 500):
        world.idp.instead = {"/userinfo": (status, b'{"sub":"sub-alice"}', {**JSON, "Location": "/userinfo2"})}
        await refused(world, tmp_path, str(status))


async def test_answers_of_the_endpoint_for_pushed_requests_that_are_none(tmp_path: Path) -> None:
    async with world_of(tmp_path, registration={"pushed": "always"}) as world:
        answers = {
            **BODIES,
            "number": b'{"request_uri":1}',
            "empty uri": b'{"request_uri":""}',
            "long uri": b'{"request_uri":"' + b"u" * 9000 + b'"}',
            "header": b'{"request_uri":"x\\r\\nSet-Cookie: a=b"}',
        }
        for what, body in answers.items():
            world.idp.instead = {"/par": (201, body, JSON)}
            reply = await Browser().get(world.url + "/one", follow=False)
            if what == "header":  # encoded, so that the provider gets its own text back
                assert (reply.status, query_of(reply.all("Location")[0])["request_uri"][0]) == (303, "x")
                assert not [line for line in reply.all("Set-Cookie") if line.startswith("a=b")]
                continue
            assert reply.status in (400, 503), (what, reply.status)
        for status in (200, 302, 400, 401, 500):
            world.idp.instead = {"/par": (status, b'{"error":"invalid_request"}', JSON)}
            assert (await Browser().get(world.url + "/one", follow=False)).status in (400, 503), status


@pytest.mark.parametrize(
    "changes",
    [
        {"authorization_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "//evil.example/a"},
        {"authorization_endpoint": "https://idp.example/a#f"},
        {"authorization_endpoint": "https://idp.example/\r\nSet-Cookie: a=b"},
        {"authorization_endpoint": ["https://idp.example/"]},
        {"authorization_endpoint": "https://user:pass@idp.example/"},
        {"authorization_endpoint": "https://idp.example/" + "a" * 3000},
        {"token_endpoint": "http://idp.example/token"},
        {"token_endpoint": "file:///etc/passwd"},
        {"token_endpoint": 7},
        {"end_session_endpoint": "javascript:alert(1)"},
        {"userinfo_endpoint": "gopher://x/"},
        {"pushed_authorization_request_endpoint": "data:,x"},
        {"revocation_endpoint": "http://169.254.169.254/"},
    ],
)
async def test_endpoints_that_lead_elsewhere_begin_no_login(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with world_of(tmp_path) as world:
        url = world.idp.issuer
        document = {
            "issuer": url,
            "jwks_uri": f"{url}/jwks",
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            **changes,
        }
        path = "/.well-known/openid-configuration"
        world.idp.instead = {path: (200, json.dumps(document).encode(), JSON)}
        reply = await Browser().get(world.url + "/one", follow=False)
        assert (reply.status, reply.all("Location"), reply.all("Set-Cookie")) == (503, [], [])


async def test_callback_parameters_that_are_malformed_store_nothing(world: World, tmp_path: Path) -> None:
    browser = Browser()
    sent = await browser.get(world.url + "/one", follow=False)
    state = query_of(sent.all("Location")[0])["state"]
    base = f"{world.url}/oauth2/callback/corp?state={state}&iss={world.idp.issuer}"
    for query in (
        "", "&code=", "&code=a&code=b", "&iss=x&code=a", "&code=%00", "&code=%0d%0aX:y", "&code=%ff",
        "&code=" + "c" * 9000, "&error=", "&error=a&error=b", "&code=a&" + "&".join(f"p{n}=1" for n in range(40)),
        "&code=a;b", "&code=%c2%85", "&error=%3Cscript%3E&error_description=%3Cscript%3E",
    ):  # fmt: skip
        reply = await browser.send(base + query, headers=NAVIGATION)
        assert reply.status == 400, (query, reply.status)
        assert b"<script>" not in reply.body
        assert stored(tmp_path) == (0, 0)
    for method in ("POST", "PUT", "HEAD", "DELETE"):
        reply = await browser.send(base + "&code=a", method, headers=NAVIGATION)
        assert reply.status == 405, method
    assert (await Browser().send(world.url + "/oauth2/callback/../corp?state=x", headers=NAVIGATION)).status in (
        400,
        404,
    )


async def test_states_of_others_late_and_altered_store_nothing(world: World, tmp_path: Path) -> None:
    browser, stranger = Browser(), Browser()
    location = (await browser.get(world.url + "/one", follow=False)).all("Location")[0]
    answer = (await browser.send(location)).all("Location")[0]
    foreign = (await stranger.get(world.url + "/two", follow=False)).all("Location")[0]
    state, other = query_of(location)["state"], query_of(foreign)["state"]
    # a login that began in another browser is not completed: a new one begins, for a person who has a login cookie
    begun = await browser.send(answer.replace(state, other), headers=NAVIGATION)
    assert begun.status == 303
    assert query_of(begun.all("Location")[0])["state"] not in (state, other)
    for bad in (state[:-1], state + "A", state[:40] + other[40:], state.swapcase(), "A" * 200, state + "=", "."):
        reply = await browser.send(answer.replace(state, bad), headers=NAVIGATION)
        assert reply.status == 400, bad
    # a cookie of another browser, twice, and none
    cookie = browser.cookies[LOGIN]
    for cookies in ({}, {LOGIN: "x"}):
        assert (await Browser(cookies).send(answer, headers=NAVIGATION)).status == 400
    victim = Browser({LOGIN: stranger.cookies[LOGIN]})
    assert (await victim.send(answer, headers=NAVIGATION)).status == 303
    assert SESSION not in victim.cookies
    twice = (*NAVIGATION, ("Cookie", f"{LOGIN}={cookie}; {LOGIN}={stranger.cookies[LOGIN]}"))
    assert (await Browser().send(answer, headers=twice)).status == 400
    assert stored(tmp_path) == (0, 0)
    assert len(world.idp.token_requests) == 0
    assert (await browser.send(answer, headers=NAVIGATION)).status == 303
    assert SESSION in browser.cookies


async def test_refresh_that_is_answered_by_anything_ends_no_session(tmp_path: Path) -> None:
    """What says nothing about the person is an outage; it is bridged."""
    async with world_of(tmp_path, login={"session": {"recheck": "1s"}}) as world:
        world.idp.gives_refresh_tokens = True
        for what in ("empty", "list", "deep", "a megabyte", "html", "no token type", "twice"):
            browser = await world.login(browser=Browser())
            world.idp.instead = {"/token": (200, BODIES[what], JSON)}
            await asyncio.sleep(2.2)  # a refresh is due
            reply = await browser.send(world.url + "/", headers=API)
            assert reply.status == 200, what
            world.idp.instead = {}


async def test_group_overage_is_a_login_without_groups(tmp_path: Path) -> None:
    """Microsoft Entra names an endpoint instead of the groups; an incomplete list would be worse than none."""
    async with world_of(tmp_path, registration={"userinfo": "never"}) as world:
        world.idp.groups = None
        world.idp.extra = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "http://x"}}}
        browser = await world.login()
        reply = await browser.send(world.url + "/")
        assert json.loads(reply.body)["headers"]
        assert b"X-Auth-Request-Groups" not in reply.body
