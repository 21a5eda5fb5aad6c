"""The manifests in ``deploy/kubernetes``: what can be said of them without a cluster.

What the gateways make of theirs is run by ``test_what_proxies_ask.py``.
"""

import re

import kubernetes_validate
import pytest
import yaml

from sidecar.dataplane import identity_headers
from tests.interop.test_proxies import EVERY_NAME
from tests.support.gateways import MANIFESTS, objects, of_kind
from tests.support.proxies import DEPLOY, with_login

EVERY_IDENTITY_HEADER = [*identity_headers.NAMES, identity_headers.ASSERTION, identity_headers.DATAHUB_ACTOR]
FILES = sorted(str(path.relative_to(MANIFESTS)) for path in MANIFESTS.rglob("*") if path.is_file())
ANNOTATION = "nginx.ingress.kubernetes.io/"
CORE = {"v1", "networking.k8s.io/v1"}


def test_the_files_are_found() -> None:
    """The tests below would pass on an empty list."""
    assert {file.partition("/")[0] for file in FILES} >= {"envoy-gateway", "ingress-nginx", "istio", "traefik"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_objects_of_kubernetes_itself_are_valid(file: str, version: str) -> None:
    """Against the schemas of that version, unknown fields refused."""
    for document in objects(file):
        if document.get("apiVersion") in CORE:
            kubernetes_validate.validate(document, version, strict=True)


def test_ingress_nginx_lists_every_header() -> None:
    """The sidecar's own are copied, the others removed, and none is named twice: nginx would send both."""
    annotations = of_kind("ingress-nginx/ingress.yaml", "Ingress")["metadata"]["annotations"]
    copied = annotations[f"{ANNOTATION}auth-response-headers"].split(", ")
    assert copied == EVERY_IDENTITY_HEADER
    maps = {one["metadata"]["name"]: one["data"] for one in objects("ingress-nginx/ingress.yaml") if "data" in one}
    removed = maps["auth-sidecar-removed"]
    assert set(removed.values()) == {""}
    assert not set(removed) & set(copied)
    assert {*removed, *copied} >= set(EVERY_NAME)
    assert annotations[f"{ANNOTATION}auth-proxy-set-headers"] == "metadata/auth-sidecar-check"
    assert maps["auth-sidecar-check"] == {"X-Forwarded-Client-Cert": ""}


def test_ingress_nginx_names_the_original_request() -> None:
    """Without ``auth-method`` it would pass on the caller's own X-Original-URI."""
    annotations = of_kind("ingress-nginx/ingress.yaml", "Ingress")["metadata"]["annotations"]
    assert annotations[f"{ANNOTATION}auth-method"] == "GET"
    assert annotations[f"{ANNOTATION}auth-url"].endswith("/oauth2/auth")


@pytest.mark.parametrize("login", [False, True])
def test_envoys_files_say_the_same(*, login: bool) -> None:
    """Envoy's own file, Envoy Gateway's and Istio's: the same headers asked with, copied and removed."""
    text = (DEPLOY / "envoy" / "ext_authz.yaml").read_text(encoding="utf-8")
    text = with_login(text) if login else text
    (filters,) = yaml.safe_load(text)["static_resources"]["listeners"][0]["filter_chains"]
    manager = filters["filters"][0]["typed_config"]
    check = manager["http_filters"][0]["typed_config"]
    copied = [
        one["exact"] for one in check["http_service"]["authorization_response"]["allowed_upstream_headers"]["patterns"]
    ]
    assert [name for name in copied if name != "cookie"] == [name.lower() for name in EVERY_IDENTITY_HEADER]
    tells = [one["exact"] for one in check["allowed_headers"]["patterns"]]
    removed = manager["early_header_mutation_extensions"]

    gateway = of_kind("envoy-gateway/gateway.yaml", "SecurityPolicy", login=login)["spec"]["extAuth"]
    assert (gateway["headersToExtAuth"], gateway["http"]["headersToBackend"]) == (tells, copied)
    takes = of_kind("envoy-gateway/gateway.yaml", "ClientTrafficPolicy")["spec"]
    assert [one["value"] for one in takes["headers"]["earlyRequestHeaders"]["removeOnMatch"]] == [
        one["remove_on_match"]["key_matcher"]["safe_regex"]["regex"] for one in removed[0]["typed_config"]["mutations"]
    ]

    (provider,) = objects("istio/mesh-config.yaml", login=login)[0]["meshConfig"]["extensionProviders"]
    asks = provider["envoyExtAuthzHttp"]
    assert asks["includeRequestHeadersInCheck"] == ["authorization", *tells]
    assert asks["headersToUpstreamOnAllow"] == copied
    (patch,) = of_kind("istio/policy.yaml", "EnvoyFilter")["spec"]["configPatches"]
    assert patch["patch"]["value"]["typed_config"]["early_header_mutation_extensions"] == removed


@pytest.mark.parametrize("login", [False, True])
def test_traefiks_middleware_is_the_one_of_its_file(*, login: bool) -> None:
    """Which the real Traefik runs; only the sidecar's address differs."""
    text = (DEPLOY / "traefik" / "dynamic.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(with_login(text) if login else text)
    expected = written["http"]["middlewares"]["sidecar"]["forwardAuth"]
    middleware = of_kind("traefik/route.yaml", "Middleware", login=login)
    here = middleware["spec"]["forwardAuth"]
    assert here.pop("address").endswith("/oauth2/forward_auth")
    assert expected.pop("address").endswith("/oauth2/forward_auth")
    assert here == expected
    (route,) = of_kind("traefik/route.yaml", "IngressRoute")["spec"]["routes"]
    assert route["middlewares"] == [{"name": middleware["metadata"]["name"]}]


LOGIN_PATHS = "start|sign_in|callback/[A-Za-z0-9._-]+|sign_out|signed_out|backchannel_logout|userinfo"
PAGES = "me(/[A-Za-z0-9_-]+)*|admin(/[A-Za-z0-9_-]+)*|assets/[a-z0-9.]+"
OWN_PATHS = f"({LOGIN_PATHS}|{PAGES})"


def test_every_file_routes_the_same_paths_of_the_login() -> None:
    """Which are all that a browser or a provider needs."""
    for file in ("nginx/auth_request.conf", "caddy/Caddyfile", "traefik/dynamic.yaml"):
        assert f"/oauth2/{OWN_PATHS}" in with_login((DEPLOY / file).read_text(encoding="utf-8")), file
    # Envoy limits the size of an expression
    envoy = with_login((DEPLOY / "envoy" / "ext_authz.yaml").read_text(encoding="utf-8"))
    assert f'regex: "/oauth2/({LOGIN_PATHS})"' in envoy
    assert f'regex: "/oauth2/({PAGES})"' in envoy
    assert f"/oauth2/{OWN_PATHS}" in (MANIFESTS / "traefik" / "login.yaml").read_text(encoding="utf-8")
    single = {f"/oauth2/{path}" for path in OWN_PATHS[1:-1].split("|")}
    (rule,) = of_kind("envoy-gateway/login.yaml", "HTTPRoute")["spec"]["rules"]
    assert {match["path"]["value"] for match in rule["matches"]} == single
    own, _ = of_kind("istio/login.yaml", "VirtualService")["spec"]["http"]
    assert {path for match in own["match"] for path in match["uri"].values()} == single
    _, ingress = objects("ingress-nginx/login.yaml")
    routed = {path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert routed == {re.sub(r"[(/]*\[.*", "", path) for path in single} - {"/oauth2/userinfo"}


def test_ingress_of_a_login_is_the_usual_one_and_two_annotations() -> None:
    usual = of_kind("ingress-nginx/ingress.yaml", "Ingress")
    here, _ = objects("ingress-nginx/login.yaml")
    annotations = here["metadata"]["annotations"]
    assert annotations.pop(f"{ANNOTATION}auth-signin").endswith("/oauth2/start?rd=$escaped_request_uri")
    copied = annotations[f"{ANNOTATION}auth-response-headers"]
    annotations[f"{ANNOTATION}auth-response-headers"] = copied.removesuffix(", Cookie")
    assert copied.endswith(", Cookie")
    assert here == usual
