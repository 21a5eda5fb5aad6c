"""Prints configuration problems, for all commands."""

import sys
from collections.abc import Iterable

from sidecar.errors import Problem


def report(problems: Iterable[Problem]) -> None:
    """Print one line per problem on standard error: errors and warnings."""
    for problem in problems:
        mark = f" [{problem.id}]" if problem.id else ""
        print(f"{'error' if problem.fatal else 'warning'}: {problem}{mark}", file=sys.stderr)
