"""A server of key sets, a clock that stands still, and providers that read from it."""

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Cause, Unavailable
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.keys.keyset import VerificationKey
from sidecar.keys.refresher import Timing
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import JwksServer, eventually, jwk, rsa_key

A, B, C = jwk(rsa_key(0), "a"), jwk(rsa_key(1), "b"), jwk(rsa_key(2), "c")


class World:
    """One server, one clock, and the providers that a test makes; all is closed at its end."""

    def __init__(self, server: JwksServer, client: ControlClient, stack: AsyncExitStack) -> None:
        self.server = server
        self.client = client
        self.clock = HandClock()
        self.metrics = Metrics()
        self._stack = stack

    async def keys(
        self, *urls: str, cache_dir: Path | None = None, allow_published: bool = False, **settings: Any
    ) -> ProviderKeys:
        """A started provider of ``urls`` (default: the server's ``/jwks``), its first fetch still to come."""
        provider = Provider("corp", "https://idp.example.com", key_urls=urls or (self.server.url(),))
        return await self.provider(provider, cache_dir, allow_published=allow_published, **settings)

    async def provider(
        self, provider: Provider, cache_dir: Path | None = None, *, allow_published: bool = False, **settings: Any
    ) -> ProviderKeys:
        made = ProviderKeys(
            provider,
            KeyFetchSettings(**settings),
            self.client,
            self.metrics,
            self.clock,
            cache_dir,
            allow_published=allow_published,
            pace=Timing(self.clock, self.clock.wait, lambda: 0.5),
        )
        self._stack.push_async_callback(made.aclose)
        await made.start()
        return made

    async def fetched(self, *urls: str, **settings: Any) -> ProviderKeys:
        """As :meth:`keys`, after its first fetches have ended."""
        made = await self.keys(*urls, **settings)
        await eventually(lambda: made.status().attempted)
        return made

    @property
    def asked(self) -> int:
        """How often ``/jwks`` was asked for."""
        return self.server.requests["/jwks"]

    def outcomes(self) -> dict[str, float]:
        """The counted outcomes of fetches."""
        samples = next(iter(self.metrics.jwks_fetches.collect())).samples
        return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}


def kids(keys: tuple[VerificationKey, ...]) -> list[str | None]:
    return [key.kid for key in keys]


async def unavailable(work: Awaitable[object]) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await work
    assert caught.value.cause is Cause.KEYS_UNAVAILABLE
    return caught.value
