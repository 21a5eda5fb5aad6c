"""What a service manager says while the service is still starting."""

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.support.http_client import answers
from tests.support.ports import free_port
from tests.support.process import Process, running


def command(folder: Path, admin_address: str, workers: int) -> list[str | Path]:
    server = {"listen": f"127.0.0.1:{free_port()}", "adminListen": admin_address, "workers": workers}
    config = folder / "sidecar.yaml"
    config.write_text(
        yaml.safe_dump({"server": server, "store": {"url": f"sqlite:///{folder}/s.db"}}), encoding="utf-8"
    )
    return [sys.executable, "-m", "sidecar", "serve", "--config", config]


def events(process: Process) -> list[str | None]:
    lines = process.output.splitlines()
    return [json.loads(line).get("event") for line in lines if line.startswith("{")]


def at_once() -> bool:
    return True


def mask(process: Process, kind: str) -> int:
    """The signals that it treats so, as proc(5) shows them."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{kind}:\s*(\w+)", status, re.MULTILINE)
    assert found is not None
    return int(found[1], 16)


def holds_back(process: Process) -> Callable[[], bool]:
    return lambda: bool(mask(process, "SigBlk") & 1 << signal.SIGHUP - 1)


def test_a_reload_that_comes_too_early_comes_later(tmp_path: Path) -> None:
    """Rather than end what starts, or be lost with what may have changed."""
    admin_address = f"127.0.0.1:{free_port()}"
    with running(command(tmp_path, admin_address, 1), log=tmp_path / "log", ready=at_once) as process:
        process.wait_until(holds_back(process), within=10, what="holding it back")
        process.popen.send_signal(signal.SIGHUP)
        process.wait_until(lambda: "configuration_reload" in events(process), within=30, what="reloaded")
        assert answers(f"http://{admin_address}/livez", 200)
        assert not holds_back(process)()


def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    """However long the workers would take."""
    folder = tmp_path
    with running(command(folder, f"127.0.0.1:{free_port()}", 2), log=folder / "log", ready=at_once) as process:
        children = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children")
        process.wait_until(lambda: bool(children.read_text(encoding="ascii")), within=30, what="starting workers")
        pids = children.read_text(encoding="ascii").split()
        process.popen.terminate()
        assert process.popen.wait(30) == 0
        assert "listening" not in events(process)
        assert events(process)[-1] == "stopped"
        assert "Traceback" not in process.output
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
