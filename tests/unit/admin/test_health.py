"""When a process is ready, and what it says when it is not."""

import pytest

from sidecar.admin.health import Condition, Health, PartStatus

PENDING, USABLE, DEGRADED, UNUSABLE = Condition.PENDING, Condition.USABLE, Condition.DEGRADED, Condition.UNUSABLE


def health(credentials: list[Condition], required: list[Condition]) -> Health:
    def reader(name: str, condition: Condition) -> PartStatus:
        return PartStatus(name, condition, "why" if condition is not USABLE else "")

    return Health(
        [lambda n=n, c=c: reader(f"c{n}", c) for n, c in enumerate(credentials)],  # type: ignore[misc] # defaults bind
        [lambda n=n, c=c: reader(f"r{n}", c) for n, c in enumerate(required)],  # type: ignore[misc] # defaults bind
    )


@pytest.mark.parametrize(
    ("credentials", "required", "ready", "failing"),
    [
        ([], [], True, []),
        ([USABLE], [], True, []),
        ([DEGRADED], [], True, []),
        ([USABLE, UNUSABLE], [], True, ["c1"]),
        ([UNUSABLE, UNUSABLE], [], False, ["c0", "c1"]),
        ([USABLE, PENDING], [], False, ["c1"]),
        ([PENDING], [], False, ["c0"]),
        ([USABLE], [USABLE], True, []),
        ([USABLE], [DEGRADED], True, []),
        ([USABLE], [UNUSABLE], False, ["r0"]),
        ([USABLE], [PENDING], False, ["r0"]),
    ],
)
def test_ready(credentials: list[Condition], required: list[Condition], ready: bool, failing: list[str]) -> None:
    is_ready, report = health(credentials, required).report()
    assert (is_ready, report["ready"], report["failing"]) == (ready, ready, failing)


def test_every_part_is_named_with_its_state_and_text() -> None:
    assert health([USABLE], [DEGRADED]).report()[1]["parts"] == {
        "c0": {"state": "usable"},
        "r0": {"state": "degraded", "text": "why"},
    }


def test_draining_is_not_ready() -> None:
    drained = health([USABLE], [USABLE])
    drained.draining = True
    assert drained.report()[0] is False
    assert drained.report()[1]["draining"] is True
