"""The Redis client: finds the server, time limits, one retry, a circuit breaker, the key prefix.

All keys are in one slot, so one server has all of them: the configured server, the master that the sentinels name, or
the owner of the slot in the cluster. Every Redis error is raised as Unavailable with its cause, see :mod:`failures`.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from sidecar.clock import Clock
from sidecar.concurrency import retrieve
from sidecar.config.reading.store_url import StoreAddress, StoreKind, parse_store_url
from sidecar.config.settings import StoreSettings, StoreTls
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.metrics import Metrics
from sidecar.store.redis.failures import redis_failure
from sidecar.tls import client_context

Command = tuple[str | bytes | int | float, ...]
NodeAddress = tuple[str, int]

DEADLINE = 2.0
"""Seconds that one operation may take, its retry included."""
_CONNECT_TIMEOUT = 0.5
_SOCKET_TIMEOUT = 0.9
_SENTINEL_TIMEOUT = 0.3
_MAX_CONNECTIONS = 32

# This server does not have the keys, or no longer.
_ELSEWHERE = (AskError, ReadOnlyError, ClusterDownError, MasterDownError, TryAgainError, BusyLoadingError)
_LOST = (RedisConnectionError, RedisTimeoutError, OSError)


class Breaker:
    """Circuit breaker: after a failure no operation is tried for a while, then a single one."""

    FIRST = 0.25
    LONGEST = 2.0

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._pause = 0.0
        self._closed_until = 0.0
        self._is_trying = False

    def enter(self) -> bool:
        """Whether to try. After a pause only one operation is tried; the others fail until it has ended."""
        if not self._pause:
            return True
        now = self._monotonic()
        if now < self._closed_until:
            return False
        self._closed_until = now + DEADLINE
        self._is_trying = True
        return True

    def succeeded(self) -> None:
        """The server answered."""
        self._pause = 0.0
        self._is_trying = False

    def failed(self) -> None:
        """The server did not answer. Operations that were in flight together count as one failure."""
        if self._monotonic() < self._closed_until and not self._is_trying:
            return
        self._is_trying = False
        self._pause = min(max(self._pause * 2, self.FIRST), self.LONGEST)
        self._closed_until = self._monotonic() + self._pause


class RedisClient:
    """Commands for the server that has the keys.

    Operations share one breaker. Commands that follow the log have separate connections, which may block, and bypass
    the breaker. ``operation`` is a metric label from a fixed set. Every method raises
    Unavailable(STORE_UNAVAILABLE) within its deadline.
    """

    def __init__(self, settings: StoreSettings, metrics: Metrics, clock: Clock, *, deadline: float = DEADLINE) -> None:
        """Raises Misconfigured. Does not connect."""
        self.prefix = _prefix(settings.key_prefix)
        self._metrics = metrics
        self._deadline = deadline
        self._wait_replicas = settings.wait_replicas
        self._wait_seconds = settings.wait_timeout
        self._breaker = Breaker(clock.monotonic)
        self._turn = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._closer = _Closer()
        self._address = _address(settings)
        dial = _Connector(settings, self._address, self._closer)
        self._quick = _Endpoint(dial, self.prefix, _SOCKET_TIMEOUT)
        self._writing = _Endpoint(
            dial, self.prefix, _SOCKET_TIMEOUT + settings.wait_timeout * bool(self._wait_replicas)
        )
        self._patient = _Endpoint(dial, self.prefix, deadline)
        metrics.store_up.set(0)

    def key(self, name: str) -> bytes:
        """The full key of ``name``."""
        return (self.prefix + name).encode("utf-8")

    async def read(self, operation: str, *commands: Command) -> list[Any]:
        """Send ``commands`` together and return their results."""
        return await self._guarded(operation, self._quick, commands, self._deadline)

    async def write(self, operation: str, script: str, keys: Sequence[bytes], arguments: Sequence[str | bytes]) -> Any:
        """Run ``script`` and return its result after ``waitReplicas`` replicas have acknowledged what it wrote.

        The script may run twice if a response is lost. It must write something even if nothing changes: WAIT refers to
        the last write of the connection.
        """
        commands: list[Command] = [("EVAL", script, len(keys), *keys, *arguments)]
        deadline = self._deadline
        if self._wait_replicas:
            commands.append(("WAIT", self._wait_replicas, int(self._wait_seconds * 1000)))
            deadline += self._wait_seconds
        result, *acknowledged = await self._guarded(operation, self._writing, commands, deadline)
        if acknowledged and acknowledged[0] < self._wait_replicas:
            self._metrics.store_operations.labels(operation, "failed").inc()
            raise Unavailable(Cause.STORE_UNAVAILABLE, "too few replicas have it")
        return result

    async def follow(self, operation: str, *commands: Command, block: float = 0.0) -> list[Any]:
        """As :meth:`read`, for background work: without the breaker, and with ``block`` more seconds to wait."""
        return await self._counted(operation, self._patient, commands, self._deadline + block)

    async def aclose(self) -> None:
        """Close every connection; commands that still run fail, and so do later ones."""
        await asyncio.gather(*(servers.aclose() for servers in (self._quick, self._writing, self._patient)))
        await self._closer.wait()

    async def _guarded(
        self, operation: str, servers: "_Endpoint", commands: Sequence[Command], deadline: float
    ) -> list[Any]:
        if not self._breaker.enter():
            self._metrics.store_operations.labels(operation, "refused").inc()
            raise Unavailable(Cause.STORE_UNAVAILABLE, "it did not answer a moment ago")
        return await self._counted(operation, servers, commands, deadline, self._breaker)

    async def _counted(
        self,
        operation: str,
        servers: "_Endpoint",
        commands: Sequence[Command],
        deadline: float,
        breaker: Breaker | None = None,
    ) -> list[Any]:
        try:
            async with asyncio.timeout(deadline):
                if breaker is None:
                    results = await servers.run(commands)
                else:
                    async with self._turn:
                        results = await servers.run(commands)
        except (RedisError, TimeoutError, OSError) as error:
            if isinstance(error, TimeoutError):
                servers.mark_suspect()
            if breaker is not None:
                (breaker.failed if isinstance(error, (*_LOST, TimeoutError)) else breaker.succeeded)()
            self._metrics.store_up.set(0)
            self._metrics.store_operations.labels(operation, "failed").inc()
            # not chained: the error may quote the server's address or what was written
            raise redis_failure(error, self._address, _node_of(error)) from None
        if breaker is not None:
            breaker.succeeded()
        self._metrics.store_up.set(1)
        self._metrics.store_operations.labels(operation, "done").inc()
        return results


class _Closer:
    """Closes clients in tasks of its own: the task of a command may be cancelled before it has closed anything."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self, client: Redis) -> None:
        """Close the connections that ``client`` has by now."""
        task = asyncio.create_task(client.aclose())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(retrieve)

    async def wait(self) -> None:
        """Wait until everything is closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class _Connector:
    """Connects: credentials and TLS, and the address of the server for a slot."""

    def __init__(self, settings: StoreSettings, address: StoreAddress, closer: _Closer) -> None:
        self.closer = closer
        self._address = address
        self._tls = {"context": _tls(settings.tls), "server_name": settings.tls.server_name} if address.tls else {}
        password = address.password or (settings.password.reveal() if settings.password else "")
        sentinel_password = settings.sentinel_password.reveal() if settings.sentinel_password else ""
        self._user = {"username": address.username or settings.username or None, "password": password or None}
        self._sentinel_user = {"username": settings.sentinel_username or None, "password": sentinel_password or None}
        self._learned: tuple[NodeAddress, ...] = ()

    def client(self, node: NodeAddress, socket_seconds: float) -> Redis:
        """A client of ``node``; it connects when it is used."""
        return self._client(node, socket_seconds, {**self._user, "db": self._address.database})

    async def locate(self, slot: int) -> NodeAddress:
        """The server that has ``slot``. Raises RedisError or OSError if no configured server can name it."""
        if self._address.kind is StoreKind.SINGLE:
            return self._address.nodes[0]
        if self._address.kind is StoreKind.SOCKET:
            return self._address.path, 0
        fault: Exception = RedisConnectionError("no server to ask")
        for node in dict.fromkeys((*self._address.nodes, *self._learned)):
            try:
                return await self._ask(node, slot)
            except (RedisError, OSError) as error:
                fault = error
        raise fault

    async def _ask(self, node: NodeAddress, slot: int) -> NodeAddress:
        if self._address.kind is StoreKind.SENTINEL:
            question: Command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            return _master(await self._answer(node, self._sentinel_user, question))
        owners = _owners(await self._answer(node, self._user, ("CLUSTER", "SLOTS")), node)
        self._learned = tuple(owner for _, _, owner in owners)
        for first, last, owner in owners:
            if first <= slot <= last:
                return owner
        raise ClusterDownError("the slot has no owner")

    async def _answer(self, node: NodeAddress, user: Mapping[str, Any], question: Command) -> Any:
        client = self._client(node, _SENTINEL_TIMEOUT, user)
        try:
            return (await _run(client, [question]))[0]
        finally:
            self.closer.close(client)

    def _client(self, node: NodeAddress, socket_seconds: float, more: Mapping[str, Any]) -> Redis:
        place: dict[str, Any] = {"host": node[0], "port": node[1]}
        kind: type[AbstractConnection] = _TlsConnection if self._tls else Connection
        if self._address.kind is StoreKind.SOCKET:
            place, kind = {"path": node[0]}, UnixDomainSocketConnection
        pool = ConnectionPool(
            connection_class=kind,
            max_connections=2 * _MAX_CONNECTIONS,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            socket_timeout=socket_seconds,
            socket_connect_timeout=min(_CONNECT_TIMEOUT, socket_seconds),
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            protocol=2,
            **place,
            **self._tls,
            **more,
        )
        return Redis.from_pool(pool)


class _Endpoint:
    """Sends commands to the server that has the keys, and locates it again if it has moved or does not answer."""

    def __init__(self, dial: _Connector, prefix: str, socket_seconds: float) -> None:
        self._dial = dial
        self._slot = key_slot(prefix.encode("utf-8"))
        self._socket_seconds = socket_seconds
        self._client: Redis | None = None
        self._node: NodeAddress | None = None
        self._is_closed = False
        self._running = 0
        self._idle = asyncio.Event()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The results, with one retry if the server was lost. Raises RedisError and OSError."""
        self._running += 1
        self._idle.clear()
        try:
            return await self._try(commands)
        except (*_LOST, *_ELSEWHERE):
            return await self._try(commands)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def mark_suspect(self) -> None:
        """Locate the server again for the next command."""
        self._forget(self._client)

    async def aclose(self) -> None:
        """Close the connections. A command that is connecting ends within its time limits, and is waited for."""
        self._is_closed = True
        self._forget(self._client)
        while self._running:
            await self._idle.wait()

    async def _try(self, commands: Sequence[Command]) -> list[Any]:
        client = self._client
        if client is None:
            self._check_open()
            node = await self._dial.locate(self._slot)
            self._check_open()
            # another command may have set it meanwhile
            client = self._client = self._client or self._dial.client(node, self._socket_seconds)
            self._node = node
        try:
            return await _run(client, commands)
        except (RedisError, OSError) as error:
            vars(error)["node"] = self._node
            if isinstance(error, (*_LOST, *_ELSEWHERE)):
                self._forget(client)
            raise
        finally:
            if client is not self._client:
                # it was forgotten while these commands ran, and they may have connected after it was closed
                self._dial.closer.close(client)

    def _check_open(self) -> None:
        # a client that is made now would never be closed
        if self._is_closed:
            raise RedisConnectionError("closed")

    def _forget(self, client: Redis | None) -> None:
        if client is None or client is not self._client:
            return
        self._client = None
        self._dial.closer.close(client)


