"""The directory is away: whoever would ask it is not ready, says so, and is again when it is back."""

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
    """Nobody sends requests to what is not ready: if those alone could show that it works again, it never would."""
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
        assert readiness(sidecar)["ready"]  # it is not asked while nobody has a question
        assert ask(sidecar) == 503
        sidecar.process.wait_until(lambda: not readiness(sidecar)["ready"], within=10, what="not ready")
        told = readiness(sidecar)
        assert told["failing"] == ["authenticator people"]
        assert directory.tls_url in told["parts"]["authenticator people"]["text"]
        with directory.running():
            sidecar.process.wait_until(lambda: readiness(sidecar)["ready"], within=30, what="ready again")
            assert ask(sidecar) == 200
