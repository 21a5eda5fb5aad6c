"""Values that are known now or have to be awaited, calls that concurrent callers share, and background tasks.

The steps of a request return ``T | Awaitable[T]``: a value if nothing has to be awaited, so that most requests need no
task. A caller tests the type of the result once.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Steps = Generator[Awaitable[Any], Any, T]
"""A calculation that yields what it has to await, and gets the outcome back: the value, or the exception."""


class Pending(Generic[T]):
    """An awaitable that does nothing until it is awaited: then it runs ``finish(inner)``. Await it at most once.

    Unlike a coroutine it can be dropped together with the awaitable that it wraps: :func:`drop`.
    """

    __slots__ = ("_finish", "_inner")

    def __init__(self, finish: Callable[[Any], Coroutine[Any, Any, T]], inner: Awaitable[Any]) -> None:
        self._finish = finish
        self._inner = inner

    def __await__(self) -> Generator[Any, Any, T]:
        return self._finish(self._inner).__await__()

    def close(self) -> None:
        """Drop it before it is awaited."""
        drop(self._inner)


def run_steps(steps: Steps[T]) -> T | Awaitable[T]:
    """The result of ``steps`` if they have nothing to await, else an awaitable of the result."""
    try:
        inner = steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    return Pending(partial(_finish_steps, steps), inner)


async def _finish_steps(steps: Steps[T], inner: Awaitable[Any]) -> T:
    try:
        while True:
            try:
                value = await inner
            except BaseException as error:  # noqa: BLE001 - the steps decide, also about a cancellation
                inner = steps.throw(error)
            else:
                inner = steps.send(value)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class SingleFlight(Generic[K, T]):
    """Runs one call for each key at a time. Concurrent callers share it, and none can cancel it for the others."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    def __contains__(self, key: K) -> bool:
        """Whether a call for ``key`` is in progress."""
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(
        self, key: K, work: Callable[[], Coroutine[Any, Any, T]], *, on_end: Callable[[], None] | None = None
    ) -> T:
        """The result of the call in progress for ``key``, or of ``work``, which then starts.

        ``on_end`` is called when the started ``work`` has ended, also if it was cancelled before it ran.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._finish(key, done, on_end))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Cancel the calls in progress, and wait until they have ended."""
        await cancel(*self._tasks.values())

    def _finish(self, key: K, task: "asyncio.Task[T]", on_end: Callable[[], None] | None) -> None:
        del self._tasks[key]
        if on_end is not None:
            on_end()
        retrieve(task)


async def settled(value: T | Awaitable[T]) -> T:
    """``value``, or what awaiting it returns."""
    return await value if isinstance(value, Awaitable) else value


def drop(inner: Awaitable[Any]) -> None:
    """Release an awaitable that is not awaited any more: a coroutine that never runs would cause a warning."""
    if isinstance(inner, Pending | Coroutine):
        inner.close()
    elif isinstance(inner, asyncio.Future):
        inner.cancel()


async def cancel(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel ``tasks`` and wait until they have ended; their exceptions are discarded. None: not started."""
    started = [task for task in tasks if task is not None]
    for task in started:
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)


async def in_daemon_thread(function: Callable[[], T], name: str) -> T:
    """Run ``function``, which blocks, in a thread that the end of the process does not wait for. Raises as it does.

    A cancellation ends the wait, not the function.
    """
    done: Future[T] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting task
            done.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(done)


def retrieve(task: "asyncio.Future[Any]") -> None:
    """Done callback: fetch the exception of ``task``, which the event loop would otherwise log with its text.

    For tasks that log their own faults, or whose failure means nothing any more.
    """
    if not task.cancelled():
        task.exception()
