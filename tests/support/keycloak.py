"""Keycloak with everything in memory."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.http_client import answers
from tests.support.ports import free_port
from tests.support.process import running


@contextmanager
def running_keycloak(
    script: Path, folder: Path, *, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The URL of a server whose administrator is ``admin`` with the password ``admin``. Its log goes to ``folder``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        **os.environ,
        "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
        "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin",
        "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
        **(environment or {}),
    }
    command = [
        script, "start-dev", "--db=dev-mem", "--cache=local", "--http-host=127.0.0.1", f"--http-port={port}", *options,
    ]  # fmt: skip
    log = folder / "keycloak.log"
    with running(
        command, log=log, ready=lambda: answers(f"{url}/realms/master", 200), within=300, environment=variables
    ):
        yield url
