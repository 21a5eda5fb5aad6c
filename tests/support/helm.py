"""The chart and its value files, rendered by the real helm."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.support.tools import ROOT

CHART = ROOT / "helm" / "auth-sidecar"
VALUE_FILES = sorted((ROOT / "helm" / "values").glob("*.yaml"))
OTHER_CHARTS = sorted((ROOT / "helm" / "other-charts").glob("*.yaml"))
# Those whose schemas the validator has, from the oldest that the chart is tried on.
KUBERNETES = sorted(
    (
        folder.name.removeprefix("v").removesuffix(".0-local")
        for folder in (Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema").glob("v*-local")
        if int(folder.name.split(".")[1]) >= 29
    ),
    key=lambda version: int(version.split(".")[1]),
)

Object = dict[str, Any]


RESTRICTED_CONTAINER: Object = {
    "image": "docker.io/library/busybox:1.37",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsUser": 65532,
    },
    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}},
}
# Values for what clusters differ in, all set, as a restricted namespace with two address families takes them.
EXTENDED: Object = {
    "image": {"registry": "registry.example.com/mirror"},
    "deploymentAnnotations": {"reloader.stakater.com/auto": "true"},
    "strategy": {"rollingUpdate": {"maxSurge": "50%"}},
    "minReadySeconds": 3,
    "revisionHistoryLimit": 2,
    "lifecycle": {"postStart": {"exec": {"command": ["python", "-c", "pass"]}}},
    "startupProbe": {"failureThreshold": 99},
    "livenessProbe": {"periodSeconds": 21},
    "readinessProbe": {"periodSeconds": 3},
    "schedulerName": "bin-packing",
    "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["idp.example.com"]}],
    "dnsPolicy": "ClusterFirst",
    "dnsConfig": {"searches": ["example.com"], "options": [{"name": "ndots", "value": "2"}]},
    "extraContainers": [{"name": "helper", **RESTRICTED_CONTAINER}],
    "extraInitContainers": [{"name": "waits", **RESTRICTED_CONTAINER}],
    "podSpec": {"shareProcessNamespace": True, "terminationGracePeriodSeconds": 77},
    "containerSpec": {"terminationMessagePolicy": "FallbackToLogsOnError"},
    "service": {
        "type": "LoadBalancer",
        "labels": {"team": "metadata"},
        "nodePort": 30080,
        "loadBalancerClass": "example.com/internal",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv4", "IPv6"],
        "spec": {"sessionAffinity": "ClientIP", "ports": [{"name": "http", "appProtocol": "http"}]},
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"cert-manager.io/cluster-issuer": "internal"},
        "labels": {"team": "metadata"},
        "hosts": [
            {"host": "metadata.example.com", "paths": [{"path": "/"}]},
            {"host": "auth.example.com", "paths": [{"path": "/oauth2", "pathType": "Exact"}]},
        ],
        "tls": [{"secretName": "metadata-tls", "hosts": ["metadata.example.com"]}],
    },
    "httpRoute": {
        "enabled": True,
        "annotations": {"example.com/owner": "metadata"},
        "labels": {"team": "metadata"},
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
        "hostnames": ["metadata.example.com"],
        "matches": [{"path": {"type": "PathPrefix", "value": "/api"}}],
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["Server"]}}],
        "timeouts": {"request": "1m"},
    },
}


@dataclass(frozen=True, slots=True)
class Helm:
    """The program at ``program``, with folders of its own."""

    program: Path

    def run(self, *arguments: object, within: float = 60) -> subprocess.CompletedProcess[str]:
        """What it says to these arguments."""
        with tempfile.TemporaryDirectory() as home:
            folders = {f"HELM_{name}_HOME": home for name in ("CACHE", "CONFIG", "DATA")}
            return subprocess.run(
                [self.program, *map(str, arguments)],
                env={**os.environ, **folders},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=within,
                check=False,
            )

    def render(
        self, *files: Path, values: Object | None = None, kubernetes: str = KUBERNETES[-1], release: str = "release"
    ) -> list[Object]:
        """The objects of the chart with these value files and then ``values``; fails with what helm says."""
        done = self._template(files, values, kubernetes, release)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def refusal(self, *files: Path, values: Object) -> str:
        """What helm says of values that the chart does not take."""
        done = self._template(files, values, KUBERNETES[-1], "release")
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _template(
        self, files: Sequence[Path], values: Object | None, kubernetes: str, release: str
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            last = Path(folder) / "values.yaml"
            last.write_text(yaml.safe_dump(values or {}), encoding="utf-8")
            arguments = [word for file in (*files, last) for word in ("--values", str(file))]
            where = ["--namespace", "metadata", "--kube-version", kubernetes]
            return self.run("template", release, CHART, *where, *arguments)


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """Those of this kind."""
    return [one for one in objects if one["kind"] == kind]


def only(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The one of this kind and name."""
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def pods(objects: Sequence[Object]) -> list[Object]:
    """The specification of every pod that these objects are or make."""
    made = [one["spec"]["template"] for one in objects if one["kind"] in ("Deployment", "StatefulSet")]
    return [one["spec"] for one in (*of_kind(objects, "Pod"), *made)]


def containers(pod: Object) -> list[Object]:
    """Its containers, those that start before the others included."""
    return [*pod.get("initContainers", ()), *pod["containers"]]
