"""``upstream.waitAtStart``: not ready before the service behind has accepted a connection once."""

import asyncio
import logging
from contextlib import suppress

from sidecar.admin.health import Condition, PartStatus
from sidecar.clock import Clock
from sidecar.dataplane.proxy.pool import Endpoint

_log = logging.getLogger("sidecar")
_CONNECT_TIMEOUT = 2.0
_POLL_INTERVAL = 0.25
_NAME = "upstream"


class UpstreamStart:
    """Connects to ``endpoint`` until that has succeeded once, or for ``longest`` seconds."""

    def __init__(self, endpoint: Endpoint, url: str, longest: float, clock: Clock) -> None:
        self._endpoint = endpoint
        self._url = url
        self._longest = longest
        self._clock = clock
        self._until = clock.monotonic() + longest
        self._has_answered = False
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look, in the background."""
        self._looking = asyncio.create_task(self._look(), name="start of the upstream")

    async def aclose(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def status(self) -> PartStatus:
        """Pending until the service has accepted a connection; degraded, which is ready, once the time is over."""
        if self._has_answered:
            return PartStatus(_NAME, Condition.USABLE)
        if self._clock.monotonic() < self._until:
            return PartStatus(_NAME, Condition.PENDING, f"{self._url} has not accepted a connection yet")
        text = f"{self._url} has not accepted a connection within {self._longest:g} s (upstream.waitAtStart)"
        return PartStatus(_NAME, Condition.DEGRADED, text)

    async def _look(self) -> None:
        while self._clock.monotonic() < self._until:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    await self._connect()
                self._has_answered = True
                return
            await asyncio.sleep(_POLL_INTERVAL)
        _log.warning(
            "upstream has not accepted a connection; ready without it",
            extra={"event": "upstream_wait_timed_out", "upstream": self._url, "waited_seconds": self._longest},
        )

    async def _connect(self) -> None:
        endpoint = self._endpoint
        if endpoint.path:
            _, writer = await asyncio.open_unix_connection(endpoint.path)
        else:
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.close()
