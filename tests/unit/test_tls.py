"""Private certificate authorities are trusted if configured, on every version of Python."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.authn.authenticators.ldap import Ldap
from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings, StoreTls
from sidecar.dataplane.proxy.pool import UpstreamPool, endpoint_of
from sidecar.errors import Unavailable
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient, OutboundError
from sidecar.secrets.value import Secret
from sidecar.store.redis.client import RedisClient
from sidecar.tls import client_context
from tests.support.certificates import certificate
from tests.support.members import options_of, surroundings


@pytest.fixture(name="strict")
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts as Python 3.13 makes them: it asks for key identifiers, which the CAs of clusters may not have."""
    made = ssl.create_default_context

    def as_python_3_13(**options: str | None) -> ssl.SSLContext:
        context = made(cafile=options["cafile"])
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_python_3_13)


async def _control(port: int, ca_file: str) -> None:
    client = ControlClient(ca_file)
    with suppress(OutboundError):
        await client.get(f"https://127.0.0.1:{port}/", within=5, max_bytes=10)
    await client.aclose()


async def _redis(port: int, ca_file: str) -> None:
    settings = StoreSettings(url=Secret(f"rediss://127.0.0.1:{port}"), tls=StoreTls(ca_file=ca_file))
    kv = RedisClient(settings, Metrics(), SystemClock())
    with suppress(Unavailable):
        await kv.read("read", ("PING",))
    await kv.aclose()


async def _ldap(port: int, ca_file: str) -> None:
    written = {"url": f"ldaps://127.0.0.1:{port}", "caFile": ca_file, "userBase": "dc=x"}
    await Ldap(options_of(Ldap, written), surroundings("people")).check()


async def _upstream(port: int, ca_file: str) -> None:
    pool = UpstreamPool(endpoint_of(f"https://127.0.0.1:{port}", ca_file), connect_timeout=5, keepalive_timeout=5)
    (await pool.connect()).close()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("connect", [_control, _redis, _ldap, _upstream])
async def test_a_private_ca_may_lack_key_identifiers(
    tmp_path: Path, connect: Callable[[int, str], Coroutine[Any, Any, None]]
) -> None:
    authority = certificate("ca")
    public, private = certificate("leaf", authority)
    for name, content in (("ca", authority[0]), ("leaf", public), ("key", private)):
        (tmp_path / f"{name}.pem").write_bytes(content)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "leaf.pem", tmp_path / "key.pem")
    agreed = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agreed.set()
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=tls) as server:
        await connect(server.sockets[0].getsockname()[1], str(tmp_path / "ca.pem"))
        async with asyncio.timeout(5):
            await agreed.wait()


@pytest.mark.usefixtures("strict")
def test_the_systems_authorities_are_held_to_the_standard() -> None:
    assert client_context().verify_flags & ssl.VERIFY_X509_STRICT
