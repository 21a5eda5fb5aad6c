"""Where WebSocket frames end."""

import random
from itertools import accumulate

import pytest

from sidecar.dataplane.proxy.tunnel import FrameBoundaryTracker


def frame(length: int, *, masked: bool) -> bytes:
    mask = b"mask" if masked else b""
    flag = 0x80 if masked else 0
    if length < 126:
        head = bytes([0x82, flag | length])
    elif length < 2**16:
        head = bytes([0x82, flag | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([0x82, flag | 127]) + length.to_bytes(8, "big")
    return head + mask + b"x" * length


FRAMES = [frame(n, masked=m) for m in (False, True) for n in (0, 1, 125, 126, 300, 65535, 65536, 0, 5)]


@pytest.mark.parametrize("seed", range(20))
def test_borders_are_found_however_the_stream_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    stream = b"".join(FRAMES)
    ends = set(accumulate(map(len, FRAMES)))
    borders, position = FrameBoundaryTracker(), 0
    assert borders.at_boundary
    while position < len(stream):
        size = chance.choice((1, 2, 3, 7, 14, 15, 1000, 70_000))
        taken = borders.advance(stream[position : position + size])
        position += taken
        assert taken == len(stream[position - taken : position])
        assert borders.at_boundary is (position in ends), position


@pytest.mark.parametrize("first", range(1, 16))
def test_it_stops_at_the_first_border(first: int) -> None:
    stream = frame(10, masked=True) + frame(3, masked=False)
    borders = FrameBoundaryTracker()
    assert borders.advance(stream[:first]) == first
    assert borders.advance(stream[first:], stop=True) == 16 - first
    assert borders.at_boundary
