"""``sidecar serve``: runs the sidecar until a signal stops it."""

import argparse
import asyncio
import logging
from functools import partial

import uvloop

from sidecar import environment, logs
from sidecar.app.serve import serve
from sidecar.cli.options import add_config_option, config_paths, load_settings
from sidecar.vaults.reader import SecretsReader

_log = logging.getLogger("sidecar.environment")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "serve", help="run the sidecar", description="Run until SIGTERM or Ctrl-C. SIGHUP reloads the configuration."
    )
    add_config_option(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    logs.configure(form="auto")  # for what is logged while secrets are read
    reader = SecretsReader(serves=True)
    loaded = load_settings(options, reader)
    logs.configure(loaded.settings.logging.level, form=loaded.settings.logging.format)
    for finding in environment.findings:
        _log.warning(finding, extra={"event": "environment_warning"})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(loaded, partial(load_settings, options, reader), config_paths(options), reader))
    return 0
