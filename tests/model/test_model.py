"""The protocol keeps its promises in every state that it can come to, within small bounds.

``python -m tests.model`` searches larger ones.
"""

from collections.abc import Iterator

import pytest

from tests.model import protocol
from tests.model.protocol import FOREVER, MINT, REMOVED, Bounds, Said, Value, merge
from tests.model.search import QUICK, search


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    """What was merged by other rules is not remembered."""
    for kept in (protocol.merge, protocol.state_of):
        kept.cache_clear()
    yield
    for kept in (protocol.merge, protocol.state_of):
        kept.cache_clear()


@pytest.mark.parametrize("name", list(QUICK))
def test_no_state_breaks_a_promise(name: str) -> None:
    states, found = search(QUICK[name])
    assert not found, found
    assert states > 100


def test_merge_is_commutative_associative_and_idempotent() -> None:
    said = [Said(), *(Said(version, kind) for version in (1, 2) for kind in (FOREVER, REMOVED))]
    tokens = [(), (protocol.Token("a", 1, False),), (protocol.Token("a", 1, True), protocol.Token("b", 2, False))]
    values = [merge(Value(), Value(one, some, now)) for one in said for some in tokens for now in ((0, ""), (2, "b"))]
    for one in values:
        assert merge(one, one) == one
        for other in values:
            assert merge(one, other) == merge(other, one)
            for third in values[::7]:
                assert merge(merge(one, other), third) == merge(one, merge(other, third))


def test_model_would_find_a_protocol_that_does_not_remember_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is no formality: each rule that is taken away breaks a promise."""
    answer = protocol.answer

    def forgetful(state: protocol.State, number: int, bounds: Bounds) -> protocol.State:
        after = answer(state, number, bounds)
        kept = [process._replace(promised=frozenset()) for process in after.processes]
        return after._replace(processes=tuple(kept))

    monkeypatch.setattr(protocol, "answer", forgetful)
    assert search(Bounds(writes=1, kinds=(FOREVER,)))[1]


def test_model_would_find_a_protocol_that_takes_late_answers_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = protocol.answer

    def deaf(state: protocol.State, number: int, bounds: Bounds) -> protocol.State:
        flights = tuple(flight._replace(heard=-1) for flight in state.flights)
        return answer(state._replace(flights=flights), number, bounds)

    monkeypatch.setattr(protocol, "answer", deaf)
    assert search(Bounds(losses=0, kinds=(FOREVER, REMOVED)))[1]


def test_model_would_find_a_store_that_does_not_end_earlier_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "is_replaced", lambda record, current: False)
    assert search(Bounds(losses=0, kinds=(MINT,)))[1]
