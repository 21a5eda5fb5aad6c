"""What a check costs as things become many: ``python -m bench.curves``. Every curve has to be flat.

The whole sidecar runs in this process; requests are handed to a connection as its socket would. That leaves the kernel
out, and with it most of what other programs on the machine disturb: the best of many short rounds is taken.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import uvloop
from aiohttp import web
from joserfc import jws
from joserfc.jwk import OKPKey

from bench.deny_list import entries
from bench.processes import BenchError, free_ports
from bench.tokens import AUDIENCE
from sidecar.app.process_context import ProcessContext
from sidecar.app.running import build_sidecar
from sidecar.clock import SystemClock
from sidecar.config.load import load
from sidecar.config.settings import StoreSettings
from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.open import open_store
from sidecar.store.revocation_entry import Scope

FLAT = 1.5
"""What the last point of a curve may cost, as a multiple of its first: caches of the processor are only so large."""

_ROUND = 100
_ROUNDS = 200
_TOKENS = 10
_HOST = "127.0.0.1"


class _Socket(asyncio.Transport):
    """Takes what is written and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (_HOST, 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    def resume_reading(self) -> None:
        """As above."""

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """As above."""


class Stage:
    """A connection to a sidecar, and a request for each of its tokens."""

    def __init__(self, connection: web.RequestHandler, socket: _Socket, requests: Sequence[bytes]) -> None:
        self._connection = connection
        self._socket = socket
        self._requests = requests

    async def warm_up(self) -> None:
        """Have every token known. Raises BenchError when a check is not answered at once then."""
        for request in self._requests:
            self._connection.data_received(request)
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        before = self._socket.written
        for request in self._requests:
            self._connection.data_received(request)
        if self._socket.written != before + len(self._requests):
            raise BenchError("a check was not answered at once")

    def cost(self) -> float:
        """Microseconds of one check, the best round counting; the tokens take turns."""
        take, rounds = self._connection.data_received, itertools.cycle(self._requests)
        best = float("inf")
        for _ in range(_ROUNDS):
            some = list(itertools.islice(rounds, _ROUND))
            started = time.perf_counter()
            for request in some:
                take(request)
            best = min(best, time.perf_counter() - started)
        return best / _ROUND * 1e6


@asynccontextmanager
async def staged(
    *, tokens: int = _TOKENS, providers: int = 1, rules: int = 0, entries: int = 0
) -> AsyncIterator[Stage]:
    """A sidecar with so many of each; the last of its providers has issued the tokens."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="auth-sidecar-bench-")))
        key = OKPKey.generate_key("Ed25519", {"kid": "k", "use": "sig", "alg": "Ed25519"})
        port = await _serve_keys({"keys": [key.as_dict(private=False)]}, stack)
        issuers = [f"http://{_HOST}:{port}/{number}" for number in range(providers)]
        settings = folder / "sidecar.yaml"
        settings.write_text(json.dumps(_document(folder, issuers, rules, tokens)))
        loaded = load([str(settings)], {})
        await _deny(loaded.settings.store, entries)
        sidecar = await stack.enter_async_context(build_sidecar(loaded, ProcessContext(Metrics(), SystemClock())))
        await _until(lambda: sidecar.health.report()[0])
        connection, socket = sidecar._server(), _Socket()  # noqa: SLF001 - no caller but this one brings his own socket
        connection.connection_made(socket)
        await asyncio.sleep(0)
        made = Stage(connection, socket, [_request(token) for token in _tokens(key, issuers[-1], tokens)])
        await made.warm_up()
        yield made


async def _deny(settings: StoreSettings, count: int) -> None:
    """Fill the store before anybody reads it."""
    clock = SystemClock()
    store = await open_store(settings, Metrics(), clock)
    async for piece in entries(count, Scope.TOKEN, clock.now()):
        await store.write(Batch(add_entries=piece))
    await store.aclose()


def _document(folder: Path, issuers: Sequence[str], rules: int, tokens: int) -> dict[str, Any]:
    port, admin_port = free_ports(2)
    return {
        "server": {
            "listen": f"{_HOST}:{port}",
            "adminListen": f"{_HOST}:{admin_port}",
            "trustedProxies": [f"{_HOST}/32"],
        },
        "store": {"url": f"sqlite:///{folder}/store.db"},
        "tokens": {"cacheEntries": max(tokens, 1000)},
        "authenticationConfiguration": {
            "providers": [
                {
                    "name": f"bench{number}",
                    "issuer": issuer,
                    "publicKeyUrls": [f"{issuer}/jwks"],
                    "audiences": [AUDIENCE],
                }
                for number, issuer in enumerate(issuers)
            ]
        },
        "rules": [
            {
                "path": f"/api/v{number % 7}/things{number}/{'**' if number % 2 else '*'}",
                "require": {"groups": ["staff"]},
            }
            for number in range(rules)
        ],
    }


async def _serve_keys(document: dict[str, Any], stack: AsyncExitStack) -> int:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(document)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, _HOST, 0)
    await site.start()
    return int(runner.addresses[0][1])


def _tokens(key: OKPKey, issuer: str, count: int) -> Iterator[str]:
    now = int(time.time())
    registry = jws.JWSRegistry(algorithms=["Ed25519"])
    for number in range(count):
        claims = {"iss": issuer, "aud": AUDIENCE, "sub": f"user-{number}", "jti": str(uuid4()), "iat": now}
        text = json.dumps({**claims, "exp": now + 3600}, separators=(",", ":"))
        yield jws.serialize_compact({"alg": "Ed25519", "kid": "k"}, text, key, registry=registry)


def _request(token: str) -> bytes:
    return (
        "GET /oauth2/auth HTTP/1.1\r\nHost: metadata.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Authorization: Bearer {token}\r\nX-Original-URI: /api/v1/tables?limit=10\r\nX-Original-Method: GET\r\n\r\n"
    ).encode()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.05)


CURVES = {
    "cached tokens": ("tokens", (10, 100, 1_000, 10_000, 100_000)),
    "deny entries": ("entries", (0, 1_000, 10_000, 100_000, 1_000_000)),
    "providers": ("providers", (1, 5, 10, 25, 50)),
    "rules": ("rules", (0, 1, 10, 100, 500)),
}


async def measure(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Microseconds of one check over how many there are, by curve."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        of, counts = CURVES[name]
        costs = []
        for count in counts:
            async with staged(**{of: count}) as stage:
                costs.append(stage.cost())
        found[name] = {f"{count:,}": round(cost, 2) for count, cost in zip(counts, costs, strict=True)}
        verdict = "flat" if costs[-1] <= FLAT * costs[0] else "GROWS"
        print(
            f"{name:<14} " + "  ".join(f"{count}: {cost} us" for count, cost in found[name].items()) + f"  [{verdict}]"
        )
    return found


def main() -> int:
    """Exit code 0: every curve is flat; 1: one grows."""
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description=__doc__)
    parser.add_argument("--curve", action="append", choices=list(CURVES), help="only this one; repeatable")
    parser.add_argument("--keep", type=Path, help="write the figures to this file, as JSON")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(options.curve or list(CURVES)))
    if options.keep:
        options.keep.write_text(json.dumps(found, indent=2) + "\n")
    points = [list(curve.values()) for curve in found.values()]
    return 0 if all(costs[-1] <= FLAT * costs[0] for costs in points) else 1


if __name__ == "__main__":
    sys.exit(main())
