"""SIGTERM under load: not ready first, and each request that was received gets a whole response."""

import asyncio
import http.client
import signal
import threading
from pathlib import Path

from aiohttp import web

from tests.faults.conftest import configuration
from tests.support.http_client import TIMEOUT, request
from tests.support.identity_provider import IdentityProvider
from tests.support.loopback_server import LoopbackServer
from tests.support.sidecar_process import Sidecar, running_sidecar

CALLERS = 16
BODY = b"x" * 300_000


class Service:
    """Takes its time, and counts whom it has answered."""

    def __init__(self) -> None:
        self.asked = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        sent = await request.read()
        await asyncio.sleep(0.02)
        return web.Response(body=BODY + sent)


class Caller(threading.Thread):
    """Sends requests without pause, on one connection as long as it is kept, until connections are refused."""

    def __init__(self, sidecar: Sidecar, token: str, upload: bytes) -> None:
        super().__init__(daemon=True)
        self._address, self._upload = sidecar.address, upload
        self._headers = {"Authorization": f"Bearer {token}"}
        self.answered = 0
        self.faults: list[str] = []
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        try:
            while True:
                self._ask(connection)
        except (OSError, http.client.RemoteDisconnected):
            pass  # the next connection was refused, or the listener closed before it was accepted
        except http.client.HTTPException as error:
            self.faults.append(repr(error))
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/x", body=self._upload, headers=self._headers)
        with connection.getresponse() as answer:
            try:
                whole = answer.read() == BODY + self._upload
            except OSError as error:
                self.faults.append(f"cut off: {error!r}")
                raise
            if answer.status != 200 or not whole:
                self.faults.append(f"{answer.status}, whole: {whole}")
            self.answered += 1


def test_a_drain_under_load_answers_each_request_received(tmp_path: Path, idp: IdentityProvider) -> None:
    """Each request that reached the upstream was answered to its caller: no response is lost."""
    service = Service()
    with LoopbackServer(service.answer) as upstream:
        settings = configuration(idp, upstream.url, server={"drainDelay": "1s", "drainTimeout": "20s"})
        with running_sidecar(tmp_path, settings) as sidecar:
            callers = [Caller(sidecar, idp.mint(), bytes(number * 1000)) for number in range(CALLERS)]
            sidecar.process.wait_until(lambda: min(c.answered for c in callers) > 5, within=20, what="busy")
            sidecar.process.popen.send_signal(signal.SIGTERM)
            sidecar.process.wait_until(lambda: not_ready(sidecar), within=5, what="not ready")
            at_least = [caller.answered + 1 for caller in callers]
            assert sidecar.process.popen.wait(30) == 0
            for caller in callers:
                caller.join(TIMEOUT)
    assert [caller.faults for caller in callers] == [[]] * CALLERS
    assert all(caller.answered >= least for caller, least in zip(callers, at_least, strict=True)), (
        "served on after that"
    )
    assert service.asked == sum(caller.answered for caller in callers)
    assert "Traceback" not in sidecar.process.output


def not_ready(sidecar: Sidecar) -> bool:
    return request(f"{sidecar.admin_url}/readyz").status == 503
