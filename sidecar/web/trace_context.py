"""W3C Trace Context: which ``traceparent`` and ``tracestate`` of a caller are sound enough to be passed on.

https://www.w3.org/TR/trace-context/ sections 3.2 and 3.3. They are not trusted: they only join traces.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# A version that is not known may have more behind the flags; "ff" is none.
_PARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_MEMBER = re.compile(rb"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MAX_MEMBERS = 32
_MAX_PARENT = 256
_MAX_STATE = 8192


@dataclass(frozen=True, slots=True)
class TraceContext:
    """``parent`` and ``state`` as they were sent, the latter in one line; the rest is what ``parent`` says."""

    parent: bytes
    trace_id: int
    span_id: int
    sampled: bool
    state: bytes

    def lines(self) -> list[bytes]:
        """The header lines, each with its line end."""
        lines = [b"traceparent: %b\r\n" % self.parent]
        return [*lines, b"tracestate: %b\r\n" % self.state] if self.state else lines


def read_trace_context(parents: Sequence[bytes], states: Sequence[bytes]) -> TraceContext | None:
    """What the values of both headers say; None when there is no sound ``traceparent``, and only one.

    A ``tracestate`` with anything wrong in it is left out.
    """
    if len(parents) != 1 or len(parents[0]) > _MAX_PARENT:
        return None
    found = _PARENT.fullmatch(parents[0])
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return TraceContext(parents[0], int(found[2], 16), int(found[3], 16), bool(int(found[4], 16) & 1), _state(states))


def _state(values: Sequence[bytes]) -> bytes:
    if sum(map(len, values)) > _MAX_STATE:
        return b""
    members = [member for value in values for part in value.split(b",") if (member := part.strip(b" \t"))]
    sound = len(members) <= _MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return b",".join(members) if sound else b""
