"""Service account tokens of a real API server, from their making to their end."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey

from tests.support.forge import OTHER_RSA, Key
from tests.support.forge import token as forged
from tests.support.http_client import Reply, request
from tests.support.kubernetes import AUDIENCE, ApiServer, api_server, etcd
from tests.support.ports import free_port
from tests.support.sidecar_process import Sidecar, running_sidecar

pytestmark = pytest.mark.heavy

OURS = "metadata"
SIDECAR = ("platform", "auth-sidecar")
KEY = RSAKey.generate_key(2048)


@pytest.fixture(scope="module", name="program")
def _program(require_tool: Callable[[str], Path]) -> Path:
    return require_tool("kube-apiserver")


@pytest.fixture(scope="module", name="world")
def _world(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiServer, Sidecar]]:
    """A cluster that is only read or added to, and a sidecar that trusts it."""
    folder = tmp_path_factory.mktemp("cluster")
    with (
        etcd(program.with_name("etcd"), folder) as store,
        api_server(program, folder, store, [KEY]) as server,
        sidecar_in(server, folder) as sidecar,
    ):
        yield server, sidecar


@contextmanager
def sidecar_in(server: ApiServer, folder: Path, **options: Any) -> Iterator[Sidecar]:
    """A sidecar with an account of its own, as if it ran in a pod there."""
    populate(server)
    (folder / "token").write_text(server.token(*SIDECAR), encoding="ascii")
    with running_sidecar(folder, configuration(server, folder, **options)) as sidecar:
        yield sidecar


def populate(server: ApiServer) -> None:
    """The sidecar's account, and one that calls it."""
    for namespace, account in (SIDECAR, ("data", "crawler")):
        server.create_namespace(namespace)
        server.create_account(namespace, account)


def configuration(server: ApiServer, folder: Path, **options: Any) -> dict[str, Any]:
    configs = {
        "audiences": [OURS],
        "apiServer": server.url,
        "caFile": str(server.ca_file),
        "tokenFile": str(folder / "token"),
        **options,
    }
    return {
        "authentication": {"authenticators": [{"type": "kubernetes", "configs": configs}]},
        "keys": {"unknownKidCooldown": "100ms"},
    }


def userinfo(sidecar: Sidecar, token: str) -> Reply:
    return request(f"{sidecar.url}/oauth2/userinfo", headers=[("Authorization", f"Bearer {token}")])


