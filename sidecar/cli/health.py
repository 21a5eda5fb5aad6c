"""``sidecar health``: queries the operations listener of a running sidecar. For container health checks."""

import argparse
import http.client
import json
import socket
from typing import Any

from sidecar.cli.problems import complain
from sidecar.errors import system_text

_DEFAULT_ADDRESS = "127.0.0.1:4181"
_TIMEOUT = 4.0
_MAX_BYTES = 64 * 1024


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket at ``path``."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the path rather than to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "health",
        help="query the readiness of a running sidecar",
        description="Exit code 0: ready. 1: not ready; prints the failing parts. 2: invalid address.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=_DEFAULT_ADDRESS,
        help=f"server.adminListen: host:port or unix:/path (default: {_DEFAULT_ADDRESS})",
    )
    parser.add_argument("--live", action="store_true", help="query liveness instead of readiness")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    connection = _connection(options.address)
    if connection is None:
        complain(f"{options.address}: expected host:port or unix:/path")
        return 2
    try:
        connection.request("GET", "/livez" if options.live else "/readyz")
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        complain(f"{options.address} does not answer: {system_text(error)}; check server.adminListen")
        return 1
    finally:
        connection.close()
    if answer.status == 200:
        return 0
    complain(f"{options.address} is not ready: {_missing(body)}")
    return 1


def _connection(address: str) -> http.client.HTTPConnection | None:
    """A connection to ``address``; for a wildcard address, to loopback. None: invalid address."""
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"))
    host, separator, port = address.rpartition(":")
    if not separator or not port.isascii() or not port.isdecimal():
        return None
    host = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - what is listened on, not a bind
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT)


def _missing(body: bytes) -> str:
    """The failing parts of a readiness report."""
    try:
        report: Any = json.loads(body)
        return "draining" if report["draining"] else ", ".join(map(str, report["failing"]))
    except (ValueError, LookupError, TypeError):
        return "it gives no reason"
