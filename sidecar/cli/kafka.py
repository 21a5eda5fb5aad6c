"""``sidecar kafka gate|check``: gates before Kafka topics."""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from typing import Any

import uvloop

from sidecar import environment, logs
from sidecar.app.kafka import run_gates
from sidecar.app.reload import warn
from sidecar.cli.kafka_listener import check_listener
from sidecar.cli.options import add_config_option, load_settings
from sidecar.cli.problems import report
from sidecar.config.load import Loaded
from sidecar.errors import Misconfigured, Problem
from sidecar.kafka.check import check_gates
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
    check = actions.add_parser(
        "check",
        help="check topics, ACLs and an OAUTHBEARER listener",
        description="Changes nothing. Exit code 0: no errors (there may be warnings). 1: an error, such as a listener "
        "that accepts a forged token. 2: the configuration is invalid.",
    )
    add_config_option(check)
    check.add_argument(
        "--listener",
        metavar="HOST:PORT",
        help="present forged tokens to this SASL/OAUTHBEARER listener (default: kafka.bootstrap if its sasl.mechanism "
        "is OAUTHBEARER)",
    )
    check.add_argument("--audience", default="kafka", help="aud that the listener expects (default: kafka)")
    check.set_defaults(run=run_kafka_check)


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


def run_kafka_check(options: argparse.Namespace) -> int:
    """Print what was checked and every problem; returns the exit code."""
    loaded = load_settings(options)
    kafka = loaded.settings.kafka
    if kafka is None:
        raise Misconfigured([Problem("kafka", "is missing; configure the block")])
    mechanism = kafka.client.get("sasl.mechanism") or kafka.client.get("sasl.mechanisms")
    is_oauth = mechanism is not None and mechanism.reveal().upper() == "OAUTHBEARER"
    listener = options.listener or (kafka.bootstrap if is_oauth else "")
    problems: list[Problem] = []
    for gate in kafka.gates:
        print(f"Gate {gate.name}: {gate.from_} to {gate.to}; refused records to {gate.dead_letter}.")
        print(f"  Consumers of {gate.to} need isolation.level=read_committed; brokers do not know what they have set.")
    problems += check_gates(kafka)
    if listener:
        problems += check_listener(loaded, kafka, listener, options.audience)
    elif not kafka.gates:
        raise Misconfigured([Problem("kafka", "has nothing to check: configure gates, or name a --listener")])
    sys.stdout.flush()
    report([*loaded.located(problems)])
    if any(problem.fatal for problem in problems):
        return 1
    print("No errors.")
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
