"""Connections to the upstream: one that has ended, or sent something unasked, carries no request."""

import socket
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from sidecar.dataplane.proxy.pool import Endpoint, UpstreamConnection, UpstreamPool


@pytest.fixture
def service() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def pool(service: socket.socket) -> Iterator[UpstreamPool]:
    endpoint = Endpoint("127.0.0.1", service.getsockname()[1], "", None)
    made = UpstreamPool(endpoint, connect_timeout=5, keepalive_timeout=60)
    yield made
    made.close()


async def acquire(pool: UpstreamPool) -> UpstreamConnection:
    """An idle connection, or a new one."""
    idle = pool.take_idle()
    return await pool.connect() if idle is None else idle


async def test_a_quiet_connection_is_used_again(pool: UpstreamPool, service: socket.socket) -> None:
    first = await acquire(pool)
    pool.release(first)
    with service.accept()[0]:
        for _ in range(2):
            assert await acquire(pool) is first
            pool.release(first)


@pytest.mark.parametrize(
    "act",
    [lambda peer: peer.close(), lambda peer: peer.shutdown(socket.SHUT_WR), lambda peer: peer.send(b"HTTP/1.1 200 OK")],
    ids=["leaves", "ends", "speaks"],
)
async def test_what_the_loop_has_not_heard_of_counts_already(
    pool: UpstreamPool, service: socket.socket, act: Callable[[socket.socket], object]
) -> None:
    """A request on such a connection would be lost, or answered by what was said before it."""
    first = await acquire(pool)
    pool.release(first)
    peer, _ = service.accept()
    with peer:
        act(peer)
        # the loop has had no turn since then
        second = await acquire(pool)
        assert second is not first
        second.close()


async def test_what_was_not_used_stays_as_old_as_it_was(
    pool: UpstreamPool, service: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise refused callers could keep a connection until the upstream ends it during another request."""
    first = await acquire(pool)
    pool.release(first)
    with service.accept()[0]:
        began = monotonic()
        for later in (30, 59):
            monkeypatch.setattr("sidecar.dataplane.proxy.pool.monotonic", lambda later=later: began + later)
            assert pool.take_idle() is first
            pool.return_unused(first)
        monkeypatch.setattr("sidecar.dataplane.proxy.pool.monotonic", lambda: began + 61)
        assert pool.take_idle() is None
