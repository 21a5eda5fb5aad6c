"""Values of the chart for what clusters differ in: each is rendered, what contradicts itself is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.helm import CHART, EXTENDED, KUBERNETES, VALUE_FILES, Helm, Object, containers, of_kind, only, pods
from tests.support.tools import ROOT

NAME = "release-auth-sidecar"
VALUES = ROOT / "helm" / "values"
REDIS = VALUES / "standalone-redis.yaml"
SQLITE = VALUES / "standalone-sqlite.yaml"
BESIDE = VALUES / "beside.yaml"
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{KUBERNETES[-1]}.0-local"
OWN_REDIS: Object = {"redis": {"enabled": True, "password": "x"}}


@pytest.fixture(name="helm", scope="module")
def _helm(require_tool: Callable[[str], Path]) -> Helm:
    return Helm(require_tool("helm"))


def deployment(objects: list[Object]) -> Object:
    found: Object = only(objects, "Deployment", NAME)["spec"]
    return found


def pod_of(objects: list[Object]) -> Object:
    found: Object = deployment(objects)["template"]["spec"]
    return found


def sidecar_of(objects: list[Object]) -> Object:
    (found,) = [one for one in containers(pod_of(objects)) if one["name"] == "auth-sidecar"]
    return found


@pytest.mark.parametrize("file", VALUE_FILES, ids=lambda file: file.stem)
def test_every_shape_takes_all_of_them(helm: Helm, file: Path) -> None:
    """In the oldest and the newest Kubernetes."""
    kinds = set()
    for version in (KUBERNETES[0], KUBERNETES[-1]):
        for document in helm.render(file, values=EXTENDED, kubernetes=version):
            kinds.add(document["kind"])
            if document["apiVersion"].partition("/")[0] not in ("monitoring.coreos.com", "gateway.networking.k8s.io"):
                kubernetes_validate.validate(document, version, strict=True)
    assert {"Ingress", "HTTPRoute", "Service"} <= kinds


def test_values_of_the_deployment_and_its_pods_are_rendered(helm: Helm) -> None:
    objects = helm.render(REDIS, values=EXTENDED)
    assert only(objects, "Deployment", NAME)["metadata"]["annotations"] == EXTENDED["deploymentAnnotations"]
    spec = deployment(objects)
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}
    assert (spec["minReadySeconds"], spec["revisionHistoryLimit"]) == (3, 2)
    pod = spec["template"]["spec"]
    for name in ("schedulerName", "hostAliases", "dnsPolicy", "dnsConfig"):
        assert pod[name] == EXTENDED[name], name
    assert [one["name"] for one in pod["containers"]] == ["auth-sidecar", "helper"]
    assert [one["name"] for one in pod["initContainers"]] == ["waits"]
    assert (pod["shareProcessNamespace"], pod["terminationGracePeriodSeconds"]) == (True, 77)
    sidecar = pod["containers"][0]
    assert sidecar["image"] == "registry.example.com/mirror/auth-sidecar:0.1.0"
    assert sidecar["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert sidecar["lifecycle"] == EXTENDED["lifecycle"]
    assert sidecar["readinessProbe"]["periodSeconds"] == 3
    assert sidecar["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "auth-admin"}
    assert sidecar["livenessProbe"]["periodSeconds"] == 21
    assert sidecar["startupProbe"]["failureThreshold"] == 99


@pytest.mark.parametrize("zero", ["minReadySeconds", "revisionHistoryLimit"])
def test_zero_is_a_number(helm: Helm, zero: str) -> None:
    assert zero not in deployment(helm.render())
    assert deployment(helm.render(values={zero: 0}))[zero] == 0


def test_an_init_container_runs_before_a_native_sidecar(helm: Helm) -> None:
    pod = pod_of(helm.render(BESIDE, values=EXTENDED))
    assert [one["name"] for one in pod["initContainers"]] == ["waits", "auth-sidecar"]
    assert [one["name"] for one in pod["containers"]] == ["server", "helper"]
    assert pod["initContainers"][1]["lifecycle"].keys() == {"postStart", "preStop"}


@pytest.mark.parametrize("handler", ["exec", "grpc", "tcpSocket"])
def test_a_probe_has_one_handler(helm: Helm, handler: str) -> None:
    probe = sidecar_of(helm.render(values={"readinessProbe": {handler: {"port": 1}}}))["readinessProbe"]
    assert probe.keys() == {handler, "periodSeconds", "timeoutSeconds", "failureThreshold"}
    moved = sidecar_of(helm.render(values={"livenessProbe": {"httpGet": {"scheme": "HTTPS"}}}))["livenessProbe"]
    assert moved["httpGet"] == {"path": "/livez", "port": "auth-admin", "scheme": "HTTPS"}


def fields_of(schema: str) -> Object:
    """A value of the right type, that the chart has nowhere, for each field that Kubernetes knows of this type."""
    samples = {"integer": 4242, "boolean": "not a default", "string": "marker", "object": {"marker": "x"}}
    fields = json.loads((SCHEMAS / f"{schema}-v1.json").read_text(encoding="utf-8"))["properties"]
    assert len(fields) > 20
    return {name: samples.get(one.get("type", ["object"])[0], [{"name": "marker"}]) for name, one in fields.items()}


def missing(wanted: Object, rendered: Object) -> list[str]:
    """The fields of ``wanted`` that are not rendered; maps and lists may have more elements."""
    return [name for name, value in wanted.items() if not _has(rendered.get(name), value)]


def _has(rendered: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(rendered, dict) and value.items() <= rendered.items()
    if isinstance(value, list):
        return isinstance(rendered, list) and all(one in rendered for one in value)
    return bool(rendered == value)


def test_every_field_that_kubernetes_has_finds_a_way_in(helm: Helm) -> None:
    """Of a pod and of a container, those of the newest version included; the pod of Redis likewise."""
    pod, container = fields_of("podspec"), fields_of("container")
    values: Object = {"podSpec": pod, "containerSpec": {name: one for name, one in container.items() if name != "name"}}
    rendered = pod_of(helm.render(values=values))
    assert missing(pod, rendered) == []
    (own,) = [one for one in rendered["containers"] if one["name"] == "auth-sidecar"]
    assert missing(values["containerSpec"], own) == []
    objects = helm.render(values={"redis": {**OWN_REDIS["redis"], **values}})
    rendered = only(objects, "StatefulSet", f"{NAME}-redis")["spec"]["template"]["spec"]
    assert missing(pod, rendered) == []
    (own,) = [one for one in rendered["containers"] if one["name"] == "redis"]
    assert missing(values["containerSpec"], own) == []


def test_what_is_merged_replaces_only_what_it_names(helm: Helm) -> None:
    """Elements of lists by their names, mounts by their paths; null removes; lists without names are replaced."""
    pod = {
        "securityContext": {"fsGroup": None, "supplementalGroups": [1]},
        "enableServiceLinks": None,
        "containers": [{"name": "auth-sidecar", "tty": True}, {"name": "other"}],
        "volumes": [{"name": "sidecar-tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "more", "emptyDir": {}}],
    }
    container = {
        "args": ["serve"],
        "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
        "ports": [{"containerPort": 4180, "name": "auth", "protocol": "TCP"}, {"containerPort": 9}],
        "volumeMounts": [{"mountPath": "/tmp", "readOnly": True}, {"mountPath": "/more", "name": "sidecar-tmp"}],
        "resources": {"limits": {"cpu": "2", "memory": None}},
    }
    values = {"podSpec": pod, "containerSpec": container, "extraEnv": [{"name": "A", "value": "1"}]}
    before, after = pod_of(helm.render()), pod_of(helm.render(values=values))
    assert after["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        "supplementalGroups": [1],
    }
    assert "enableServiceLinks" not in after
    assert [one["name"] for one in after["containers"]] == ["auth-sidecar", "other"]
    volumes = {one.pop("name"): one for one in after["volumes"]}
    assert volumes["sidecar-tmp"] == {"emptyDir": {"sizeLimit": "1Gi"}}
    assert volumes.keys() == {one["name"] for one in before["volumes"]} | {"more"}
    sidecar, own = after["containers"][0], before["containers"][0]
    assert sidecar["tty"] is True
    assert sidecar["args"] == ["serve"]
    assert sidecar["env"] == container["env"]
    assert sidecar["ports"] == [
        {"containerPort": 4180, "name": "auth", "protocol": "TCP"},
        {"containerPort": 4181, "name": "auth-admin"},
        {"containerPort": 9},
    ]
    mounts = {one["mountPath"]: one for one in sidecar["volumeMounts"]}
    assert mounts["/tmp"] == {"name": "sidecar-tmp", "mountPath": "/tmp", "readOnly": True}
    assert mounts.keys() == {one["mountPath"] for one in own["volumeMounts"]} | {"/more"}
    assert sidecar["resources"] == {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2"}}


def test_large_numbers_stay_whole_in_what_is_merged(helm: Helm) -> None:
    """OpenShift's ids, which would be 1.00065e+09."""
    values = {"podSecurityContext": {"fsGroup": 1000650000}, "securityContext": {"runAsUser": 1000650000}}
    objects = helm.render(values={**values, **OWN_REDIS})
    for pod in pods(objects):
        assert pod["securityContext"]["fsGroup"] == 1000650000
        assert all(one["securityContext"]["runAsUser"] == 1000650000 for one in pod["containers"])
    assert "e+09" not in yaml.safe_dump_all(objects)


