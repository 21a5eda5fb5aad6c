"""Sign-in with user name and password: the member judges, and a session is as after a provider's login."""

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from tests.flow.test_login import API, FORM, LOGIN, SESSION, provider_block, received
from tests.support.directory import ADMIN, ADMIN_PASSWORD, BASE, prepared_slapd
from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import Reply
from tests.support.login_provider import NAVIGATION, Browser, LoginProvider
from tests.support.ports import free_port

PASSWORD = "correct horse: battery"
OWN = (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"))
DEEP = "/deep?x=1&y=a%2Fb"
_FIELD = re.compile(rb'name="(token|rd|username)"[^>]*? value="([^"]*)"')


@dataclass
class Doors:
    """A sidecar whose sign-in page has a form."""

    url: str
    idp: LoginProvider

    async def form(self, browser: Browser, path: str = "/oauth2/sign_in?rd=/a") -> dict[str, str]:
        """The fields of the form at ``path``."""
        reply = await browser.send(self.url + path, headers=NAVIGATION)
        return fields_of(reply)

    async def post(
        self, browser: Browser, fields: dict[str, str], headers: Sequence[tuple[str, str]] = OWN, **changes: str
    ) -> Reply:
        """Post the form."""
        body = urlencode({**fields, **changes}).encode()
        return await browser.send(self.url + "/oauth2/sign_in", "POST", headers=(*headers, FORM), body=body)

    async def enter(self, browser: Browser, user: str = "carol", password: str = PASSWORD, **headers: str) -> Reply:
        """Fill in the form."""
        fields = await self.form(browser)
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await self.post(browser, fields, (*OWN, *more), username=user, password=password)


def fields_of(reply: Reply) -> dict[str, str]:
    assert b'action="/oauth2/sign_in"' in reply.body, reply.body
    return {name.decode(): unescape(value.decode()) for name, value in _FIELD.findall(reply.body)}


@asynccontextmanager
async def doors_of(
    folder: Path, *, providers: bool = False, member: dict[str, Any] | None = None, **blocks: Any
) -> AsyncIterator[Doors]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    users = folder / "user.props"
    users.write_text(f"carol: {PASSWORD}, stewards\ndave: other\n", encoding="utf-8")
    with LoginProvider() as idp, echo_upstream() as upstream:
        entry = {"type": "basic", "configs": {"userProps": str(users), "cache": "0s", "failuresPerUser": 30}}
        document = {
            "server": {"listen": f"127.0.0.1:{port}", "adminListen": "127.0.0.1:0", "publicUrl": url},
            "upstream": {"url": upstream.url, "credentials": "none"},
            "store": {"url": f"sqlite:///{folder}/sidecar.db"},
            "authentication": {"authenticators": [member or entry]},
            "authenticationConfiguration": {"providers": [provider_block(idp, "corp")] if providers else []},
            "login": {"passwords": ["basic"]},
            **blocks,
        }
        path = folder / "sidecar.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        async with run_sidecar(load([str(path)], {})):
            yield Doors(url, idp)


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    async with doors_of(tmp_path) as made:
        yield made


async def test_form_is_at_the_page_that_was_asked_for_and_leads_back_there(doors: Doors) -> None:
    browser = Browser()
    reply = await browser.send(doors.url + DEEP, headers=NAVIGATION)
    assert reply.status == 401
    assert b"form-action 'self'" in reply.all("Content-Security-Policy")[0].encode()
    fields = fields_of(reply)
    assert fields["rd"] == DEEP
    reply = await doors.post(browser, fields, username="carol", password=PASSWORD)
    assert (reply.status, reply.all("Location")) == (303, [DEEP])
    assert reply.all("Cache-Control") == ["no-store"]
    reply = await browser.send(doors.url + DEEP)
    assert received(reply).all("X-Auth-Request-User") == ["carol"]
    assert received(reply).all("X-Auth-Issuer") == ["urn:auth-sidecar:basic"]


async def test_wrong_password_and_unknown_user_look_the_same(doors: Doors) -> None:
    answers = []
    for user, password in (("carol", "wrong"), ("unknown", PASSWORD), ("carol", ""), ("", "x"), ("a:b", "x")):
        browser = Browser()
        reply = await doors.enter(browser, user, password)
        assert (reply.status, SESSION in browser.cookies) == (401, False), (user, password)
        assert fields_of(reply)["username"] == user
        answers.append(re.sub(rb'value="[^"]*"', b"", reply.body))
        assert PASSWORD.encode() not in reply.body
    assert len(set(answers)) == 1


async def test_form_of_another_browser_or_page_begins_no_session(doors: Doors) -> None:
    """Or a person could be logged in as another without noticing."""
    stranger, victim = Browser(), Browser()
    planted = await doors.form(stranger)
    await doors.form(victim)
    right = {"username": "carol", "password": PASSWORD}
    for browser, fields, headers in (
        (victim, planted, OWN),
        (Browser(), planted, OWN),
        (victim, {**planted, "token": ""}, OWN),
        (victim, {"rd": "/"}, OWN),
        (stranger, planted, (("Sec-Fetch-Site", "cross-site"),)),
        (stranger, planted, (("Origin", "https://evil.example"),)),
        (stranger, planted, (("Origin", "null"),)),
        (stranger, planted, ()),
    ):
        reply = await doors.post(browser, {**fields, **right}, headers)
        assert (reply.status, SESSION in browser.cookies) == (403, False), (fields, headers)
    # the cookie of the session is no cookie of the login
    assert (await doors.post(stranger, planted, OWN, **right)).status == 303


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"username=carol&username=dave", 400),
        (b"username=%ff", 400),
        ("username=\u20ac".encode(), 400),
        (b"username", 400),
        (b"username=" + b"a" * 9000, 413),
        (b"&".join(b"f%d=1" % number for number in range(40)), 400),
    ],
)
async def test_malformed_form_is_a_page_with_4xx(doors: Doors, body: bytes, status: int) -> None:
    browser = Browser()
    await doors.form(browser)
    reply = await browser.send(doors.url + "/oauth2/sign_in", "POST", headers=(*OWN, FORM), body=body)
    assert reply.status == status
    assert reply.all("Content-Type")[0].startswith("text/html")


