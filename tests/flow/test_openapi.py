"""The OpenAPI document of the API: what it says is what the routes and the responses of a running sidecar are."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from openapi_spec_validator import validate

from sidecar.api import openapi
from sidecar.api.routes import ApiEndpoint, Permission, api_routes
from tests.support.identity_provider import IdentityProvider
from tests.support.managed_sidecar import write_configuration
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import ROOT

PAGE = ROOT / "docs" / "reference" / "openapi.yaml"
# Served outside of api_routes, see sidecar/app/public_routes.py. /authorize is no operation: any method gets 400.
OTHERS = {
    ("/userinfo", "get"),
    ("/jwks", "get"),
    ("/token", "post"),
    ("/.well-known/openid-configuration", "get"),
}


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    """The operations of the page by path and method."""
    paths = yaml.safe_load(PAGE.read_text(encoding="utf-8"))["paths"]
    return {(path, method): operation for path, methods in paths.items() for method, operation in methods.items()}


def test_the_page_is_what_the_generator_prints() -> None:
    """``python -m sidecar.api.openapi`` prints the page that is kept."""
    assert PAGE.read_text(encoding="utf-8") == openapi.page()


def test_the_page_is_valid_openapi() -> None:
    """OpenAPI 3.1."""
    validate(yaml.safe_load(PAGE.read_text(encoding="utf-8")))


def test_the_operations_are_those_of_the_routes() -> None:
    """Each path and method, no more and no fewer; what only admins may do says so."""
    authentication = cast("Any", SimpleNamespace(authenticate=None, authenticate_if_presented=None))
    nothing = cast("Any", None)
    exact, below = api_routes(
        "", authentication, nothing, nothing, nothing, nothing, nothing, cast("Any", SimpleNamespace())
    )
    routed: set[tuple[str, str]] = set()
    for_admins: set[tuple[str, str]] = set()
    for path, (name, handler) in [
        *exact.items(),
        *((f"{path}/{{{'name' if path == '/bots' else 'id'}}}", one) for path, one in below.items()),
    ]:
        if not isinstance(handler, ApiEndpoint):
            routed.add((path, "post"))
            continue
        for method, operation in handler._operations.items():
            if method == "HEAD":
                continue
            routed.add((path, method.lower()))
            if operation.permission is Permission.ADMIN:
                for_admins.add((path, method.lower()))
        assert name
    assert routed | OTHERS == operations().keys()
    assert for_admins == {key for key, one in operations().items() if "(admins)" in one["summary"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, str]]:
    """A running sidecar, and the token of an admin."""
    folder = tmp_path_factory.mktemp("openapi")
    with IdentityProvider() as idp:
        document = yaml.safe_load(write_configuration(folder, idp).read_text(encoding="utf-8"))
        document["server"] = {"publicUrl": "https://metadata.example.com"}
        document["tokenEndpoint"] = {"enabled": True, "audiences": ["metadata"], "bots": {"scopes": ["read"]}}
        provider = document["authenticationConfiguration"]["providers"][0]
        provider["login"] = {"clientId": "web", "clientSecret": "secret"}
        with running_sidecar(folder, document) as sidecar:
            yield sidecar, idp.mint(preferred_username="root", email="root@example.com", sub="sub-root")


def test_a_running_sidecar_does_what_the_document_says(served: tuple[Sidecar, str], tmp_path: Path) -> None:
    """Valid and invalid requests made from the document: no 500, and only responses that it describes."""
    sidecar, token = served
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", PAGE, "--url", f"{sidecar.url}/oauth2"),
            *("--header", f"Authorization: Bearer {token}"),
            # which tokens, names and issuers are acceptable depends on the state and the configuration; a revoked
            # token is still shown, with the time of its revocation
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance,use_after_free"),
            *("--max-examples", "10", "--seed", "7", "--continue-on-failure", "--no-color"),
            *("--generation-database", "none", "--warnings", "off"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"Tested: {len(operations())}\n" in done.stdout, done.stdout[-3000:]
