"""Options shared by several commands."""

import argparse
import os
import sys

from sidecar.authn.registry import validate
from sidecar.config.load import Loaded, load

CONFIG_VARIABLE = "SIDECAR_CONFIG"
_MAX_INPUT = 2 * 1024 * 1024


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE`` to ``parser``; it may be repeated."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=None,
        help=f"configuration file; repeatable, later ones win (default: ${CONFIG_VARIABLE}, else built-in defaults)",
    )


def config_paths(options: argparse.Namespace) -> tuple[str, ...]:
    """The files that ``options`` or the environment name, in order."""
    if options.config:
        return tuple(options.config)
    named = os.environ.get(CONFIG_VARIABLE, "")
    return (named,) if named else ()


def load_settings(options: argparse.Namespace) -> Loaded:
    """The configuration named by ``options``. Raises Misconfigured with every problem; prints nothing."""
    return load(config_paths(options), os.environ, validate)


def read_token(argument: str) -> str:
    """The token in ``argument``, or on standard input if that is ``-``."""
    return sys.stdin.read(_MAX_INPUT).strip() if argument == "-" else argument
