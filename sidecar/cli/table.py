"""Text tables with minimal column widths and without control characters."""

import shutil
import sys
from collections.abc import Iterable, Sequence

_MAX_CELL = 60
_MIN_CELL = 8
_GAP = 2


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header line. None is shown as a dash; long cells are truncated.

    On a terminal, the widest columns but the first, which has what other commands need, are narrowed until the lines
    fit, as far as that leaves something to read.
    """
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    if sys.stdout.isatty():
        widths = _fitting(widths, shutil.get_terminal_size().columns)
    lines = [
        (" " * _GAP).join(_cut(text, width).ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def _fitting(widths: list[int], columns: int) -> list[int]:
    fitted = list(widths)
    while sum(fitted) + _GAP * (len(fitted) - 1) > columns:
        widest = max(range(1, len(fitted)), key=lambda column: fitted[column], default=0)
        if not widest or fitted[widest] <= _MIN_CELL:
            break
        fitted[widest] -= 1
    return fitted


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))
    return _cut(text, _MAX_CELL)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
