"""When a process is ready, and what it says when it is not."""

import pytest

from sidecar.admin.health import Health, PartState, PartStatus, combined

PENDING, USABLE, DEGRADED, UNUSABLE = PartState.PENDING, PartState.USABLE, PartState.DEGRADED, PartState.UNUSABLE


def health(credentials: list[PartState], required: list[PartState]) -> Health:
    def reader(name: str, condition: PartState) -> PartStatus:
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
def test_ready(credentials: list[PartState], required: list[PartState], ready: bool, failing: list[str]) -> None:
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


def test_settled_means_that_all_have_been_tried() -> None:
    assert health([USABLE, UNUSABLE], [DEGRADED]).is_settled
    assert not health([USABLE, PENDING], [USABLE]).is_settled


def reports(*healths: Health | None) -> list[dict[str, object] | None]:
    return [None if one is None else {**one.report()[1], "pid": number} for number, one in enumerate(healths)]


def test_several_workers_are_ready_when_all_who_answer_are() -> None:
    """A worker that has exited is reported; the process is not ready only if no other worker is running."""
    good, bad = health([USABLE], [USABLE]), health([USABLE], [UNUSABLE])
    for healths, ready, failing in (
        ([good, good], True, []),
        ([good, None], True, ["worker 1"]),
        ([good, bad], False, ["r0"]),
        ([bad, bad], False, ["r0"]),
        ([None, None], False, ["worker 0", "worker 1"]),
    ):
        is_ready, report = combined(reports(*healths), is_complete=True, is_draining=False)
        assert (is_ready, report["ready"], report["failing"]) == (ready, ready, failing)
    assert not combined(reports(good, good), is_complete=False, is_draining=False)[0]
    assert not combined(reports(good, good), is_complete=True, is_draining=True)[0]


def test_of_several_workers_parts_the_worst_state_is_shown() -> None:
    report = combined(
        reports(health([USABLE], [DEGRADED]), health([PENDING], [USABLE])), is_complete=True, is_draining=False
    )[1]
    assert report["parts"] == {
        "c0": {"state": "pending", "text": "why"},
        "r0": {"state": "degraded", "text": "why"},
    }
    assert report["workers"] == [
        {"pid": 0, "ready": True, "failing": []},
        {"pid": 1, "ready": False, "failing": ["c0"]},
    ]
