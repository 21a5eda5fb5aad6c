"""How every command prints what is wrong with a configuration."""

import sys
from collections.abc import Iterable

from sidecar.errors import Problem


def report(problems: Iterable[Problem]) -> None:
    """One line each on standard error: what must be mended, and what is advice."""
    for problem in problems:
        mark = f" [{problem.id}]" if problem.id else ""
        print(f"{'error' if problem.fatal else 'warning'}: {problem}{mark}", file=sys.stderr)
