"""The sidecar with real dependencies, and faults of each dependency."""

import asyncio
import json
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from bench.processes import BenchError, Program, free_ports
from bench.soak.people import ADMIN, AUDIENCE, Issuer

SERVER_CORE = 0
OTHER_CORE = 1
RESPONSE_SECONDS = 3.0
"""Timeout of the sidecar for the upstream."""
KEY_REFRESH = 2.0
# Seconds during which a fault may still have effects: hung requests time out, keys are fetched again (with exponential
# backoff), and the store is reconnected and filled.
_AFTERMATH = {"service": RESPONSE_SECONDS + 1, "provider": 6.0, "store": 6.0, "bodies": 6.0}
_SILENT = 200
"""Number of clients of each kind that announce a body and do not send it."""
_REVOKE = b"POST /oauth2/revoke HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
_CHECK = b"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\nX-Original-URI: /x\r\nX-Original-Method: GET\r\n"
_ANNOUNCED = (
    _CHECK + b"Content-Length: 500\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"PUT /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n",
    _REVOKE + b"Content-Length: 500\r\n\r\nt",
    _REVOKE + b"Expect: 100-continue\r\nContent-Length: 500\r\n\r\n",
)
_ANSWERED = 2
"""The first ones of this number get a response without their body."""


@dataclass
class Fault:
    """A fault. ``until``: seconds since the epoch, including its aftermath."""

    name: str
    since: float
    until: float = float("inf")


