"""``sidecar health``: ready, not ready and why, not there."""

from pathlib import Path

import pytest
from aiohttp import web

from sidecar.cli.main import main
from tests.support.loopback_server import LoopbackServer
from tests.support.ports import free_port


def _server(status: int, report: object) -> LoopbackServer:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/livez":
            return web.json_response({"alive": True})
        return web.json_response(report, status=status)

    return LoopbackServer(answer)


def test_ready_is_0() -> None:
    """Nothing is printed where nothing is wrong."""
    with _server(200, {"ready": True}) as server:
        assert main(["health", server.url.removeprefix("http://")]) == 0


def test_not_ready_is_1_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """The failing parts are named; being alive is a question of its own."""
    report = {"ready": False, "draining": False, "failing": ["provider corp", "revocation state"]}
    with _server(503, report) as server:
        address = server.url.removeprefix("http://")
        assert main(["health", address]) == 1
        assert "provider corp, revocation state" in capsys.readouterr().err
        assert main(["health", "--live", address]) == 0


@pytest.mark.parametrize("report", ["text", [], {"ready": False}])
def test_a_strange_report_is_no_traceback(report: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever listens there: not ready is not ready."""
    with _server(503, report) as server:
        assert main(["health", server.url.removeprefix("http://")]) == 1
    assert "no reason" in capsys.readouterr().err


def test_no_listener_is_exit_1(tmp_path: Path) -> None:
    """A closed port and a missing socket."""
    assert main(["health", f"127.0.0.1:{free_port()}"]) == 1
    assert main(["health", f"unix:{tmp_path}/none"]) == 1


@pytest.mark.parametrize("address", ["4181", "host", "host:", "host:http"])
def test_what_is_no_address_is_a_usage_error(address: str) -> None:
    """Exit code 2, as for every wrong argument."""
    assert main(["health", address]) == 2
