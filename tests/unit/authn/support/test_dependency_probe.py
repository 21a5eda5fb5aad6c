"""Members that are looked at again: when, how often, and what counts as a problem."""

import asyncio
import logging

import pytest

from sidecar.authn.support.dependency_probe import DependencyProbe
from tests.support.hand_clock import HandClock


class Dependency:
    """A dependency to probe; ``looks`` are the times of the probes."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.wrong: list[str] | Exception = []
        self.looks: list[float] = []
        self.recovery = DependencyProbe("people", self.look, self.clock.wait, lambda: 1.0)

    async def look(self) -> list[str]:
        self.looks.append(self.clock.monotonic() - 1000.0)
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return self.wrong

    async def pass_by(self, seconds: int) -> None:
        """Let as many seconds pass, one by one."""
        for _ in range(seconds):
            await settle()
            self.clock.advance(1.0)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(name="dependency")
def _dependency() -> Dependency:
    return Dependency()


async def test_no_probe_without_a_reported_failure(dependency: Dependency) -> None:
    await dependency.pass_by(1000)
    assert dependency.looks == []


async def test_a_doubt_is_looked_into_at_once_and_is_not_a_problem_yet(dependency: Dependency) -> None:
    """What one caller's credential brings about must not keep all others out."""
    dependency.recovery.report_failure()
    assert dependency.recovery.problem == ""
    await dependency.pass_by(1000)
    assert dependency.looks == [0.0]
    assert dependency.recovery.problem == ""


async def test_it_is_looked_at_more_and_more_rarely_until_it_is_well(
    dependency: Dependency, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidecar.authn")
    dependency.wrong = ["away", "late"]
    dependency.recovery.report_failure()
    await dependency.pass_by(40)
    assert dependency.recovery.problem == "away; late"
    assert dependency.looks == [0.0, 1.0, 3.0, 7.0, 15.0, 25.0, 35.0]
    dependency.wrong = []
    await dependency.pass_by(1000)
    assert dependency.recovery.problem == ""
    assert dependency.looks[7:] == [45.0]
    told = [(record.__dict__["event"], record.__dict__.get("problem")) for record in caplog.records]
    assert told == [("authenticator_unavailable", "away; late"), ("authenticator_available", None)]


async def test_pauses_differ_between_processes() -> None:
    """By up to a half, so that all replicas do not ask at once."""
    dependency = Dependency()
    dependency.wrong = ["away"]
    recovery = DependencyProbe("people", dependency.look, dependency.clock.wait, lambda: 0.0)
    recovery.report_failure()
    await dependency.pass_by(10)
    assert dependency.looks == [0.0, 1.0, 2.0, 4.0, 8.0]
    await recovery.aclose()


async def test_many_doubts_are_few_looks(dependency: Dependency) -> None:
    """A credential that cannot be checked cannot keep the dependency busy."""
    for _ in range(10):
        for _ in range(100):
            dependency.recovery.report_failure()
        await dependency.pass_by(1)
    assert dependency.looks == [float(second) for second in range(10)]


async def test_a_doubt_right_after_a_look_is_not_lost(dependency: Dependency) -> None:
    dependency.recovery.report_failure()
    await settle()
    dependency.wrong = ["away"]
    dependency.recovery.report_failure()
    await dependency.pass_by(1)
    assert dependency.recovery.problem == "away"
    await dependency.recovery.aclose()


async def test_a_look_that_fails_is_a_problem_by_its_kind_alone(dependency: Dependency) -> None:
    dependency.wrong = ValueError("s3cret")
    dependency.recovery.report_failure()
    await settle()
    assert dependency.recovery.problem == "ValueError"
    dependency.wrong = []
    await dependency.pass_by(1)
    assert dependency.recovery.problem == ""


async def test_no_probe_after_the_end(dependency: Dependency) -> None:
    dependency.wrong = ["away"]
    dependency.recovery.report_failure()
    await dependency.pass_by(1)
    await dependency.recovery.aclose()
    await dependency.pass_by(100)
    assert dependency.looks == [0.0, 1.0]