def test_the_pod_of_the_helm_test_is_where_the_sidecar_is(helm: Helm) -> None:
    """It resolves the same names and has the same mounts, runs to its end, and keeps no distance from the sidecar."""
    labels = {"matchLabels": {"app.kubernetes.io/name": "auth-sidecar"}}
    distance = [{"labelSelector": labels, "topologyKey": "kubernetes.io/hostname"}]
    node: Object = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": []}]}}
    values = {
        "affinity": {
            "nodeAffinity": node,
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": distance},
        },
        "priorityClassName": "high",
        "tolerations": [{"operator": "Exists"}],
        "podSpec": {
            **EXTENDED["podSpec"],
            "containers": [{"name": "other"}],
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        },
        "containerSpec": {"args": ["serve"], "volumeMounts": [{"name": "ca", "mountPath": "/ca"}]},
    }
    objects = helm.render(SQLITE, values={**EXTENDED, "strategy": {}, **values})
    (pod,), beside = [one["spec"] for one in of_kind(objects, "Pod")], pod_of(objects)
    for name in ("hostAliases", "dnsPolicy", "dnsConfig", "schedulerName", "priorityClassName", "tolerations"):
        assert pod[name] == beside[name], name
    assert pod["shareProcessNamespace"] is True
    assert pod["affinity"] == {"nodeAffinity": node}
    assert pod["restartPolicy"] == "Never"
    assert [one["name"] for one in pod["containers"]] == ["answers", "check"]
    check, sidecar = pod["containers"][1], sidecar_of(objects)
    assert check["args"] == ["check", "--config", "/etc/sidecar/config.yaml"]
    for name in ("image", "volumeMounts", "resources", "securityContext"):
        assert check[name] == sidecar[name], name
    assert {one["name"] for one in check["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}


@pytest.mark.parametrize("egress", [False, True])
def test_the_pod_of_the_helm_test_reaches_what_the_sidecar_reaches(helm: Helm, egress: bool) -> None:
    """And the sidecar itself; else its check would pass where the sidecar's connections are refused."""
    objects = helm.render(REDIS, values={"networkPolicy": {"egress": {"enabled": egress}}})
    own = only(objects, "NetworkPolicy", NAME)["spec"]
    policy = only(objects, "NetworkPolicy", f"{NAME}-test")["spec"]
    (pod,) = of_kind(objects, "Pod")
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])
    if not egress:
        assert ("egress" in own, policy["egress"]) == (False, [{}])
        return
    to_the_sidecar, *others = policy["egress"]
    assert others == own["egress"]
    assert to_the_sidecar == {"ports": [{"port": 4180}], "to": [{"podSelector": own["podSelector"]}]}


