"""A real sidecar between a real service and callers, of which any may fail."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.service_process import ServiceProcess
from tests.support.sidecar_process import Sidecar


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


@pytest.fixture
def service(tmp_path: Path) -> ServiceProcess:
    """Tests that need it start it."""
    return ServiceProcess(tmp_path)


def configuration(idp: IdentityProvider, url: str = "", /, **blocks: Any) -> dict[str, Any]:
    """One provider, the upstream at ``url`` if there is one, and ``blocks``."""
    provider = {
        "name": "corp",
        "issuer": idp.issuer,
        "audiences": [AUDIENCE],
        "jwtPrincipalClaims": ["preferred_username"],
    }
    usual: dict[str, Any] = {"authenticationConfiguration": {"providers": [provider]}}
    if url:
        usual["upstream"] = {"url": url}
    for name, block in blocks.items():
        usual[name] = {**usual.get(name, {}), **block}
    return usual


def ask(sidecar: Sidecar, token: str, target: str = "/x", method: str = "GET", body: bytes | None = None) -> Reply:
    """One request as the bearer of ``token``."""
    headers = [("Authorization", f"Bearer {token}")]
    return request(f"{sidecar.url}{target}", method, headers=headers, body=body)
