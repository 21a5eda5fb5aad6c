"""A real Express behind the sidecar: how it reads paths and methods, and that no reading leads around a rule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.sidecar_process import running_sidecar
from tests.support.tools import EXPRESS

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class World:
    """Express, a sidecar in front of it, and one to be asked by a proxy."""

    express: str
    front: str
    check: str
    token: str

    def served(self, target: str, method: str = "GET", headers: Headers = ()) -> str:
        """What Express itself makes of it."""
        return request(self.express, method, target=target, headers=headers).body.decode()

    def forwarded(self, target: str, method: str = "GET", headers: Headers = ()) -> int:
        """What the sidecar answers a caller without any group."""
        credentials = ("Authorization", f"Bearer {self.token}")
        return request(self.front, method, target=target, headers=(credentials, *headers)).status

    def checked(self, target: str, method: str = "GET", headers: Headers = ()) -> int:
        """What the sidecar answers a proxy about it."""
        named = (("X-Forwarded-Uri", target), ("X-Forwarded-Method", method))
        credentials = ("Authorization", f"Bearer {self.token}")
        return request(self.check, target="/oauth2/forward_auth", headers=(credentials, *named, *headers)).status


@pytest.fixture(scope="module")
def world(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    node, port, folder = require_tool("express"), free_port(), tmp_path_factory.mktemp("express")
    url = f"http://127.0.0.1:{port}"
    with (
        IdentityProvider() as provider,
        running([node, EXPRESS / "server.mjs", str(port)], log=folder / "express.log", ready=lambda: answers(url, 200)),
    ):
        only = {"require": {"groups": ["admins"]}}
        configuration = {
            "upstream": {"url": url},
            "authenticationConfiguration": {
                "providers": [{"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}]
            },
            "rules": [
                {"path": "/settings", **only},
                {"path": "/items/*/history", **only},
                {"path": "/items/*", "methods": ["DELETE"], **only},
                {"path": "/**", "access": "public"},
            ],
        }
        with running_sidecar(folder, configuration) as sidecar:
            yield World(url, sidecar.url, sidecar.url, provider.mint())


@pytest.mark.parametrize(
    ("target", "served"),
    [
        ("/settings", "settings"),
        ("/settings/", "settings"),
        ("/settings?x", "settings"),
        ("/settings/?x", "settings"),
        ("/items/1/history", "history"),
        ("/items/1/history/", "history"),
        ("/items/a%2fb/history", "history"),
        ("/items/a;b/history/", "history"),
    ],
)
def test_what_express_serves_alike_is_judged_alike(world: World, target: str, served: str) -> None:
    assert world.served(target) == served
    assert world.forwarded(target) == 403
    assert world.checked(target) == 403


def test_letter_case_is_express_and_not_ours(world: World) -> None:
    """Paths are compared letter by letter, and ``check`` says so: a rule for such a server is written wider."""
    assert world.served("/SETTINGS") == "settings"
    assert world.checked("/SETTINGS") == 200


def test_the_method_that_express_takes_from_a_header_is_judged(world: World) -> None:
    override = (("X-HTTP-Method-Override", "DELETE"),)
    assert world.served("/items/1", "POST", override) == "deleted"
    assert world.checked("/items/1", "POST") == 200
    for headers in (override, (("x-http-method-override", "delete"),)):
        assert world.checked("/items/1", "POST", headers) == 403
        assert world.checked("/items/1/", "POST", headers) == 403
