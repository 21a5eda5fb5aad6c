"""Redis on a unix socket, as redis-py spells its address."""

from collections.abc import Callable
from pathlib import Path

from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.redis.client import RedisClient
from tests.support.process import running


async def test_a_server_is_reached_by_its_socket(tmp_path: Path, require_tool: Callable[[str], Path]) -> None:
    """The query's database and the password count."""
    path = tmp_path / "r.sock"
    command = [require_tool("redis-server"), "--port", "0", "--unixsocket", path, "--requirepass", "pw", "--save", ""]
    with running(command, log=tmp_path / "log", ready=path.exists):
        settings = StoreSettings(url=Secret(f"unix://:pw@{path}?db=3"))
        client = RedisClient(settings, Metrics(), SystemClock())
        try:
            (answer,) = await client.read("test", ("CLIENT", "INFO"))
        finally:
            await client.aclose()
    assert " db=3 " in (answer.decode() if isinstance(answer, bytes) else str(answer))