def test_every_service_has_the_families_of_the_cluster(helm: Helm) -> None:
    """The metrics Service and that of Redis too, or they would have no address in a cluster of the other family."""
    services = of_kind(helm.render(REDIS, values=EXTENDED), "Service")
    assert {one["metadata"]["name"] for one in services} == {NAME, f"{NAME}-admin", f"{NAME}-redis"}
    for one in services:
        assert (one["spec"]["ipFamilyPolicy"], one["spec"]["ipFamilies"]) == ("PreferDualStack", ["IPv4", "IPv6"])
    assert "ipFamil" not in yaml.safe_dump_all(helm.render(REDIS))


def test_values_of_the_service_are_rendered(helm: Helm) -> None:
    service = only(helm.render(values={**EXTENDED, **OWN_REDIS}), "Service", NAME)
    assert service["metadata"]["labels"]["team"] == "metadata"
    port = {"name": "http", "port": 80, "targetPort": "auth", "nodePort": 30080, "appProtocol": "http"}
    wanted = {name: one for name, one in EXTENDED["service"].items() if name not in ("labels", "nodePort", "spec")}
    assert missing({**wanted, "sessionAffinity": "ClientIP", "ports": [port]}, service["spec"]) == []


def test_an_ingress_leads_to_the_service(helm: Helm) -> None:
    ingress = only(helm.render(values={**EXTENDED, **OWN_REDIS}), "Ingress", NAME)
    assert ingress["metadata"]["annotations"] == EXTENDED["ingress"]["annotations"]
    assert ingress["metadata"]["labels"]["team"] == "metadata"
    backend = {"service": {"name": NAME, "port": {"name": "http"}}}
    assert ingress["spec"] == {
        "ingressClassName": "nginx",
        "tls": EXTENDED["ingress"]["tls"],
        "rules": [
            {
                "host": "metadata.example.com",
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            },
            {
                "host": "auth.example.com",
                "http": {"paths": [{"path": "/oauth2", "pathType": "Exact", "backend": backend}]},
            },
        ],
    }
    (plain,) = of_kind(helm.render(values={"ingress": {"enabled": True}}), "Ingress")
    assert plain["spec"] == {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}


