"""The judged path is the forwarded path, in every way of asking, and no service reads another one out of it."""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.fuzz.test_targets import BOUNDED
from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar

PIECES = (
    "/", "/", "/", "//", "adm", "adm", "public", "public", "x", ".", "..", "%2e", "%2E%2e", "%2F", "%5c", "\\", ";",
    ";v=1", "%3b", "%61dm", "?", "%00", "#", "%", "%25", "%252f", "%7e", "*", "a b", "%20",
)  # fmt: skip
TARGETS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map(lambda pieces: f"/{''.join(pieces)}")
# What services do with a path before they look it up, each some of it, in an order of its own.
HABITS: tuple[Callable[[str], str], ...] = (
    lambda path: "/".join(segment.partition(";")[0] for segment in path.split("/")),
    lambda path: unquote(path, errors="replace"),
    lambda path: path.replace("\\", "/"),
    lambda path: posixpath.normpath(path).replace("//", "/", 1),
)


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks about one target in every way."""

    sidecar: Sidecar
    token: str

    def forward(self, target: str, *, member: bool) -> Reply:
        """As a caller whose request would be forwarded."""
        return request(self.sidecar.url, target=target, headers=self._credential() if member else [])

    def checks(self, target: str) -> dict[str, int]:
        """As each proxy asks, for a member; nginx carries a refusal's own status in a header."""
        nginx = request(
            f"{self.sidecar.url}/oauth2/auth",
            headers=[*self._credential(), ("X-Original-URI", target), ("X-Original-Method", "GET")],
        )
        traefik = request(
            f"{self.sidecar.url}/oauth2/forward_auth",
            headers=[*self._credential(), ("X-Forwarded-Uri", target), ("X-Forwarded-Method", "GET")],
        )
        envoy = request(self.sidecar.url, target=f"/oauth2/ext_authz{target}", headers=self._credential())
        told = nginx.all("X-Auth-Status")
        return {
            "nginx": int(told[0]) if told else nginx.status,
            "traefik": traefik.status,
            "envoy": envoy.status,
        }

    def _credential(self) -> list[tuple[str, str]]:
        return [("Authorization", f"Bearer {self.token}")]


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    """Behind rules for a closed and for a free subtree."""
    folder: Path = tmp_path_factory.mktemp("differential")
    with IdentityProvider() as idp, echo_upstream() as upstream:
        provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE], "groupsClaim": "groups"}
        configuration = {
            "upstream": {"url": upstream.url},
            "authenticationConfiguration": {"providers": [provider]},
            "rules": [
                {"path": "/adm/**", "access": "authenticated", "require": {"groups": ["admins"]}},
                {"path": "/public/**", "access": "public"},
            ],
        }
        with running_sidecar(folder, configuration) as sidecar:
            yield Asker(sidecar, idp.mint())


def seen(target: str) -> set[str]:
    """Every path that some service may take ``target`` for."""
    path = target.partition("?")[0]
    found = {path}
    for number in range(1, len(HABITS) + 1):
        for habits in permutations(HABITS, number):
            reading = path
            for habit in habits:
                reading = habit(reading)
            found.add(reading)
    return found


def below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def test_what_passes_is_what_was_judged(asker: Asker) -> None:
    @BOUNDED
    @given(TARGETS)
    @example("/public/..;/adm/x")
    @example("/x/%2e%2e/adm")
    @example("//adm/x")
    @example("/public/x?y=/../adm")
    def try_one(target: str) -> None:
        assume(not target.startswith("/oauth2"))
        member, anonymous = asker.forward(target, member=True), asker.forward(target, member=False)
        for reply in (member, anonymous):
            assert reply.status in (200, 400, 401, 403), reply
            assert reply.status != 200 or reply.json()["target"] == target
        if member.status == 200:
            assert not [reading for reading in seen(target) if below(reading, "/adm")], "who is no admin was let in"
        if anonymous.status == 200:
            assert all(below(reading, "/public") for reading in seen(target)), "a path outside /public was allowed"
        if " " not in target:  # which ends a target where it is a request line's, and means nothing in a header
            assert set(asker.checks(target).values()) == {member.status}, asker.checks(target)

    try_one()