class _TlsConnection(Connection):
    """TLS with a context that was checked at the start; the name to verify may differ from the host."""

    def __init__(self, *, context: ssl.SSLContext, server_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._context = context
        self._server_name = server_name

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context, "server_hostname": self._server_name or None}


async def _run(client: Redis, commands: Sequence[Command]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    # raised here: the library would put the whole command into the error
    results = await pipeline.execute(raise_on_error=False)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _master(answer: Any) -> NodeAddress:
    """The address in the response of a sentinel. Raises RedisConnectionError if it does not know the service."""
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        raise RedisConnectionError("no such service")
    return _text(answer[0]), int(answer[1])


def _owners(answer: Any, asked: NodeAddress) -> list[tuple[int, int, NodeAddress]]:
    """First slot, last slot and owner, from CLUSTER SLOTS; a node without a host is ``asked``."""
    return [(int(first), int(last), (_text(node[0]) or asked[0], int(node[1]))) for first, last, node, *_ in answer]


def _text(value: bytes | str | None) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value or ""


def _address(settings: StoreSettings) -> StoreAddress:
    try:
        return parse_store_url(settings.url.reveal())
    except ValueError as error:
        raise Misconfigured([Problem("store.url", str(error))]) from None


def _prefix(written: str) -> str:
    start = written.find("{")
    if start >= 0 and written.find("}", start + 1) > start + 1:
        return written
    return f"{{{written.strip('{}:') or 'sidecar'}}}:"


def _tls(settings: StoreTls) -> ssl.SSLContext:
    try:
        context = client_context(settings.ca_file)
    except (OSError, ssl.SSLError):
        raise Misconfigured([Problem("store.tls.caFile", "cannot be read as certificates")]) from None
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
        except (OSError, ssl.SSLError):
            message = "cannot be read as a certificate with its key in keyFile"
            raise Misconfigured([Problem("store.tls.certFile", message)]) from None
    return context


def _node_of(error: Exception) -> NodeAddress | None:
    """The located server that caused ``error``; None: none was located, or the deadline has passed."""
    node: NodeAddress | None = vars(error).get("node")
    return node
