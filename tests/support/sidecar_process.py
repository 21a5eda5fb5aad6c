"""The real ``sidecar serve``, with a configuration of the test's own."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.http_client import answers
from tests.support.ports import free_port
from tests.support.process import Process, running

TRUSTED = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A sidecar that is up; ``address`` is ``host:port`` of its public listener."""

    address: str
    admin_address: str
    config: Path
    process: Process

    @property
    def url(self) -> str:
        """Its public listener."""
        return f"http://{self.address}"

    @property
    def admin_url(self) -> str:
        """Its operations listener."""
        return f"http://{self.admin_address}"


@contextmanager
def running_sidecar(
    folder: Path, configuration: Mapping[str, Any], *, wait_for: str = "/readyz", under: Sequence[str] = ()
) -> Iterator[Sidecar]:
    """Run it on free ports with a store in ``folder``; ``configuration`` wins over these, block by block.

    ``under``: a command that runs the one which follows it, such as one that sets limits.
    """
    address, admin_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    document = {"store": {"url": f"sqlite:///{folder}/sidecar.db"}, **configuration}
    document["server"] = {
        "listen": address,
        "adminListen": admin_address,
        "trustedProxies": [TRUSTED],
        "drainDelay": "0s",
        **configuration.get("server", {}),
    }
    config = folder / "sidecar.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    with running(
        [*under, sys.executable, "-m", "sidecar", "serve", "--config", config],
        log=folder / "sidecar.log",
        ready=lambda: answers(f"http://{admin_address}{wait_for}", 200),
    ) as process:
        yield Sidecar(address, admin_address, config, process)
