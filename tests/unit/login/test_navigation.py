"""Who is led to a login: the navigation of a whole window, and nothing else."""

import pytest
from multidict import CIMultiDict

from sidecar.login.navigation import Answer, answer_for

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
NAVIGATE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": HTML}


@pytest.mark.parametrize(
    ("method", "headers", "answer"),
    [
        ("GET", NAVIGATE, Answer.REDIRECT),
        ("HEAD", NAVIGATE, Answer.REDIRECT),
        ("POST", NAVIGATE, Answer.PAGE),
        ("GET", {"Accept": HTML}, Answer.REDIRECT),
        ("GET", {"Accept": "*/*"}, Answer.JSON),
        ("GET", {"Accept": "*/*, text/html"}, Answer.JSON),
        ("GET", {"Accept": "application/json"}, Answer.JSON),
        ("GET", {}, Answer.JSON),
        ("GET", NAVIGATE | {"Sec-Fetch-Dest": "iframe"}, Answer.PAGE),
        ("GET", NAVIGATE | {"Sec-Fetch-Dest": "image"}, Answer.JSON),
        ("GET", NAVIGATE | {"Sec-Fetch-Mode": "cors"}, Answer.JSON),
        ("GET", NAVIGATE | {"Authorization": "Bearer x"}, Answer.JSON),
        ("GET", NAVIGATE | {"Upgrade": "websocket"}, Answer.JSON),
        ("GET", NAVIGATE | {"X-Requested-With": "XMLHttpRequest"}, Answer.JSON),
        ("GET", NAVIGATE | {"Purpose": "prefetch"}, Answer.JSON),
        ("GET", NAVIGATE | {"Sec-Purpose": "prefetch;prerender"}, Answer.JSON),
        ("GET", {"Accept": "text/event-stream"}, Answer.JSON),
    ],
)
def test_answer(method: str, headers: dict[str, str], answer: Answer) -> None:
    assert answer_for(method, CIMultiDict(headers)) is answer
