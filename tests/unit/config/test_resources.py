"""Settings of protected resources: what would mislead clients, or leave a resource open, is an error at the start."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load
from sidecar.config.resources import accepted_audiences, metadata_paths, resource_urls
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem

URL = "https://metadata.example.com"
PROVIDER = {"name": "corp", "issuer": "https://idp.example.com", "audiences": ["meta"]}
MCP = {"path": "/mcp"}


def found(folder: Path, *resources: dict[str, Any], url: str = URL, **blocks: Any) -> dict[str, Problem]:
    """The findings with an id about a configuration with ``resources``."""
    document: dict[str, Any] = {
        "server": {"publicUrl": url, "trustedProxies": ["10.0.0.1"]},
        "store": {"url": f"sqlite:///{folder}/s.db"},
        "authenticationConfiguration": {"providers": [PROVIDER]},
        "resources": list(resources),
    }
    for name, block in blocks.items():
        document[name] = {**document[name], **block} if isinstance(document.get(name), dict) else block
    file = folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        problems = list(load([str(file)], {}).warnings)
    except Misconfigured as error:
        problems = error.problems
    return {problem.id: problem for problem in problems if problem.id}


def test_a_sound_resource_has_no_findings(tmp_path: Path) -> None:
    assert found(tmp_path, {**MCP, "scopes": ["metadata.read"]}) == {}
    assert found(tmp_path, {**MCP, "metadata": "server"}, rules=[{"preset": "openmetadata"}]) == {}
    assert found(tmp_path, {"path": ""}, rules=[{"preset": "openmetadata"}, {"path": "/x", "access": "public"}]) == {}
    assert found(tmp_path, MCP, rules=[{"path": "/mcp/health", "access": "public"}]) == {}


@pytest.mark.parametrize(
    "url", ["", "http://metadata.example.com", "https://u:p@example.com", "https://example.com/?x", "https://e.com/#x"]
)
def test_the_public_url_is_that_of_clients(tmp_path: Path, url: str) -> None:
    problem = found(tmp_path, MCP, url=url)["resource-url"]
    assert (problem.path, problem.fatal) == ("server.publicUrl", True)


def test_http_is_for_loopback_and_tests(tmp_path: Path) -> None:
    assert found(tmp_path, MCP, url="http://127.0.0.1:8080") == {}
    insecure: dict[str, Any] = {"authenticationConfiguration": {"allowInsecureUrls": True}}
    assert found(tmp_path, MCP, url="http://metadata.example.com", **insecure) == {}


@pytest.mark.parametrize("text", ['a, scope="x"', "x error=", 'Resource_Metadata="https://evil.example"'])
def test_no_text_reads_as_a_parameter_of_the_challenge(tmp_path: Path, text: str) -> None:
    """Clients take the first occurrence, wherever it is."""
    assert found(tmp_path, server={"realm": text})["challenge-text"].path == "server.realm"
    assert found(tmp_path, {**MCP, "scopes": [text.replace(" ", "").replace('"', "")]})["challenge-text"].fatal


@pytest.mark.parametrize("scope", ["a b", "", 'a"b', "a\\b", "ä", "offline_access"])
def test_scopes_are_those_that_requests_need(tmp_path: Path, scope: str) -> None:
    for key in ("scopes", "scopesSupported"):
        assert found(tmp_path, {**MCP, key: [scope]})["resource-scope"].path == f"resources[0].{key}[0]"


@pytest.mark.parametrize(
    "resources",
    [({"path": "/oauth2"},), ({"path": "/oauth2/x"},), ({"path": "/a/../b"},), (MCP, {**MCP, "metadata": "server"})],
)
def test_each_path_is_one_of_the_upstream(tmp_path: Path, resources: tuple[dict[str, Any], ...]) -> None:
    assert found(tmp_path, *resources)["resource-path"].fatal


@pytest.mark.parametrize("path", ["mcp", "/mcp/", "/m cp", "/mcp?x", "/mcp/**", "/m%63p", "//mcp"])
def test_other_forms_of_a_path_are_errors(tmp_path: Path, path: str) -> None:
    with pytest.raises(Misconfigured):
        load_document(tmp_path, path)


def load_document(folder: Path, path: str) -> None:
    file = folder / "x.yaml"
    file.write_text(yaml.safe_dump({"server": {"publicUrl": URL}, "resources": [{"path": path}]}), encoding="utf-8")
    load([str(file)], {})


@pytest.mark.parametrize(("access", "path"), [("public", "/mcp"), ("guest", "/mcp/**"), ("public", "/mcp/")])
def test_a_rule_cannot_open_a_whole_resource(tmp_path: Path, access: str, path: str) -> None:
    problem = found(tmp_path, MCP, rules=[{"path": path, "access": access}])["resource-public"]
    assert problem.path == "rules[0].access"
    assert found(tmp_path, {"path": ""}, rules=[{"path": "/**", "access": access}])["resource-public"].fatal


def test_clients_need_an_authorization_server(tmp_path: Path) -> None:
    provider = {**PROVIDER, "issuer": "corp", "publicKeyUrls": ["https://idp.example.com/jwks"]}
    providers: dict[str, Any] = {"authenticationConfiguration": {"providers": [provider]}}
    problem = found(tmp_path, MCP, **providers)["resource-authorization-servers"]
    assert "(issuers: corp)" in problem.message
    assert found(tmp_path, {**MCP, "authorizationServers": ["https://idp.example.com"]}, **providers) == {}
    for url in ("http://idp.example.com", "idp", "ftp://x"):
        assert found(tmp_path, {**MCP, "authorizationServers": [url]})["resource-authorization-servers"].fatal


@pytest.mark.parametrize(
    "more", [{"name": "x"}, {"authorizationServers": ["https://idp.example.com"]}, {"scopesSupported": ["a"]}]
)
def test_what_the_server_says_itself_is_not_set_here(tmp_path: Path, more: dict[str, Any]) -> None:
    assert found(tmp_path, {**MCP, "metadata": "server", **more})["resource-idle"].path.startswith("resources[0].")


def test_any_audience_is_a_warning(tmp_path: Path) -> None:
    assert not found(tmp_path, {**MCP, "audiences": []})["resource-any-audience"].fatal


def test_audiences_and_urls_follow_from_the_public_url() -> None:
    server = {"publicUrl": "https://example.com/meta/"}
    both = [MCP, {"path": "/two", "metadata": "server"}]
    settings = Settings.model_validate({"server": server, "resources": both})
    own, foreign = settings.resources
    assert accepted_audiences(settings, own) == {"https://example.com/meta/mcp"}
    assert accepted_audiences(settings, foreign) == frozenset()
    well_known = "/.well-known/oauth-protected-resource"
    assert resource_urls(settings, "/mcp").metadata == f"https://example.com/meta{well_known}/mcp"
    expected = (f"{well_known}/mcp", f"{well_known}/meta/mcp", f"/meta{well_known}/mcp")
    assert metadata_paths(settings, "/mcp") == expected