@pytest.mark.parametrize("user", ["carol\x00", "carol\n", "x" * 300, "carol\u202e", "<script>alert(1)</script>"])
async def test_hostile_user_name_is_only_wrong(doors: Doors, user: str) -> None:
    reply = await doors.enter(Browser(), user)
    assert reply.status == 401
    assert b"<script>" not in reply.body


async def test_return_address_is_checked_as_after_a_login(doors: Doors) -> None:
    browser = Browser()
    fields = await doors.form(browser)
    for hostile in ("//evil.example", "https://evil.example/", "/\\evil", "/oauth2/sign_out"):
        reply = await doors.post(browser, fields, OWN, rd=hostile, username="carol", password=PASSWORD)
        assert reply.all("Location") == ["/"], hostile


async def test_too_many_wrong_passwords_from_one_address_are_429_and_no_other_is_locked_out(tmp_path: Path) -> None:
    limits = {"trustedProxies": ["127.0.0.1/32"]}
    async with doors_of(tmp_path) as plain:
        document = json.loads((tmp_path / "sidecar.yaml").read_text())
    document["server"] |= limits
    port = free_port()
    document["server"] |= {"listen": f"127.0.0.1:{port}", "publicUrl": f"http://127.0.0.1:{port}"}
    document["upstream"]["url"] = "http://127.0.0.1:9"
    (tmp_path / "sidecar.yaml").write_text(json.dumps(document), encoding="utf-8")
    async with run_sidecar(load([str(tmp_path / "sidecar.yaml")], {})):
        doors = Doors(f"http://127.0.0.1:{port}", plain.idp)
        standing = Browser()
        assert (await doors.enter(standing, X_Forwarded_For="192.0.2.1")).status == 303
        statuses = []
        for number in range(22):
            reply = await doors.enter(Browser(), f"user{number}", "wrong", X_Forwarded_For="192.0.2.1")
            statuses.append(reply.status)
        assert statuses == [401] * 20 + [429] * 2
        assert int(reply.all("Retry-After")[0]) <= 60
        # the leftmost entry is the caller's own text
        reply = await doors.enter(Browser(), X_Forwarded_For="198.51.100.7, 192.0.2.1")
        assert reply.status == 429
        assert (await doors.enter(Browser(), X_Forwarded_For="192.0.2.2")).status == 303
        # a session that stands is not concerned
        reply = await standing.send(doors.url + "/oauth2/userinfo", headers=API)
        assert (reply.status, reply.json()["actor"]["id"]) == (200, "carol")


