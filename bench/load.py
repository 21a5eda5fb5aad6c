"""Finds, installs and runs the load generator wrk."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchError, pin

CONNECTIONS = 16
PAUSE = 0.02
"""Seconds between two requests of a connection if the rate is limited."""
_SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the load generator; latencies in milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


def find() -> str | None:
    """Path of wrk. As root on Debian, its package is installed if needed. None: not available."""
    if shutil.which("wrk") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "--yes", "wrk"]):
            subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=300)
    return shutil.which("wrk")


def run(
    wrk: str,
    port: int,
    path: str,
    tokens: Path,
    seconds: float,
    *,
    core: int,
    rate: float | None = None,
    body_size: int = 0,
    expect_refusals: bool = False,
    cookie: str = "",
) -> Measured:
    """Request ``path`` with every token in turn for ``seconds``: without a limit, or ``rate`` times a second.

    ``cookie``: the tokens are values of a cookie of this name.
    ``body_size`` above 0 sends POST requests with a body of that many bytes. Raises BenchError when a request failed,
    or if a response was not a success; with ``expect_refusals``, if a response was a success.
    """
    whole = max(1, round(seconds))
    # With such a long pause, the response time hardly affects the rate.
    connections = CONNECTIONS if rate is None else max(CONNECTIONS, round(rate * PAUSE))
    pause = 0 if rate is None else round(connections / rate * 1000)
    command = [wrk, "-t1", f"-c{connections}", f"-d{whole}s", "-s", str(_SCRIPT), f"http://127.0.0.1:{port}", "--"]
    done = subprocess.run(
        [*command, str(tokens), path, str(pause), str(body_size), cookie],
        check=False,
        capture_output=True,
        text=True,
        timeout=whole + 30,
        preexec_fn=lambda: pin(core),
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise BenchError(f"wrk exited with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    result = json.loads(lines[-1])
    expected = result["requests"] if expect_refusals else 0
    if result["failed"] or result["refused"] != expected or not result["requests"]:
        raise BenchError(
            f"port {port}{path}: of {result['requests']} requests {result['refused']} were refused "
            f"(expected {expected}), {result['failed']} failed"
        )
    return Measured(result["requests"] / result["seconds"], result["p50_ms"], result["p99_ms"])
