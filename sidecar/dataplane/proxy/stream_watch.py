"""Watches streams: each one ends when the credential that it began with is no longer accepted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from sidecar.authn.base import Accepted, Gate
from sidecar.clock import Clock, latest_of
from sidecar.errors import Refused
from sidecar.logs import traceback_locations

_log = logging.getLogger("sidecar.http")


class _Stream:
    """One of them. ``ends_with_token``: also when the token expires or its key is withdrawn."""

    __slots__ = ("accepted", "end", "ends_with_token")

    def __init__(self, accepted: Accepted, end: Callable[[], None], *, ends_with_token: bool) -> None:
        self.accepted = accepted
        self.end = end
        self.ends_with_token = ends_with_token


class StreamWatch:
    """All streams of this process; one task asks ``gate`` about them, soon after a change and twice a second.

    ``changed`` returns when there may be a change, or after so many seconds. A gate that cannot tell now ends nothing.
    """

    CHECK = 0.5
    PAUSE = 0.05
    """Least time between two rounds, however many changes there are. In seconds, as the one above."""

    def __init__(
        self,
        gate: Gate,
        clock: Clock,
        changed: Callable[[float], Awaitable[None]],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.gate = gate
        """The one that it was made with."""
        self._gates: tuple[Gate, ...] = (gate,)
        self._now = latest_of(clock)
        self._changed = changed
        self._wait = wait
        self._streams: set[_Stream] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.create_task(self._watch(), name="stream watch")

    async def aclose(self) -> None:
        """Watch no longer. What is being streamed goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def also_check(self, gate: Gate, changed: Callable[[float], Awaitable[None]]) -> None:
        """Ask ``gate`` too, that of the latest configuration: its store may be another. ``changed`` as before."""
        self._gates = (self.gate, gate)
        self._changed = changed

    @contextmanager
    def watching(self, accepted: Accepted | None, end: Callable[[], None], *, ends_with_token: bool) -> Iterator[None]:
        """While the context lasts, call ``end`` (once) when ``accepted`` has been revoked.

        ``ends_with_token``: also when the token has expired or its key was withdrawn. None: no credential, never.
        """
        if accepted is None:
            yield
            return
        stream = _Stream(accepted, end, ends_with_token=ends_with_token)
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    async def _watch(self) -> None:
        while True:
            await self._changed(self.CHECK)
            self._check_all()
            await self._wait(self.PAUSE)

    def _check_all(self) -> None:
        now = self._now()
        for stream in tuple(self._streams):
            try:
                if self._is_over(stream, now):
                    self._streams.discard(stream)
                    stream.end()
            except Exception as error:  # noqa: BLE001 - the others must end all the same
                _log.error(
                    "unhandled error while ending a stream",
                    extra={
                        "event": "stream_end_failed",
                        "error": type(error).__name__,
                        "places": traceback_locations(error),
                    },
                )

    def _is_over(self, stream: _Stream, now: float) -> bool:
        accepted = stream.accepted
        if stream.ends_with_token:
            expires_at = accepted.expires_at
            if not accepted.key.live or (expires_at is not None and now >= expires_at):
                return True
        return any(isinstance(gate.check(accepted), Refused) for gate in self._gates)
