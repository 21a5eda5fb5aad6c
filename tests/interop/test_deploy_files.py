"""The shipped proxy files know every header name that the sidecar sets or removes."""

import re

import pytest
import yaml

from sidecar.dataplane import identity_headers
from tests.interop.test_proxies import EVERY_NAME, SPELLINGS
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
    """Its file goes by a pattern, which must know every name in every spelling, and nothing that proxies need."""
    document = yaml.safe_load((DEPLOY / "traefik" / "dynamic.yaml").read_text(encoding="utf-8"))
    (router,) = document["http"]["routers"].values()
    assert router["middlewares"] == ["sidecar"]
    forward_auth = document["http"]["middlewares"]["sidecar"]["forwardAuth"]
    assert forward_auth["trustForwardHeader"] is False
    pattern = re.compile(forward_auth["authResponseHeadersRegex"])
    for name in EVERY_NAME:
        for spell in SPELLINGS.values():
            assert pattern.search(spell(name))
    for name in ("Authorization", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "Remote-Control", "Cookie"):
        assert not pattern.search(name)


def test_the_proxy_tests_forge_every_name_that_forward_mode_removes() -> None:
    """What the sidecar itself removes in forward mode is what the proxies have to remove in check mode."""
    assert {name.lower() for name in EVERY_NAME} >= identity_headers._ALWAYS_STRIPPED
