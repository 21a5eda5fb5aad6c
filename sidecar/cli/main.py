"""Dispatches commands. A failure prints one sentence with what to do, never a traceback."""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module

from sidecar import __version__, environment
from sidecar.cli.output import OutputError, checked_output
from sidecar.cli.parser import Parser
from sidecar.cli.problems import complain, report
from sidecar.core_dumps import disable_core_dumps
from sidecar.errors import Failed, Misconfigured, SidecarError
from sidecar.logs import audit_lines

# Each module has ``register(subparsers)`` and sets ``run`` (Namespace -> exit code) on its parsers.
COMMANDS = (
    "init", "serve", "check", "demo", "config", "token", "bots", "keys", "revocations", "sessions", "login",
    "secrets", "kafka", "health", "completion",
)  # fmt: skip


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the ``sidecar`` command. Only the modules of ``commands`` are imported."""
    parser = Parser(prog="sidecar", description="Authentication sidecar for metadata servers.")
    parser.add_argument("--version", action="version", version=f"auth-sidecar {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in commands:
        import_module(f"sidecar.cli.{name}").register(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    environment.clean()
    disable_core_dumps()
    if words[:1] == ["serve"]:
        # it would kill the process during startup; :func:`sidecar.app.serve.serve` unblocks it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    # modules of other commands would only delay the start
    named = words[:1] if words and words[0] in COMMANDS else COMMANDS
    # these configure their own log
    serves = words[:1] == ["serve"] or words[:2] == ["kafka", "gate"]
    log = nullcontext() if serves else audit_lines(sys.stderr)
    try:
        with log, nullcontext() if serves else checked_output():
            options = build_parser(named).parse_args(words or ["--help"])
            code: int = options.run(options)
    except Misconfigured as error:
        report(error.problems)
        return 2
    except Failed as error:
        complain(f"{error.message} ({error.reason}{': ' + error.detail if error.detail else ''})")
        return 1
    except OutputError as error:
        if not error.is_harmless:
            complain(str(error))
        return 1
    except SidecarError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return code
