"""``sidecar demo``: a complete local setup, with commands to try."""

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
    parser = subparsers.add_parser("demo", help="run a local demo: identity provider, upstream and sidecar")
    parser.add_argument(
        "--port", type=_port, default=4180, help="public port; the next three ports are used too (default: 4180)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until Ctrl-C. Exit code 1 if a part does not start or the sidecar exits."""
    asyncio.run(_run_demo(options.port))
    return 0


def _port(text: str) -> int:
    highest = 65536 - PORTS
    if not text.isdecimal() or not 1 <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to {highest}")
    return int(text)


async def _run_demo(port: int) -> None:
    # asyncio.run cancels this task on Ctrl-C; do the same on SIGTERM
    if (own_task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own_task.cancel)
    print("Starting ...", file=sys.stderr)
    try:
        async with start_environment(port) as environment:
            print(_banner(environment), flush=True)
            await asyncio.shield(environment.ended)
            raise SidecarError(f"the sidecar exited unexpectedly:\n{environment.log_tail()}")
    except asyncio.CancelledError:
        print("Stopped.", file=sys.stderr)


def _banner(environment: Environment) -> str:
    lines = [
        "",
        f"The sidecar listens on {environment.public_url}. Its upstream is an echo service that returns the",
        "identity headers it received. There are two issuers:",
        f"{environment.provider_url}/acme and {environment.provider_url}/globex.",
        "",
        f"To log in with a browser, open {environment.public_url}/hello; {environment.public_url}/oauth2/sign_out",
        "signs out again.",
        "",
        "Run these commands in another terminal. The configuration is in sidecar.yaml in this folder.",
        "",
        f"cd {environment.folder}",
    ]
    for section in script(environment.public_url, environment.admin_url, environment.provider_url, _program()):
        lines += ["", f"## {section.title}"]
        for example in section.examples:
            lines += ["", f"# {f'{example.status} ' if example.status else ''}{example.shows}", example.line]
    lines += ["", "Press Ctrl-C to stop the demo and remove its files."]
    return "\n".join(lines)


def _program() -> str:
    """The command that runs this program from any folder."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called.absolute())) if called.name == "sidecar" else f"{sys.executable} -m sidecar"
