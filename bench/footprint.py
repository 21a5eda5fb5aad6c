"""Start time and memory of one process: ``python -m bench.footprint``."""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import BenchError, Program, free_ports
from bench.tokens import AUDIENCE, Issuer

MOST_SECONDS = 1.0
MOST_MEGABYTES = 45.0
_CORE = 0
_STARTS = 5
_IMPORTS = "aiohttp.web, cryptography.x509, joserfc.jwt, orjson, prometheus_client, pydantic, uvloop, yaml"


class KeyServer:
    """A server of the issuer's key set, in a separate process."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.port = free_ports(1)[0]
        self.issuer = Issuer(f"http://127.0.0.1:{self.port}")
        (folder / "jwks").write_bytes(self.issuer.jwks())
        command = [sys.executable, "-m", "http.server", str(self.port), "--bind", "127.0.0.1", "-d", str(folder)]
        stack.enter_context(Program("keys", command, core=1, log=folder / "keys.log")).wait_for_200(self.port, "/jwks")


def _configuration(folder: Path, issuer: str, port: int, admin_port: int, tokens: int) -> Path:
    provider = {
        "name": "bench",
        "issuer": issuer,
        "publicKeyUrls": [f"{issuer}/jwks"],
        "audiences": [AUDIENCE],
    }
    settings = folder / "sidecar.yaml"
    document = {
        "server": {
            "listen": f"127.0.0.1:{port}",
            "adminListen": f"127.0.0.1:{admin_port}",
            "drainDelay": "0s",
        },
        "store": {"url": f"sqlite:///{folder}/sidecar.db"},
        "tokens": {"cacheEntries": tokens},
        "authenticationConfiguration": {"providers": [provider]},
    }
    settings.write_text(json.dumps(document))
    return settings


def _ask_with(tokens: list[str], port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for token in tokens:
        connection.request("GET", "/oauth2/auth", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchError(f"a valid token got {answer.status}")
    connection.close()


def _bare_imports() -> float:
    """Megabytes of a process that has imported the libraries of the sidecar only."""
    code = f"import {_IMPORTS}\nprint(open('/proc/self/statm').read().split()[1])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return int(done.stdout) * 4096 / 1e6


def measure(tokens: int) -> bool:
    """Print the results. Returns whether the targets are met."""
    with TemporaryDirectory(prefix="auth-sidecar-bench-") as text, ExitStack() as stack:
        folder = Path(text)
        keys = KeyServer(folder, stack)
        port, admin_port = free_ports(2)
        settings = _configuration(folder, keys.issuer.url, port, admin_port, tokens)
        command = [sys.executable, "-m", "sidecar", "serve", "--config", str(settings)]
        times, work, before, after = [], [], 0.0, 0.0
        for number in range(_STARTS):
            started = time.monotonic()
            with Program("sidecar", command, core=_CORE, log=folder / "sidecar.log") as program:
                program.wait_for_200(admin_port, "/readyz")
                times.append(time.monotonic() - started)
                work.append(program.cpu_seconds())
                if number == _STARTS - 1:
                    before = program.resident_bytes() / 1e6
                    _ask_with(list(keys.issuer.tokens(tokens)), port)
                    after = program.resident_bytes() / 1e6
    seconds, bare = statistics.median(times), _bare_imports()
    print(f"start to ready                         {seconds:6.2f} s   [target {MOST_SECONDS:g} s]")
    print(f"processor time of that                 {statistics.median(work):6.2f} s")
    print(f"bare imports                           {bare:6.1f} MB")
    print(f"ready, above them                      {before - bare:6.1f} MB")
    print(f"with {tokens:,} cached tokens, above them {after - bare:8.1f} MB  [target {MOST_MEGABYTES:g} MB]")
    return seconds <= MOST_SECONDS and after - bare <= MOST_MEGABYTES


def main() -> int:
    """Exit code 0: both targets met; 1: one was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000, help="number of cached tokens (default 10,000)")
    return 0 if measure(parser.parse_args().tokens) else 1


if __name__ == "__main__":
    sys.exit(main())
