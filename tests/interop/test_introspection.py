"""Opaque tokens of a real provider: active, revoked there, and never issued."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.interop.test_openid_providers import AUDIENCE, CLIENT, SECRET
from tests.support.http_client import answers, form, request
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import OIDC_PROVIDER


def userinfo(url: str, token: str) -> tuple[int, str]:
    reply = request(f"{url}/oauth2/userinfo", headers=[("Authorization", f"Bearer {token}")])
    document = reply.json()
    return reply.status, document["actor"]["id"] if reply.status == 200 else document["reason"]


def test_an_opaque_token_is_what_its_provider_says(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Revoked and unknown tokens are rejected; while the provider is down, tokens are neither accepted nor rejected."""
    node, port = require_tool("oidc-provider"), free_port()
    url = f"http://127.0.0.1:{port}"
    provider = {"name": "corp", "issuer": url, "audiences": [AUDIENCE], "jwtPrincipalClaims": ["client_id"]}
    options = {
        "provider": "corp",
        "url": f"{url}/token/introspection",
        "clientId": CLIENT,
        "clientSecret": SECRET,
        "cache": "0s",
    }
    configuration = {
        "authenticationConfiguration": {"providers": [provider]},
        "authentication": {"authenticators": [{"type": "introspection", "configs": options}]},
    }
    with running_sidecar(tmp_path, configuration, wait_for="/livez") as sidecar:
        with running(
            [node, "server.mjs", str(port)],
            log=tmp_path / "provider.log",
            ready=lambda: answers(f"{url}/.well-known/openid-configuration", 200),
            directory=OIDC_PROVIDER,
        ):
            wanted = {"grant_type": "client_credentials", "resource": "urn:opaque"}
            token = form(f"{url}/token", wanted, basic=(CLIENT, SECRET))["access_token"]
            assert "." not in token
            assert userinfo(sidecar.url, token) == (200, CLIENT)
            assert userinfo(sidecar.url, "never-issued") == (401, "token_invalid")
            body = f"token={token}".encode()
            headers = [("Content-Type", "application/x-www-form-urlencoded")]
            basic = [("Authorization", f"Basic {_basic()}")]
            assert request(f"{url}/token/revocation", "POST", headers=[*headers, *basic], body=body).status == 200
            assert userinfo(sidecar.url, token) == (401, "token_invalid")
        # the refusal of a token is remembered for a minute: an unknown one is asked about
        assert userinfo(sidecar.url, "never-seen") == (503, "unavailable")


def test_a_member_comes_back_with_its_provider(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """A sidecar that is not ready gets no requests: it recovers without them."""
    node, port = require_tool("oidc-provider"), free_port()
    url = f"http://127.0.0.1:{port}"
    nowhere = f"http://127.0.0.1:{free_port()}/jwks"
    options = {"provider": "corp", "url": f"{url}/token/introspection", "clientId": CLIENT, "clientSecret": SECRET}
    configuration = {
        "authenticationConfiguration": {
            "providers": [{"name": "corp", "issuer": url, "audiences": [AUDIENCE], "publicKeyUrls": [nowhere]}]
        },
        "authentication": {"authenticators": [{"type": "introspection", "configs": options}]},
    }

    @contextmanager
    def provider() -> Iterator[None]:
        with running(
            [node, "server.mjs", str(port)],
            log=tmp_path / "provider.log",
            ready=lambda: answers(f"{url}/.well-known/openid-configuration", 200),
            directory=OIDC_PROVIDER,
        ):
            yield

    with running_sidecar(tmp_path, configuration) as sidecar:
        with provider():
            assert userinfo(sidecar.url, "never-issued") == (401, "token_invalid")
        assert userinfo(sidecar.url, "never-seen") == (503, "unavailable")
        sidecar.process.wait_until(lambda: not is_ready(sidecar), within=10, what="not ready")
        assert "authenticator introspection" in request(f"{sidecar.admin_url}/readyz").json()["failing"]
        with provider():
            sidecar.process.wait_until(lambda: is_ready(sidecar), within=30, what="ready again")


def is_ready(sidecar: Sidecar) -> bool:
    return request(f"{sidecar.admin_url}/readyz").status == 200


def _basic() -> str:
    return b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
