"""The stores that the contract holds for, each as real as in production."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.clock import Clock, SystemClock
from sidecar.config.settings import StoreSettings, StoreTls
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.base import Store
from sidecar.store.redis.client import RedisClient
from sidecar.store.redis.store import RedisStore
from sidecar.store.sqlite.database import Database
from sidecar.store.sqlite.store import SqliteStore
from tests.support.certificates import certificate
from tests.support.memory_store import MemoryStore
from tests.support.redis_servers import RedisServer, cluster, running, watched

Open = Callable[..., Awaitable[Store]]
Empty = Callable[[], None]


@dataclass(frozen=True, slots=True)
class World:
    """Settings of a store with its servers, and how to empty them."""

    settings: StoreSettings
    empty: Empty


def _sqlite(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    path = folder / "sidecar.db"

    def empty() -> None:
        for old in folder.iterdir():
            old.unlink()

    return World(StoreSettings(url=Secret(f"sqlite:///{path}")), empty)


def _single(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    server = stack.enter_context(running(RedisServer(require_tool("redis-server"), folder)))
    return World(StoreSettings(url=Secret(f"redis://127.0.0.1:{server.port}/3")), lambda: _flush(server))


def _guarded(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    """TLS both ways, a user who may little, a prefix without hash tag, a name other than the host's."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    pems = certificate()
    chain.write_bytes(pems[0])
    key.write_bytes(pems[1])
    tls = {"ssl": True, "ssl_ca_certs": str(chain), "ssl_certfile": str(chain), "ssl_keyfile": str(key)}
    server = RedisServer(
        require_tool("redis-server"), folder / "server", login={**tls, "username": "chief", "password": "c"}
    )
    server.options = [
        "port 0",
        f"tls-port {server.port}",
        f"tls-cert-file {chain}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {chain}",
        "user default off",
        "user chief on >c ~* &* +@all",
        "user sidecar on >s@e/c:ret ~{om}:* resetchannels +@all -@admin -@dangerous +info",
    ]
    stack.enter_context(running(server))
    settings = StoreSettings(
        url=Secret(f"rediss://localhost:{server.port}"),
        username="sidecar",
        password=Secret("s@e/c:ret"),
        key_prefix="om:",
        tls=StoreTls(ca_file=str(chain), cert_file=str(chain), key_file=str(key), server_name="127.0.0.1"),
    )
    return World(settings, lambda: _flush(server))


def _sentinel(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    group = stack.enter_context(watched(require_tool("redis-server"), folder, 1))
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)
    settings = StoreSettings(url=Secret(f"redis+sentinel://{hosts}/main/0"), wait_replicas=1)
    return World(settings, lambda: _flush(group.servers[0]))


def _cluster(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    nodes = stack.enter_context(cluster(require_tool("redis-server"), folder))
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def flush() -> None:
        for node in nodes:
            _flush(node)

    return World(StoreSettings(url=Secret(f"redis+cluster://{hosts}")), flush)


def _memory(require_tool: Callable[[str], Path], folder: Path, stack: ExitStack) -> World:
    """What unit tests use in place of a store: as good as the others, or their tests say nothing."""
    _shared[str(folder)] = store = MemoryStore(mark="")
    return World(StoreSettings(url=Secret(f"memory://{folder}")), store.empty)


_shared: dict[str, MemoryStore] = {}
_WORLDS = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _single,
    "redis-tls-acl": _guarded,
    "sentinel": _sentinel,
    "cluster": _cluster,
}


def _flush(server: RedisServer) -> None:
    server.ask("FLUSHALL")


@pytest.fixture(scope="module", params=list(_WORLDS))
def world(
    request: pytest.FixtureRequest, require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One kind of store, its servers running."""
    with ExitStack() as stack:
        yield _WORLDS[request.param](require_tool, tmp_path_factory.mktemp(request.param), stack)


@pytest.fixture
async def open_store(world: World) -> AsyncIterator[Open]:
    """Opens the store, empty at first; each further one is as another process has it."""
    world.empty()
    opened: list[Store] = []

    async def open_one(clock: Clock | None = None) -> Store:
        opened.append(await store_of(world.settings, clock))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.aclose()


@pytest.fixture
async def store(open_store: Open) -> Store:
    """The store, empty."""
    return await open_store()


async def store_of(settings: StoreSettings, clock: Clock | None = None) -> Store:
    """The store that ``settings`` name."""
    url = settings.url.reveal()
    if url.startswith("memory:"):
        return _shared[url.removeprefix("memory://")]
    if url.startswith("sqlite:"):
        database = await Database.open(Path(url.removeprefix("sqlite:///")), Metrics())
        return SqliteStore(database, clock or SystemClock())
    return RedisStore(RedisClient(settings, Metrics(), SystemClock()), clock or SystemClock())
