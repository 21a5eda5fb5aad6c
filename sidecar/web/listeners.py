"""Sockets: where the two listeners are bound, and how many connections there may be files for."""

import asyncio
import errno
import grp
import logging
import os
import resource
import socket
import ssl
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sidecar.config.settings import Limits
from sidecar.errors import Misconfigured, Problem

_log = logging.getLogger("sidecar")
_BACKLOG = 1024
# connections during the handshake are not counted
_HANDSHAKE_TIMEOUT = 5.0
MAX_ADMIN_CONNECTIONS = 32
"""Connections to the operations listener: they come out of the files that are set aside below."""
# Open files for everything but callers and what is forwarded for them: operations, store, keys, logs, libraries.
_OTHER_FILES = 64
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def cap_to_file_limit(limits: Limits, *, forwards: bool) -> Limits:
    """``limits``, with fewer connections where this process may not open files enough for so many.

    The soft limit on open files is raised to the hard one first. Without files left nothing could be reached any more,
    neither for the upstream nor, for probes, for the operations listener. ``forwards``: requests need a second socket.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return limits
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    spare = hard - _OTHER_FILES
    most = max(1, max(spare - limits.max_in_flight, spare // 2) if forwards else spare)
    if most >= limits.max_connections:
        return limits
    _log.warning(
        "the open-file limit is too low for maxConnections; accepting fewer connections",
        extra={"event": "max_connections_reduced", "connections": most},
    )
    return limits.model_copy(update={"max_connections": most})


@dataclass(frozen=True, slots=True)
class SocketAccess:
    """Who may connect to a unix socket: ``mode`` in octal and ``group``, each empty to leave it as it is made."""

    mode: str = ""
    group: str = ""

    def apply(self, path: str) -> None:
        """Set both, before a client can connect. Raises Misconfigured."""
        if self.group:
            try:
                number = int(self.group) if self.group.isdecimal() else grp.getgrnam(self.group).gr_gid
            except KeyError:
                message = f"there is no group {self.group} on this machine; create it, or write its number"
                raise Misconfigured([Problem("server.socketGroup", message)]) from None
            try:
                os.chown(path, -1, number)
            except OSError as error:
                message = f"cannot give {path} to {self.group}: {error.strerror}; the sidecar's user must be a member"
                raise Misconfigured([Problem("server.socketGroup", message)]) from error
        if self.mode:
            os.chmod(path, int(self.mode, 8))


_AS_MADE = SocketAccess()


def open_sockets(address: str, setting: str, access: SocketAccess = _AS_MADE) -> list[socket.socket]:
    """Sockets that listen on ``address``, one for each place it stands for; ``*:port`` is every address.

    Raises Misconfigured naming ``setting`` when the address cannot be had.
    """
    with _named(address, setting):
        if address.startswith("unix:"):
            return [_unix_socket(address.removeprefix("unix:"), access)]
        host, _, port = address.rpartition(":")
        if host == "*":
            return _sockets_of_both_families(int(port))
        return _tcp_sockets(host.strip("[]"), int(port))


def open_shared_sockets(
    address: str, setting: str, processes: int, access: SocketAccess = _AS_MADE
) -> list[list[socket.socket]]:
    """The same for several processes: sockets for each of them, among which the kernel deals connections out evenly.

    Of the family ``unix`` there is one for all: the first to accept gets the connection.
    """
    found = open_sockets(address, setting, access)
    if address.startswith("unix:"):
        return [found] * processes
    # otherwise the address could be shared with another process
    places = [(listener.family, listener.getsockname()) for listener in found]
    for listener in found:
        listener.close()
    with _named(address, setting):
        return [[_listening(family, place, shared=True) for family, place in places] for _ in range(processes)]


@contextmanager
def _named(address: str, setting: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Misconfigured([Problem(setting, f"cannot listen on {address}: {reason}")]) from error


def _unix_socket(path: str, access: SocketAccess) -> socket.socket:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            _unlink_stale(path)
    return _listening(socket.AF_UNIX, path, access=access)


def _unlink_stale(path: str) -> None:
    """Remove the socket of a process that has ended. Raises OSError if a process listens on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.remove(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _sockets_of_both_families(port: int) -> list[socket.socket]:
    """One socket for IPv4 and one for IPv6, without the family that this machine does not have.

    One socket for both would show IPv4 peers as IPv6 addresses, in logs and to the upstream.
    """
    found: list[socket.socket] = []
    with ExitStack() as opened:
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - what * asks for
            try:
                listener = _listening(family, (host, port))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
                continue
            found.append(opened.enter_context(listener))
            port = listener.getsockname()[1]
        if not found:
            raise missing
        opened.pop_all()
    return found


def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(_listening(family, place))
            for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found)
        ]
        opened.pop_all()
        return sockets


def _listening(family: int, place: Any, *, shared: bool = False, access: SocketAccess = _AS_MADE) -> socket.socket:
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        if family == socket.AF_UNIX:
            access.apply(place)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        opened.pop_all()
        return listener


async def close_after(delay: float, shares: Iterable[Iterable[socket.socket]]) -> None:
    """Close ``shares`` in ``delay`` seconds. While one process has a socket open, callers are let in."""
    await asyncio.sleep(delay)
    for share in shares:
        for listener in share:
            listener.close()


async def accept(
    runner: web.BaseRunner,
    sockets: Iterable[socket.socket],
    most: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> list[web.BaseSite]:
    """Serve connections to ``sockets`` with ``runner``. The sockets are closed when their sites are stopped.

    With more than ``most`` connections the oldest are cut, for those who come now.
    """
    sites: list[web.BaseSite] = [_Site(runner, listener, most, tls) for listener in sockets]
    for site in sites:
        await site.start()
    return sites


class _Site(web.BaseSite):
    """aiohttp's own takes a listening socket too, but none of the family ``unix``."""

    def __init__(
        self, runner: web.BaseRunner, listener: socket.socket, most: int | None, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(runner, backlog=_BACKLOG)
        self._tls = tls
        self._listener = listener
        self._most = most

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._listener.getsockname())

    async def start(self) -> None:
        """Begin to accept."""
        await super().start()
        loop = asyncio.get_running_loop()
        make: Any = loop.create_unix_server if self._listener.family == socket.AF_UNIX else loop.create_server
        server: Any = self._runner.server
        protocols = server if self._most is None else _limit_connections(self._most, server)
        options = {} if self._tls is None else {"ssl": self._tls, "ssl_handshake_timeout": _HANDSHAKE_TIMEOUT}
        self._server = await make(protocols, sock=self._listener, backlog=_BACKLOG, **options)


def _limit_connections(most: int, server: web.Server) -> Callable[[], asyncio.BaseProtocol]:
    """Makes protocols as ``server`` does. Of more than ``most`` connections, or one more, the oldest are cut."""

    def cut() -> None:
        for connection in server.connections[:-most]:
            connection.force_close()

    def make() -> asyncio.BaseProtocol:
        asyncio.get_running_loop().call_soon(cut)
        return server()

    return make
