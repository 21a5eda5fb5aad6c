"""Loopback ports for programs that cannot choose one."""

import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Below the range from which the kernel takes the ports of outgoing connections, also with the 10,000 that a node of a
# Redis Cluster adds for its second port.
_FIRST, _LAST, _BLOCK = 12000, 22000, 200


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on, from a block of ports that is this process's alone.

    No later call in this process gives it out soon.
    """
    for port in itertools.islice(_mine(), _BLOCK):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for _ in range(_BLOCK):
        first = free_port()
        try:
            for number in range(1, count):
                socket.create_server(("127.0.0.1", first + number)).close()
        except OSError:
            continue
        return first
    raise AssertionError(f"no {count} ports in a row are free")


@cache
def _mine() -> Iterator[int]:
    """The ports of a block that no other run of the tests on this machine has, again and again."""
    folder = Path(tempfile.gettempdir()) / "auth-sidecar-test-ports"
    folder.mkdir(exist_ok=True)
    blocks = list(range(_FIRST, _LAST, _BLOCK))
    random.shuffle(blocks)
    for first in blocks:
        lock = os.open(folder / str(first), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:  # held until this process ends, however it does
            return itertools.cycle(range(first, first + _BLOCK))
    raise AssertionError("every block of ports is taken")


def answers_on(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
