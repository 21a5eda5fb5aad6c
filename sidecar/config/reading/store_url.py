"""Parses ``store.url``. The URL may contain a password, so messages contain no part of it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, unquote, urlsplit

FORMS = (
    "must be sqlite:////absolute/path, redis://host:port/db, unix:///path/of/socket, "
    "redis+sentinel://host:port,host:port/service/db or redis+cluster://host:port,host:port (rediss for TLS)"
)
_ENCODED = "must not contain spaces, ? or #; write %20, %3F and %23 in a password"
# Query parameters of redis-py that are separate settings here, or fixed.
_ELSEWHERE = {
    "ssl_ca_certs": "write it into store.tls.caFile",
    "ssl_ca_path": "write the certificates into one file, store.tls.caFile",
    "ssl_ca_data": "write it into a file, store.tls.caFile",
    "ssl_certfile": "write it into store.tls.certFile",
    "ssl_keyfile": "write it into store.tls.keyFile",
    "ssl_password": "decrypt the key, store.tls.keyFile",
    "ssl": "begin the URL with rediss",
    "socket_timeout": "time limits are fixed; remove it",
    "socket_connect_timeout": "time limits are fixed; remove it",
    "retry_on_timeout": "operations are always retried once; remove it",
    "max_connections": "the number of connections is fixed; remove it",
    "health_check_interval": "connections are always checked; remove it",
    "socket_keepalive": "connections are always checked; remove it",
    "client_name": "it has no effect here; remove it",
    "decode_responses": "it has no effect here; remove it",
    "encoding": "it has no effect here; remove it",
    "timeout": "time limits are fixed; remove it",
}
_KEPT = frozenset({"db", "username", "password"})
# Parameters with values that change nothing here, and the message for all other values.
_HARMLESS: dict[str, tuple[tuple[str, ...], str]] = {
    "ssl_cert_reqs": (
        ("required",),
        "has ssl_cert_reqs, but certificates are always verified; remove it, and set the CA in store.tls.caFile",
    ),
    "ssl_check_hostname": (
        ("true", "1", "yes"),
        "has ssl_check_hostname, but names are always verified; set the name to verify in store.tls.serverName",
    ),
    "protocol": (("2", "3"), "has an unknown Redis protocol version; remove it"),
}
_SENTINEL_PORT = 26379
_REDIS_PORT = 6379


class StoreKind(StrEnum):
    """Kinds of stores and connections."""

    SQLITE = "sqlite"
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"
    SOCKET = "socket"


_SCHEMES = {
    "redis": (StoreKind.SINGLE, False),
    "rediss": (StoreKind.SINGLE, True),
    "redis+sentinel": (StoreKind.SENTINEL, False),
    "rediss+sentinel": (StoreKind.SENTINEL, True),
    "unix": (StoreKind.SOCKET, False),
    "redis+cluster": (StoreKind.CLUSTER, False),
    "rediss+cluster": (StoreKind.CLUSTER, True),
}


@dataclass(frozen=True, slots=True, repr=False)
class StoreAddress:
    """The parts of the URL. ``path`` is SQLite's file or Redis's socket; ``nodes`` are servers, or their sentinels."""

    kind: StoreKind
    path: str = ""
    nodes: tuple[tuple[str, int], ...] = ()
    tls: bool = False
    username: str = ""
    password: str = ""
    service: str = ""
    database: int = 0


def parse_store_url(url: str) -> StoreAddress:
    """The address in ``url``. Raises ValueError with the fix in its message."""
    if url.startswith("sqlite:"):
        return StoreAddress(StoreKind.SQLITE, path=_sqlite_path(url))
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ValueError(FORMS)
    kind, tls = _SCHEMES[scheme]
    rest, question, query = rest.partition("?")
    if question and "@" in query:  # a ? in the password: the rest is not a query, and must not be shown
        raise ValueError(_ENCODED)
    if re.search(r"[\s#\\]|[^!-~]", rest + query):
        raise ValueError(_ENCODED)
    options = _options(query, tls=tls)
    authority, _, path = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    username, password = unquote(username), unquote(password)
    username, password = username or options.get("username", ""), password or options.get("password", "")
    if kind is StoreKind.SOCKET:
        return _socket_address(hosts, path, options.get("db", ""), username, password)
    service, database = _service_and_database(kind, path, options.get("db", ""))
    port = _SENTINEL_PORT if kind is StoreKind.SENTINEL else _REDIS_PORT
    nodes = tuple(_node(text, port) for text in hosts.split(","))
    if kind is StoreKind.SINGLE and len(nodes) > 1:
        raise ValueError("names several servers; write redis+sentinel:// or redis+cluster://")
    return StoreAddress(
        kind=kind,
        nodes=nodes,
        tls=tls,
        username=username,
        password=password,
        service=service,
        database=database,
    )


def _sqlite_path(url: str) -> str:
    if not re.fullmatch(r"sqlite:////[^?#\0]*[^?#\0/]", url):
        raise ValueError("must be sqlite:////absolute/path (with four slashes)")
    return url.removeprefix("sqlite:///")


def _options(query: str, *, tls: bool) -> dict[str, str]:
    """The supported query parameters, by redis-py's names.

    Raises ValueError for parameters that have a setting, and for those that would weaken the connection.
    """
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if not re.fullmatch(r"[a-z_]{1,40}", name):
            raise ValueError(_ENCODED)
        if name in found:
            raise ValueError(f"has {name} more than once; keep one")
        found[name] = unquote(value.replace("+", " "))
        message = _fault_of_option(name, found[name], tls=tls)
        if message:
            raise ValueError(message)
    return found


def _fault_of_option(name: str, value: str, *, tls: bool) -> str:
    """Why a query parameter is rejected; empty: it is supported, or has no effect."""
    if name in _KEPT:
        return ""
    if name in _HARMLESS:
        if name.startswith("ssl_") and not tls:
            return f"has {name} without TLS; begin the URL with rediss"
        values, message = _HARMLESS[name]
        return "" if value.lower() in values else message
    if name in _ELSEWHERE:
        return f"has the query parameter {name}; {_ELSEWHERE[name]}"
    return f"has the query parameter {name}, which is not supported; remove it"


def _socket_address(host: str, path: str, database: str, username: str, password: str) -> StoreAddress:
    """``unix:///path`` of a Redis server, as in redis-py; ``db`` in the query selects the database."""
    if host or not path or path.endswith("/"):
        raise ValueError("must be unix:///path/of/socket, with three slashes, and ?db=1 for another database")
    return StoreAddress(
        StoreKind.SOCKET,
        path=f"/{unquote(path)}",
        username=username,
        password=password,
        database=_database(database),
    )


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{0,4}", text):
        raise ValueError("must end with the number of a database, or without a path")
    return int(text or 0)


def _service_and_database(kind: StoreKind, path: str, written: str) -> tuple[str, int]:
    service, database = "", path
    if kind is StoreKind.SENTINEL:
        service, _, database = path.partition("/")
        if not service:
            raise ValueError("must name the sentinels' service: redis+sentinel://host:port/service/db")
    if written and database.strip("0") and _database(database) != _database(written):
        raise ValueError("names two databases, in its path and as db; keep one")
    number = _database(written or database)
    if kind is StoreKind.CLUSTER and number:
        raise ValueError("must not choose a database: a cluster has only number 0")
    return unquote(service), number


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts: SplitResult = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or "@" in text:
        raise ValueError("must name each server as host:port")
    return host, port or default_port
