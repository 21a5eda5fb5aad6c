"""``sidecar health``: ask a running sidecar's operations listener whether it is ready. For container health checks."""

import argparse
import http.client
import json
import socket
import sys
from typing import Any

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
        help="ask a running sidecar whether it is ready",
        description="Exit 0 when the operations listener says ready, else 1 with what is missing.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=_DEFAULT_ADDRESS,
        help=f"server.adminListen: host:port or unix:/path (default: {_DEFAULT_ADDRESS})",
    )
    parser.add_argument("--live", action="store_true", help="ask only whether the process is alive")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    connection = _connection(options.address)
    if connection is None:
        print(f"{options.address}: expected host:port or unix:/path", file=sys.stderr)
        return 2
    try:
        connection.request("GET", "/livez" if options.live else "/readyz")
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        print(f"{options.address} does not answer: {type(error).__name__}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if answer.status == 200:
        return 0
    print(f"{options.address} is not ready: {_missing(body)}", file=sys.stderr)
    return 1


def _connection(address: str) -> http.client.HTTPConnection | None:
    """To ``address``; a wildcard address is asked on its loopback. None: not an address."""
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"))
    host, separator, port = address.rpartition(":")
    if not separator or not port.isascii() or not port.isdecimal():
        return None
    host = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - what is listened on, not a bind
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT)


def _missing(body: bytes) -> str:
    """The names of the parts that a readiness report calls failing."""
    try:
        report: Any = json.loads(body)
        return "draining" if report["draining"] else ", ".join(map(str, report["failing"]))
    except (ValueError, LookupError, TypeError):
        return "it gives no reason"
