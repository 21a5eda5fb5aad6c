"""Members that ask somebody: whether he answers, and when he does so again.

Who is not ready is sent no request, so no request can show that it works again: it has to look itself. And what only
one caller's credential brings about is no reason to be sent none.
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
    """Looks at what a member depends on from :meth:`report_failure` on until it is well; never before.

    ``look`` asks a question of the member's own, in bounded time, and returns what is wrong.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], Awaitable[Sequence[str]]],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``wait`` takes seconds, ``chance`` is in [0, 1); tests hand in their own."""
        self.problem = ""
        """What was wrong at the last look; empty: nothing, or nobody had a doubt."""
        self._name = name
        self._look = look
        self._wait = wait
        self._chance = chance
        self._doubted = False
        self._task: asyncio.Task[None] | None = None

    if not TYPE_CHECKING:  # a type checker would take every name for granted

        def __getattr__(self, name: str) -> Any:
            return old_names.attribute(self, name, old_names.PROBE_METHODS)

    def report_failure(self) -> None:
        """A question on behalf of a caller had no answer: look at once, unless that was just done."""
        self._doubted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = _MIN_PAUSE
        while self._doubted or self.problem:
            self._doubted = False
            self._log_state(await self._found())
            await self._wait(pause * (0.5 + 0.5 * self._chance()))
            pause = min(2 * pause, _MAX_PAUSE) if self.problem else _MIN_PAUSE

    async def _found(self) -> str:
        try:
            return "; ".join(await self._look())
        except Exception as error:  # noqa: BLE001 - whatever a plugin's raises; its text may hold anything
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
