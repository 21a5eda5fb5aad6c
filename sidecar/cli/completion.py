"""``sidecar completion``: prints a completion script for a shell."""

import argparse
from collections.abc import Iterator
from typing import Any

from sidecar.errors import Misconfigured, Problem

SHELLS = ("bash", "zsh", "fish")
_FILES = frozenset({"FILE"})
_FOLDERS = frozenset({"DIR"})
_INSTALL = """\
The script completes commands, options, their values and file names. To use it in every new shell, run once:
  bash: sidecar completion bash > ~/.local/share/bash-completion/completions/sidecar
  zsh:  sidecar completion zsh > ~/.zfunc/_sidecar   (~/.zfunc must be in fpath before compinit)
  fish: sidecar completion fish > ~/.config/fish/completions/sidecar.fish
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print a completion script for bash, zsh or fish",
        description=_INSTALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    print(completion_script(options.shell))
    return 0


def completion_script(shell: str) -> str:
    """The script for ``shell``. Raises Misconfigured without the library."""
    try:
        import shtab
    except ImportError as error:
        text = "needs the extra completion, which is not installed: pip install 'auth-sidecar[completion]'"
        raise Misconfigured([Problem(f"sidecar completion {shell}", text)]) from error
    from sidecar.cli.main import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined] # the attribute that shtab reads
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined] # as above
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of ``parser`` and of all its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list them
        yield action
        choices: Any = action.choices
        if isinstance(choices, dict):
            for command in choices.values():
                yield from _actions(command)
