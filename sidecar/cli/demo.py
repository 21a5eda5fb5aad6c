"""``sidecar demo``: the whole thing on this machine, with lines to paste."""

import argparse
import asyncio
import shlex
import signal
import sys
from pathlib import Path

from sidecar.demo.environment import PORTS, Environment, start_environment
from sidecar.demo.script import script
from sidecar.errors import SidecarError


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("demo", help="run a demonstration: identity provider, service and sidecar")
    parser.add_argument("--port", type=_port, default=4180, help="public port; the next three are taken, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Stay up until Ctrl-C. Exit code 1 when a part does not start or the sidecar ends by itself."""
    asyncio.run(_demonstrate(options.port))
    return 0


def _port(text: str) -> int:
    highest = 65536 - PORTS
    if not text.isdecimal() or not 1 <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to {highest}")
    return int(text)


async def _demonstrate(port: int) -> None:
    # Ctrl-C cancels this task by itself (asyncio.run); SIGTERM ends the demonstration the same orderly way
    if (own_task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own_task.cancel)
    print("Starting ...", file=sys.stderr)
    try:
        async with start_environment(port) as stage:
            print(_banner(stage), flush=True)
            await asyncio.shield(stage.ended)
            raise SidecarError(f"the sidecar ended by itself:\n{stage.log_tail()}")
    except asyncio.CancelledError:
        print("Stopped.", file=sys.stderr)


def _banner(stage: Environment) -> str:
    lines = [
        "",
        f"The sidecar listens on {stage.public_url}. Behind it is a service that answers with what it is told about",
        f"whoever asks. Two companies issue tokens: {stage.provider_url}/acme and {stage.provider_url}/globex.",
        "",
        "Paste what follows into another terminal. sidecar.yaml there is the configuration.",
        "",
        f"cd {stage.folder}",
    ]
    for act in script(stage.public_url, stage.admin_url, stage.provider_url, _program()):
        lines += ["", f"## {act.title}"]
        for trial in act.examples:
            lines += ["", f"# {f'{trial.status} ' if trial.status else ''}{trial.shows}", trial.line]
    lines += ["", "Ctrl-C ends it and removes its files."]
    return "\n".join(lines)


def _program() -> str:
    """This very program, as a shell in any folder finds it."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called.absolute())) if called.name == "sidecar" else f"{sys.executable} -m sidecar"
