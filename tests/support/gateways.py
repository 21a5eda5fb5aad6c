"""What gateways make of the manifests in ``deploy/kubernetes``, run by the real Envoy and the real nginx.

Written after their translators (Envoy Gateway 1.9 ``internal/xds/translator``, Istio 1.30 ``security/authz/builder``,
ingress-nginx 1.15 ``nginx.tmpl``): the check, what is removed from requests, and how paths are read. What else they put
around it is left out.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.support.http_client import answers
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.proxies import DEPLOY, Addresses, running_nginx, with_login

MANIFESTS = DEPLOY / "kubernetes"
_TYPES = "type.googleapis.com/envoy.extensions"
_SLASHES = {"KeepUnchanged": "KEEP_UNCHANGED"}
_UNDERSCORES = {"RejectRequest": "REJECT_REQUEST"}
_MATCHERS = {"RegularExpression": lambda value: {"safe_regex": {"regex": value}}}


def objects(file: str, *, login: bool = False) -> list[dict[str, Any]]:
    """The documents of a file of ``deploy/kubernetes``. ``login``: its lines for a browser login are no comments."""
    text = (MANIFESTS / file).read_text(encoding="utf-8")
    return list(yaml.safe_load_all(with_login(text) if login else text))


def of_kind(file: str, kind: str, *, login: bool = False) -> dict[str, Any]:
    """The one object of this kind in a file."""
    (found,) = (document for document in objects(file, login=login) if document.get("kind") == kind)
    return found


def _login_routes(matches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The routes to the sidecar for the paths of the login, without the check."""
    unchecked = {"ext_authz": {"@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}}
    return [
        {"match": match, "route": {"cluster": "sidecar"}, "typed_per_filter_config": unchecked} for match in matches
    ]


@contextmanager
def envoy_gateway(binary: Path, folder: Path, addresses: Addresses, *, login: bool = False) -> Iterator[str]:
    """Envoy as Envoy Gateway configures it for the SecurityPolicy and the ClientTrafficPolicy."""
    asks = of_kind("envoy-gateway/gateway.yaml", "SecurityPolicy", login=login)["spec"]["extAuth"]
    takes = of_kind("envoy-gateway/gateway.yaml", "ClientTrafficPolicy")["spec"]
    removed = takes["headers"]["earlyRequestHeaders"]["removeOnMatch"]
    matchers = [{"remove_on_match": {"key_matcher": _MATCHERS[one["type"]](one["value"])}} for one in removed]
    manager = {
        "normalize_path": True,
        "merge_slashes": not takes["path"]["disableMergeSlashes"],
        "stream_idle_timeout": takes["timeout"]["http"]["streamIdleTimeout"],
        "path_with_escaped_slashes_action": _SLASHES[takes["path"]["escapedSlashesAction"]],
        "common_http_protocol_options": {
            "headers_with_underscores_action": _UNDERSCORES[takes["headers"]["withUnderscoresAction"]]
        },
        "early_header_mutation_extensions": [{
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": f"{_TYPES}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": matchers,
            },
        }],
    }  # fmt: skip
    check = _check(
        prefix=asks["http"]["path"],
        tells=asks["headersToExtAuth"],
        copies=asks["http"]["headersToBackend"],
        timeout=asks["timeout"],
        fails_open=asks["failOpen"],
        on_error=asks["statusOnError"],
    )
    routes: list[dict[str, Any]] = []
    if login:
        (rule,) = of_kind("envoy-gateway/login.yaml", "HTTPRoute")["spec"]["rules"]
        paths = [match["path"] for match in rule["matches"]]
        routes = _login_routes(
            [
                {"path": path["value"]} if path["type"] == "Exact" else {"safe_regex": {"regex": path["value"]}}
                for path in paths
            ]
        )
    with _envoy(binary, folder, addresses, manager, check, routes) as url:
        yield url


@contextmanager
def istio(binary: Path, folder: Path, addresses: Addresses, *, login: bool = False) -> Iterator[str]:
    """Envoy as Istio configures it for the extension provider, with the EnvoyFilter's patch."""
    (provider,) = objects("istio/mesh-config.yaml", login=login)[0]["meshConfig"]["extensionProviders"]
    policy = of_kind("istio/policy.yaml", "AuthorizationPolicy")["spec"]
    assert (policy["provider"]["name"], policy["rules"]) == (provider["name"], [{}])
    (patch,) = of_kind("istio/policy.yaml", "EnvoyFilter")["spec"]["configPatches"]
    asks = provider["envoyExtAuthzHttp"]
    check = _check(
        prefix=asks["pathPrefix"],
        tells=asks["includeRequestHeadersInCheck"],
        copies=asks["headersToUpstreamOnAllow"],
        timeout=asks["timeout"],
        fails_open=asks["failOpen"],
        on_error=int(asks["statusOnError"]),
    )
    manager = {"normalize_path": True} | patch["patch"]["value"]["typed_config"]
    routes: list[dict[str, Any]] = []
    if login:
        own, _ = of_kind("istio/login.yaml", "VirtualService")["spec"]["http"]
        routes = _login_routes(
            [
                {"path": match["uri"]["exact"]}
                if "exact" in match["uri"]
                else {"safe_regex": {"regex": match["uri"]["regex"]}}
                for match in own["match"]
            ]
        )
    with _envoy(binary, folder, addresses, manager, check, routes) as url:
        yield url


@contextmanager
def ingress_nginx(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    *,
    without: frozenset[str] = frozenset(),
    login: bool = False,
) -> Iterator[str]:
    """nginx as ingress-nginx configures it for the Ingress, but for the annotations of these names.

    With ``login`` its modules are in :data:`NGINX_MODULES`.
    """
    file, port = "ingress-nginx/ingress.yaml", free_port()
    named = [one for one in objects("ingress-nginx/login.yaml" if login else file) if one["kind"] == "Ingress"]
    annotations = {
        name.removeprefix("nginx.ingress.kubernetes.io/"): value
        for name, value in named[0]["metadata"]["annotations"].items()
    }
    maps = {one["metadata"]["name"]: one["data"] for one in objects(file) if one["kind"] == "ConfigMap"}
    path = urlsplit(annotations["auth-url"]).path
    check = ["proxy_set_header X-Original-Method $request_method;"]
    check += ["proxy_set_header X-Original-URL $scheme://$http_host$request_uri;"]
    if "auth-method" not in without:
        check += [f"proxy_method {annotations['auth-method']};", "proxy_set_header X-Original-URI $request_uri;"]
    told = maps[annotations["auth-proxy-set-headers"].partition("/")[2]]
    check += [f'proxy_set_header "{name}" "{value}";' for name, value in told.items()]
    service = [f'proxy_set_header {name} "{value}";' for name, value in maps["auth-sidecar-removed"].items()]
    for number, name in enumerate(annotations["auth-response-headers"].split(", ")):
        service.append(f"auth_request_set $authHeader{number} $upstream_http_{name.lower().replace('-', '_')};")
        service.append(f"proxy_set_header '{name}' $authHeader{number};")
    more = ""
    if login:
        # the address is that of this test's nginx
        start = urlsplit(annotations["auth-signin"])
        service.append("set_escape_uri $escaped_request_uri $request_uri;")
        service.append("error_page 401 = @start;")
        more = f"location @start {{ internal; return 302 http://$http_host{start.path}?{start.query}; }}\n"
        for own in named[1]["spec"]["rules"][0]["http"]["paths"]:
            forms = {"Exact": [f"= {own['path']}"], "Prefix": [f"{own['path']}/", f"= {own['path']}"]}
            for form in forms[own["pathType"]]:
                more += f"location {form} {{ {_LOGIN_LOCATION} proxy_pass http://{addresses.sidecar}; }}\n"
    (folder / "site.conf").write_text(
        _INGRESS.format(
            port=port,
            more=more,
            service="\n".join(service),
            check="\n".join(check),
            upstream=addresses.upstream,
            url=f"http://{addresses.sidecar}{path}",
            size=annotations["proxy-body-size"],
            buffer=annotations["proxy-buffer-size"],
            buffering=annotations["proxy-buffering"],
            read=annotations["proxy-read-timeout"],
            send=annotations["proxy-send-timeout"],
        ),
        encoding="utf-8",
    )
    modules = [NGINX_MODULES / f"{name}_module.so" for name in ("ndk_http", "ngx_http_set_misc")] if login else []
    with running_nginx(binary, folder, port, modules) as url:
        yield url


NGINX_MODULES = Path("/usr/lib/nginx/modules")
_LOGIN_LOCATION = (
    "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; "
    "proxy_set_header X-Forwarded-Proto $scheme; proxy_http_version 1.1;"
)
_INGRESS = """
server {{
    listen 127.0.0.1:{port};
    large_client_header_buffers 4 16k;
    location / {{
        auth_request /_external-auth;
        {service}
        proxy_set_header Host $http_host;
        proxy_set_header X-Request-ID $request_id;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_http_version 1.1;
        proxy_request_buffering off;
        proxy_buffering {buffering};
        proxy_buffer_size {buffer};
        proxy_buffers 4 {buffer};
        proxy_read_timeout {read}s;
        proxy_send_timeout {send}s;
        client_max_body_size {size};
        proxy_pass http://{upstream};
    }}
    location = /_external-auth {{
        internal;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header X-Forwarded-Proto "";
        proxy_set_header X-Request-ID $request_id;
        {check}
        client_max_body_size {size};
        proxy_buffering {buffering};
        proxy_buffer_size {buffer};
        proxy_buffers 4 {buffer};
        proxy_http_version 1.1;
        set $target {url};
        proxy_pass $target;
    }}
    {more}
}}
"""


def _check(
    *, prefix: str, tells: list[str], copies: list[str], timeout: str, fails_open: bool, on_error: int
) -> dict[str, Any]:
    """The ext_authz filter: both make exact matchers of header names, without regard to case."""

    def names(headers: list[str]) -> dict[str, Any]:
        return {"patterns": [{"exact": name, "ignore_case": True} for name in headers]}

    return {
        "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "failure_mode_allow": fails_open,
        "status_on_error": {"code": on_error},
        "allowed_headers": names(tells),
        "http_service": {
            "path_prefix": prefix,
            "server_uri": {"uri": "http://sidecar", "cluster": "sidecar", "timeout": timeout},
            "authorization_response": {"allowed_upstream_headers": names(copies)},
        },
    }


@contextmanager
def _envoy(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    manager: Mapping[str, Any],
    check: Mapping[str, Any],
    first: list[dict[str, Any]],
) -> Iterator[str]:
    """Envoy with one worker, one listener and the two clusters; ``manager`` adds to its connection manager.

    The routes ``first`` stand before the one to the service.
    """
    port = free_port()
    router = f"{_TYPES}.filters.http.router.v3.Router"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "metadata", "timeout": "0s"}}
    whole = {
        "stat_prefix": "in",
        "use_remote_address": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [*first, route]}]},
        "http_filters": [
            {"name": "ext_authz", "typed_config": check},
            {"name": "router", "typed_config": {"@type": router}},
        ],
        **manager,
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
    }  # fmt: skip
    listener = {
        "name": "in",
        "address": _address(f"127.0.0.1:{port}"),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": whole}]}
        ],
    }
    clusters = [_cluster("sidecar", addresses.sidecar), _cluster("metadata", addresses.upstream)]
    file = folder / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}), encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    options = ["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with running([binary, "-c", file, *options], log=folder / "envoy.log", ready=lambda: answers(url)):
        yield url


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _cluster(name: str, address: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(address)}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}