async def test_session_of_a_password_is_replaced_ended_and_revoked_as_every_other(doors: Doors) -> None:
    browser = Browser()
    await doors.enter(browser)
    first = Browser(dict(browser.cookies))
    await doors.enter(browser)
    assert browser.cookies[SESSION] != first.cookies[SESSION]
    assert (await first.send(doors.url + "/", headers=API)).json()["reason"] == "session_ended"
    kept = Browser(dict(browser.cookies))
    reply = await browser.send(doors.url + "/oauth2/sign_out", headers=OWN)
    assert (reply.status, reply.all("Location")) == (303, ["/oauth2/signed_out"])
    assert (await kept.send(doors.url + "/", headers=API)).status == 401


async def test_page_with_a_form_is_for_navigations_only(doors: Doors) -> None:
    browser = Browser()
    reply = await browser.send(doors.url + "/oauth2/sign_in", headers=(("Sec-Fetch-Mode", "no-cors"),))
    assert (reply.status, LOGIN in browser.cookies) == (400, False)


async def test_provider_and_passwords_stand_side_by_side(tmp_path: Path) -> None:
    async with doors_of(tmp_path, providers=True) as doors:
        browser = Browser()
        reply = await browser.send(doors.url + DEEP, headers=NAVIGATION)
        assert reply.status == 401
        assert b"/oauth2/start?provider=corp" in reply.body
        assert fields_of(reply)["rd"] == DEEP
        assert (await doors.enter(browser)).status == 303
        by_provider = Browser()
        reply = await by_provider.get(doors.url + "/oauth2/start?provider=corp")
        assert received(reply).all("X-Auth-Request-User") == ["alice"]


async def test_rule_that_asks_for_a_recent_login_is_met_by_entering_the_password_again(tmp_path: Path) -> None:
    rules = [{"path": "/admin/**", "require": {"maxAge": "10s", "roles": ["stewards"]}}]
    async with doors_of(tmp_path, rules=rules) as doors:
        browser = Browser()
        await doors.enter(browser)
        assert (await browser.send(doors.url + "/admin/x", headers=API)).status == 200


async def test_user_of_a_directory_is_the_same_actor_as_with_basic(
    tmp_path: Path, require_tool: Callable[[str], Path]
) -> None:
    folder = tmp_path / "slapd"
    folder.mkdir()
    directory = prepared_slapd(require_tool("slapd"), folder)
    configs = {
        "url": directory.tls_url,
        "caFile": str(directory.ca_file),
        "bindDn": ADMIN,
        "bindPassword": ADMIN_PASSWORD,
        "userBase": f"ou=people,{BASE}",
        "groupBase": f"ou=groups,{BASE}",
    }
    with directory.running():
        member = {"type": "ldap", "name": "people", "configs": configs}
        async with doors_of(tmp_path, member=member, login={"passwords": ["people"]}) as doors:
            browser = Browser()
            assert (await doors.enter(browser, "alice", "wrong")).status == 401
            assert (await doors.enter(browser, "alice", "opensesame")).status == 303
            by_session = received(await browser.send(doors.url + "/"))
            basic = ("Authorization", "Basic " + b64encode(b"alice:opensesame").decode())
            by_basic = received(await Browser().send(doors.url + "/", headers=[basic]))
            for name in ("User", "Email", "Groups"):
                header = f"X-Auth-Request-{name}"
                assert by_session.all(header) == by_basic.all(header) != [], name
            assert by_session.all("X-Auth-Request-Email") == ["alice@example.com"]


async def test_passwords_are_404_without_the_setting(tmp_path: Path) -> None:
    async with doors_of(tmp_path, providers=True, login={}) as doors:
        body = urlencode({"username": "carol", "password": PASSWORD, "token": "x"}).encode()
        reply = await Browser().send(doors.url + "/oauth2/sign_in", "POST", headers=(*OWN, FORM), body=body)
        assert reply.status == 404
