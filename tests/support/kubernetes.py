"""A real Kubernetes control plane: etcd and kube-apiserver, without nodes and without controllers.

So nothing runs the pods that are created, and nobody but the test makes a namespace's ``default`` account.
"""

import http.client
import json
import secrets
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from joserfc.jwk import ECKey, RSAKey

from tests.support.http_client import TIMEOUT, Reply, answers
from tests.support.ports import free_port
from tests.support.process import running

AUDIENCE = "https://kubernetes.default.svc"
"""What tokens for the API server itself are made for."""
START_TIMEOUT = 120.0
_SERVICES = "10.96.0.0/24"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """An API server that is up. ``admin`` is a token of somebody who may do everything."""

    port: int
    ca_file: Path
    admin: str

    @property
    def url(self) -> str:
        """Its address; its certificate is good for it."""
        return f"https://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None, *, token: str | None = None, **query: str) -> Reply:
        """One request as the administrator, or with ``token``; an empty one is nobody's."""
        presented = self.admin if token is None else token
        headers = {"Accept": "application/json, */*"}
        if presented:
            headers["Authorization"] = f"Bearer {presented}"
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

    def path_of(self, manifest: Mapping[str, Any], namespace: str) -> str:
        """Where objects of this kind are created; a namespaced kind in its own namespace or in ``namespace``."""
        version = manifest["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        kinds = self.ask("GET", root)
        assert kinds.status == 200, f"there is no {version} here"
        [kind] = [
            kind for kind in kinds.json()["resources"] if kind["kind"] == manifest["kind"] and "/" not in kind["name"]
        ]
        if not kind["namespaced"]:
            return f"{root}/{kind['name']}"
        return f"{root}/namespaces/{manifest['metadata'].get('namespace', namespace)}/{kind['name']}"

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
    command = [program, *(f"--{name}={value}" for name, value in options.items()), "--unsafe-no-fsync"]
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
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
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


def _is_ready(server: ApiServer) -> bool:
    try:
        return server.ask("GET", "/readyz").status == 200
    except (OSError, http.client.HTTPException):
        return False
