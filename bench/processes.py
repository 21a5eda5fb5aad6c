"""Starts and stops the programs of the benchmarks, each on its core."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self

START_SECONDS = 30.0


class BenchError(Exception):
    """The benchmark cannot continue; the text says why."""


def free_ports(count: int) -> list[int]:
    """``count`` different free TCP ports of the loopback address."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def pin(core: int) -> None:
    """Keep this process on ``core``; does nothing on a machine with one core."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


class Program:
    """A child process on one core, with its output in a file."""

    def __init__(
        self, name: str, command: list[str], *, core: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            # before exec: all threads of the program inherit the core
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                preexec_fn=lambda: pin(core),  # noqa: PLW1509 - this process has no threads
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Terminate the program; kill it after ten seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def spread(self, cores: Collection[int]) -> None:
        """Allow it, and every process that it starts from now on, to run on all of ``cores``."""
        os.sched_setaffinity(self._process.pid, cores)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process, as in a crash."""
        self._process.kill()
        self._process.wait()

    def is_running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def resident_bytes(self) -> int:
        """Resident memory in bytes."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def output(self) -> str:
        """Its output so far."""
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """Processor time used so far by all its threads, in user and kernel mode."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def user_and_system_seconds(self) -> tuple[float, float]:
        """Processor time used so far in user mode and in kernel mode, in steps of the kernel's clock tick."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / ticks, int(fields[12]) / ticks

    def wait_for_200(self, port: int, path: str, token: str = "") -> None:
        """Request ``path`` until the response is 200. Raises BenchError if the program exits or is too slow."""
        deadline = time.monotonic() + START_SECONDS
        answer: object = "no answer"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} exited with {self._process.returncode}:\n{self._tail()}")
            try:
                answer = _status(port, path, token)
            except OSError as error:
                answer = error
            if answer == 200:
                return
            time.sleep(0.05)
        raise BenchError(f"{self.name} does not respond with 200 to {path}: {answer}\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def _status(port: int, path: str, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"X-Original-URI": "/api/v1/tables?limit=10", "X-Original-Method": "GET"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
