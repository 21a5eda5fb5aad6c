"""What every test may ask for."""

import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

import sidecar.cli.main  # noqa: F401 - for the fixture below: the package has a function of that name
from tests.support import tools

# A deadline for one example measures what else the machine does.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Heavy tests run under CI=true only, those of a node with NODE_TESTS=true."""
    skipped = {}
    if not tools.UNDER_CI:
        skipped["heavy"] = pytest.mark.skip(reason="heavy: runs under CI=true")
    if not tools.ON_A_NODE:
        skipped["node"] = pytest.mark.skip(reason="node: runs by make heavy")
    for item in items:
        for name, mark in skipped.items():
            if name in item.keywords:
                item.add_marker(mark)


@pytest.fixture(autouse=True)
def _keep_the_limits_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that tests call in this process forbid core dumps; a limit that was lowered cannot be raised again."""
    monkeypatch.setattr(sys.modules["sidecar.cli.main"], "disable_core_dumps", lambda: None)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], Path]:
    """``require_tool("envoy")``: the program. Missing: the test is skipped; under CI it fails, unless optional."""

    def require(name: str) -> Path:
        found = tools.find(name)
        if found is not None:
            return found
        if tools.UNDER_CI and not tools.CATALOGUE[name].optional:
            pytest.fail(tools.missing_text(name))
        pytest.skip(tools.missing_text(name))

    return require
