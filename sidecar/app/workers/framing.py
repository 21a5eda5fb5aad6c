"""Length-prefixed messages: four bytes with the length (big-endian), then the message."""

import asyncio

_LENGTH_BYTES = 4
_MAX_FRAME_BYTES = 64 * 1024 * 1024


def frame(message: bytes) -> bytes:
    """``message`` with its length prefix."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None at the end of the stream. Raises ValueError if it exceeds the maximum length."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > _MAX_FRAME_BYTES:
            raise ValueError("message too long")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
