"""One sidecar, two identity providers (one of them dark) and one upstream for all interop tests of a worker."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.echo_upstream import echo_upstream
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.loopback_server import LoopbackServer
from tests.support.ports import free_port
from tests.support.sidecar_process import Sidecar, running_sidecar

PUBLIC_PATH = "/api/v1/system/version"
ADMIN_PATH = "/admin/settings"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a proxy is put in front of. ``dark_issuer`` is configured, but nothing answers there."""

    sidecar: Sidecar
    provider: IdentityProvider
    dark_issuer: str
    upstream: LoopbackServer


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A sidecar in check mode with a public path and one for a group."""
    dark_issuer = f"http://127.0.0.1:{free_port()}"
    with IdentityProvider() as provider, echo_upstream() as upstream:
        providers = [
            {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}
            | {"groupsClaim": "groups", "trustAct": True},
            {"name": "dark", "issuer": dark_issuer, "audiences": [AUDIENCE]},
        ]
        rules = [
            {"path": PUBLIC_PATH, "methods": ["GET"], "access": "public"},
            {"path": "/admin/**", "access": "authenticated", "require": {"groups": ["admins"]}},
        ]
        configuration = {
            "authenticationConfiguration": {"providers": providers},
            "rules": rules,
            "cors": {"preflight": "public"},
        }
        with running_sidecar(tmp_path_factory.mktemp("sidecar"), configuration) as sidecar:
            yield Scene(sidecar, provider, dark_issuer, upstream)
