"""The effect of ``server.workers``: checks per second with one worker, two, four etc.: ``python -m bench.workers``.

The load generator uses the last core and the workers share the others, so at least three cores are needed to see an
effect.
"""

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import load
from bench.footprint import KeyServer
from bench.processes import BenchError, Program, free_ports
from bench.tokens import AUDIENCE

_TOKENS = 1_000
_PATH = "/oauth2/auth"


@dataclass(frozen=True, slots=True)
class Result:
    """Checks per second, checks per second of processor time, and resident megabytes of all processes."""

    workers: int
    rate: float
    per_cpu_second: float
    megabytes: float


def _configuration(folder: Path, keys: KeyServer, workers: int, port: int, admin_port: int) -> Path:
    provider = {
        "name": "bench",
        "issuer": keys.issuer.url,
        "publicKeyUrls": [f"{keys.issuer.url}/jwks"],
        "audiences": [AUDIENCE],
    }
    document = {
        "server": {
            "listen": f"127.0.0.1:{port}",
            "adminListen": f"127.0.0.1:{admin_port}",
            "drainDelay": "0s",
            "workers": workers,
        },
        "store": {"url": f"sqlite:///{folder}/sidecar.db"},
        "authenticationConfiguration": {"providers": [provider]},
    }
    settings = folder / f"{workers}.yaml"
    settings.write_text(json.dumps(document))
    return settings


def _metric(admin_port: int, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.split(" ")[1]) for line in lines if line.startswith(f"{name} "))


def _measured(wrk: str, folder: Path, keys: KeyServer, tokens: Path, workers: int, seconds: float) -> Result:
    cores = range(os.cpu_count() or 1)
    port, admin_port = free_ports(2)
    settings = _configuration(folder, keys, workers, port, admin_port)
    command = [sys.executable, "-m", "sidecar", "serve", "--config", str(settings)]
    with Program("sidecar", command, core=0, log=folder / f"{workers}.log") as program:
        program.spread(cores[:-1] or cores)
        program.wait_for_200(admin_port, "/readyz")
        load.run(wrk, port, _PATH, tokens, 2, core=cores[-1])
        before, started = _metric(admin_port, "process_cpu_seconds_total"), time.monotonic()
        rate = load.run(wrk, port, _PATH, tokens, seconds, core=cores[-1]).rate
        spent = _metric(admin_port, "process_cpu_seconds_total") - before
        checks = rate * (time.monotonic() - started)
        return Result(workers, rate, checks / spent, _metric(admin_port, "process_resident_memory_bytes") / 1e6)


def measure(wrk: str, most: int, seconds: float) -> Iterator[Result]:
    """Measure one worker, two, four and so on up to ``most``."""
    with TemporaryDirectory(prefix="auth-sidecar-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        keys = KeyServer(folder, stack)
        tokens = folder / "tokens"
        tokens.write_text("".join(f"{token}\n" for token in keys.issuer.tokens(_TOKENS)))
        workers = 1
        while workers <= most:
            yield _measured(wrk, folder, keys, tokens, workers, seconds)
            workers *= 2


def main() -> int:
    """Exit code 0: measured, or wrk is not available; 1: a program did not start or gave a wrong response."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--most", type=int, default=max(2, (os.cpu_count() or 1) - 1), help="most workers")
    parser.add_argument("--seconds", type=float, default=5, help="seconds per run (default 5)")
    options = parser.parse_args()
    wrk = load.find()
    if wrk is None:
        print("skipped: the load generator wrk is not installed (Debian: apt-get install wrk)")
        return 0
    print(f"{os.cpu_count()} cores, {load.CONNECTIONS} connections\nworkers  checks/s  per CPU second  memory")
    try:
        for result in measure(wrk, options.most, options.seconds):
            print(f"{result.workers:7}  {result.rate:8.0f}  {result.per_cpu_second:14.0f}  {result.megabytes:4.0f} MB")
    except BenchError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
