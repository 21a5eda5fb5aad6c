"""Tables: as narrow as their cells, and on a terminal as wide as the terminal at most."""

import os
import shutil

import pytest

from sidecar.cli.table import table

HEAD = ("ID", "NAME", "ACTOR", "EXPIRES")
ROWS = [("tok_" + "a" * 22, "a name that is much longer than it needs to be here", "USER:" + "x" * 40, "2026-12-01")]


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    width = int(request.param)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    return width


@pytest.mark.parametrize("columns", [80, 100, 120], indirect=True)
def test_lines_fit_the_terminal_and_the_id_stays_whole(columns: int) -> None:
    lines = table(HEAD, ROWS).splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[1].startswith(ROWS[0][0])
    assert "..." in lines[1]


@pytest.mark.parametrize("columns", [20], indirect=True)
def test_a_terminal_that_is_too_narrow_still_gets_something_to_read(columns: int) -> None:
    line = table(HEAD, ROWS).splitlines()[1]
    assert columns < len(line) < 80
    assert all(len(cell) >= 8 for cell in line.split("  "))


def test_a_file_gets_the_whole_cells() -> None:
    assert ROWS[0][1] in table(HEAD, ROWS)
