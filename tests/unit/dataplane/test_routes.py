"""Who answers what on the public listener."""

from typing import Any

import pytest

from sidecar.dataplane.routes import PublicRoutes
from sidecar.errors import Reason, Refused


def routes(*, upstream: bool = True) -> PublicRoutes:
    handlers: Any = {name: object() for name in ("auth", "jwks", "tokens", "token", "envoy", "upstream")}
    exact = {"/oauth2/auth": ("check", handlers["auth"]), "/api/v1/config/jwks": ("jwks", handlers["jwks"])}
    exact["/oauth2/tokens"] = ("tokens", handlers["tokens"])
    below = {"/oauth2/tokens": ("token", handlers["token"])}
    forward = handlers["upstream"] if upstream else None
    return PublicRoutes(prefix="/oauth2", exact=exact, below=below, envoy=handlers["envoy"], upstream=forward)


@pytest.mark.parametrize(
    ("target", "route", "rest"),
    [
        ("/oauth2/auth", "check", ""),
        ("/oauth2/auth?x=/y", "check", ""),
        ("/api/v1/config/jwks", "jwks", ""),
        ("/oauth2/ext_authz", "check", ""),
        ("/oauth2/ext_authz?a", "check", "?a"),
        ("/oauth2/ext_authz/a/b?c=d", "check", "/a/b?c=d"),
        ("/oauth2/ext_authz//a", "check", "//a"),
        ("/oauth2/ext_authz/oauth2/ext_authz/x", "check", "/oauth2/ext_authz/x"),
        ("/oauth2/tokens?x", "tokens", ""),
        ("/oauth2/tokens/1?x=/y", "token", "1"),
        ("/", "forward", ""),
        ("/oauth2x", "forward", ""),
        ("/OAuth2/auth", "forward", ""),
        ("//oauth2/auth", "forward", ""),
        ("/oauth2%2Fauth", "forward", ""),
        ("/oauth2;x/auth", "forward", ""),
        ("/api/v1/config/jwks/", "forward", ""),
        ("/x?y=/oauth2/auth", "forward", ""),
    ],
)
def test_targets_are_compared_byte_for_byte(target: str, route: str, rest: str) -> None:
    name, _, behind = routes().find(target)
    assert (name, behind) == (route, rest)


@pytest.mark.parametrize(
    "target",
    ["/oauth2", "/oauth2/", "/oauth2?x", "/oauth2/auth/", "/oauth2/ext_authzx", "/oauth2/start", "/oauth2/tokens/1/2"],
)
def test_nothing_below_the_prefix_is_the_services(target: str) -> None:
    with pytest.raises(Refused) as refused:
        routes().find(target)
    assert refused.value.reason is Reason.NOT_FOUND


def test_without_a_service_everything_else_is_not_found() -> None:
    with pytest.raises(Refused):
        routes(upstream=False).find("/x")
