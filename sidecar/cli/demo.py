"""``sidecar demo``: the whole thing on this machine, with lines to paste."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from sidecar.demo.stage import Stage, set_up
from sidecar.errors import SidecarError


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("demo", help="run a demonstration: identity provider, service and sidecar")
    parser.add_argument("--port", type=_port, default=4180, help="public port; the next one is for operations")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Stay up until Ctrl-C. Exit code 1 when a part does not start or the sidecar ends by itself."""
    asyncio.run(_demonstrate(options.port))
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 65535:
        raise argparse.ArgumentTypeError("must be a port from 1 to 65534")
    return int(text)


async def _demonstrate(port: int) -> None:
    # Ctrl-C cancels this task by itself (asyncio.run); SIGTERM ends the demonstration the same orderly way
    if (own_task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own_task.cancel)
    print("Starting ...", file=sys.stderr)
    try:
        async with set_up(port) as stage:
            print(_playbill(stage, port), flush=True)
            await asyncio.shield(stage.ended)
            raise SidecarError(f"the sidecar ended by itself:\n{stage.last_words()}")
    except asyncio.CancelledError:
        print("Stopped.", file=sys.stderr)


def _playbill(stage: Stage, port: int) -> str:
    program = sys.argv[0] if Path(sys.argv[0]).name == "sidecar" else f"{sys.executable} -m sidecar"
    lines = [
        "",
        f"The sidecar listens on http://127.0.0.1:{port}. The service behind it shows whom it is told is asking.",
        f"Its operations listener: http://127.0.0.1:{port + 1}/metrics   /readyz   /config",
        f"Its configuration: {stage.config}",
        f"Its log: {stage.log}",
        "",
        "Paste these into another terminal:",
    ]
    for trial in stage.trials:
        lines += ["", f"# {trial.status} {trial.shows}", trial.curl]
    lines += ["", "# fresh tokens"]
    lines += [f"curl -s -d grant_type=password -d username=alice {url}/token" for url in stage.issuer_urls]
    lines += [
        "# one more bot",
        f"{program} token create --config {stage.config} --name my-bot",
        "",
        "Ctrl-C ends it and removes its files.",
    ]
    return "\n".join(lines)
