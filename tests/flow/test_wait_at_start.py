"""``upstream.waitAtStart``: a sidecar is not ready before its upstream listens."""

import asyncio
from pathlib import Path
from typing import Any

from tests.flow.conftest import Start
from tests.support.echo_upstream import echo_upstream
from tests.support.jwks_server import eventually
from tests.support.ports import free_port


async def test_not_ready_before_the_service_has_accepted_a_connection(start: Start) -> None:
    """And ready from then on, whether it still accepts or not: its restart takes no sidecar out of rotation."""
    port = free_port()
    scene = await start(f"http://127.0.0.1:{port}", upstream={"waitAtStart": "10m"})
    reply = await scene.operations("/readyz")
    assert (reply.status, reply.json()["failing"]) == (503, ["upstream"])
    assert f"http://127.0.0.1:{port} has not accepted" in reply.json()["parts"]["upstream"]["text"]
    assert (await scene.operations("/livez")).status == 200
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    await eventually(lambda: scene.sidecar.health.report()[0])
    server.close()
    await server.wait_closed()
    assert (await scene.operations("/readyz")).status == 200


async def test_after_that_time_it_is_ready_and_says_what_it_misses(start: Start) -> None:
    scene = await start(f"http://127.0.0.1:{free_port()}", upstream={"waitAtStart": "10m"})
    assert not scene.sidecar.health.report()[0]
    scene.clock.advance(600)
    reply = await scene.operations("/readyz")
    assert (reply.status, reply.json()["parts"]["upstream"]["state"]) == (200, "degraded")
    assert "within 600 s (upstream.waitAtStart)" in reply.json()["parts"]["upstream"]["text"]


async def test_a_unix_socket_is_waited_for_too(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "service"
    scene = await start(f"unix:{path}", upstream={"waitAtStart": "10m"})
    assert scene.sidecar.health.report()[1]["failing"] == ["upstream"]
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), str(path))
    await eventually(lambda: scene.sidecar.health.report()[0])
    server.close()


async def test_a_reload_waits_for_nothing(start: Start) -> None:
    """The service may be restarting at that moment."""
    with echo_upstream() as upstream:
        scene = await start(upstream.url, upstream={"waitAtStart": "10m"})
    await scene.reload(logging={"access": True})
    assert (await scene.operations("/readyz")).status == 200


async def test_without_the_setting_readiness_does_not_depend_on_the_service(start: Start) -> None:
    scene = await start(f"http://127.0.0.1:{free_port()}")
    report: Any = scene.sidecar.health.report()[1]
    assert "upstream" not in report["parts"]
