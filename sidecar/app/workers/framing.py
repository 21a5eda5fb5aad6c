"""Messages on a stream: four octets of length (big-endian), then so many octets."""

import asyncio

_LENGTH_BYTES = 4
_MAX_FRAME_BYTES = 64 * 1024 * 1024


def frame(message: bytes) -> bytes:
    """``message`` as it travels."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None at the end of the stream. Raises ValueError for one longer than any of ours."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > _MAX_FRAME_BYTES:
            raise ValueError("too long for a message")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
