"""Traefik's provider for Kubernetes before a real API server, with the manifests of ``deploy/kubernetes/traefik``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.interop import test_what_proxies_ask as asked
from tests.interop.test_what_proxies_ask import Front, between
from tests.support.http_client import answers
from tests.support.kubernetes import ApiServer, cluster
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.proxies import Addresses, shipped

pytestmark = pytest.mark.heavy

ROUTE = "kubernetes/traefik/route.yaml"
NAMESPACE = "metadata"


@pytest.fixture(name="server", scope="module")
def _server(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A cluster that knows Traefik's kinds, all of which its provider watches."""
    with cluster(require_tool("kube-apiserver"), tmp_path_factory.mktemp("cluster")) as server:
        server.create_namespace(NAMESPACE)
        (file,) = require_tool("kubernetes-kinds").glob("*traefik*/*.yml")
        definitions = [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]
        version = "traefik.io/v1alpha1"
        kinds = [{"apiVersion": version, "kind": one["spec"]["names"]["kind"]} for one in definitions]
        server.install_kinds(file.parent.parent, kinds)
        yield server


@pytest.fixture(name="front", scope="module")
def _front(
    server: ApiServer, require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Traefik, configured by the objects, between the test and the judge.

    There are no pods: the Service is a name outside of the cluster, which Traefik has to be allowed to use.
    """

    @contextmanager
    def start(binary: Path, folder: Path, addresses: Addresses) -> Iterator[str]:
        upstream_port = addresses.upstream.rpartition(":")[2]
        own = {
            "auth-sidecar.metadata.svc.cluster.local": addresses.sidecar,
            "Host(`metadata.example.com`)": "Host(`127.0.0.1`)",
            "port: 8585": f"port: {upstream_port}",
        }
        outside = {"type": "ExternalName", "externalName": "127.0.0.1", "ports": [{"port": int(upstream_port)}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "openmetadata"}, "spec": outside}
        for manifest in (service, *yaml.safe_load_all(shipped(ROUTE, own))):
            server.create(server.path_of(manifest, NAMESPACE), manifest)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        provider = {"endpoint": server.url, "token": server.admin, "certAuthFilePath": str(server.ca_file)}
        static = yaml.safe_load(shipped("traefik/traefik.yaml", {"address: :8080": f"address: 127.0.0.1:{port}"}))
        static["providers"] = {"kubernetesCRD": {**provider, "allowExternalNameServices": True}}
        (folder / "traefik.yaml").write_text(yaml.safe_dump(static), encoding="utf-8")
        command = [binary, f"--configFile={folder / 'traefik.yaml'}"]
        # Until its routers are read it answers 404 to everything.
        ready = partial(_has_routers, url)
        with running(command, log=folder / "traefik.log", ready=ready, within=60.0):
            yield url

    with between("traefik", start, require_tool("traefik"), tmp_path_factory.mktemp("traefik")) as front:
        yield front


def _has_routers(url: str) -> bool:
    return answers(url) and not answers(url, 404)


test_every_identity_header_goes_on = asked.test_every_identity_header_goes_on
test_the_callers_own_credential_goes_on = asked.test_the_callers_own_credential_goes_on
test_what_is_judged_is_what_goes_on = asked.test_what_is_judged_is_what_goes_on
test_paths_that_clients_rely_on_pass_unchanged = asked.test_paths_that_clients_rely_on_pass_unchanged
test_the_method_is_sent_with_the_check = asked.test_the_method_is_sent_with_the_check
test_the_judge_hears_nothing_that_a_caller_says_for_a_proxy = (
    asked.test_the_judge_hears_nothing_that_a_caller_says_for_a_proxy
)
test_identities_cannot_be_forged = asked.test_identities_cannot_be_forged
test_the_judge_hears_what_it_needs = asked.test_the_judge_hears_what_it_needs
test_the_body_is_for_the_service_alone = asked.test_the_body_is_for_the_service_alone
test_many_cookies_are_no_burden = asked.test_many_cookies_are_no_burden
