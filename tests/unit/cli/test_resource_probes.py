"""``sidecar check`` fetches what a client of a protected resource fetches, and says what stops the client."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from sidecar.cli.resource_probes import client_urls, resource_probes
from sidecar.config.load import load
from tests.support.loopback_server import LoopbackServer

METADATA = "/.well-known/oauth-protected-resource"
AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"


class Service:
    """Answers JSON documents by path; anything else is 404."""

    def __init__(self) -> None:
        self.documents: dict[str, Mapping[str, Any]] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        document = self.documents.get(request.path)
        return web.json_response(document, status=200 if document is not None else 404)


@pytest.fixture(name="service")
def _service() -> Service:
    return Service()


@pytest.fixture(name="url")
def _url(service: Service) -> Iterator[str]:
    with LoopbackServer(service.answer) as server:
        yield server.url


def told(folder: Path, url: str, *resources: Mapping[str, Any], **blocks: Any) -> list[str]:
    """The messages of all probes of a configuration whose public URL, issuer and upstream are at ``url``."""
    provider = {"name": "corp", "issuer": f"{url}/realms/corp", "audiences": ["meta"], "publicKeyUrls": [f"{url}/jwks"]}
    document = {
        "server": {"publicUrl": url},
        "upstream": {"url": url},
        "store": {"url": f"sqlite:///{folder}/s.db"},
        "authenticationConfiguration": {"providers": [provider]},
        "resources": list(resources),
        **blocks,
    }
    file = folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")

    async def run() -> list[str]:
        found = []
        for probe in resource_probes(load([str(file)], {})):
            problems = await probe.run()
            assert not any(problem.fatal for problem in problems)
            found += [f"{problem.path}: {problem.message}" for problem in problems]
        return found

    return asyncio.run(run())


def good(url: str, **changes: Any) -> dict[str, Any]:
    """The metadata of an authorization server that every client can use."""
    issuer = f"{url}/realms/corp"
    document = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/auth",
        "token_endpoint": f"{issuer}/token",
        "registration_endpoint": f"{issuer}/register",
        "code_challenge_methods_supported": ["plain", "S256"],
        **changes,
    }
    return {name: value for name, value in document.items() if value is not ...}


def test_a_resource_that_clients_can_use_has_no_problem(service: Service, url: str, tmp_path: Path) -> None:
    service.documents = {
        f"{METADATA}/mcp": {"resource": f"{url}/mcp"},
        f"{AUTHORIZATION_SERVER}/realms/corp": good(url),
    }
    assert told(tmp_path, url, {"path": "/mcp"}) == []
    service.documents = {
        f"{METADATA}/mcp": {"resource": f"{url}/mcp"},
        "/realms/corp/.well-known/openid-configuration": good(
            url, registration_endpoint=..., client_id_metadata_document_supported=True
        ),
    }
    assert told(tmp_path, url, {"path": "/mcp"}) == []


def test_metadata_at_the_wrong_place_is_reported(service: Service, url: str, tmp_path: Path) -> None:
    service.documents = {f"{AUTHORIZATION_SERVER}/realms/corp": good(url)}
    (text,) = told(tmp_path, url, {"path": "/mcp"})
    assert f"cannot be fetched from {url}{METADATA}/mcp: " in text
    service.documents[f"{METADATA}/mcp"] = {"resource": "http://localhost:8585"}
    (text,) = told(tmp_path, url, {"path": "/mcp"})
    assert f'describes the resource "http://localhost:8585" instead of "{url}/mcp"' in text
    service.documents[f"/meta{METADATA}/mcp"] = {"resource": f"{url}/meta/mcp"}
    (text,) = told(tmp_path, url, {"path": "/mcp"}, server={"publicUrl": f"{url}/meta"})
    assert f"look for the metadata at {METADATA}/meta/mcp" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"issuer": "https://other.example"}, 'names the issuer "https://other.example"'),
        ({"code_challenge_methods_supported": ...}, "code_challenge_methods_supported"),
        ({"code_challenge_methods_supported": ["plain"]}, "code_challenge_methods_supported"),
        ({"authorization_endpoint": ...}, "has no authorization_endpoint"),
        ({"token_endpoint": 7}, "has no token_endpoint"),
        ({"registration_endpoint": ...}, "register clients by hand"),
    ],
)
def test_what_stops_a_client_at_the_authorization_server(
    service: Service, url: str, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    service.documents = {
        f"{METADATA}/mcp": {"resource": f"{url}/mcp"},
        f"{AUTHORIZATION_SERVER}/realms/corp": good(url, **changes),
    }
    (text,) = told(tmp_path, url, {"path": "/mcp"})
    assert text.startswith(f"resources[0]: authorization server {url}/realms/corp: ")
    assert expected in text


def test_an_authorization_server_without_metadata(service: Service, url: str, tmp_path: Path) -> None:
    service.documents = {f"{METADATA}/mcp": {"resource": f"{url}/mcp"}}
    (text,) = told(tmp_path, url, {"path": "/mcp"})
    assert "clients find no metadata" in text
    assert all(one in text for one in client_urls(f"{url}/realms/corp"))


def test_a_server_that_does_not_know_its_url(service: Service, url: str, tmp_path: Path) -> None:
    """OpenMetadata's default is its own port on localhost."""
    default = "http://localhost:8585"
    service.documents = {
        f"{METADATA}/mcp": {"resource": default},
        f"{AUTHORIZATION_SERVER}/mcp": {"issuer": f"{default}/mcp", "token_endpoint": f"{url}/mcp/token"},
    }
    resource, issuer = told(tmp_path, url, {"path": "/mcp", "metadata": "server"})
    assert f'resource in {METADATA}/mcp of the upstream is "{default}", but clients use "{url}"' in resource
    assert f'issuer in {AUTHORIZATION_SERVER}/mcp of the upstream is "{default}/mcp"' in issuer
    service.documents = {}
    assert len(told(tmp_path, url, {"path": "/mcp", "metadata": "server"})) == 2
    service.documents = {
        f"{METADATA}/mcp": {"resource": url},
        f"{AUTHORIZATION_SERVER}/mcp": {"issuer": f"{url}/mcp", "token_endpoint": f"{url}.evil.example/token"},
    }
    (text,) = told(tmp_path, url, {"path": "/mcp", "metadata": "server"})
    assert "token_endpoint in " in text


def test_an_mcp_server_without_an_entry_is_reported(service: Service, url: str, tmp_path: Path) -> None:
    preset = [{"preset": "openmetadata"}]
    assert told(tmp_path, url, rules=preset) == []
    service.documents = {f"{METADATA}/mcp": {"resource": url}}
    (text,) = told(tmp_path, url, rules=preset)
    assert text.endswith("write resources: [{path: /mcp, metadata: server}]")
    (text,) = told(tmp_path, url, rules=preset, server={})
    assert text.endswith("write resources: [{path: /mcp, metadata: server}], and server.publicUrl")
    assert told(tmp_path, url, rules=[]) == []


def test_clients_look_in_the_order_of_the_mcp_specification() -> None:
    assert client_urls("https://idp.example.com/realms/corp/") == (
        "https://idp.example.com/.well-known/oauth-authorization-server/realms/corp",
        "https://idp.example.com/.well-known/openid-configuration/realms/corp",
        "https://idp.example.com/realms/corp/.well-known/openid-configuration",
    )
    assert client_urls("https://idp.example.com") == (
        "https://idp.example.com/.well-known/oauth-authorization-server",
        "https://idp.example.com/.well-known/openid-configuration",
    )
