"""An upstream as a program that can be killed and suspended: ``python -m bench.service PORT``."""

import argparse
import asyncio
import hashlib
import json
from contextlib import suppress
from typing import Final

from aiohttp import web

# The period is not a power of two, so a lost or repeated part of a body changes the digest.
PATTERN: Final = bytes(number * number % 251 for number in range(65_521))
EVENT_SECONDS = 0.05


async def _echo(request: web.Request) -> web.StreamResponse:
    """The identity, the target and the digest of the body."""
    digest, size = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        size += len(chunk)
    document = {
        "user": request.headers.getall("X-Auth-Request-User", []),
        "target": request.raw_path,
        "size": size,
        "sha256": digest.hexdigest(),
    }
    return web.Response(text=json.dumps(document), content_type="application/json")


async def _download(request: web.Request) -> web.StreamResponse:
    """``/download/SIZE``: this number of bytes of the pattern, with Content-Length; ``?chunked``: without."""
    size = int(request.match_info["size"])
    answer = web.StreamResponse()
    if "chunked" not in request.query:
        answer.content_length = size
    await answer.prepare(request)
    for start in range(0, size, len(PATTERN)):
        await answer.write(PATTERN[: size - start])
    await answer.write_eof()
    return answer


async def _events(request: web.Request) -> web.StreamResponse:
    """``/events``: repeats the user's name as an event until the client disconnects."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    line = f"data: {request.headers.get('X-Auth-Request-User', '')}\n\n".encode()
    with suppress(ConnectionError):
        while True:
            await answer.write(line)
            await asyncio.sleep(EVENT_SECONDS)
    return answer


async def _messages(request: web.Request) -> web.StreamResponse:
    """``/messages``: a WebSocket that sends the user's name, then echoes every message."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(request.headers.get("X-Auth-Request-User", ""))
    async for message in socket:
        await socket.send_str(str(message.data))
    return socket


def application() -> web.Application:
    """The application with all routes."""
    app = web.Application()
    app.router.add_get("/download/{size}", _download)
    app.router.add_get("/events", _events)
    app.router.add_get("/messages", _messages)
    app.router.add_route("*", "/{anything:.*}", _echo)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.service", description=__doc__)
    parser.add_argument("port", type=int)
    port = parser.parse_args().port
    web.run_app(application(), host="127.0.0.1", port=port, print=None, access_log=None, shutdown_timeout=0.5)


if __name__ == "__main__":
    main()
