"""Messages between a supervisor and its workers."""

import asyncio

import pytest

from sidecar.app.workers.framing import frame, read_frame


def stream(raw: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    return reader


async def test_messages_come_out_as_they_went_in() -> None:
    reader = stream(frame(b"one") + frame(b"") + frame(b"x" * 100_000))
    assert [await read_frame(reader) for _ in range(4)] == [b"one", b"", b"x" * 100_000, None]


@pytest.mark.parametrize("raw", [b"\0\0", b"\0\0\0\5four"])
async def test_half_a_message_is_none(raw: bytes) -> None:
    assert await read_frame(stream(raw)) is None


async def test_a_message_of_absurd_length_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="too long"):
        await read_frame(stream(b"\xff\xff\xff\xff"))
