"""The official charts of OpenMetadata and DataHub with the values of ``helm/other-charts``, rendered by helm."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from tests.support.helm import KUBERNETES, OTHER_CHARTS, Helm, Object, only
from tests.support.tools import ROOT

SECONDS_TO_CLOSE = 5
"""What a process needs after its drain."""
DEFAULT_GRACE = 30


@dataclass(frozen=True, slots=True)
class Product:
    """A product's chart as a guide installs it: its pods, with the values that add the sidecar, and our release."""

    name: str
    objects: list[Object]
    given: Object
    release: list[Object]

    @property
    def deployment(self) -> Object:
        """The server's, which the patch names as well."""
        command = (ROOT / "helm" / "other-charts" / "patches" / f"{self.name}.yaml").read_text(encoding="utf-8")
        name = command.partition("kubectl patch deployment ")[2].split()[0]
        return only(self.objects, "Deployment", name)

    @property
    def pod(self) -> Object:
        """The specification of the server's pods."""
        found: Object = self.deployment["spec"]["template"]["spec"]
        return found

    @property
    def containers(self) -> dict[str, Object]:
        """Those of the pod, by name."""
        return {one["name"]: one for one in self.pod["containers"]}


@pytest.fixture(name="product", scope="module", params=[file.stem for file in OTHER_CHARTS])
def _product(request: pytest.FixtureRequest, require_tool: Callable[[str], Path]) -> Product:
    helm, name = Helm(require_tool("helm")), request.param
    chart = require_tool(f"{name}-chart")
    values = ROOT / "helm" / "other-charts" / f"{name}.yaml"
    done = helm.run("template", name, chart, "--values", values, "--namespace", "metadata")
    assert done.returncode == 0, done.stderr
    given = yaml.safe_load((ROOT / "helm" / "values" / f"{name}.yaml").read_text(encoding="utf-8"))
    release = helm.render(ROOT / "helm" / "values" / f"{name}.yaml", release=f"{name}-auth")
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    return Product(name, objects, given, release)


def test_its_version_is_the_one_that_the_file_names(product: Product, require_tool: Callable[[str], Path]) -> None:
    about = yaml.safe_load((require_tool(f"{product.name}-chart") / "Chart.yaml").read_text(encoding="utf-8"))
    text = (ROOT / "helm" / "other-charts" / f"{product.name}.yaml").read_text(encoding="utf-8")
    assert f"(tested with {about['version']})" in text


def test_the_sidecar_is_in_the_servers_pods(product: Product) -> None:
    """As the file says it, beside the server, with every volume that it mounts; and the Deployment is valid."""
    assert product.containers.keys() >= {"auth-sidecar"}
    values = yaml.safe_load((ROOT / "helm" / "other-charts" / f"{product.name}.yaml").read_text(encoding="utf-8"))
    block = values.get("datahub-gms", values)
    (sidecar,) = block.get("extraSidecars", block.get("sidecars"))
    assert product.containers["auth-sidecar"] == sidecar
    assert len(product.containers) == 2
    volumes = {one["name"] for one in product.pod["volumes"]}
    assert {one["name"] for one in sidecar["volumeMounts"]} <= volumes
    kubernetes_validate.validate(product.deployment, KUBERNETES[-1], strict=False)


def test_our_service_and_policies_select_these_pods(product: Product) -> None:
    labels = product.deployment["spec"]["template"]["metadata"]["labels"]
    name = product.given["fullnameOverride"]
    service, policy = only(product.release, "Service", name), only(product.release, "NetworkPolicy", name)
    monitor = only(product.release, "PodMonitor", name)
    for selector in (service["spec"]["selector"], policy["spec"]["podSelector"], monitor["spec"]["selector"]):
        assert selector.get("matchLabels", selector).items() <= labels.items()
    ports = {one["name"] for one in product.containers["auth-sidecar"]["ports"]}
    assert {service["spec"]["ports"][0]["targetPort"], monitor["spec"]["podMetricsEndpoints"][0]["port"]} <= ports


def test_the_sidecar_forwards_to_the_servers_port(product: Product) -> None:
    """And our Service has the port that clients of the server use."""
    configuration = _configuration(product)
    port = urlsplit(configuration["upstream"]["url"]).port
    (server,) = [one for name, one in product.containers.items() if name != "auth-sidecar"]
    assert {"name": "http", "containerPort": port}.items() <= server["ports"][0].items()
    assert product.given["service"]["port"] == port


def test_metrics_of_the_server_stay_open_and_its_api_does_not(product: Product) -> None:
    """The ports that our policy opens are ports of the server, and its public one is not among them."""
    policy = only(product.release, "NetworkPolicy", product.given["fullnameOverride"])["spec"]
    opened = {one["port"] for rule in policy["ingress"] for one in rule["ports"]} - {4180, 4181}
    (server,) = [one for name, one in product.containers.items() if name != "auth-sidecar"]
    ports = {one["name"]: one["containerPort"] for one in server["ports"]}
    public = ports.pop("http")
    assert public not in opened
    assert set(ports.values()) <= opened
    assert opened - set(ports.values()) <= {5701}  # between DataHub's servers; the chart declares no port for it


def test_the_pods_have_the_time_that_draining_takes(product: Product) -> None:
    """In the time that the product's chart gives its pods, which cannot be set there with the sidecar."""
    server = _configuration(product)["server"]
    assert "drainDelay" not in server
    drain = 5 + int(server["drainTimeout"].removesuffix("s"))
    assert drain + SECONDS_TO_CLOSE <= product.pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE)


def test_the_patch_changes_the_servers_container_alone(product: Product) -> None:
    """Which has no hook that it would replace."""
    patch = yaml.safe_load((ROOT / "helm/other-charts/patches" / f"{product.name}.yaml").read_text(encoding="utf-8"))
    (patched,) = patch["spec"]["template"]["spec"]["containers"]
    assert "lifecycle" not in product.containers[patched["name"]]
    assert patched["name"] != "auth-sidecar"


def test_what_the_sidecar_reads_from_secrets_is_in_them(product: Product) -> None:
    """Of the product's chart; the password of Redis is made by hand, as our value file says."""
    references = [
        one["valueFrom"]["secretKeyRef"]
        for one in product.containers["auth-sidecar"].get("env", ())
        if "valueFrom" in one
    ]
    assert bool(references) is (product.name == "datahub")
    for reference in references:
        assert reference["key"] in only(product.objects, "Secret", reference["name"])["data"]


def test_callers_reach_the_sidecar(product: Product) -> None:
    """DataHub's own Service leads to it; OpenMetadata's cannot, so its jobs have the address of ours."""
    if product.name == "datahub":
        service = only(product.objects, "Service", product.deployment["metadata"]["name"])["spec"]
        assert {"port": 8080, "targetPort": "auth"}.items() <= service["ports"][0].items()
        return
    values = {name: text for one in product.objects if one["kind"] == "Secret" for name, text in _texts(one).items()}
    ours = f"http://{product.given['fullnameOverride']}:8585/api"
    assert [name for name, text in values.items() if text == ours] == ["SERVER_HOST_API_URL"]


def _texts(secret: Mapping[str, Any]) -> dict[str, str]:
    return {name: base64.b64decode(text).decode() for name, text in secret.get("data", {}).items()}


def _configuration(product: Product) -> Object:
    document = only(product.release, "ConfigMap", product.given["fullnameOverride"])
    found: Object = yaml.safe_load(document["data"]["config.yaml"])
    return found
