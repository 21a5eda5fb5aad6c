"""What ``store.url`` says. It may hold a password: no text about it repeats any part of it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, unquote, urlsplit

FORMS = (
    "must be sqlite:////absolute/path, redis://host:port/db, redis+sentinel://host:port,host:port/service/db or "
    "redis+cluster://host:port,host:port (rediss for TLS)"
)
_SENTINEL_PORT = 26379
_REDIS_PORT = 6379


class StoreKind(StrEnum):
    """How the store is reached."""

    SQLITE = "sqlite"
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": (StoreKind.SINGLE, False),
    "rediss": (StoreKind.SINGLE, True),
    "redis+sentinel": (StoreKind.SENTINEL, False),
    "rediss+sentinel": (StoreKind.SENTINEL, True),
    "redis+cluster": (StoreKind.CLUSTER, False),
    "rediss+cluster": (StoreKind.CLUSTER, True),
}


@dataclass(frozen=True, slots=True, repr=False)
class StoreAddress:
    """The parts of the URL. ``path`` is SQLite's file; ``nodes`` are servers, or the sentinels that know them."""

    kind: StoreKind
    path: str = ""
    nodes: tuple[tuple[str, int], ...] = ()
    tls: bool = False
    username: str = ""
    password: str = ""
    service: str = ""
    database: int = 0


def parse_store_url(url: str) -> StoreAddress:
    """The address that ``url`` spells. Raises ValueError with the mend."""
    if url.startswith("sqlite:"):
        return StoreAddress(StoreKind.SQLITE, path=_sqlite_path(url))
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ValueError(FORMS)
    kind, tls = _SCHEMES[scheme]
    if re.search(r"[\s?#\\]|[^!-~]", rest):
        raise ValueError("must hold no spaces, ? or #, which are written %20, %3F and %23 in a password")
    authority, _, path = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    service, database = _service_and_database(kind, path)
    port = _SENTINEL_PORT if kind is StoreKind.SENTINEL else _REDIS_PORT
    nodes = tuple(_node(text, port) for text in hosts.split(","))
    if kind is StoreKind.SINGLE and len(nodes) > 1:
        raise ValueError("names several servers; write redis+sentinel:// or redis+cluster://")
    return StoreAddress(
        kind=kind,
        nodes=nodes,
        tls=tls,
        username=unquote(username),
        password=unquote(password),
        service=service,
        database=database,
    )


def _sqlite_path(url: str) -> str:
    if not re.fullmatch(r"sqlite:////[^?#\0]*[^?#\0/]", url):
        raise ValueError("must be sqlite:////absolute/path (with four slashes)")
    return url.removeprefix("sqlite:///")


def _service_and_database(kind: StoreKind, path: str) -> tuple[str, int]:
    service, database = "", path
    if kind is StoreKind.SENTINEL:
        service, _, database = path.partition("/")
        if not service:
            raise ValueError("must name the sentinels' service: redis+sentinel://host:port/service/db")
    if not re.fullmatch(r"[0-9]{0,4}", database):
        raise ValueError("must end with the number of a database, or with nothing")
    if kind is StoreKind.CLUSTER and int(database or 0):
        raise ValueError("must not choose a database: a cluster has only number 0")
    return unquote(service), int(database or 0)


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts: SplitResult = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or "@" in text:
        raise ValueError("must name each server as host:port")
    return host, port or default_port
