"""The chart on a real node: every shape is restarted under keep-alive load, and no request is lost."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART, OTHER_CHARTS, Helm, Object
from tests.support.http_client import answers
from tests.support.node import ADDRESS, PODS, Node, node
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.tools import ROOT

pytestmark = pytest.mark.node

NAMESPACE = "metadata"
VALUES = ROOT / "helm" / "values"
CALLERS = 8
ROLLOUT = "10m"
PUBLIC: Object = {"rules": [{"path": "/**", "access": "public"}]}


@dataclass(frozen=True, slots=True)
class World:
    """A node with a namespace, helm, and a Redis and a server outside of its pods."""

    node: Node
    helm: Helm
    kubeconfig: Path
    redis: str
    server: str

    def does(self, *arguments: str | Path, values: Object | None = None, folder: Path) -> str:
        """What helm prints; it has to succeed."""
        where = ["--namespace", NAMESPACE, "--kubeconfig", self.kubeconfig]
        if values is not None:
            file = folder / "values.yaml"
            file.write_text(yaml.safe_dump(values), encoding="utf-8")
            where += ["--values", file]
        done = self.helm.run(*arguments, *where, within=700)
        assert done.returncode == 0, done.stdout + done.stderr + self.state()
        return done.stdout

    def get(self, path: str) -> Any:
        """An object, or a list of them, in the namespace."""
        return self.node.server.ask("GET", f"{path.format(f'namespaces/{NAMESPACE}')}").json()

    def state(self) -> str:
        """What the pods are waiting for."""
        pods = self.get("/api/v1/{}/pods")["items"]
        events = self.get("/api/v1/{}/events")["items"]
        said = [f"{one['involvedObject']['name']}: {one['reason']}: {one.get('message', '')}" for one in events]
        states = [f"{one['metadata']['name']}: {one['status'].get('containerStatuses')}" for one in pods]
        return "\n".join([*states, *said[-20:]])

    def address(self, service: str) -> tuple[str, int]:
        """Where the node reaches a Service."""
        spec = self.get(f"/api/v1/{{}}/services/{service}")["spec"]
        return spec["clusterIP"], spec["ports"][0]["port"]