def test_a_route_leads_to_the_service(helm: Helm) -> None:
    route = only(helm.render(BESIDE, values=EXTENDED), "HTTPRoute", NAME)
    given = EXTENDED["httpRoute"]
    assert route["metadata"]["annotations"] == given["annotations"]
    rule = {name: given[name] for name in ("matches", "filters", "timeouts")}
    assert route["spec"] == {
        "parentRefs": given["parentRefs"],
        "hostnames": given["hostnames"],
        "rules": [{**rule, "backendRefs": [{"name": NAME, "port": 8585}]}],
    }
    kinds = {one["kind"] for one in helm.render(BESIDE)}
    assert not kinds & {"Ingress", "HTTPRoute"}


def test_pods_are_scaled_by_other_metrics_too(helm: Helm) -> None:
    memory = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}},
    }
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    values = {"autoscaling": {"metrics": [memory], "behavior": behavior}}
    scaler = only(helm.render(REDIS, values=values), "HorizontalPodAutoscaler", NAME)
    kubernetes_validate.validate(scaler, KUBERNETES[-1], strict=True)
    assert [one["resource"]["name"] for one in scaler["spec"]["metrics"]] == ["cpu", "memory"]
    assert scaler["spec"]["behavior"] == behavior


def test_images_come_from_a_mirror_and_by_digest(helm: Helm) -> None:
    digest = f"sha256:{'a' * 64}"
    mirror = {"registry": "registry.example.com:5000", "digest": digest}
    objects = helm.render(values={"image": mirror, "redis": {**OWN_REDIS["redis"], "image": mirror}})
    images = {one["image"] for pod in pods(objects) for one in containers(pod)}
    assert images == {f"registry.example.com:5000/{name}@{digest}" for name in ("auth-sidecar", "redis")}
    images = {one["image"] for pod in pods(helm.render(values=OWN_REDIS)) for one in containers(pod)}
    assert images == {"auth-sidecar:0.1.0", "redis:8.2-alpine"}


