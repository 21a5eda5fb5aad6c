"""The pages about OpenShift, ingresses, IPv6 and air-gapped networks: their configurations in force."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.helm import Helm
from tests.support.http_client import Reply, request
from tests.support.identity_provider import IdentityProvider
from tests.support.sidecar_process import running_sidecar
from tests.support.tools import ROOT

GUIDES = ROOT / "docs" / "guides"
Tool = Callable[[str], Path]


def blocks(page: str) -> list[str]:
    """The YAML blocks of a guide."""
    return re.findall(r"^```yaml\n(.*?)^```$", (GUIDES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


def configuration(page: str, idp: IdentityProvider, upstream: str) -> dict[str, Any]:
    """The page's configuration with the test's issuer and upstream, and without its ports."""
    document: dict[str, Any] = yaml.safe_load(next(text for text in blocks(page) if text.startswith("# sidecar.yaml")))
    document["authenticationConfiguration"]["providers"][0]["issuer"] = idp.issuer
    document["upstream"]["url"] = upstream
    server = document.get("server", {})
    document["server"] = {name: value for name, value in server.items() if name not in ("listen", "adminListen")}
    return document


def bearer(idp: IdentityProvider) -> tuple[str, str]:
    return "Authorization", f"Bearer {idp.mint(aud='openmetadata')}"


def received(reply: Reply) -> Received:
    assert reply.status == 200, reply.body
    return Received.of(reply.json())


@pytest.mark.parametrize("trusted", [True, False])
def test_behind_an_ingress_the_public_address_reaches_the_server(
    trusted: bool, idp: IdentityProvider, tmp_path: Path
) -> None:
    """As the ingress sends it; other peers' values are replaced by ``publicUrl``."""
    with echo_upstream() as upstream:
        document = configuration("ingress.md", idp, upstream.url)
        document["server"]["trustedProxies"] = ["127.0.0.0/8"] if trusted else ["10.0.0.0/8"]
        with running_sidecar(tmp_path, document) as sidecar:
            forwarded = (("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "written.example.com"))
            seen = received(request(f"{sidecar.url}/x", headers=[bearer(idp), *forwarded]))
    assert seen.all("X-Forwarded-Proto") == ["https"]
    assert seen.all("X-Forwarded-Host") == ["written.example.com" if trusted else "metadata.example.com"]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="the machine has no ::1: enable IPv6 on loopback")
async def test_requests_over_ipv6_from_caller_to_server(idp: IdentityProvider, tmp_path: Path) -> None:
    """Both listeners, a trusted proxy and the server at addresses of IPv6."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"user": request.headers.get("X-Auth-Request-User")})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "::1", 0)
    await site.start()
    port = runner.addresses[0][1]
    document = configuration("ipv6.md", idp, f"http://[::1]:{port}")
    document["rules"] = [{"path": "/admin/**", "require": {"groups": ["admins"]}}]
    with socket.socket(socket.AF_INET6) as first, socket.socket(socket.AF_INET6) as second:
        first.bind(("::1", 0))
        second.bind(("::1", 0))
        public, admin = first.getsockname()[1], second.getsockname()[1]
    document["server"] |= {"listen": f"[::1]:{public}", "adminListen": f"[::1]:{admin}"}
    document["server"] |= {"drainDelay": "0s"}
    document["store"] = {"url": f"sqlite:///{tmp_path}/sidecar.db"}
    config = tmp_path / "sidecar.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    headers = dict([bearer(idp)])
    try:
        async with run_sidecar(load([str(config)], {})), aiohttp.ClientSession() as session:
            for _ in range(200):
                async with session.get(f"http://[::1]:{public}/x", headers=headers) as reply:
                    if reply.status == 200:
                        assert await reply.json() == {"user": "alice"}
                        break
            else:
                raise AssertionError("not ready")
            asked = {"X-Original-URI": "/admin/x", "X-Original-Method": "GET", **headers}
            async with session.get(f"http://[::1]:{public}/oauth2/auth", headers=asked) as reply:
                # the rule is applied: a peer that is not trusted would get 403 with peer_untrusted in the log
                assert (reply.status, reply.headers["X-Auth-Reason"]) == (403, "forbidden")
            async with session.get(
                f"http://[::1]:{public}/oauth2/auth", headers={**asked, "X-Original-URI": "/x"}
            ) as ok:
                assert ok.status == 200
            async with session.get(f"http://[::1]:{admin}/readyz") as ready:
                assert ready.status == 200
    finally:
        await runner.cleanup()


def test_without_internet_access_keys_come_from_a_file(idp: IdentityProvider, tmp_path: Path) -> None:
    """The issuer is never asked; a replaced file counts without a restart."""
    keys = tmp_path / "corp.jwks.json"

    def publish() -> None:
        part = tmp_path / "part"
        part.write_bytes(request(f"{idp.issuer}/jwks").body)
        part.rename(keys)

    publish()
    with echo_upstream() as upstream:
        document = configuration("air-gapped.md", idp, upstream.url)
        document["authenticationConfiguration"]["providers"][0]["publicKeyUrls"] = [f"file:{keys}"]
        with running_sidecar(tmp_path, document) as sidecar:
            fetches = idp.fetches
            assert received(request(f"{sidecar.url}/x", headers=[bearer(idp)])).all("X-Auth-Request-User") == ["alice"]
            assert idp.fetches == fetches
            idp.rotate()
            assert request(f"{sidecar.url}/x", headers=[bearer(idp)]).status in (401, 503)
            publish()
            sidecar.process.wait_until(
                lambda: request(f"{sidecar.url}/x", headers=[bearer(idp)]).status == 200, within=30.0, what="read again"
            )


@pytest.mark.heavy
def test_the_chart_fits_restricted_v2(require_tool: Tool) -> None:
    """With the page's values: no id of its own, and nothing else that OpenShift's default constraint rejects."""
    helm = Helm(require_tool("helm"))
    ids, route = (yaml.safe_load(text) for text in blocks("openshift.md"))
    base = ROOT / "helm" / "values" / "standalone-sqlite.yaml"
    objects = helm.render(base, values={**ids, **route}, release="auth")
    (pod,) = (one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment")
    contexts = [pod["securityContext"], *(one["securityContext"] for one in pod["containers"])]
    for context in contexts:
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()
    for context in contexts[1:]:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["runAsNonRoot"] is True
    assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} >= {"/var/lib/sidecar"}
    assert all(volume.keys() & {"emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim"}
               for volume in pod["volumes"])  # fmt: skip
    (found,) = (one for one in objects if one["kind"] == "Route")
    services = {one["metadata"]["name"]: one for one in objects if one["kind"] == "Service"}
    service = services[found["spec"]["to"]["name"]]
    assert found["spec"]["port"]["targetPort"] in {port["name"] for port in service["spec"]["ports"]}
