"""How the proxies ask."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import HttpVersion, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy

from sidecar.dataplane.dialects import Dialect, Envoy, ForwardAuth, Nginx
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable


@dataclass
class Asked:
    headers: CIMultiDictProxy[str]
    method: str = "GET"
    version: HttpVersion = field(default=HttpVersion11)

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((name.encode(), value.encode("latin-1")) for name, value in self.headers.items())


def asked(*headers: tuple[str, str], method: str = "GET") -> Asked:
    return Asked(CIMultiDictProxy(CIMultiDict(headers)), method)


NGINX = (("X-Original-URI", "/a%2Fb?c"), ("X-Original-Method", "PUT"))
TRAEFIK = (("X-Forwarded-Uri", "/a%2Fb?c"), ("X-Forwarded-Method", "PUT"))


@pytest.mark.parametrize(("dialect", "headers"), [(Nginx(), NGINX), (ForwardAuth(), TRAEFIK)])
def test_the_original_request_is_read_from_a_trusted_peer(dialect: Dialect, headers: Any) -> None:
    view = dialect.context(asked(*headers), "", trusted=True, must_know_target=True)
    assert (view.method, view.target, view.trusted) == ("PUT", "/a%2Fb?c", True)
    untrusted = dialect.context(asked(*headers), "", trusted=False, must_know_target=True)
    assert (untrusted.target, untrusted.trusted) == (None, False)


@pytest.mark.parametrize("method", ["", "delete", "Delete", "DELETE,GET", "GET DELETE", "*", "GÉT"])
@pytest.mark.parametrize(("dialect", "headers"), [(Nginx(), NGINX), (ForwardAuth(), TRAEFIK)])
def test_a_method_that_some_service_may_read_as_another_is_refused(dialect: Dialect, headers: Any, method: str) -> None:
    """A rule for DELETE must not be passed by as "delete" on the way to a service that reads it without case."""
    question = asked(headers[0], (headers[1][0], method))
    with pytest.raises(Refused) as refusal:
        dialect.context(question, "", trusted=True, must_know_target=False)
    assert refusal.value.status == 400


@pytest.mark.parametrize(("dialect", "headers"), [(Nginx(), TRAEFIK), (ForwardAuth(), NGINX)])
def test_the_others_headers_are_not_read(dialect: Dialect, headers: Any) -> None:
    assert dialect.context(asked(*headers), "", trusted=True, must_know_target=False).target is None
    with pytest.raises(Refused):
        dialect.context(asked(*headers), "", trusted=True, must_know_target=True)


@pytest.mark.parametrize("url", ["https://x/a%2Fb?c", "http:///a%2Fb?c", "/other", "a"])
def test_ingress_nginx_may_name_the_request_twice_alike(url: str) -> None:
    """What is no absolute URL is not ingress-nginx's word."""
    view = Nginx().context(asked(*NGINX, ("X-Original-URL", url)), "", trusted=True, must_know_target=True)
    assert view.target == "/a%2Fb?c"
    assert Nginx().context(asked(*NGINX, ("X-Original-URL", "https://x/y")), "", trusted=False, must_know_target=True)


@pytest.mark.parametrize(
    "url", ["https://x/admin", "https://x/admin?/a%2Fb?c", "https://x//a%2Fb?c", "https://x/a/b?c", "https://x", "://"]
)
def test_a_caller_cannot_name_another_request_to_ingress_nginx(url: str) -> None:
    """Without its annotation ``auth-method`` it passes on the X-Original-URI that a caller wrote."""
    with pytest.raises(Refused) as refusal:
        Nginx().context(asked(*NGINX, ("X-Original-URL", url)), "", trusted=True, must_know_target=True)
    assert refusal.value.status == 400


OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "x-method-override", "X_HTTP_Method_Override", "X.Http.Method")


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize(("dialect", "headers", "rest"), [
    (Nginx(), NGINX, ""), (ForwardAuth(), TRAEFIK, ""), (Envoy(), (), "/x")
])  # fmt: skip
def test_a_method_that_a_header_names_is_judged_as_well(dialect: Dialect, headers: Any, rest: str, name: str) -> None:
    """Some servers take it instead of the request's own; in whatever letters and with whatever marks."""
    view = dialect.context(
        asked(*headers, (name, "delete "), (name, "PATCH")), rest, trusted=True, must_know_target=True
    )
    assert view.other_methods == ("DELETE", "PATCH")
    for value in ("", "GET, DELETE", "a b", "*", "DELETE\t,"):
        with pytest.raises(Refused) as refusal:
            dialect.context(asked(*headers, (name, value)), rest, trusted=True, must_know_target=True)
        assert (refusal.value.status, refusal.value.cause) == (400, Cause.METHOD_AMBIGUOUS)


def test_a_preflight_that_names_another_method_is_none() -> None:
    question = (("Origin", "https://x"), ("Access-Control-Request-Method", "PUT"))
    assert Envoy().context(asked(*question, method="OPTIONS"), "/x", trusted=True, must_know_target=True).preflight
    override = asked(*question, ("X-HTTP-Method-Override", "DELETE"), method="OPTIONS")
    assert not Envoy().context(override, "/x", trusted=True, must_know_target=True).preflight


@pytest.mark.parametrize(
    ("dialect", "headers", "detail"),
    [
        (ForwardAuth(), TRAEFIK[:1], "X-Forwarded-Method did not come"),
        (Nginx(), NGINX[:1], "X-Original-Method did not come"),
        (Nginx(), TRAEFIK, "X-Original-URI and X-Original-Method did not come; X-Forwarded-Uri, which did, is read at"),
        (ForwardAuth(), NGINX, "X-Forwarded-Uri and X-Forwarded-Method did not come; X-Original-URI, which did, is"),
        (Nginx(), (("X-Original-URL", "https://h/x"), NGINX[1]), "X-Original-URI did not come; X-Original-URL alone"),
    ],
)
def test_the_log_says_which_header_is_missing(dialect: Dialect, headers: Any, detail: str) -> None:
    with pytest.raises(Refused) as refusal:
        dialect.context(asked(*headers), "", trusted=True, must_know_target=True)
    assert refusal.value.detail.startswith(detail)
    assert "X-" not in refusal.value.message


def test_envoy_asks_by_the_request_itself() -> None:
    view = Envoy().context(asked(*NGINX, *TRAEFIK, method="DELETE"), "/x?y", trusted=True, must_know_target=True)
    assert (view.method, view.target) == ("DELETE", "/x?y")
    assert Envoy().context(asked(), "?y", trusted=True, must_know_target=True).target == "/?y"
    assert Envoy().context(asked(), "/x", trusted=False, must_know_target=True).target is None


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Refused(Reason.TOKEN_EXPIRED), 401),
        (Refused(Reason.FORBIDDEN), 403),
        (Refused(Reason.REQUEST_INVALID), 403),
        (Refused(Reason.METHOD_NOT_ALLOWED), 403),
        (Refused(Reason.TOO_LARGE), 403),
        (Unavailable(Cause.KEYS_UNAVAILABLE), 503),
    ],
)
def test_nginx_gets_a_status_it_can_carry_and_the_rest_in_headers(failure: Failed, status: int) -> None:
    told, lines = Nginx().map_status(failure)
    assert told == status
    assert lines == f"X-Auth-Status: {failure.status}\r\nX-Auth-Reason: {failure.reason.value}\r\n".encode()
    assert ForwardAuth().map_status(failure) == Envoy().map_status(failure) == (failure.status, b"")
