"""A minute of the soak: no wrong verdict whatever fails. ``python -m bench.soak`` runs it for longer."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tools import ROOT

pytestmark = pytest.mark.heavy


def test_no_verdict_is_wrong_while_everything_around_fails(require_tool: Callable[[str], Path]) -> None:
    require_tool("redis-server")
    command = [sys.executable, "-m", "bench.soak", "--minutes", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
