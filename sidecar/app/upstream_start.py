"""``upstream.waitAtStart``: not ready until the upstream has accepted a connection once."""

import asyncio
import logging
from contextlib import suppress

from sidecar.admin.health import PartState, PartStatus
from sidecar.clock import Clock
from sidecar.concurrency import cancel
from sidecar.dataplane.proxy.pool import Endpoint

_log = logging.getLogger("sidecar")
_CONNECT_TIMEOUT = 2.0
_POLL_INTERVAL = 0.25
_NAME = "upstream"


class UpstreamStart:
    """Tries to connect to ``endpoint`` until it succeeds once, for at most ``max_wait`` seconds."""

    def __init__(self, endpoint: Endpoint, url: str, max_wait: float, clock: Clock) -> None:
        self._endpoint = endpoint
        self._url = url
        self._max_wait = max_wait
        self._clock = clock
        self._until = clock.monotonic() + max_wait
        self._has_accepted = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start trying in the background."""
        self._task = asyncio.create_task(self._poll(), name="wait for upstream")

    async def aclose(self) -> None:
        """Stop trying."""
        await cancel(self._task)

    def status(self) -> PartStatus:
        """Pending until the upstream accepts a connection; degraded (which counts as ready) after the timeout."""
        if self._has_accepted:
            return PartStatus(_NAME, PartState.USABLE)
        if self._clock.monotonic() < self._until:
            return PartStatus(_NAME, PartState.PENDING, f"{self._url} has not accepted a connection yet")
        text = f"{self._url} has not accepted a connection within {self._max_wait:g} s (upstream.waitAtStart)"
        return PartStatus(_NAME, PartState.DEGRADED, text)

    async def _poll(self) -> None:
        while self._clock.monotonic() < self._until:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    await self._connect()
                self._has_accepted = True
                return
            await asyncio.sleep(_POLL_INTERVAL)
        _log.warning(
            "upstream has not accepted a connection; ready without it",
            extra={"event": "upstream_wait_timed_out", "upstream": self._url, "waited_seconds": self._max_wait},
        )

    async def _connect(self) -> None:
        endpoint = self._endpoint
        if endpoint.path:
            _, writer = await asyncio.open_unix_connection(endpoint.path)
        else:
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.close()
