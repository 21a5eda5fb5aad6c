"""Probes the dependency of an authenticator after a failure, until it recovers.

An instance that is not ready receives no requests, so no request can show that the dependency recovered: the
authenticator must probe it. A failure that one caller's credential causes is no reason to become unready.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from sidecar import old_names

_log = logging.getLogger("sidecar.authn")
_MIN_PAUSE = 1.0
_MAX_PAUSE = 10.0


class DependencyProbe:
    """Runs ``probe`` from :meth:`report_failure` until it succeeds.

    ``probe`` checks the dependency in bounded time, independently of any request, and returns the problems found.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[Sequence[str]]],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random_fraction: Callable[[], float] = random.random,
    ) -> None:
        """``wait`` sleeps for seconds, ``random_fraction`` returns a number in [0, 1); tests replace both."""
        self.problem = ""
        """The problems found by the last probe; empty: none, or never probed."""
        self._name = name
        self._probe = probe
        self._wait = wait
        self._random_fraction = random_fraction
        self._probe_requested = False
        self._task: asyncio.Task[None] | None = None

    if not TYPE_CHECKING:  # a type checker would take every name for granted

        def __getattr__(self, name: str) -> Any:
            return old_names.attribute(self, name, old_names.PROBE_METHODS)

    def report_failure(self) -> None:
        """A request failed because of the dependency: probe it now, unless a probe is already scheduled."""
        self._probe_requested = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = _MIN_PAUSE
        while self._probe_requested or self.problem:
            self._probe_requested = False
            self._log_state(await self._run_probe())
            await self._wait(pause * (0.5 + 0.5 * self._random_fraction()))
            pause = min(2 * pause, _MAX_PAUSE) if self.problem else _MIN_PAUSE

    async def _run_probe(self) -> str:
        try:
            return "; ".join(await self._probe())
        except Exception as error:  # noqa: BLE001 - plugins can raise anything; the text may contain secrets
            return type(error).__name__

    def _log_state(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.warning(
                "authenticator unavailable",
                extra={"event": "authenticator_unavailable", "authenticator": self._name, "problem": problem},
            )
        elif self.problem and not problem:
            _log.info(
                "authenticator available again",
                extra={"event": "authenticator_available", "authenticator": self._name},
            )
        self.problem = problem
