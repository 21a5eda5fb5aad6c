"""An address that somebody answers at is not taken from him."""

import socket
from pathlib import Path

import pytest

from sidecar.errors import Misconfigured
from sidecar.web.listeners import open_shared_sockets, open_sockets


def test_a_unix_socket_that_somebody_listens_on_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (first,) = open_sockets(f"unix:{path}", "server.listen")
    with first:
        with pytest.raises(Misconfigured, match=r"server\.listen: cannot listen on .*: Address already in use"):
            open_sockets(f"unix:{path}", "server.listen")
        with pytest.raises(Misconfigured, match="in use"):
            open_shared_sockets(f"unix:{path}", "server.listen", 2)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            first.accept()[0].close()
    (second,) = open_sockets(f"unix:{path}", "server.listen")
    second.close()


def test_what_another_program_is_spoken_to_by_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(Misconfigured, match="cannot listen on"):
            open_sockets(f"unix:{path}", "server.listen")
        assert path.is_socket()


def test_a_path_that_is_too_long_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="path too long"):
        open_sockets(f"unix:{tmp_path}/{'a' * 120}", "server.listen")
