"""A real program as long as a ``with`` block lasts."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_TIMEOUT = 15.0


class Process:
    """A running program and what it has written."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self._log = log

    @property
    def output(self) -> str:
        """Everything it has written to standard output and error so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, condition: Callable[[], bool], *, within: float, what: str) -> None:
        """Poll ``condition``; fail with the end of the program's output if it exits, or after ``within`` seconds."""
        deadline = time.monotonic() + within
        while not condition():
            code = self.popen.poll()
            assert code is None, f"ended with {code} before {what}:\n{self.output[-4000:]}"
            assert time.monotonic() < deadline, f"not {what} within {within:g} s:\n{self.output[-4000:]}"
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL when it does not end; the exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait(STOP_TIMEOUT)


@contextmanager
def running(
    command: Sequence[object],
    *,
    log: Path,
    ready: Callable[[], bool],
    within: float = 30.0,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Iterator[Process]:
    """Start ``command``, wait until ``ready`` says so, stop it at the end of the block. Output goes to ``log``.

    The parts of ``command`` are passed as their text.
    """
    with log.open("wb") as stream:
        popen = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
        )
    process = Process(popen, log)
    try:
        process.wait_until(ready, within=within, what="ready")
        yield process
    finally:
        process.stop()