def verdict(sidecar: Sidecar, token: str) -> tuple[int, str]:
    """Status, and who it is or why not."""
    reply = userinfo(sidecar, token)
    document = reply.json()
    return reply.status, document["actor"]["id"] if reply.status == 200 else document["reason"]


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims."""
    header, claims, _ = token.split(".")
    return json.loads(base64.urlsafe_b64decode(f"{header}==")), json.loads(base64.urlsafe_b64decode(f"{claims}=="))


def resigned(token: str, key: Key = KEY, **changes: Any) -> str:
    """The token with other claims, signed anew."""
    header, claims = parts(token)
    return forged({**claims, **changes}, header, key=key)


CRAWLER = (200, "system:serviceaccount:data:crawler")
REFUSED = (401, "token_invalid")


def test_an_account_is_a_service(world: tuple[ApiServer, Sidecar]) -> None:
    server, sidecar = world
    token = server.token("data", "crawler", OURS)
    document = userinfo(sidecar, token).json()
    assert document["actor"]["type"] == "SERVICE"
    assert document["actor"]["id"] == "system:serviceaccount:data:crawler"
    claims = parts(token)[1]
    assert (document["issuer"], document["tokenId"]) == (claims["iss"], claims["jti"])


def test_a_token_may_be_bound_to_an_object(world: tuple[ApiServer, Sidecar]) -> None:
    """As the kubelet binds those that it projects."""
    server, sidecar = world
    for kind, path in create_bindable(server, "data", "bound").items():
        bound = {"kind": kind, "apiVersion": "v1", "name": "bound"}
        token = server.token("data", "crawler", OURS, bound=bound)
        assert parts(token)[1]["kubernetes.io"][kind.lower()]["name"] == "bound", path
        assert verdict(sidecar, token) == CRAWLER


def create_bindable(server: ApiServer, namespace: str, name: str) -> dict[str, str]:
    """A pod and a secret; their paths by kind."""
    root = f"/api/v1/namespaces/{namespace}"
    container = {"name": "main", "image": "none"}
    server.create(
        f"{root}/pods",
        {"metadata": {"name": name}, "spec": {"serviceAccountName": "crawler", "containers": [container]}},
    )
    server.create(f"{root}/secrets", {"metadata": {"name": name}})
    return {"Pod": f"{root}/pods/{name}", "Secret": f"{root}/secrets/{name}"}


def test_what_was_made_for_others_is_refused(world: tuple[ApiServer, Sidecar]) -> None:
    """Above all the token that every pod has for the API server."""
    server, sidecar = world
    assert verdict(sidecar, server.token("data", "crawler")) == REFUSED
    assert verdict(sidecar, server.token("data", "crawler", "another")) == REFUSED


def test_another_cluster_of_the_same_name_is_not_this_one(world: tuple[ApiServer, Sidecar]) -> None:
    server, sidecar = world
    token = server.token("data", "crawler", OURS)
    assert verdict(sidecar, resigned(token)) == CRAWLER  # so it is the key alone
    assert verdict(sidecar, resigned(token, OTHER_RSA)) == REFUSED
    assert verdict(sidecar, resigned(token, iss="https://kubernetes.default.svc.cluster.local")) == REFUSED


def test_a_token_ends(world: tuple[ApiServer, Sidecar]) -> None:
    server, sidecar = world
    token = server.token("data", "crawler", OURS)
    ended = parts(token)[1]["iat"] - 11
    assert verdict(sidecar, resigned(token, iat=ended - 600, nbf=ended - 600, exp=ended)) == (401, "token_expired")


def test_a_token_out_of_a_secret_is_refused(world: tuple[ApiServer, Sidecar]) -> None:
    """It has no ``exp`` and no audience; the API server still accepts it."""
    server, sidecar = world
    uid = server.create_account("data", "old")["metadata"]["uid"]
    bound = "kubernetes.io/serviceaccount"
    claims = {
        "iss": bound,
        "sub": "system:serviceaccount:data:old",
        f"{bound}/namespace": "data",
        f"{bound}/secret.name": "old",
        f"{bound}/service-account.name": "old",
        f"{bound}/service-account.uid": uid,
    }
    claims["iss"] = "kubernetes/serviceaccount"
    token = forged(claims, parts(server.token("data", "crawler"))[0], key=KEY)
    secret = {
        "metadata": {"name": "old", "annotations": {f"{bound[:13]}/service-account.name": "old"}},
        "type": "kubernetes.io/service-account-token",
        "stringData": {"token": token, "namespace": "data"},
    }
    server.create("/api/v1/namespaces/data/secrets", secret)
    assert server.review(token)["authenticated"] is True
    assert verdict(sidecar, token) == REFUSED


def test_a_namespace_is_one_label(world: tuple[ApiServer, Sidecar]) -> None:
    """Which is why a dot may stand between namespace and name in a template: names may have dots."""
    server, sidecar = world
    refused = server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "a.b"}})
    assert refused.status == 422
    server.create_account("data", "crawler.of-lakes")
    assert verdict(sidecar, server.token("data", "crawler.of-lakes", OURS)) == (
        200,
        "system:serviceaccount:data:crawler.of-lakes",
    )


def test_the_keys_are_for_those_who_may_read_them(world: tuple[ApiServer, Sidecar], tmp_path: Path) -> None:
    """Accounts may by the cluster's default; where that was taken away ``sidecar check`` says what the server says."""
    server, _ = world
    default = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:service-account-issuer-discovery"
    binding = server.ask("GET", default).json()
    (tmp_path / "token").write_text(server.token(*SIDECAR), encoding="ascii")
    assert check(server, tmp_path) == (0, "")
    server.delete(default)
    try:
        code, told = check(server, tmp_path)
        assert code == 1
        assert "/openid/v1/jwks: status: status 403" in told
        own = {"kind": "ServiceAccount", "namespace": SIDECAR[0], "name": SIDECAR[1]}
        server.create(
            default.rpartition("/")[0],
            {"metadata": {"name": "sidecar"}, "roleRef": binding["roleRef"], "subjects": [own]},
        )
        assert check(server, tmp_path) == (0, "")
    finally:
        kept = {name: binding["metadata"][name] for name in ("name", "labels", "annotations")}
        server.create(default.rpartition("/")[0], {**binding, "metadata": kept})
    (tmp_path / "token").write_text("expired", encoding="ascii")
    code, told = check(server, tmp_path, issuer=AUDIENCE)
    assert (code, "status 401" in told) == (1, True)


