"""``sidecar kafka gate|check``: gates before Kafka topics."""

import argparse
import asyncio
import logging
import signal
import socket
from typing import Any

import uvloop

from sidecar import environment, logs
from sidecar.app.kafka import run_gates
from sidecar.app.reload import warn
from sidecar.cli.options import add_config_option, load_settings
from sidecar.config.load import Loaded
from sidecar.vaults.reader import SecretsReader

_log = logging.getLogger("sidecar.environment")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    actions = subparsers.add_parser("kafka", help="run and check gates before Kafka topics").add_subparsers(
        metavar="ACTION", required=True
    )
    gate = actions.add_parser(
        "gate",
        help="run the gates",
        description="Run until SIGTERM or Ctrl-C. Replicas share the partitions of the inbound topics.",
    )
    add_config_option(gate)
    gate.add_argument(
        "--name", action="append", default=[], metavar="GATE", help="this gate; repeatable (default: all)"
    )
    gate.add_argument(
        "--instance",
        default="0",
        metavar="ID",
        help="tells processes of one host apart that run the same gate; part of the transactional id (default: 0)",
    )
    gate.set_defaults(run=run_gate)


def run_gate(options: argparse.Namespace) -> int:
    """Run the gates until a signal."""
    logs.configure(form="auto")  # for what is logged while secrets are read
    loaded = load_settings(options, SecretsReader(serves=True))
    logs.configure(loaded.settings.logging.level, form=loaded.settings.logging.format)
    for finding in environment.findings:
        _log.warning(finding, extra={"event": "environment_warning"})
    warn(loaded)
    instance = f"{socket.gethostname()}-{options.instance}"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(loaded, options.name, instance))
    return 0


async def _run(loaded: Loaded, names: list[str], instance: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with run_gates(loaded, names, instance) as service:
        stopping = asyncio.create_task(stop.wait())
        both: set[asyncio.Future[Any]] = {stopping, service.ended}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if service.ended.done():
            service.ended.result()
