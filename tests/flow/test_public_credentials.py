"""What the upstream receives on public paths: no credential that was refused, and on login paths none at all."""

from typing import Any

import pytest

from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.wire import Answer

FORGED = ("Authorization", f"Bearer {forge.token(forge.claims(), key=forge.OTHER_RSA)}")


async def ask(scene: Scene, target: str, *headers: tuple[str, str], method: str = "GET") -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, list(headers), method=method)


async def received(scene: Scene, target: str, *headers: tuple[str, str], method: str = "GET") -> Received:
    answer = await ask(scene, target, *headers, method=method)
    assert answer.status == 200, (method, target, answer.body)
    return Received.of(answer.json())


@pytest.mark.parametrize("target", ["/api/v1/system/version", "/some/page"])
@pytest.mark.parametrize(
    ("headers", "forwarded"),
    [
        ([bearer()], True),
        ([FORGED], False),
        ([("Authorization", "Basic eDp5")], False),
        ([("Authorization", "Bearer not-a-token")], False),
        ([bearer(), FORGED], False),
    ],
)
async def test_a_refused_credential_stays_here(
    start: Start, target: str, headers: list[tuple[str, str]], forwarded: bool
) -> None:
    """A public path is open, but an upstream that verifies tokens itself must not receive a rejected one."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, rules=[{"preset": "openmetadata"}])
        request = await received(scene, target, *headers, ("Cookie", "theirs=1"))
        assert bool(request.all("Authorization")) is forwarded
        assert request.all("Cookie") == ["theirs=1"]


async def test_a_revoked_token_is_not_forwarded(start: Start) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, rules=[{"preset": "openmetadata"}])
        async with await scene.connect() as wire:
            form = f"token={forge.token(forge.claims())}".encode()
            lines = [("Content-Type", "application/x-www-form-urlencoded")]
            assert (await wire.ask("/oauth2/revoke", lines, method="POST", body=form)).status == 200
        request = await received(scene, "/api/v1/system/version", bearer())
        assert request.all("Authorization") == []


async def test_a_credential_that_cannot_be_checked_is_not_forwarded(start: Start) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, published=False, rules=[{"path": "/open", "access": "public"}])
        assert (await received(scene, "/open", bearer())).all("Authorization") == []


LOGIN = [
    ("GET", "/api/v1/auth/login"),
    ("GET", "/api/v1/auth/callback"),
    ("POST", "/api/v1/auth/refresh"),
    ("GET", "/api/v1/auth/refresh"),
    ("GET", "/api/v1/auth/logout"),
    ("GET", "/callback"),
    ("GET", "/api/v1/saml/login"),
    ("POST", "/api/v1/saml/acs"),
    ("GET", "/api/v1/saml/metadata"),
]


@pytest.mark.parametrize("credentials", ["passthrough", "openmetadata"])
@pytest.mark.parametrize("base", ["", "/metadata"])
async def test_login_paths_carry_no_identity(start: Start, tmp_path: Any, credentials: str, base: str) -> None:
    """A link to a login must not act with the identity of the user who follows it: no identity, no credential."""
    rule = {"preset": "openmetadata", **({"basePath": base} if base else {})}
    with echo_upstream() as upstream:
        scene = await start(
            upstream.url,
            upstream={"credentials": credentials},
            jwtTokenConfiguration=own_keys(tmp_path),
            identityHeaders={"assertion": True},
            authorizerConfiguration={"adminPrincipals": ["corp/admin"]},
            rules=[rule],
        )
        request = await received(scene, f"{base}/api/v1/tables", bearer(sub="sam"))
        assert request.all("X-Auth-Request-User") == ["sam"]
        for method, path in LOGIN:
            for headers in ([bearer()], [], [FORGED]):
                target = f"{base}{path}?state=1"
                request = await received(scene, target, *headers, ("Cookie", "OM_SESSION=1"), method=method)
                names = {name.lower() for name, _ in request.headers}
                assert not {"authorization", "x-auth-assertion", "x-auth-request-user", "x-auth-actor-urn"} & names
                assert request.all("Cookie") == ["OM_SESSION=1"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/api/v1/auth/login"), ("GET", "/api/v1/auth/login/x")])
async def test_only_the_login_paths_are_open(start: Start, method: str, path: str) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, rules=[{"preset": "openmetadata"}])
        assert (await ask(scene, path, method=method)).status == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/authenticate"), ("POST", "/logIn"), ("GET", "/callback/oidc")])
async def test_datahubs_login_paths_likewise(start: Start, method: str, path: str) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, rules=[{"preset": "datahub"}])
        assert (await received(scene, path, bearer(), method=method)).all("Authorization") == []
        assert (await ask(scene, "/api/graphql")).status == 401


@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/callback"])
async def test_a_token_header_is_removed_on_login_paths_also_where_it_is_forwarded(start: Start, path: str) -> None:
    """An identity-aware proxy adds it to every request, so a client that follows a link to a login sends one."""
    header: dict[str, Any] = {"name": "X-Goog-IAP-JWT-Assertion", "forward": True, "ambient": True}
    token = (header["name"], forge.token(forge.claims()))
    with echo_upstream() as upstream:
        scene = await start(upstream.url, rules=[{"preset": "openmetadata"}], authentication={"tokenHeaders": [header]})
        assert (await received(scene, "/api/v1/tables", token)).all(token[0])
        for headers in ([token], [token, bearer()], [(token[0], "forged")]):
            request = await received(scene, path, *headers)
            names = {name.lower().replace("_", "-") for name, _ in request.headers}
            assert not {"authorization", "x-goog-iap-jwt-assertion", "x-auth-request-user"} & names
