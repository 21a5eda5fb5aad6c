"""A server of key sets in the event loop of the test: counts requests; the test sets its responses."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Self

from aiohttp import web
from joserfc.jwk import ECKey, OKPKey, RSAKey

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class JwksServer:
    """Serves ``answers`` by path on a port of 127.0.0.1; an async context manager."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: Counter[str] = Counter()
        self.headers: list[Mapping[str, str]] = []
        self._tls = tls
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        self.port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = site.port
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str = "/jwks") -> str:
        """The address of ``path``."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def publish(self, *keys: Mapping[str, Any], path: str = "/jwks", **headers: str) -> None:
        """From now on answer ``path`` with these keys; underscores in header names stand for dashes."""
        self.answers[path] = document({"keys": keys}, **headers)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests[request.path] += 1
        self.headers.append(dict(request.headers))
        answer = self.answers.get(request.path, status(404))
        return await answer(request)


def document(value: object, **headers: str) -> Answer:
    """200 with JSON; 304 when the request names the ``ETag``."""
    return body(json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})


def body(content: bytes, **headers: str) -> Answer:
    """200 with ``content``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if named.get("ETag") and request.headers.get("If-None-Match") == named["ETag"]:
            return web.Response(status=304, headers={"ETag": named["ETag"]})
        return web.Response(body=content, headers=named)

    return answer


def status(number: int, **headers: str) -> Answer:
    """An empty answer with this status."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=number, headers=headers)

    return answer


def endless(chunk: bytes = b" " * 65536) -> Answer:
    """200 and a body without length that never ends."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(chunk)

    return answer


def held(then: Answer, gate: asyncio.Event) -> Answer:
    """As ``then``, but only once ``gate`` is open."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await gate.wait()
        return await then(request)

    return answer


@lru_cache
def rsa_key(number: int = 0, bits: int = 2048) -> RSAKey:
    """One private key per number, the same for the whole run."""
    return RSAKey.generate_key(bits)


@lru_cache
def ec_key(curve: str = "P-256", number: int = 0) -> ECKey:
    """One private key per curve and number."""
    return ECKey.generate_key(curve)


@lru_cache
def ed_key(number: int = 0) -> OKPKey:
    """One private key per number."""
    return OKPKey.generate_key("Ed25519")


def jwk(key: RSAKey | ECKey | OKPKey, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """The public members of ``key`` with others added; those given as None are left out."""
    named = {"kid": kid, **members}
    return {**key.as_dict(private=False), **{name: value for name, value in named.items() if value is not None}}


async def eventually(condition: Callable[[], object], within: float = 5.0) -> None:
    """Return as soon as ``condition`` holds; fail when it does not do so in time."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.002)
