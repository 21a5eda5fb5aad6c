"""Which trace context is sound (W3C Trace Context, sections 3.2 and 3.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.web.trace_context import TraceContext, read_trace_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


def state(*values: bytes) -> bytes | None:
    context = read_trace_context([GOOD], values)
    assert context is not None
    return context.state


def test_a_sound_one_is_read() -> None:
    assert read_trace_context([GOOD], [b"a=1"]) == TraceContext(GOOD, int(TRACE, 16), int(SPAN, 16), True, b"a=1")
    unsampled = read_trace_context([GOOD[:-1] + b"0"], [])
    assert unsampled is not None
    assert not unsampled.sampled
    assert unsampled.lines() == [b"traceparent: %b\r\n" % unsampled.parent]


@pytest.mark.parametrize(
    "later", [f"01-{TRACE}-{SPAN}-03", f"cc-{TRACE}-{SPAN}-01-what-will-be", f"fe-{TRACE}-{SPAN}-00-"]
)
def test_later_versions_are_read_as_far_as_they_are_known(later: str) -> None:
    context = read_trace_context([later.encode()], [])
    assert context is not None
    assert (context.trace_id, context.parent) == (int(TRACE, 16), later.encode())


@pytest.mark.parametrize(
    "parent",
    [
        "", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-01-x", f"00-{TRACE}-{SPAN}-01-",
        f"ff-{TRACE}-{SPAN}-01", f"0-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-0g", f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n", f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01x",
        f"01-{TRACE}-{SPAN}-01-{'x' * 300}", f"01-{TRACE}-{SPAN}-01-\x00",
    ],
)  # fmt: skip
def test_anything_else_is_none(parent: str) -> None:
    assert read_trace_context([parent.encode()], [b"a=1"]) is None


def test_two_parents_are_none() -> None:
    assert read_trace_context([GOOD, GOOD], []) is None
    assert read_trace_context([], [b"a=1"]) is None


def test_states_are_joined_in_order() -> None:
    assert state(b"congo=t61, rojo=00f0 ,", b"", b"t@v/x-*_=b c") == b"congo=t61,rojo=00f0,t@v/x-*_=b c"


@pytest.mark.parametrize(
    "value",
    [b"a", b"=1", b"a=", b"A=1", b"a=1\x00", b"a=\xff", b"a=1=2", b"a b=1", b"-a=1", b"a=" + b"x" * 257],
)
def test_a_state_with_anything_wrong_in_it_is_left_out(value: bytes) -> None:
    assert state(b"good=1", value) == b""


def test_a_state_has_its_bounds() -> None:
    assert state(b",".join(b"k%d=1" % number for number in range(32)))
    assert state(b",".join(b"k%d=1" % number for number in range(33))) == b""
    assert state(*[b"a=" + b"x" * 250] * 31) != b""
    assert state(*[b"," * 300] * 31) == b""


@given(parents=st.lists(st.binary() | st.just(GOOD), max_size=2), states=st.lists(st.binary(), max_size=3))
def test_no_line_is_ever_more_than_one(parents: list[bytes], states: list[bytes]) -> None:
    context = read_trace_context(parents, states)
    for line in [] if context is None else context.lines():
        assert line.removesuffix(b"\r\n").translate(None, bytes(range(0x20, 0x7F))) == b""
