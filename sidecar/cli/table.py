"""Text tables with minimal column widths and without control characters."""

from collections.abc import Iterable, Sequence

_MAX_CELL = 60


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header line. None is shown as a dash; long cells are truncated."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 3]}..."
