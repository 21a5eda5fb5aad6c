"""Reloads the configuration: activates a changed one as a whole, or keeps the current one and logs why."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from sidecar.app.egress_report import log_routes
from sidecar.clock import SystemClock
from sidecar.concurrency import in_daemon_thread
from sidecar.config.load import Loaded
from sidecar.config.settings import ServerSettings
from sidecar.errors import Failed, Misconfigured, Problem
from sidecar.logs import AUDIT, traceback_locations
from sidecar.metrics import Metrics
from sidecar.vaults.reader import SecretsUnreadableError

_log = logging.getLogger("sidecar.config")
_audit = logging.getLogger(AUDIT)
_READ_TIMEOUT = 30.0
_FIXED = {
    "listen": "listen",
    "admin_listen": "adminListen",
    "socket_mode": "socketMode",
    "socket_group": "socketGroup",
    "tls": "tls",
    "workers": "workers",
}


class Reload:
    """Call it to reload. ``reread`` reads the configuration again; ``apply`` activates it, or raises.

    A reload is atomic, and no outcome ends the process.
    """

    def __init__(
        self,
        loaded: Loaded,
        reread: Callable[[], Loaded],
        apply: Callable[[Loaded], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._loaded = loaded
        self._reread = reread
        self._apply = apply
        self._counted = metrics.config_reloads
        self._current = metrics.config_current
        self._current.set(1)

    async def __call__(self) -> None:
        """Reload, and log the outcome in one audit line."""
        try:
            loaded = await _read(self._reread)
            problems = list(_fixed(self._loaded.settings.server, loaded.settings.server))
            if problems:
                raise Misconfigured(problems)
            # records written in the meantime use the naming rules in force, as long as these do not change
            since = self._loaded.since if loaded.names_as(self._loaded) else SystemClock().now()
            loaded = replace(loaded, since=since)
            await self._apply(loaded)
        except Misconfigured as error:
            self._log_outcome("refused", error.problems)
        except Failed as error:
            self._log_outcome("refused", [Problem("", f"{error.message}: {error.detail}")])
        except SecretsUnreadableError as error:
            self._log_outcome("refused", error.problems)
        except Exception as error:  # noqa: BLE001 - an internal error must not end the process
            _log.error(
                "unhandled error while reloading",
                extra={
                    "event": "reload_error",
                    "error": type(error).__name__,
                    "places": traceback_locations(error),
                },
            )
            self._log_outcome("failed", [])
        else:
            self._loaded = loaded
            warn(loaded)
            self._log_outcome("applied", [])

    def _log_outcome(self, outcome: str, problems: list[Problem]) -> None:
        level = logging.INFO if outcome == "applied" else logging.ERROR
        fatal = [str(problem) for problem in problems if problem.fatal]
        _audit.log(
            level,
            "configuration reload",
            extra={"event": "configuration_reload", "outcome": outcome, "problems": fatal},
        )
        self._counted.labels(outcome).inc()
        self._current.set(outcome == "applied")


async def _read(reread: Callable[[], Loaded]) -> Loaded:
    """Run ``reread`` in a daemon thread. Raises as it does, and Misconfigured if it takes too long.

    The process does not wait for the thread on exit: a pipe without a writer or a dead mount would block it forever.
    """
    try:
        async with asyncio.timeout(_READ_TIMEOUT):
            return await in_daemon_thread(reread, "read configuration")
    except TimeoutError:
        raise Misconfigured(
            [
                Problem(
                    "", f"could not be read within {_READ_TIMEOUT:g} seconds; check for a pipe or an unresponsive mount"
                )
            ]
        ) from None


def warn(loaded: Loaded) -> None:
    """Log the warnings of ``loaded``, and the proxy that outgoing calls use."""
    for warning in loaded.warnings:
        _log.warning(str(warning), extra={"event": "configuration_warning"})
    log_routes(loaded)


def _fixed(present: ServerSettings, wanted: ServerSettings) -> Iterator[Problem]:
    for attribute, name in _FIXED.items():
        if getattr(present, attribute) != getattr(wanted, attribute):
            yield Problem(f"server.{name}", "cannot be changed by a reload; restart to change it")
