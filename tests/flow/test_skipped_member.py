"""A member with ``onError: continue`` that comes back: what others accepted meanwhile is its to judge again."""

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp import web

from tests.flow.conftest import Scene, Start, bearer
from tests.support.http_client import Reply, request
from tests.support.loopback_server import LoopbackServer


class Introspection:
    """The issuer's server: down, or it calls every token inactive."""

    def __init__(self) -> None:
        self.is_up = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"active": False}) if self.is_up else web.Response(status=500)


@pytest.fixture(name="server")
def _server() -> Introspection:
    return Introspection()


@pytest.fixture(name="url")
def _url(server: Introspection) -> Iterator[str]:
    with LoopbackServer(server) as running:
        yield f"{running.url}/introspect"


async def _check(scene: Scene) -> Reply:
    return await asyncio.to_thread(request, f"http://{scene.address}/oauth2/auth", headers=[bearer(sub="sam")])


async def test_a_token_that_passed_while_its_server_was_down_is_refused_once_it_is_back(
    start: Start, server: Introspection, url: str
) -> None:
    """The signature is as good as before, and the token was verified a moment ago: neither counts."""
    asks = {"provider": "corp", "url": url, "clientId": "sidecar", "clientSecret": "secret", "jwts": "true"}
    chain = [{"type": "introspection", "onError": "continue", "configs": asks}, {"type": "jwt"}]
    scene = await start(authentication={"authenticators": chain})
    assert (await _check(scene)).status == 200
    server.is_up = True
    assert (await _check(scene)).status == 200
    scene.clock.advance(5)
    for _ in range(2):
        reply = await _check(scene)
        assert (reply.status, reply.json()["reason"]) == (401, "token_invalid")
