"""A request that is under way without a task of its own, from where its message arrived to its answer."""

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from aiohttp.http_parser import RawRequestMessage

from sidecar.web.server import Connection


class RequestCounter(Protocol):
    """A configuration that counts the requests that it is at."""

    def request_ended(self) -> None:
        """One request less."""


class StreamedWork(Protocol):
    """What is being done for it."""

    def promote_to_task(self) -> None:
        """Do no more: the handler of the usual way takes what there is of it, by :meth:`InFlightRequest.detach`."""

    def cancel(self) -> None:
        """Do no more, and give everything back."""


class InFlightRequest:
    """Ends in one of three ways: :meth:`respond`, :meth:`promote_to_task`, :meth:`cancel`. ``started`` is a
    perf_counter.

    ``active_config`` is what answers it, also when another configuration has taken its place meanwhile. ``ended`` is
    called with the status of the answer, or None where there is none; after a hand-over by nobody.
    """

    __slots__ = ("_ended", "_promoted", "active_config", "connection", "message", "started", "work")

    def __init__(
        self,
        message: RawRequestMessage,
        connection: Connection,
        serving: RequestCounter,
        ended: Callable[["InFlightRequest", int | None], None],
    ) -> None:
        self.active_config = serving
        self.message = message
        self.connection = connection
        self.started = perf_counter()
        self.work: StreamedWork | None = None
        self._ended = ended
        self._promoted = False

    @property
    def is_plain(self) -> bool:
        """Whether an answer may be written, and another request may follow it."""
        connection = self.connection
        return not (connection.is_last or connection.is_closing or connection.writing_paused)

    def respond(self, status: int, octets: bytes) -> None:
        """The whole answer."""
        self.connection.in_flight = self.work = None
        self.connection.write_response(octets)
        self._ended(self, status)

    def promote_to_task(self) -> None:
        """Let aiohttp's way go on: a request object, a task, a handler."""
        if self._promoted:
            return
        self._promoted = True
        if self.work is not None:
            self.work.promote_to_task()
        if not self.connection.requeue(self.message):
            self.cancel()

    def cancel(self) -> None:
        """The caller is gone."""
        work = self.detach()
        if work is not None:
            work.cancel()
        self._ended(self, None)

    def detach(self) -> StreamedWork | None:
        """What has been done so far, for whoever goes on after a hand-over."""
        work, self.connection.in_flight, self.work = self.work, None, None
        return work
