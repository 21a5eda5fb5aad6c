"""An address in use is not taken from its process."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import Misconfigured
from sidecar.web.listeners import SocketAccess, open_shared_sockets, open_sockets


def test_a_unix_socket_with_a_listener_is_in_use(tmp_path: Path) -> None:
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


def test_a_path_that_is_too_long_gets_a_message(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="path too long"):
        open_sockets(f"unix:{tmp_path}/{'a' * 120}", "server.listen")


def connects(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as caller:
        return caller.connect_ex((host, port)) == 0


def test_a_star_listens_on_both_families() -> None:
    """IPv4 peers keep their IPv4 addresses: each family has a socket of its own, on one port."""
    listeners = open_sockets("*:0", "server.listen")
    try:
        port = listeners[0].getsockname()[1]
        assert {listener.family for listener in listeners} == {socket.AF_INET, socket.AF_INET6}
        assert connects("127.0.0.1", port)
        assert connects("::1", port)
        accepted, peer = listeners[0].accept()
        accepted.close()
        assert peer[0] == "127.0.0.1"
    finally:
        for listener in listeners:
            listener.close()


def test_a_star_is_shared_by_processes() -> None:
    shares = open_shared_sockets("*:0", "server.listen", 2)
    ports = {listener.getsockname()[1] for share in shares for listener in share}
    families = [[listener.family for listener in share] for share in shares]
    for share in shares:
        for listener in share:
            listener.close()
    assert len(ports) == 1
    assert families == [[socket.AF_INET, socket.AF_INET6]] * 2


def test_a_star_does_without_a_family_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:

    class OneFamily(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr("sidecar.web.listeners.socket.socket", OneFamily)
    (listener,) = open_sockets("*:0", "server.listen")
    assert listener.family == socket.AF_INET
    listener.close()


def test_a_star_on_a_port_in_use_is_an_error() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
        pytest.raises(Misconfigured, match="in use"),
    ):
        open_sockets(f"*:{other.getsockname()[1]}", "server.listen")


def test_a_socket_has_its_mode_and_group_before_a_client_can_connect(tmp_path: Path) -> None:
    path = tmp_path / "s"
    group = os.getgid()
    (listener,) = open_sockets(f"unix:{path}", "server.listen", SocketAccess("0660", str(group)))
    listener.close()
    facts = path.stat()
    assert (facts.st_mode & 0o777, facts.st_gid) == (0o660, group)


def test_a_group_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"server\.socketGroup: there is no group missing-group"):
        open_sockets(f"unix:{tmp_path}/s", "server.listen", SocketAccess(group="missing-group"))


def _may_connect(path: Path, *, group: int) -> bool:
    """Whether a process of another user with ``group`` alone can connect."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(33)
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))
        except OSError:
            os._exit(1)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_process_of_the_group_can_connect_and_others_cannot(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    path = tmp_path / "s"
    (listener,) = open_sockets(f"unix:{path}", "server.listen", SocketAccess("0660", "33"))
    with listener:
        assert _may_connect(path, group=33)
        assert not _may_connect(path, group=65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's")
@pytest.mark.parametrize("only", [4, 6])
def test_a_star_serves_a_network_of_one_family(only: int, require_tool: Callable[[str], Path]) -> None:
    """A pod with IPv6 alone, and one without IPv6."""
    script = (
        "import socket\nfrom sidecar.web.listeners import open_sockets\n"
        "found = open_sockets('*:4180', 'server.listen')\n"
        f"host = {'::1' if only == 6 else '127.0.0.1'!r}\n"
        "socket.create_connection((host, 4180), 2).close()\nprint(len(found))\n"
    )
    off = "ip addr del 127.0.0.1/8 dev lo" if only == 6 else "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    command = f'mount -t proc proc /proc; ip link set lo up && {off} && exec {sys.executable} -c "$0"'
    done = subprocess.run(
        [require_tool("unshare"), "--net", "--mount", "--pid", "--fork", "sh", "-c", command, script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
