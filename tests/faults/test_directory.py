"""The directory is away: the sidecar is not ready, reports why, and is ready again when the directory is back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.directory import ADMIN, ADMIN_PASSWORD, BASE, prepared_slapd
from tests.support.http_client import request
from tests.support.members import basic
from tests.support.sidecar_process import Sidecar, running_sidecar


def ask(sidecar: Sidecar) -> int:
    return request(f"{sidecar.url}/oauth2/userinfo", headers=[("Authorization", basic("alice", "opensesame"))]).status


def readiness(sidecar: Sidecar) -> dict[str, Any]:
    reply = request(f"{sidecar.admin_url}/readyz")
    document: dict[str, Any] = reply.json()
    assert document["ready"] is (reply.status == 200)
    return document


def test_a_directory_that_is_back_makes_it_ready_without_a_request(
    require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """A load balancer sends no requests to what is not ready, so readiness must not depend on requests to recover."""
    directory = prepared_slapd(require_tool("slapd"), tmp_path)
    options = {
        "url": directory.tls_url,
        "caFile": str(directory.ca_file),
        "bindDn": ADMIN,
        "bindPassword": ADMIN_PASSWORD,
        "userBase": f"ou=people,{BASE}",
        "cache": "0s",
    }
    configuration = {"authentication": {"authenticators": [{"type": "ldap", "name": "people", "configs": options}]}}
    with running_sidecar(tmp_path, configuration) as sidecar:
        with directory.running():
            assert ask(sidecar) == 200
        assert readiness(sidecar)["ready"]  # the directory is not queried without a request
        assert ask(sidecar) == 503
        sidecar.process.wait_until(lambda: not readiness(sidecar)["ready"], within=10, what="not ready")
        told = readiness(sidecar)
        assert told["failing"] == ["authenticator people"]
        assert directory.tls_url in told["parts"]["authenticator people"]["text"]
        with directory.running():
            sidecar.process.wait_until(lambda: readiness(sidecar)["ready"], within=30, what="ready again")
            assert ask(sidecar) == 200
