"""Keeps the secrets of a secrets manager up to date, and shows their state in metrics."""

import asyncio
import logging
from collections.abc import Callable, Iterator

from sidecar.admin.health import PartState, PartStatus
from sidecar.clock import SystemClock
from sidecar.concurrency import in_daemon_thread
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
from sidecar.vaults.base import Observe
from sidecar.vaults.reader import SecretsReader

_log = logging.getLogger("sidecar.secrets")
_IDLE_INTERVAL = 30.0
"""How often to look whether a reload has brought references, while there are none."""


async def refresh_secrets(reader: SecretsReader | None, metrics: Metrics, on_change: Callable[[], None]) -> None:
    """Read the secrets again and again, and call ``on_change`` when a value has changed. Runs until it is cancelled."""
    if reader is None:
        return
    observe(reader, metrics)
    failures = 0
    while True:
        pause = reader.next_pause(failures)
        await asyncio.sleep(pause or _IDLE_INTERVAL)
        if not pause:
            continue
        try:
            is_changed = await in_daemon_thread(reader.refresh, "refresh secrets")
        except Exception as error:  # noqa: BLE001 - the values in force stay; the task must not end
            failures += 1
            metrics.secrets_refreshes.labels("failed").inc()
            _log.error(
                "unhandled error while reading secrets",
                extra={
                    "event": "secrets_refresh_error",
                    "error": type(error).__name__,
                    "places": traceback_locations(error),
                },
            )
            continue
        failures = failures + 1 if reader.problem else 0
        outcome = "failed" if reader.problem else "changed" if is_changed else "same"
        metrics.secrets_refreshes.labels(outcome).inc()
        if is_changed:
            on_change()


def observe(reader: SecretsReader, metrics: Metrics) -> None:
    """Show the state of ``reader`` in ``metrics``."""
    clock = SystemClock()

    reader.observe = count_calls(metrics)
    metrics.watch(metrics.secrets_up, lambda: not reader.problem)
    metrics.watch(metrics.secrets_references, lambda: reader.references)
    metrics.watch(metrics.secrets_age, lambda: reader.age)
    metrics.watch(metrics.secrets_expires, lambda: reader.expires_in(clock.now()))


def count_calls(metrics: Metrics) -> Observe:
    """Counts calls to the secrets manager in ``metrics``."""

    def count(operation: str, outcome: str, seconds: float) -> None:
        metrics.secrets_requests.labels(operation, outcome).inc()
        metrics.secrets_duration.labels(operation).observe(seconds)

    return count


def secrets_status(reader: SecretsReader | None) -> Iterator[PartStatus]:
    """The state of the secrets manager for readiness, if secrets are read from it. It never prevents readiness."""
    if reader is not None and reader.references:
        problem = reader.problem
        yield PartStatus("secrets manager", PartState.DEGRADED if problem else PartState.USABLE, problem)
