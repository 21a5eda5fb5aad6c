"""Why a Redis server cannot be used, and what to do.

The texts contain nothing that was written and nothing that the server sent, except the code of its error.
"""

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidecar.config.reading.store_url import StoreAddress, StoreKind
from sidecar.errors import Cause, Unavailable, system_text

_CONNECT = "connect to"
_LOG_IN = "log in to"
_USE = "use"
_REACH = "check that it runs, the host and port in store.url, and NetworkPolicies"
_NO_SERVICE = "no such service"


class RedisUnavailable(Unavailable):
    """An operation failed. ``tried``, ``server`` and ``fix`` are for messages of the command line.

    ``detail`` is the cause without the address, for logs.
    """

    def __init__(self, detail: str, *, tried: str, server: str, fix: str) -> None:
        super().__init__(Cause.STORE_UNAVAILABLE, detail)
        self.tried = tried
        self.server = server
        self.fix = fix

    @property
    def sentence(self) -> str:
        """What was tried, where, why it failed and what to do."""
        return f"cannot {self.tried} {self.server}: {self.detail}; {self.fix}"


@dataclass(frozen=True, slots=True)
class _Failure:
    tried: str
    detail: str
    fix: str


_CLUSTER_DOWN = _Failure(_USE, "its master or its cluster is down", "check `INFO replication` and `CLUSTER INFO`")
# The first type that fits. ``{database}`` is the configured one.
_BY_TYPE: tuple[tuple[type[Exception], _Failure], ...] = (
    (BusyLoadingError, _Failure(_USE, "it is loading its data (LOADING)", "wait until it has started")),
    (InvalidResponse, _Failure(_USE, "it does not speak the Redis protocol", "check the port in store.url")),
    (
        NoPermissionError,
        _Failure(
            _USE,
            "the user lacks a permission (NOPERM)",
            "grant it all commands on the keys that begin with store.keyPrefix",
        ),
    ),
    (
        ReadOnlyError,
        _Failure(
            _USE,
            "it is a read-only replica (READONLY)",
            "name the master in store.url, or use redis+sentinel or redis+cluster",
        ),
    ),
    (MasterDownError, _CLUSTER_DOWN),
    (ClusterDownError, _CLUSTER_DOWN),
    (AskError, _Failure(_USE, "it is a node of a cluster (MOVED)", "write redis+cluster://host:port into store.url")),
    (OutOfMemoryError, _Failure(_USE, "it has reached maxmemory (OOM)", "increase `maxmemory`")),
)
# Errors that have no type of their own, by their text.
_BY_TEXT = {
    "DB index": _Failure(_USE, "it has no database {database}", "check the number at the end of store.url"),
    "SENTINEL": _Failure(
        _USE,
        "it is not a Sentinel",
        "check the port (a Sentinel has 26379), or write redis://host:port into store.url",
    ),
    "cluster support disabled": _Failure(
        _USE, "it is not a node of a cluster", "write redis://host:port into store.url"
    ),
}


def server_text(address: StoreAddress, node: tuple[str, int] | None = None) -> str:
    """The server for messages: ``node``, the one that was located; None: all of ``address``."""
    if address.kind is StoreKind.SOCKET:
        return f"Redis at unix:{address.path}"
    nodes = [f"{host}:{port}" for host, port in address.nodes]
    if node is not None and node not in address.nodes:
        found = "the Sentinels" if address.kind is StoreKind.SENTINEL else "the cluster nodes"
        return f"Redis at {node[0]}:{node[1]}, which {found} {', '.join(nodes)} name"
    name = {StoreKind.SENTINEL: "Redis Sentinel", StoreKind.CLUSTER: "Redis Cluster node"}.get(address.kind, "Redis")
    return f"{name} at {', '.join(nodes if node is None else [f'{node[0]}:{node[1]}'])}"


def redis_failure(error: Exception, address: StoreAddress, node: tuple[str, int] | None) -> RedisUnavailable:
    """The failure for ``error``; ``node`` as in :func:`server_text`."""
    failure = _failure(error, address, is_sentinel=address.kind is StoreKind.SENTINEL and node is None)
    server = server_text(address, node)
    return RedisUnavailable(failure.detail, tried=failure.tried, server=server, fix=failure.fix)


def _failure(error: Exception, address: StoreAddress, *, is_sentinel: bool) -> _Failure:
    if isinstance(error, AuthenticationError):
        return _login_failure(str(error), is_sentinel=is_sentinel)
    if isinstance(error, (RedisTimeoutError, TimeoutError)):
        return _Failure(
            _CONNECT, "no response in time", f"check the host and port, NetworkPolicies and {_tls_question(address)}"
        )
    for kind, failure in _BY_TYPE:
        if isinstance(error, kind):
            return failure
    if isinstance(error, (RedisConnectionError, OSError)):
        return _connection_failure(error, address)
    return _response_failure(error, address)


def _tls_question(address: StoreAddress) -> str:
    return "whether it uses TLS" if address.tls else "whether it requires TLS (rediss in store.url)"


def _login_failure(text: str, *, is_sentinel: bool) -> _Failure:
    names = ("sentinelUsername", "sentinelPassword") if is_sentinel else ("username", "password")
    user, password = (f"store.{name}" for name in names)
    if text.startswith("Authentication required"):
        return _Failure(_LOG_IN, "it requires a password (NOAUTH)", f"set {password}, and {user} if it has ACL users")
    if "without any password configured" in text:
        return _Failure(_LOG_IN, "a password is configured here, and the server has none", f"remove {password}")
    return _Failure(_LOG_IN, "it rejects user name or password (WRONGPASS)", f"check {user} and {password}")


def _connection_failure(error: Exception, address: StoreAddress) -> _Failure:
    if str(error) == _NO_SERVICE:
        detail = f"it knows no service {address.service}"
        return _Failure("find the master at", detail, "write the name of `sentinel monitor` into store.url")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = f"certificate verification failed: {cause.verify_message}"
            return _Failure(
                _CONNECT, detail, "set the CA in store.tls.caFile, the name to verify in store.tls.serverName"
            )
        if isinstance(cause, ssl.SSLError):
            detail = f"TLS handshake failed ({cause.reason or 'no reason'})"
            return _Failure(_CONNECT, detail, "check whether it uses TLS on this port, and store.tls")
        if isinstance(cause, socket.gaierror):
            return _Failure(_CONNECT, system_text(cause), "check the host in store.url, and DNS")
        if isinstance(cause, OSError) and cause.errno:
            fix = "check that it runs and the path in store.url" if address.kind is StoreKind.SOCKET else _REACH
            return _Failure(_CONNECT, system_text(cause), fix)
    fix = f"check {_tls_question(address)}, its `maxclients` and its log"
    return _Failure(_USE, "it closed the connection", fix)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response_failure(error: Exception, address: StoreAddress) -> _Failure:
    text = str(error)
    for part, failure in _BY_TEXT.items():
        if isinstance(error, ResponseError) and part in text:
            return replace(failure, detail=failure.detail.format(database=address.database))
    code = text.partition(" ")[0]
    is_code = isinstance(error, ResponseError) and re.fullmatch(r"[A-Z]{3,20}", code) is not None
    return _Failure(_USE, f"it answers {code}" if is_code else f"it fails ({type(error).__name__})", "check its log")
