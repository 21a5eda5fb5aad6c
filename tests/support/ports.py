"""Loopback ports for programs that cannot be told to choose one."""

import itertools
import os
import socket

# Below the range from which the kernel takes the ports of outgoing connections, and another part for each test worker.
_FIRST, _SPAN = 15000, 2000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0) % 8
_offsets = itertools.cycle(range(_SPAN))
_start = os.getpid() * 37 % _SPAN


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on, and that no later call in this process gives out soon."""
    for _ in range(_SPAN):
        port = _FIRST + _worker * _SPAN + (_start + next(_offsets)) % _SPAN
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def answers_on(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
