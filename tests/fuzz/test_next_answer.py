"""Whatever an upstream answers to one caller, the next callers get their own answers, or none."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given

from tests.fuzz.mutation import near
from tests.fuzz.test_targets import BOUNDED, corpus
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n/wrong"


class OddService:
    """Answers ``/odd`` with :attr:`raw`, everything else with its target, on connections that it keeps a moment."""

    def __init__(self) -> None:
        self.raw = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._socket.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while head := self._head(connection):
                target = head.split(b" ", 2)[1]
                # An incomplete response ends with the connection, so that no caller waits for the rest.
                connection.settimeout(0.05 if target == b"/odd" else 5)
                own = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target)
                connection.sendall(self.raw if target == b"/odd" else own)

    @staticmethod
    def _head(connection: socket.socket) -> bytes:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            if not piece:
                return b""
            received += piece
        return received


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OddService, Sidecar, str]]:
    folder: Path = tmp_path_factory.mktemp("next_answer")
    service = OddService()
    with IdentityProvider() as idp, service.running():
        provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]}
        configuration = {
            "upstream": {"url": service.url},
            "authenticationConfiguration": {"providers": [provider]},
        }
        with running_sidecar(folder, configuration) as sidecar:
            yield service, sidecar, idp.mint()


def ask(sidecar: Sidecar, token: str, target: str) -> Reply | None:
    """None: there was no whole answer."""
    try:
        return request(sidecar.url, target=target, headers=[("Authorization", f"Bearer {token}")])
    except (OSError, http.client.HTTPException):
        return None


def test_the_next_callers_get_their_own_answers(scene: tuple[OddService, Sidecar, str]) -> None:
    service, sidecar, token = scene

    @BOUNDED
    @given(near(corpus("answer_head")))
    @example(ANSWER + ANSWER)
    @example(b"HTTP/1.1 204 No\r\n\r\n" + ANSWER)
    @example(b"HTTP/1.1 304 Not\r\nContent-Length: 44\r\n\r\n" + ANSWER)
    @example(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + ANSWER + ANSWER)
    @example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ANSWER)
    @example(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + ANSWER)
    def try_one(raw: bytes) -> None:
        service.raw = raw
        ask(sidecar, token, "/odd")
        for number in range(2):
            reply = ask(sidecar, token, f"/own/{number}")
            assert reply is not None
            assert reply.status == 502 or (reply.status, reply.body) == (200, f"/own/{number}".encode())

    try_one()
    assert sidecar.process.popen.poll() is None
    assert "unhandled_error" not in sidecar.process.output
