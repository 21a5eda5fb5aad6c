"""The products' own Python clients, through a running sidecar, before servers that answer what these clients ask."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.datahub import KEY_TEXT, SALT_TEXT, token
from tests.support.forge import hs256
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.loopback_server import LoopbackServer
from tests.support.sidecar_process import Sidecar, running_sidecar

pytestmark = pytest.mark.heavy
CLIENTS = Path(__file__).parent / "clients"
SECRET = "s3cret-of-the-tests"


@dataclass
class MetadataService:
    """What the two clients ask of a server, and who asked: path and ``Authorization`` of every request."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.raw_path, request.headers.get("Authorization", "")))
        await request.read()
        if request.path == "/config":
            return _json({"noCode": "true", "statefulIngestionCapable": True, "versions": {}})
        if request.path == "/api/v1/system/version":
            return _json({"version": "2.0.6", "revision": "x", "timestamp": 0})
        return _json({"value": "urn:li:dataset:x", "data": [], "paging": {"total": 0}})

    def emitted_with(self) -> str:
        """The credential of the one emission."""
        [credential] = [line for path, line in self.seen if path.startswith("/aspects?action=ingestProposal")]
        return credential


def _json(document: Any) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")


@dataclass(frozen=True, slots=True)
class Scene:
    """A sidecar between the clients and their server."""

    sidecar: Sidecar
    service: MetadataService
    provider: IdentityProvider

    def run(self, python: Path, client: str, token: str, **environment: str) -> Any:
        """What the client says of its calls."""
        self.service.seen.clear()
        done = subprocess.run(
            [python, CLIENTS / client, self.sidecar.url, token],
            env={"PATH": os.environ["PATH"], "DATAHUB_TELEMETRY_ENABLED": "false", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


Run = tuple[Scene, Callable[..., Any]]


@contextmanager
def _scene(folder: Path, credentials: str) -> Iterator[Scene]:
    service = MetadataService()
    with IdentityProvider() as provider, LoopbackServer(service) as upstream:
        corp = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}
        configuration = {
            "upstream": {"url": upstream.url, "credentials": credentials},
            "authenticationConfiguration": {"providers": [{**corp, "jwtPrincipalClaims": ["preferred_username"]}]},
            "authentication": {
                "systemClientSecret": SECRET,
                "tokenService": {"signingKey": KEY_TEXT, "salt": SALT_TEXT},
                "authenticators": [{"type": "datahub"}],
            },
            "rules": [{"preset": "datahub"}, {"preset": "openmetadata"}],
        }
        with running_sidecar(folder, configuration) as sidecar:
            yield Scene(sidecar, service, provider)


@pytest.fixture(scope="module")
def datahub(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    python = require_tool("datahub-client")
    with _scene(tmp_path_factory.mktemp("datahub"), "datahub") as scene:
        yield scene, partial(scene.run, python, "datahub_calls.py")


@pytest.fixture(scope="module")
def openmetadata(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    python = require_tool("openmetadata-client")
    with _scene(tmp_path_factory.mktemp("openmetadata"), "passthrough") as scene:
        yield scene, partial(scene.run, python, "openmetadata_calls.py")


FINE = {"error": None, "text": ""}


@pytest.mark.parametrize("kind", ["datahub", "provider"])
def test_datahubs_client_connects_and_emits_with_any_accepted_token(datahub: Run, kind: str) -> None:
    scene, run = datahub
    presented = token(actorId="alice") if kind == "datahub" else scene.provider.mint()
    assert run(presented) == {"connect": FINE, "emit": FINE}
    scheme, _, value = scene.service.emitted_with().partition(" ")
    signing_input, _, signature = value.rpartition(".")
    assert (scheme, signature) == ("Bearer", hs256(signing_input, KEY_TEXT.encode()))
    # DataHub judges its own tokens itself
    assert (value == presented) is (kind == "datahub")


def test_datahubs_client_as_the_system_client(datahub: Run) -> None:
    """It sends id and secret as they are, and they arrive so."""
    scene, run = datahub
    pair = {"DATAHUB_SYSTEM_CLIENT_ID": "__datahub_system", "DATAHUB_SYSTEM_CLIENT_SECRET": SECRET}
    assert run("-", **pair) == {"connect": FINE, "emit": FINE}
    assert scene.service.emitted_with() == f"Basic __datahub_system:{SECRET}"
    wrong = run("-", **{**pair, "DATAHUB_SYSTEM_CLIENT_SECRET": "wrong"})
    assert "Not authorized" in wrong["emit"]["text"]


@pytest.mark.parametrize("kind", ["forged", "expired", "nonsense"])
def test_datahubs_client_shows_why_it_is_refused(datahub: Run, kind: str) -> None:
    scene, run = datahub
    presented = {"forged": token(key="x" * 40), "expired": token(exp=1), "nonsense": "x"}[kind]
    told = run(presented)
    # reading the configuration is public, even with an invalid token
    assert told["connect"] == FINE
    assert "Not authorized" in told["emit"]["text"]
    assert all(path == "/config" for path, _ in scene.service.seen)


def test_openmetadatas_client_connects_lists_and_deletes(openmetadata: Run) -> None:
    scene, run = openmetadata
    presented = scene.provider.mint()
    assert run(presented) == {"connect": FINE, "list": FINE, "delete": FINE}
    assert {line for _, line in scene.service.seen} == {f"Bearer {presented}"}


@pytest.mark.parametrize("kind", ["expired", "nonsense"])
def test_openmetadatas_client_shows_why_it_is_refused(openmetadata: Run, kind: str) -> None:
    """It loses refusals of other shapes: a delete would look as if it had worked."""
    scene, run = openmetadata
    told = run({"expired": scene.provider.mint(lifetime=-600), "nonsense": "a.b.c"}[kind])
    assert told["connect"] == FINE
    for call in ("list", "delete"):
        assert "Not authorized" in told[call]["text"], told
    assert {path for path, _ in scene.service.seen} == {"/api/v1/system/version"}
