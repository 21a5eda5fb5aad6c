"""Who is led to a login: the navigation of a whole window, and nothing else."""

import pytest
from multidict import CIMultiDict

from sidecar.login.navigation import ResponseKind, response_kind

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
NAVIGATE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": HTML}


@pytest.mark.parametrize(
    ("method", "headers", "answer"),
    [
        ("GET", NAVIGATE, ResponseKind.REDIRECT),
        ("HEAD", NAVIGATE, ResponseKind.REDIRECT),
        ("POST", NAVIGATE, ResponseKind.PAGE),
        ("GET", {"Accept": HTML}, ResponseKind.REDIRECT),
        ("GET", {"Accept": "*/*"}, ResponseKind.JSON),
        ("GET", {"Accept": "*/*, text/html"}, ResponseKind.JSON),
        ("GET", {"Accept": "application/json"}, ResponseKind.JSON),
        ("GET", {}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"Sec-Fetch-Dest": "iframe"}, ResponseKind.PAGE),
        ("GET", NAVIGATE | {"Sec-Fetch-Dest": "image"}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"Sec-Fetch-Mode": "cors"}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"Authorization": "Bearer x"}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"Upgrade": "websocket"}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"X-Requested-With": "XMLHttpRequest"}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"Purpose": "prefetch"}, ResponseKind.JSON),
        ("GET", NAVIGATE | {"Sec-Purpose": "prefetch;prerender"}, ResponseKind.JSON),
        ("GET", {"Accept": "text/event-stream"}, ResponseKind.JSON),
    ],
)
def test_answer(method: str, headers: dict[str, str], answer: ResponseKind) -> None:
    assert response_kind(method, CIMultiDict(headers)) is answer
