"""Connections to the one service behind, kept open between requests.

The parser, its flow control and its error reporting are aiohttp's client protocol; what its session adds on top
(cookies, redirects, a pool for many hosts, URL building) has no use with one fixed upstream and costs more than the
rest of the proxy together.
"""

import asyncio
import select
import ssl
from collections import deque
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler

from sidecar.errors import Cause, Reason, UpstreamFailed

_CONNECT_ERRORS = (OSError, ssl.SSLError, ssl.CertificateError)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the service behind listens: a host and port, or a unix socket path."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> bytes:
        """For ``Host`` when the caller sent none."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode("ascii") if self.host else b"localhost"


def endpoint_of(url: str, ca_file: str = "") -> Endpoint:
    """Read ``upstream.url``. Raises ValueError for another form than http, https or unix, or with a path."""
    if url.startswith("unix:/"):
        return Endpoint("", 0, url.removeprefix("unix:"), None)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError("must be http://host:port, https://host:port or unix:/path")
    tls = ssl.create_default_context(cafile=ca_file or None) if parts.scheme == "https" else None
    return Endpoint(parts.hostname, parts.port or (443 if tls else 80), "", tls)


class UpstreamConnection(ResponseHandler):
    """One connection to the service behind."""

    _arrivals: "select.poll | None" = None

    @property
    def is_clean(self) -> bool:
        """Whether it is open, and nothing has come on it unasked: no octets and no end, neither read by the loop yet.

        What lies between the service's leaving and the loop's hearing of it is a request sent to nobody.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or self.should_close:
            return False
        if self._arrivals is None:
            self._arrivals = select.poll()
            self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._arrivals.poll(0)

    def cut(self) -> None:
        """End it at once; whoever still reads from it must not take what came so far for the whole."""
        self._break_off()
        self.abort()

    def park(self) -> None:
        """Expect nothing from now on: whatever comes while no request is under way makes it unclean."""
        self._parser = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """A reset breaks a body off, also one that only the end of the connection ends (RFC 9112 section 8)."""
        payload = self._payload
        if exc is not None:
            self._break_off()
        super().connection_lost(exc)
        # The parser forgets a body in which it found a fault, without telling its reader.
        self._payload = payload
        self._break_off()
        self._payload = None

    def _break_off(self) -> None:
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(ClientPayloadError("the connection ended early"))


class UpstreamPool:
    """Hands out connections, the most recently used first. Times are in seconds."""

    def __init__(self, endpoint: Endpoint, *, connect_timeout: float, keepalive_timeout: float) -> None:
        self.endpoint = endpoint
        self._connect_timeout = connect_timeout
        self._keepalive_timeout = keepalive_timeout
        self._closed = False
        self._idle: deque[tuple[UpstreamConnection, float]] = deque()

    async def acquire(self) -> UpstreamConnection:
        """A connection that is open and clean. Raises UpstreamFailed (502, 504) when none can be had."""
        now = monotonic()
        while self._idle:
            connection, since = self._idle.pop()
            if now - since < self._keepalive_timeout and connection.is_clean:
                return connection
            connection.close()
        return await self._connect()

    def release(self, connection: UpstreamConnection) -> None:
        """Give back a connection whose exchange is over; one that is not clean is closed."""
        now = monotonic()
        if self._closed or connection.should_close or not connection.is_connected():
            connection.close()
        else:
            connection.park()
            self._idle.append((connection, now))
        while self._idle and now - self._idle[0][1] >= self._keepalive_timeout:
            self._idle.popleft()[0].close()

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].close()

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        endpoint = self.endpoint
        try:
            async with asyncio.timeout(self._connect_timeout):
                if endpoint.path:
                    _, connection = await loop.create_unix_connection(lambda: UpstreamConnection(loop), endpoint.path)
                else:
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(loop), endpoint.host, endpoint.port, ssl=endpoint.tls
                    )
        except TimeoutError as error:
            raise UpstreamFailed(Reason.UPSTREAM_TIMEOUT, Cause.DEADLINE, "connect") from error
        except _CONNECT_ERRORS as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.NONE, type(error).__name__) from error
        return connection
