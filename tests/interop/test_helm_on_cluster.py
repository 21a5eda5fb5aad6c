"""What the chart and ``deploy/`` hold, before a real API server: strict about fields, restricted as to pods."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART, EXTENDED, OTHER_CHARTS, VALUE_FILES, Helm, Object
from tests.support.kubernetes import ApiServer, cluster
from tests.support.tools import ROOT

pytestmark = pytest.mark.heavy

NAMESPACE = "metadata"
COUNTED = "counted"
NO_ACCOUNT: Object = {"serviceAccount": {"create": False}}  # the namespace's own is there already
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
CONTAINER = {
    "name": "main",
    "image": "none",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


def objects_in(file: Path) -> list[Object]:
    """Its documents that are objects of Kubernetes."""
    documents = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    return [one for one in documents if isinstance(one, dict) and {"apiVersion", "kind", "metadata"} <= one.keys()]


MANIFESTS = [file for file in sorted((ROOT / "deploy" / "kubernetes").rglob("*.yaml")) if objects_in(file)]


@pytest.fixture(name="helm", scope="module")
def _helm(require_tool: Callable[[str], Path]) -> Helm:
    return Helm(require_tool("helm"))


@pytest.fixture(scope="module", name="server")
def _server(
    require_tool: Callable[[str], Path], helm: Helm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """A cluster with a namespace for restricted pods, and with the operators' and gateways' kinds that are used."""
    with cluster(require_tool("kube-apiserver"), tmp_path_factory.mktemp("cluster")) as server:
        server.create_namespace(NAMESPACE, RESTRICTED)
        create_quota(server)
        rendered = [document for file in VALUE_FILES for document in helm.render(file, values=EXTENDED)]
        written = [document for file in MANIFESTS for document in objects_in(file)]
        server.install_kinds(require_tool("kubernetes-kinds"), [*rendered, *written])
        yield server


def complaints(server: ApiServer, document: Object) -> list[str]:
    """Why the server would not take an object, and what it warns of."""
    reply = server.try_out(document, NAMESPACE)
    refusal = [] if reply.status == 201 else [str(reply.json()["message"])]
    return [f"{document['kind']} {document['metadata'].get('name')}: {text}" for text in refusal + reply.all("Warning")]


def pod(spec: Object, **metadata: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried", **metadata}, "spec": spec}


def test_the_server_is_as_strict_as_it_is_meant_to_be(server: ApiServer) -> None:
    """The tests below would pass before one that takes everything."""
    restricted = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
    assert complaints(server, pod({**restricted, "containers": [CONTAINER]})) == []
    [refusal] = complaints(server, pod({"containers": [CONTAINER]}))
    assert "violates PodSecurity" in refusal
    [refusal] = complaints(server, pod({**restricted, "containers": [{**CONTAINER, "comand": []}]}))
    assert "comand" in refusal
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [CONTAINER]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "tried"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template},
    }
    [warning] = complaints(server, deployment)
    assert "would violate PodSecurity" in warning


@pytest.mark.parametrize("file", VALUE_FILES, ids=lambda file: file.stem)
def test_the_cluster_takes_the_chart(server: ApiServer, helm: Helm, file: Path, tmp_path: Path) -> None:
    """Every object tried out, then installed by helm, its pods admitted, upgraded, taken away."""
    rendered, release = helm.render(file, release=file.stem), file.stem
    pods = [one for one in rendered if one["kind"] == "Pod"]
    assert [text for one in rendered if one not in pods for text in complaints(server, one)] == []
    where = ["--namespace", NAMESPACE, "--kubeconfig", str(server.write_kubeconfig(tmp_path / "kubeconfig"))]
    helm_does(helm, "install", release, CHART, "--values", file, *where)
    try:
        pods += [pod_of(one) for one in rendered if one["kind"] in ("Deployment", "StatefulSet")]
        assert [text for one in pods for text in complaints(server, one)] == []
        assert any(is_given_a_token(server, one) for one in pods) is (file.stem == "standalone-cluster-accounts")
        helm_does(helm, "upgrade", release, CHART, "--values", file, "--set", "podLabels.changed=yes", *where)
    finally:
        helm_does(helm, "uninstall", release, *where)


@pytest.mark.parametrize("file", VALUE_FILES, ids=lambda file: file.stem)
def test_the_cluster_takes_every_value(server: ApiServer, helm: Helm, file: Path) -> None:
    """Those for what clusters differ in, all at once."""
    rendered = helm.render(file, values={**EXTENDED, **NO_ACCOUNT})
    rendered += [pod_of(one) for one in rendered if one["kind"] in ("Deployment", "StatefulSet")]
    assert [text for one in rendered for text in complaints(server, one)] == []


@pytest.mark.parametrize("file", VALUE_FILES, ids=lambda file: file.stem)
def test_pods_are_made_where_a_quota_counts_resources(server: ApiServer, helm: Helm, file: Path) -> None:
    """The pod of ``helm test`` too. Such a namespace refuses pods that do not say what they need."""
    silent = server.try_out(pod({"containers": [CONTAINER]}), COUNTED)
    assert (silent.status, b"must specify limits.memory for: main" in silent.body) == (403, True)
    rendered = helm.render(file, values=NO_ACCOUNT)
    pods = [one for one in rendered if one["kind"] == "Pod"]
    pods += [pod_of(one) for one in rendered if one["kind"] in ("Deployment", "StatefulSet")]
    assert pods
    replies = [server.try_out(one, COUNTED) for one in pods]
    assert [one.body for one in replies if one.status != 201] == []


def create_quota(server: ApiServer) -> None:
    """A namespace with a quota, whose use the test counts in place of the controller that does elsewhere."""
    server.create_namespace(COUNTED)
    hard = {"requests.cpu": "9", "requests.memory": "9Gi", "limits.memory": "9Gi"}
    path = f"/api/v1/namespaces/{COUNTED}/resourcequotas"
    quota = server.create(path, {"metadata": {"name": "all"}, "spec": {"hard": hard}})
    quota["status"] = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    reply = server.ask("PUT", f"{path}/all/status", quota)
    assert reply.status == 200, reply.body


def pod_of(workload: Object) -> Object:
    """What a controller makes of a Deployment or StatefulSet."""
    template, claims = workload["spec"]["template"], workload["spec"].get("volumeClaimTemplates", ())
    named = [claim["metadata"]["name"] for claim in claims]
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": f"{name}-tried-0"}} for name in named]
    return pod({**template["spec"], "volumes": [*template["spec"]["volumes"], *volumes]}, **template["metadata"])


def is_given_a_token(server: ApiServer, document: Object) -> bool:
    """Whether the server mounts the account's token into the pod."""
    volumes = server.try_out(document, NAMESPACE).json()["spec"].get("volumes", ())
    return any(
        "serviceAccountToken" in one for volume in volumes for one in volume.get("projected", {}).get("sources", ())
    )


def helm_does(helm: Helm, *arguments: str | Path) -> None:
    """Without a word of warning."""
    done = helm.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", OTHER_CHARTS, ids=lambda file: file.stem)
def test_the_cluster_takes_the_other_charts_pod(server: ApiServer, file: Path) -> None:
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values = values.get("datahub-gms", values)
    added = [*values.get("sidecars", ()), *values.get("extraSidecars", ())]
    assert added
    spec = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [CONTAINER, *added],
        "volumes": values["extraVolumes"],
    }
    assert complaints(server, pod(spec)) == []


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_cluster_takes_the_manifests(server: ApiServer, file: Path) -> None:
    assert [text for document in objects_in(file) for text in complaints(server, document)] == []
