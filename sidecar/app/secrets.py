"""Keeps the secrets of a secrets manager up to date, and shows their state in metrics."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from sidecar.clock import SystemClock
from sidecar.logs import traceback_locations
from sidecar.metrics import Metrics
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
            is_changed = await _in_thread(reader.refresh)
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

    def count(operation: str, outcome: str, seconds: float) -> None:
        metrics.secrets_requests.labels(operation, outcome).inc()
        metrics.secrets_duration.labels(operation).observe(seconds)

    reader.observe = count
    metrics.watch(metrics.secrets_up, lambda: not reader.problem)
    metrics.watch(metrics.secrets_references, lambda: reader.references)
    metrics.watch(metrics.secrets_age, lambda: reader.age)
    metrics.watch(metrics.secrets_expires, lambda: reader.expires_in(clock.now()))


async def _in_thread(refresh: Callable[[], bool]) -> bool:
    """Run ``refresh`` in a daemon thread, which the end of the process does not wait for."""
    done: Future[bool] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()
        try:
            done.set_result(refresh())
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting task
            done.set_exception(error)

    threading.Thread(target=run, name="refresh secrets", daemon=True).start()
    return await asyncio.wrap_future(done)
