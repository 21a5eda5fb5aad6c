"""A real Kubernetes control plane: etcd and kube-apiserver, without nodes and without controllers.

So created pods do not run, and only the test creates the ``default`` account of a namespace.
"""

import http.client
import json
import secrets
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from joserfc.jwk import ECKey, RSAKey

from tests.support.http_client import TIMEOUT, Reply, answers
from tests.support.ports import free_port
from tests.support.process import running

AUDIENCE = "https://kubernetes.default.svc"
"""What tokens for the API server itself are made for."""
START_TIMEOUT = 120.0
_SERVICES = "10.96.0.0/24,fd00:10:96::/112"  # two address families


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server. ``admin`` is a token with all permissions."""

    port: int
    ca_file: Path
    admin: str

    @property
    def url(self) -> str:
        """Its address; its certificate is good for it."""
        return f"https://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Reply:
        """One request as the administrator."""
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self.admin}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        context = ssl.create_default_context(cafile=str(self.ca_file))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=TIMEOUT, context=context)
        try:
            target = f"{path}?{urlencode(query)}" if query else path
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return Reply(answer.status, tuple(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def create(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The object as the server keeps it."""
        reply = self.ask("POST", path, manifest)
        assert reply.status == 201, reply.body
        made: dict[str, Any] = reply.json()
        return made

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """With the account ``default``, which a controller makes elsewhere."""
        self.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels or {}}})
        self.create_account(name, "default")

    def create_account(self, namespace: str, name: str) -> dict[str, Any]:
        """A service account."""
        return self.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})

    def delete(self, path: str) -> None:
        """At once, whatever grace the object would have."""
        reply = self.ask("DELETE", path, gracePeriodSeconds="0")
        assert reply.status in (200, 202), reply.body

    def token(
        self, namespace: str, account: str, audience: str = AUDIENCE, *, bound: Mapping[str, str] | None = None
    ) -> str:
        """What TokenRequest gives for ten minutes; ``bound`` names the object it shall end with."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
        if bound is not None:
            spec["boundObjectRef"] = dict(bound)
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        made: str = self.create(path, {"spec": spec})["status"]["token"]
        return made

    def review(self, token: str, *audiences: str) -> dict[str, Any]:
        """What the server itself says of a token (TokenReview)."""
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status: dict[str, Any] = self.create(path, {"spec": {"token": token, "audiences": audiences}})["status"]
        return status

    def install_kinds(self, folder: Path, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Make the kinds of ``manifests`` known that the server does not know but ``folder`` defines."""
        versions = {(manifest["apiVersion"], manifest["kind"]) for manifest in manifests}
        missing = {(version.partition("/")[0], kind) for version, kind in versions if not self._kind(version, kind)}
        for file in sorted(folder.glob("*/*")):
            text = file.read_text(encoding="utf-8")
            if any(f"group: {group}" in text and f"kind: {kind}" in text for group, kind in missing):
                for definition in yaml.load_all(text, yaml.CSafeLoader):
                    if _defines(definition) in missing:
                        self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        deadline = time.monotonic() + START_TIMEOUT
        while unknown := [one for one in versions if not self._kind(*one)]:
            assert time.monotonic() < deadline, f"the server does not know {unknown}"
            time.sleep(0.05)

    def path_of(self, manifest: Mapping[str, Any], namespace: str) -> str:
        """Where objects of this kind are created; a namespaced kind in its own namespace or in ``namespace``."""
        kind = self._kind(manifest["apiVersion"], manifest["kind"])
        assert kind is not None, f"the server does not know {manifest['kind']}"
        within = f"/namespaces/{manifest['metadata'].get('namespace', namespace)}" if kind["namespaced"] else ""
        return f"{_root(manifest['apiVersion'])}{within}/{kind['name']}"

    def _kind(self, version: str, kind: str) -> dict[str, Any] | None:
        """The server's description of a kind, once it serves it."""
        reply = self.ask("GET", _root(version))
        known: list[dict[str, Any]] = reply.json()["resources"] if reply.status == 200 else []
        return next((one for one in known if one["kind"] == kind and "/" not in one["name"]), None)

    def write_kubeconfig(self, path: Path) -> Path:
        """How programs such as helm reach it as the administrator."""
        named = {
            "clusters": {"cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}},
            "users": {"user": {"token": self.admin}},
            "contexts": {"context": {"cluster": "only", "user": "only"}},
        }
        lists = {name: [{"name": "only", **one}] for name, one in named.items()}
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "only", **lists}
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def try_out(self, manifest: Mapping[str, Any], namespace: str) -> Reply:
        """Judge an object as if it were created, unknown and doubled fields included; nothing is kept."""
        path = self.path_of(manifest, namespace)
        return self.ask("POST", path, manifest, dryRun="All", fieldValidation="Strict")


@contextmanager
def etcd(program: Path, folder: Path) -> Iterator[str]:
    """Run etcd until the block ends; its address."""
    client, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    options = {
        "name": "only",
        "data-dir": folder / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"only={peer}",
    }
    command = [str(program), *(f"--{name}={value}" for name, value in options.items()), "--unsafe-no-fsync"]
    with running(command, log=folder / "etcd.log", ready=lambda: answers(f"{client}/readyz", 200), within=60.0):
        yield client


@contextmanager
def api_server(
    program: Path,
    folder: Path,
    store: str,
    keys: Sequence[RSAKey | ECKey],
    issuers: Sequence[str] = (AUDIENCE,),
    port: int | None = None,
) -> Iterator[ApiServer]:
    """Run kube-apiserver over the etcd at ``store`` until the block ends.

    The first of ``keys`` and of ``issuers`` makes tokens; all are accepted. Started again in the same ``folder`` and on
    the same ``port`` it is the same cluster.
    """
    port = port or free_port()
    admin = secrets.token_urlsafe()
    tokens = folder / "tokens.csv"
    tokens.write_text(f'{admin},admin,admin,"system:masters"\n', encoding="ascii")
    signing, accepted = folder / "signing.pem", folder / "accepted.pem"
    signing.write_bytes(keys[0].as_pem(private=True))
    accepted.write_bytes(b"".join(key.as_pem(private=False) for key in keys))
    options = {
        "etcd-servers": store,
        "bind-address": "127.0.0.1",
        "advertise-address": "127.0.0.1",
        "secure-port": port,
        "cert-dir": folder / "certificates",
        "token-auth-file": tokens,
        "authorization-mode": "RBAC",
        "service-cluster-ip-range": _SERVICES,
        "service-account-signing-key-file": signing,
        "service-account-key-file": accepted,
        "api-audiences": AUDIENCE,
    }
    command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
    command += [f"--service-account-issuer={issuer}" for issuer in issuers]
    server = ApiServer(port, folder / "certificates" / "apiserver.crt", admin)
    with running(command, log=folder / "kube-apiserver.log", ready=lambda: _is_ready(server), within=START_TIMEOUT):
        yield server


@contextmanager
def cluster(program: Path, folder: Path) -> Iterator[ApiServer]:
    """Both until the block ends; ``program`` is kube-apiserver, beside which etcd is."""
    with (
        etcd(program.with_name("etcd"), folder) as store,
        api_server(program, folder, store, [RSAKey.generate_key(2048)]) as server,
    ):
        yield server


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _defines(document: Any) -> tuple[str, str] | None:
    """Group and kind of a CustomResourceDefinition."""
    if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
        return None
    return document["spec"]["group"], document["spec"]["names"]["kind"]


def _is_ready(server: ApiServer) -> bool:
    try:
        return server.ask("GET", "/readyz").status == 200
    except (OSError, http.client.HTTPException):
        return False
