"""The whole sidecar in the test's own loop, with an issuer whose keys it has, and whatever upstream a test brings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
import yaml

from sidecar.app.running import Sidecar, run_sidecar
from sidecar.config.load import load
from sidecar.web.server import Connection
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.http_client import Reply, request
from tests.support.jwks_server import JwksServer, eventually, jwk
from tests.support.ports import free_port
from tests.support.wire import TIMEOUT, Wire

LOOPBACK = "127.0.0.0/8"


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loop that ``sidecar serve`` runs on: others' transports differ in what they allow."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass(slots=True)
class Scene:
    """A sidecar that is ready, and its issuer."""

    address: str
    admin_address: str
    sidecar: Sidecar
    keys: JwksServer
    clock: HandClock
    config: Path

    async def reload(self, **blocks: Any) -> None:
        """Put its configuration in force anew, with ``blocks`` added to what it was started with."""
        document = merged(yaml.safe_load(self.config.read_text(encoding="utf-8")), blocks)
        changed = self.config.with_suffix(".changed.yaml")
        changed.write_text(yaml.safe_dump(document), encoding="utf-8")
        await self.sidecar.reload(load([str(changed)], {}))

    async def connect(self) -> Wire:
        """A new connection to the public listener."""
        return await Wire.to(self.address)

    async def operations(self, path: str) -> Reply:
        """GET from the operations listener."""
        return await asyncio.to_thread(request, f"http://{self.admin_address}{path}")

    async def metric(self, sample: str) -> float:
        """The value of one sample, named as Prometheus shows it; 0 while there is none."""
        text = (await self.operations("/metrics")).body.decode()
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == sample]
        return float(values[0]) if values else 0.0

    @property
    def in_flight(self) -> float:
        """How many requests are being answered."""
        return self._gauge("sidecar_http_requests_in_flight")

    @property
    def undecided(self) -> float:
        """How many requests wait for a verdict."""
        return self._gauge("sidecar_http_requests_undecided")

    @property
    def connections(self) -> Sequence[Connection]:
        """The sidecar's side of its open client connections."""
        return [one for one in self.sidecar._server.connections if isinstance(one, Connection)]

    def _gauge(self, sample: str) -> float:
        return self.sidecar.metrics.registry.get_sample_value(sample) or 0.0


Start = Callable[..., Awaitable[Scene]]


def bearer(**claims: Any) -> tuple[str, str]:
    """An ``Authorization`` header with a good token; ``claims`` replace the usual ones."""
    return "Authorization", f"Bearer {forge.token(forge.claims(**claims))}"


@asynccontextmanager
async def plainly(scene: Scene) -> AsyncIterator[Wire]:
    """A connection on which aiohttp makes a request of every head, and a task handles it."""
    server, before = scene.sidecar._server, set(scene.connections)
    handle_head, server.handle_head = server.handle_head, lambda _message, _connection: None
    async with await scene.connect() as wire:
        await eventually(lambda: set(scene.connections) - before)
        server.handle_head = handle_head
        yield wire


async def refuses_connections(scene: Scene) -> None:
    """Return once the public listener is closed and in-flight requests have the draining state."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                wire = await scene.connect()
            except ConnectionRefusedError:
                break
            async with wire:
                pass
        for _ in range(20):  # turns of the loop that both share
            await asyncio.sleep(0)


def own_keys(folder: Path) -> dict[str, Any]:
    """``jwtTokenConfiguration`` of issuer ``meta.example.com`` with an RSA pair that is written to ``folder``."""
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(forge.OTHER_RSA.as_pem(private=True))
    public.write_bytes(forge.OTHER_RSA.as_pem(private=False))
    files = {"rsaprivateKeyFilePath": str(private), "rsapublicKeyFilePath": str(public)}
    return {**files, "jwtissuer": "meta.example.com", "keyId": "own1"}


def merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Both, ``upper`` winning, block by block."""
    result = dict(lower)
    for name, value in upper.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """``await start(upstream_url, **blocks)``: a sidecar of one issuer; ``blocks`` add to its configuration.

    It is ready, unless ``published`` is False: then its issuer's keys cannot be had.
    """
    async with AsyncExitStack() as stack:

        async def begin(upstream: str = "", /, *, published: bool = True, **blocks: Any) -> Scene:
            keys = await stack.enter_async_context(JwksServer())
            if published:
                keys.publish(jwk(forge.RSA, "k1"))
            address, admin_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
            provider = {"name": "corp", "issuer": forge.ISSUER, "publicKeyUrls": [keys.url()], "audiences": ["meta"]}
            provider |= {"jwtPrincipalClaims": ["sub"], "groupsClaim": "groups"}
            usual: dict[str, Any] = {
                "server": {"listen": address, "adminListen": admin_address, "drainDelay": "0s", "drainTimeout": "1s"},
                "store": {"url": f"sqlite:///{tmp_path}/sidecar.db"},
                "keys": {"cacheDir": str(tmp_path / "keys")},
                "authenticationConfiguration": {"providers": [provider]},
                "authorizerConfiguration": {"principalDomain": "example.com"},
            }
            if upstream:
                usual["upstream"] = {"url": upstream}
            config = tmp_path / f"{address.replace(':', '-')}.yaml"
            config.write_text(yaml.safe_dump(merged(usual, blocks)), encoding="utf-8")
            clock = HandClock(forge.NOW)
            sidecar = await stack.enter_async_context(run_sidecar(load([str(config)], {}), clock))
            if published:
                await eventually(lambda: set(cast("list[str]", sidecar.health.report()[1]["failing"])) <= {"upstream"})
            return Scene(address, admin_address, sidecar, keys, clock, config)

        yield begin