@dataclass
class Faults:
    """All faults with their times."""

    seen: list[Fault] = field(default_factory=list)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Record that ``name`` fails while the context is active."""
        fault = Fault(name, time.time())
        self.seen.append(fault)
        try:
            yield
        finally:
            fault.until = time.time() + _AFTERMATH[name]

    def overlap(self, name: str, started: float, finished: float) -> bool:
        """Whether ``name`` may have failed between the two times."""
        return any(fault.name == name and fault.since <= finished and started <= fault.until for fault in self.seen)


class Provider:
    """The identity provider, in this process; it can abort every connection, or not respond."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.issuer = Issuer(f"http://127.0.0.1:{port}")
        self.is_up = True
        self.hangs = False
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)

    async def start(self) -> None:
        """Serve the key set."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def stop(self) -> None:
        """For good."""
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.hangs:
            await asyncio.sleep(10)
        if not self.is_up and request.transport is not None:
            request.transport.abort()
        return web.Response(body=self.issuer.jwks(), content_type="application/json")


class World:
    """All programs. ``address`` is the public listener of the sidecar."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._port, self._admin, self._service_port, self._redis_port, idp_port = free_ports(5)
        self.address = f"127.0.0.1:{self._port}"
        self.faults = Faults()
        self.provider = Provider(idp_port)
        self._redis_program = shutil.which("redis-server")
        if self._redis_program is None:
            raise BenchError("the soak needs redis-server (Debian: apt-get install redis-server)")

    async def start(self) -> None:
        """Start all programs; on entry the sidecar is ready."""
        await self.provider.start()
        self.service = self._start_service()
        self.redis = self._start_redis()
        settings = self._folder / "sidecar.yaml"
        settings.write_text(json.dumps(self._configuration()))
        command = [sys.executable, "-m", "sidecar", "serve", "--config", str(settings)]
        self.sidecar = self._program("sidecar", command, SERVER_CORE)
        await asyncio.to_thread(self.sidecar.wait_for_200, self._admin, "/readyz")
        await asyncio.to_thread(self.sidecar.wait_for_200, self._port, "/public/x")

    def _configuration(self) -> dict[str, object]:
        provider = {
            "name": "corp", "issuer": self.provider.issuer.url, "publicKeyUrls": [f"{self.provider.issuer.url}/jwks"],
            "audiences": [AUDIENCE], "clockSkew": "0s", "jwtPrincipalClaims": ["preferred_username"],
            "groupsClaim": "groups",
        }  # fmt: skip
        return {
            "server": {
                "listen": self.address,
                "adminListen": f"127.0.0.1:{self._admin}",
                "trustedProxies": ["127.0.0.1/32"],
                "drainDelay": "0s",
                "limits": {"headerTimeout": "2s", "bodyTimeout": "5s"},
            },
            "upstream": {
                "url": f"http://127.0.0.1:{self._service_port}",
                "responseTimeout": f"{RESPONSE_SECONDS}s",
                "connectTimeout": f"{RESPONSE_SECONDS}s",
            },
            "store": {"url": f"redis://127.0.0.1:{self._redis_port}/0"},
            "keys": {
                "refresh": f"{KEY_REFRESH}s",
                "retryMin": "500ms",
                "retryMax": "2s",
                "timeout": "1s",
                "cacheDir": str(self._folder / "keys"),
            },
            "tokens": {"cacheEntries": 1000},
            "authenticationConfiguration": {"providers": [provider]},
            "authorizerConfiguration": {"adminPrincipals": [f"corp/{ADMIN}"]},
            "rules": [
                {"path": "/public/**", "access": "public"},
                {"path": "/closed/**", "access": "authenticated", "require": {"groups": ["without-members"]}},
            ],
            "logging": {"level": "warning"},
        }

    def _program(self, name: str, command: list[str], core: int) -> Program:
        return self._stack.enter_context(Program(name, command, core=core, log=self._folder / f"{name}.log"))

    def _start_service(self) -> Program:
        return self._program("service", [sys.executable, "-m", "bench.service", str(self._service_port)], OTHER_CORE)

    def _start_redis(self) -> Program:
        assert self._redis_program
        options = ["--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        return self._program("redis", [self._redis_program, *options], OTHER_CORE)

    @asynccontextmanager
    async def service_killed(self) -> AsyncIterator[None]:
        """The upstream crashes, and restarts after the context."""
        with self.faults.during("service"):
            self.service.kill()
            yield
            self.service = self._start_service()
            await asyncio.to_thread(self.service.wait_for_200, self._service_port, "/up")

    @asynccontextmanager
    async def service_stalled(self) -> AsyncIterator[None]:
        """The upstream hangs."""
        with self.faults.during("service"), _stopped(self.service):
            yield

    @asynccontextmanager
    async def provider_down(self) -> AsyncIterator[None]:
        """The identity provider aborts every connection."""
        with self.faults.during("provider"):
            self.provider.is_up = False
            yield
            self.provider.is_up = True

    @asynccontextmanager
    async def provider_stalled(self) -> AsyncIterator[None]:
        """The identity provider does not respond."""
        with self.faults.during("provider"):
            self.provider.hangs = True
            yield
            self.provider.hangs = False

    @asynccontextmanager
    async def redis_stalled(self) -> AsyncIterator[None]:
        """Redis hangs."""
        with self.faults.during("store"), _stopped(self.redis):
            yield

    @asynccontextmanager
    async def redis_killed(self) -> AsyncIterator[None]:
        """Redis crashes and restarts empty."""
        with self.faults.during("store"):
            self.redis.kill()
            yield
            self.redis = self._start_redis()

    @asynccontextmanager
    async def bodies_announced(self) -> AsyncIterator[None]:
        """Clients announce bodies without sending them, to all kinds of endpoints. Raises BenchError.

        Only refusals of requests that wait for a decision are excused by this fault.
        """
        host, _, port = self.address.partition(":")
        opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        with self.faults.during("bodies"):
            try:
                for head in _ANNOUNCED:
                    for _ in range(_SILENT):
                        opened.append(await asyncio.open_connection(host, int(port)))
                        opened[-1][1].write(head)
                for reader, _ in opened[: _ANSWERED * _SILENT]:
                    async with asyncio.timeout(RESPONSE_SECONDS):
                        answer = await reader.read()
                    if not answer.startswith(b"HTTP/1.1 401") or b"\r\nConnection: close\r\n" not in answer:
                        raise BenchError(f"a body was announced and not sent: {answer!r}")
                yield
            finally:
                for _, writer in opened:
                    writer.transport.abort()


@contextmanager
def _stopped(program: Program) -> Iterator[None]:
    program.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        program.signal(signal.SIGCONT)
