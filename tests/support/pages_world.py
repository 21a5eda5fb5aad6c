"""A sidecar with a browser login, whose pages can be used: it has keys to mint with, people and an admin."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from tests.support import forge
from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import Reply
from tests.support.identity_provider import AUDIENCE
from tests.support.login_provider import CLIENT_ID, CLIENT_SECRET, Browser, LoginProvider
from tests.support.ports import free_port

ADMIN = "root"
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)


class ShiftedClock:
    """The system's clocks, ``ahead`` seconds later."""

    ahead = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.ahead

    def monotonic(self) -> float:
        """Seconds since some start."""
        return time.monotonic() + self.ahead


@dataclass
class PagesWorld:
    """The sidecar's address, and the provider."""

    url: str
    idp: LoginProvider
    clock: ShiftedClock

    async def login(self, user: str = "alice") -> "Person":
        """A browser in which ``user`` has logged in."""
        self.idp.user = user
        person = Person(self.url)
        reply = await person.get(f"{self.url}/oauth2/start?provider=corp")
        assert reply.status == 200, reply
        return person


class Person(Browser):
    """A browser that fills in forms as browsers do."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    async def open(self, path: str) -> Reply:
        """Open one of the pages."""
        return await self.get(f"{self.url}/oauth2{path}")

    async def post(self, path: str, fields: Mapping[str, str], **headers: str | None) -> Reply:
        """Send a form, with the headers of a browser; ``headers`` replaces some, None removes one."""
        given: dict[str, str | None] = {
            "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
            "Origin": self.url, "Accept": "text/html",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }  # fmt: skip
        lines = [(name, value) for name, value in given.items() if value is not None]
        body = urlencode(fields, errors="surrogatepass").encode()
        return await self.send(f"{self.url}/oauth2{path}", "POST", headers=(*lines, *FORM), body=body)

    async def submit(self, path: str, **fields: str) -> Reply:
        """Open a page, send its form and follow the redirect."""
        page = await self.open(path)
        assert page.status == 200, page
        reply = await self.post(path, {"form": form_token(page), **fields})
        assert reply.status == 303, reply
        return await self.get(self.url + reply.all("Location")[0])


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "input" and given.get("name") in ("form", "token"):
            self.tokens.append(given["value"] or "")


def form_token(page: Reply) -> str:
    """The token of the page's form."""
    parser = _Forms()
    parser.feed(page.body.decode())
    return parser.tokens[0]


def shown_token(page: Reply) -> str | None:
    """The new token that the page shows."""
    _, mark, rest = page.body.decode().partition('spellcheck="false">')
    return unescape(rest.partition("<")[0]) if mark else None


def configuration(folder: Path, url: str, upstream_url: str, idp: LoginProvider, **blocks: Any) -> dict[str, Any]:
    """The configuration of the world; ``blocks`` replace its blocks."""
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(forge.OTHER_RSA.as_pem(private=True))
    public.write_bytes(forge.OTHER_RSA.as_pem(private=False))
    provider = {
        "name": "corp",
        "issuer": idp.issuer,
        "audiences": [AUDIENCE],
        "groupsClaim": "groups",
        "mayBeAdmin": True,
        "emailVerified": "absentIsVerified",
        "login": {"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET, "displayName": "Example Corp"},
    }
    return {
        "server": {"listen": url.removeprefix("http://"), "adminListen": "127.0.0.1:0", "publicUrl": url},
        "upstream": {"url": upstream_url, "credentials": "none"},
        "store": {"url": f"sqlite:///{folder}/sidecar.db"},
        "authenticationConfiguration": {"providers": [provider]},
        "authorizerConfiguration": {"adminPrincipals": [ADMIN], "principalDomain": "example.com"},
        "jwtTokenConfiguration": {
            "rsaprivateKeyFilePath": str(private), "rsapublicKeyFilePath": str(public),
            "jwtissuer": "metadata.example.com", "keyId": "own1",
        },
        **blocks,
    }  # fmt: skip


@asynccontextmanager
async def pages_world(folder: Path, **blocks: Any) -> AsyncIterator[PagesWorld]:
    """A running world."""
    url = f"http://127.0.0.1:{free_port()}"
    with LoginProvider() as idp, echo_upstream() as upstream:
        path = folder / "sidecar.yaml"
        path.write_text(json.dumps(configuration(folder, url, upstream.url, idp, **blocks)), encoding="utf-8")
        clock = ShiftedClock()
        async with run_sidecar(load([str(path)], {}), clock):
            yield PagesWorld(url, idp, clock)
