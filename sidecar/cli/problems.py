"""Prints configuration problems and failures on standard error, for all commands."""

import sys
from collections.abc import Iterable
from contextlib import suppress

from sidecar.errors import Problem


def report(problems: Iterable[Problem]) -> None:
    """Print one line per problem: errors and warnings."""
    for problem in problems:
        mark = f" [{problem.id}]" if problem.id else ""
        complain(f"{'error' if problem.fatal else 'warning'}: {problem}{mark}")


def complain(text: str) -> None:
    """Print ``text`` on standard error. If that cannot be written, the exit code still says how the command ended."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
