"""The upstream as a process of its own, that can be killed, stopped and started again on its port."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.ports import answers_on, free_port
from tests.support.process import Process, running
from tests.support.tools import ROOT


@dataclass(slots=True)
class ServiceProcess:
    """``bench.service`` on one port; at most one process at a time."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def up(self) -> Iterator[Process]:
        """The service, from when it answers until the block ends or the test kills it."""
        command = [sys.executable, "-m", "bench.service", str(self.port)]
        with running(
            command, log=self.folder / "service.log", ready=lambda: answers_on(self.port), directory=ROOT
        ) as self.process:
            yield self.process

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process
        self.process.popen.send_signal(number)

    def kill(self) -> None:
        """As a crash does."""
        assert self.process
        self.process.popen.kill()
        self.process.popen.wait(10)