def check(server: ApiServer, folder: Path, **options: Any) -> tuple[int, str]:
    """Exit code of ``sidecar check`` and what it complains of."""
    config = folder / "check.yaml"
    config.write_text(
        json.dumps({"store": {"url": f"sqlite:///{folder}/x.db"}, **configuration(server, folder, **options)}),
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "check", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, "\n".join(line for line in lines if "kubernetes" in line and "status" in line)


def test_it_follows_the_clusters_keys(program: Path, tmp_path: Path) -> None:
    """A new key beside the old one, then alone: cached tokens are rejected once their key is removed."""
    first, second, third = KEY, ECKey.generate_key("P-256"), RSAKey.generate_key(3072)
    port = free_port()
    with ExitStack() as stack:
        store = stack.enter_context(etcd(program.with_name("etcd"), tmp_path))
        with api_server(program, tmp_path, store, [first], port=port) as server:
            sidecar = stack.enter_context(sidecar_in(server, tmp_path))
            old = server.token("data", "crawler", OURS)
            assert verdict(sidecar, old) == CRAWLER
            unseen = server.token("data", "crawler", OURS)
        assert verdict(sidecar, unseen) == CRAWLER  # while the API server is away
        with api_server(program, tmp_path, store, [second, first], port=port) as server:
            (tmp_path / "token").write_text(server.token(*SIDECAR), encoding="ascii")
            becomes(sidecar, server.token("data", "crawler", OURS), CRAWLER)
            assert verdict(sidecar, old) == CRAWLER
        with api_server(program, tmp_path, store, [third], port=port) as server:
            (tmp_path / "token").write_text(server.token(*SIDECAR), encoding="ascii")
            becomes(sidecar, server.token("data", "crawler", OURS), CRAWLER)
            assert verdict(sidecar, old) == REFUSED


def test_it_follows_the_clusters_issuer(program: Path, tmp_path: Path) -> None:
    """An API server that gets another name goes on taking tokens of the old one, and so does the sidecar."""
    port, renamed = free_port(), "https://oidc.example.com/clusters/one"
    with ExitStack() as stack:
        store = stack.enter_context(etcd(program.with_name("etcd"), tmp_path))
        with api_server(program, tmp_path, store, [KEY], port=port) as server:
            sidecar = stack.enter_context(sidecar_in(server, tmp_path))
            old = server.token("data", "crawler", OURS)
            assert verdict(sidecar, old) == CRAWLER
        with api_server(program, tmp_path, store, [KEY], [renamed, AUDIENCE], port=port) as server:
            new = server.token("data", "crawler", OURS)
            assert parts(new)[1]["iss"] == renamed
            assert verdict(sidecar, new) == REFUSED
            (tmp_path / "token").write_text(server.token(*SIDECAR), encoding="ascii")
            becomes(sidecar, new, CRAWLER)
            assert verdict(sidecar, old) == CRAWLER
            assert verdict(sidecar, resigned(new, iss=f"{renamed}/")) == REFUSED


def test_what_is_gone_is_refused_where_the_server_is_asked(program: Path, tmp_path: Path) -> None:
    """Offline a token outlives its account and its pod; the API server's own word needs the right to ask for it.

    The server believes itself for ten seconds.
    """
    folders = {name: tmp_path / name for name in ("cluster", "offline", "asking")}
    for folder in folders.values():
        folder.mkdir()
    with ExitStack() as stack:
        store = stack.enter_context(etcd(program.with_name("etcd"), tmp_path))
        server = stack.enter_context(api_server(program, folders["cluster"], store, [KEY]))
        asking = stack.enter_context(sidecar_in(server, folders["asking"], review=True, cache="0s"))
        (folders["offline"] / "token").write_text(server.token(*SIDECAR), encoding="ascii")
        offline = stack.enter_context(running_sidecar(folders["offline"], configuration(server, folders["offline"])))
        paths = create_bindable(server, "data", "bound")
        of_pod, of_secret = (
            server.token("data", "crawler", OURS, bound={"kind": kind, "apiVersion": "v1", "name": "bound"})
            for kind in paths
        )
        plain = server.token("data", "crawler", OURS)
        tokens = (of_pod, of_secret, plain)
        assert [verdict(asking, token) for token in tokens] == [(503, "unavailable")] * 3
        assert "TokenReview: status 403" in check(server, folders["asking"], review=True)[1]
        allow_reviews(server)
        assert check(server, folders["asking"], review=True) == (0, "")
        assert [verdict(asking, token) for token in tokens] == [CRAWLER] * 3
        for path in paths.values():
            server.delete(path)
        becomes(asking, of_pod, (401, "token_revoked"))
        becomes(asking, of_secret, (401, "token_revoked"))
        assert verdict(asking, plain) == CRAWLER
        server.delete("/api/v1/namespaces/data/serviceaccounts/crawler")
        becomes(asking, plain, (401, "token_revoked"))
        assert [verdict(offline, token) for token in tokens] == [CRAWLER] * 3


def allow_reviews(server: ApiServer) -> None:
    """What Kubernetes has the role ``system:auth-delegator`` for."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"}
    server.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": "auth-sidecar"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "namespace": SIDECAR[0], "name": SIDECAR[1]}],
        },
    )


def becomes(sidecar: Sidecar, token: str, expected: tuple[int, str]) -> None:
    """The sidecar applies the change within its own interval."""
    sidecar.process.wait_until(lambda: verdict(sidecar, token) == expected, within=30.0, what=f"answering {expected}")
