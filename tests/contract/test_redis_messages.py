"""``sidecar check`` names what was tried at the Redis server, its address, the cause and what to do."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.probes import StoreProbe
from sidecar.config.settings import Settings, StoreSettings
from sidecar.secrets.value import Secret
from tests.support.certificates import certificate
from tests.support.ports import free_port
from tests.support.redis_servers import RedisServer, running

REACH = "check that it runs, the host and port in store.url, and NetworkPolicies"


@pytest.fixture(scope="module")
def program(require_tool: Callable[[str], Path]) -> Path:
    return require_tool("redis-server")


@pytest.fixture(scope="module")
def plain(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server without a password."""
    with running(RedisServer(program, tmp_path_factory.mktemp("plain"))) as server:
        yield server.port


@pytest.fixture(scope="module")
def locked(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with a password."""
    options, login = ["requirepass right"], {"password": "right"}
    with running(RedisServer(program, tmp_path_factory.mktemp("locked"), options, login)) as server:
        server.ask("ACL", "SETUSER", "poor", "on", ">right", "~other*", "+@all")
        yield server.port


async def message(url: str, **more: Any) -> str:
    """The only problem that the probe finds."""
    (problem,) = await StoreProbe(Settings(store=StoreSettings(url=Secret(url), **more))).run()
    assert problem.fatal
    return problem.message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis://127.0.0.1:{closed}",
            f"cannot connect to Redis at 127.0.0.1:{{closed}}: connection refused; {REACH}",
        ),
        (
            "redis://no-such-host.invalid:6379",
            (
                "cannot connect to Redis at no-such-host.invalid:6379: the name cannot be resolved; "
                "check the host in store.url, and DNS"
            ),
        ),
        (
            "unix:///no/such/socket",
            (
                "cannot connect to Redis at unix:/no/such/socket: no such file or directory; "
                "check that it runs and the path in store.url"
            ),
        ),
        (
            "rediss://127.0.0.1:{plain}",
            (
                "cannot connect to Redis at 127.0.0.1:{plain}: no response in time; "
                "check the host and port, NetworkPolicies and whether it uses TLS"
            ),
        ),
        (
            "redis://127.0.0.1:{plain}/99",
            "cannot use Redis at 127.0.0.1:{plain}: it has no database 99; check the number at the end of store.url",
        ),
        (
            "redis+sentinel://127.0.0.1:{plain}/main",
            (
                "cannot use Redis Sentinel at 127.0.0.1:{plain}: it is not a Sentinel; "
                "check the port (a Sentinel has 26379), or write redis://host:port into store.url"
            ),
        ),
        (
            "redis+sentinel://127.0.0.1:{closed},localhost:{closed}/main",
            (
                "cannot connect to Redis Sentinel at 127.0.0.1:{closed}, localhost:{closed}: connection refused; "
                + REACH
            ),
        ),
        (
            "redis+cluster://127.0.0.1:{plain}",
            (
                "cannot use Redis Cluster node at 127.0.0.1:{plain}: it is not a node of a cluster; "
                "write redis://host:port into store.url"
            ),
        ),
    ],
)
async def test_server_that_is_not_there_or_another_one(plain: int, url: str, expected: str) -> None:
    ports = {"plain": plain, "closed": free_port()}
    assert await message(url.format(**ports)) == expected.format(**ports)


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        ({}, "it requires a password (NOAUTH); set store.password, and store.username if it has ACL users"),
        (
            {"password": Secret("wrong")},
            "it rejects user name or password (WRONGPASS); check store.username and store.password",
        ),
        (
            {"username": "eve", "password": Secret("right")},
            "it rejects user name or password (WRONGPASS); check store.username and store.password",
        ),
    ],
)
async def test_wrong_credentials(locked: int, login: dict[str, Any], expected: str) -> None:
    found = await message(f"redis://127.0.0.1:{locked}", **login)
    assert found == f"cannot log in to Redis at 127.0.0.1:{locked}: {expected}"
    assert "right" not in found.replace("username", "")


async def test_password_for_a_server_without_one(plain: int) -> None:
    found = await message(f"redis://:hunter2@127.0.0.1:{plain}")
    assert found == (
        f"cannot log in to Redis at 127.0.0.1:{plain}: a password is configured here, and the server has none; "
        "remove store.password"
    )


async def test_user_without_permission_for_the_keys(locked: int) -> None:
    found = await message(f"redis://127.0.0.1:{locked}", username="poor", password=Secret("right"))
    assert found == (
        f"cannot use Redis at 127.0.0.1:{locked}: the user lacks a permission (NOPERM); "
        "grant it all commands on the keys that begin with store.keyPrefix"
    )


async def test_master_that_a_sentinel_names_and_a_service_that_it_does_not_know(program: Path, tmp_path: Path) -> None:
    gone = free_port()
    options = [f"sentinel monitor main 127.0.0.1 {gone} 1"]
    with running(RedisServer(program, tmp_path / "sentinel", options, sentinel=True)) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}"
        assert await message(f"{url}/main") == (
            f"cannot connect to Redis at 127.0.0.1:{gone}, which the Sentinels 127.0.0.1:{sentinel.port} name: "
            f"connection refused; {REACH}"
        )
        assert await message(f"{url}/mian") == (
            f"cannot find the master at Redis Sentinel at 127.0.0.1:{sentinel.port}: it knows no service mian; "
            "write the name of `sentinel monitor` into store.url"
        )


async def test_certificate_of_an_unknown_authority(tmp_path: Path) -> None:
    chain, key = certificate()
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await message(f"rediss://127.0.0.1:{port}")
    assert found.startswith(f"cannot connect to Redis at 127.0.0.1:{port}: certificate verification failed: ")
    assert found.endswith("; set the CA in store.tls.caFile, the name to verify in store.tls.serverName")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak the Redis protocol; check the port in store.url"),
        (
            b"",
            (
                "it closed the connection; "
                "check whether it requires TLS (rediss in store.url), its `maxclients` and its log"
            ),
        ),
        (
            b"-LOADING Redis is loading the dataset in memory\r\n" * 9,
            "it is loading its data (LOADING); wait until it has started",
        ),
        (
            b"-READONLY You can't write against a read only replica.\r\n" * 9,
            (
                "it is a read-only replica (READONLY); "
                "name the master in store.url, or use redis+sentinel or redis+cluster"
            ),
        ),
        (
            b"-MOVED 1 10.0.0.1:6379\r\n" * 9,
            "it is a node of a cluster (MOVED); write redis+cluster://host:port into store.url",
        ),
        (b"-WEIRD hunter2 in the text\r\n" * 9, "it answers WEIRD; check its log"),
    ],
)
async def test_what_the_server_answers(answer: bytes, expected: str) -> None:
    """Of an unknown error only its code is shown: the text may contain what was written."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await message(f"redis://127.0.0.1:{port}") == f"cannot use Redis at 127.0.0.1:{port}: {expected}"
