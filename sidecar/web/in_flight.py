"""A request that is under way without a task of its own, from where its message arrived to its answer."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from aiohttp.http_parser import RawRequestMessage

from sidecar.web.server import Connection


class Work(Protocol):
    """What is being done for it."""

    def hand_over(self) -> None:
        """Do no more: the handler of the usual way takes what there is of it, by :meth:`Begun.take`."""

    def abandon(self) -> None:
        """Do no more, and give everything back."""


class Begun:
    """Ends in one of three ways: :meth:`answer`, :meth:`hand_over`, :meth:`abandon`. ``started`` is a perf_counter.

    ``serving`` is what answers it, also when another configuration has taken its place meanwhile. ``ended`` is called
    with the status of the answer, or None where there is none; after a hand-over by nobody.
    """

    __slots__ = ("_ended", "_handed_over", "connection", "message", "serving", "started", "work")

    def __init__(
        self,
        message: RawRequestMessage,
        connection: Connection,
        serving: Any,
        ended: Callable[["Begun", int | None], None],
    ) -> None:
        self.serving = serving
        self.message = message
        self.connection = connection
        self.started = perf_counter()
        self.work: Work | None = None
        self._ended = ended
        self._handed_over = False

    @property
    def is_plain(self) -> bool:
        """Whether an answer may be written, and another request may follow it."""
        connection = self.connection
        return not (connection.ends or connection.is_closing or connection.writing_paused)

    def answer(self, status: int, octets: bytes) -> None:
        """The whole answer."""
        self.connection.begun = self.work = None
        self.connection.answer_begun(octets)
        self._ended(self, status)

    def hand_over(self) -> None:
        """Let aiohttp's way go on: a request object, a task, a handler."""
        if self._handed_over:
            return
        self._handed_over = True
        if self.work is not None:
            self.work.hand_over()
        if not self.connection.resume(self.message):
            self.abandon()

    def abandon(self) -> None:
        """The caller is gone."""
        work = self.take()
        if work is not None:
            work.abandon()
        self._ended(self, None)

    def take(self) -> Work | None:
        """What has been done so far, for whoever goes on after a hand-over."""
        work, self.connection.begun, self.work = self.work, None, None
        return work