@pytest.mark.parametrize("file", [SQLITE, BESIDE, VALUES / "openmetadata.yaml"], ids=lambda file: file.stem)
def test_an_existing_configmap_takes_the_place_of_config(helm: Helm, file: Path) -> None:
    """Where the sidecar and the test read it; the server's own probe stands in for the wait for its port."""
    probe = {"exec": {"command": ["true"]}}
    values: Object = {"existingConfigMap": "shared", "redis": {"enabled": False}}
    if file == BESIDE:
        values["beside"] = {"container": {"readinessProbe": probe}}
    objects = helm.render(file, values=values)
    assert "config.yaml" not in yaml.safe_dump_all(of_kind(objects, "ConfigMap"))
    mounted = [one for pod in pods(objects) for one in pod.get("volumes", ()) if one["name"] == "sidecar-config"]
    assert all(one["configMap"] == {"name": "shared"} for one in mounted)
    if file == VALUES / "openmetadata.yaml":
        assert mounted == []  # the other chart mounts it
        return
    assert len(mounted) == (2 if file == SQLITE else 1)
    annotations = deployment(objects)["template"]["metadata"].get("annotations") or {}
    assert "checksum/config" not in annotations


ROLLING: Object = {"strategy": {"type": "RollingUpdate"}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({**ROLLING, "persistence": {"accessModes": ["ReadWriteMany"]}}, "strategy RollingUpdate: with a SQLite store"),
        ({**ROLLING, "persistence": {"accessModes": ["ReadWriteOncePod"]}}, "strategy RollingUpdate: with a SQLite"),
        ({**ROLLING, "persistence": {"existingClaim": "mine"}}, "strategy RollingUpdate: with a SQLite store"),
        ({"strategy": {"rollingUpdate": {}}, "persistence": {"existingClaim": "a"}}, "strategy RollingUpdate: with"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
        ({"existingConfigMap": "mine", **OWN_REDIS}, "existingConfigMap and redis.enabled"),
        ({"hostAliases": [{"ip": "10.0.0.9"}]}, "/hostAliases/0"),
        ({"dnsConfig": {"option": []}}, "'option'"),
        ({"readinessProbe": {"period": 3}}, "'period'"),
        ({"service": {"ipFamilyPolicy": "Dual"}}, "/service/ipFamilyPolicy"),
        ({"service": {"ipFamilies": ["IPv5"]}}, "/service/ipFamilies"),
        ({"strategy": {"type": "OnDelete"}}, "/strategy/type"),
        ({"extraContainers": [{"image": "x"}]}, "/extraContainers/0"),
        ({"extraContainers": [{"name": "auth-sidecar"}]}, "/extraContainers/0/name"),
        ({"ingress": {"hosts": ["metadata.example.com"]}}, "/ingress/hosts/0"),
        ({"ingress": {"hosts": [{"paths": [{"path": "api"}]}]}}, "/ingress/hosts/0/paths/0/path"),
        ({"httpRoute": {"rules": []}}, "'rules'"),
        ({"image": {"registry": "https://registry.example.com/"}}, "/image/registry"),
        ({"minReadySeconds": -1}, "/minReadySeconds"),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused_with_a_sentence(helm: Helm, values: Object, sentence: str) -> None:
    assert sentence in helm.refusal(values=values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}, "lifecycle.preStop: a native sidecar"),
        ({"existingConfigMap": "mine"}, "existingConfigMap: the chart cannot set upstream.waitAtStart"),
    ],
    ids=str,
)
def test_what_would_lose_requests_beside_a_server_is_refused(helm: Helm, values: Object, sentence: str) -> None:
    assert sentence in helm.refusal(BESIDE, values=values)
    changed: Object = {"beside": {"nativeSidecar": False}, "config": {"upstream": {"waitAtStart": "1m"}}}
    assert helm.render(BESIDE, values={**values, **changed})


def test_two_pods_of_one_file_are_announced(helm: Helm, tmp_path: Path) -> None:
    """On one node they share the file's locks; on another the new pod waits for the volume."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(ROLLING), encoding="utf-8")
    strategy = deployment(helm.render(SQLITE, values=ROLLING))["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    command = ("install", "release", CHART, "--dry-run=client", "--values", SQLITE)
    assert "WARNING: strategy is RollingUpdate" in helm.run(*command, "--values", file).stdout
    assert "WARNING" not in helm.run(*command).stdout.partition("\nNOTES:\n")[2]
