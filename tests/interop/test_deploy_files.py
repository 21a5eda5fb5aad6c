"""The shipped proxy files know every header name that the sidecar sets or removes."""

import re

import pytest
import yaml

from sidecar.dataplane import identity_headers
from tests.support.proxies import DEPLOY

SET = (*identity_headers.NAMES, identity_headers.ASSERTION)


@pytest.mark.parametrize("name", SET)
def test_each_proxy_copies_every_identity_header(name: str) -> None:
    """A name that one of the files leaves out would pass from the client to the upstream."""
    nginx = (DEPLOY / "nginx" / "auth_request.conf").read_text(encoding="utf-8")
    variable = "$upstream_http_" + name.lower().replace("-", "_")
    assert re.search(rf"auth_request_set (\$\w+)\s+{re.escape(variable)};", nginx)
    assert re.search(rf"proxy_set_header {name}\s+\$\w+;", nginx)
    caddy = (DEPLOY / "caddy" / "Caddyfile").read_text(encoding="utf-8")
    assert re.search(rf"^\t+{name}$", caddy, re.MULTILINE)
    assert name.lower().startswith("x-auth-"), "Envoy's file copies by this prefix"


def test_traefik_deletes_and_copies_every_identity_header() -> None:
    """Its file goes by a pattern, which must know every name in every spelling, and nothing else."""
    document = yaml.safe_load((DEPLOY / "traefik" / "dynamic.yaml").read_text(encoding="utf-8"))
    middlewares = document["http"]["middlewares"]
    pattern = re.compile(middlewares["sidecar"]["forwardAuth"]["authResponseHeadersRegex"])
    for name in SET:
        for spelling in (name, name.lower(), name.replace("-", "_"), name.replace("-", ".")):
            assert pattern.search(spelling)
    assert not pattern.search("Authorization")
    assert middlewares["sidecar"]["forwardAuth"]["trustForwardHeader"] is False
    (router,) = document["http"]["routers"].values()
    assert router["middlewares"] == ["other-gateways", "sidecar"]
