"""``sidecar serve``: run until told to stop."""

import argparse
import asyncio
import logging

import uvloop

from sidecar import logs
from sidecar.app.running import serve
from sidecar.cli.options import add_config_option, load_settings


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("serve", help="run the sidecar", description="Run until SIGTERM or Ctrl-C.")
    add_config_option(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    loaded = load_settings(options)
    logs.configure(loaded.settings.logging.level)
    for warning in loaded.warnings:
        logging.getLogger("sidecar.config").warning(str(warning))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(loaded))
    return 0
