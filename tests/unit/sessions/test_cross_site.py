"""The session cookie counts for the pages of our own origin, and for those that are listed."""

import pytest
from multidict import CIMultiDict

from sidecar.errors import Cause
from sidecar.identity.request import NO_CREDENTIAL, RequestContext
from sidecar.sessions.cross_site import CrossSiteGuard

OWN, APP = "https://good.example.com", "https://app.example.com"
GUARD = CrossSiteGuard(frozenset({OWN, APP}))


def is_refused(method: str, *others: str, **headers: str) -> bool:
    lines = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    view = RequestContext(method, "/", lines, NO_CREDENTIAL, other_methods=others)
    refusal = GUARD.refusal(view)
    assert refusal is None or (refusal.status, refusal.cause) == (403, Cause.ORIGIN)
    return refusal is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", ""])
def test_methods_that_change_something_need_a_page_of_ours(method: str) -> None:
    assert not is_refused(method, Sec_Fetch_Site="same-origin")
    assert not is_refused(method, Sec_Fetch_Site="none")
    assert not is_refused(method, Origin=OWN)
    assert not is_refused(method, Sec_Fetch_Site="same-site", Origin=APP)
    assert is_refused(method)
    assert is_refused(method, Sec_Fetch_Site="same-site")
    assert is_refused(method, Sec_Fetch_Site="cross-site", Origin="https://evil.example.com")
    assert is_refused(method, Origin="null")
    assert is_refused(method, Origin=f"{OWN}.evil.example")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_methods_that_read_pass_unless_a_header_names_another(method: str) -> None:
    assert not is_refused(method, Sec_Fetch_Site="cross-site")
    assert is_refused(method, "DELETE", Sec_Fetch_Site="cross-site")


@pytest.mark.parametrize(
    "sign",
    [
        {"Upgrade": "WebSocket"},
        {"Sec_WebSocket_Key": "x"},
        {"Sec_WebSocket_Version": "13"},
        {"Sec_Fetch_Mode": "websocket"},
    ],
)
def test_handshake_of_a_websocket_needs_an_origin_of_ours(sign: dict[str, str]) -> None:
    assert not is_refused("GET", Origin=OWN, **sign)
    assert is_refused("GET", **sign)
    assert is_refused("GET", Origin="https://evil.example.com", **sign)
    assert is_refused("GET", Sec_Fetch_Site="same-origin", **sign)
