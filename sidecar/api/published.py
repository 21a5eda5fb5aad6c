"""Documents that anyone may read and cache: with ETag, and 304 for who has it already."""

from collections.abc import Mapping

from sidecar.web.response import Response


def published(headers: Mapping[str, str], document: bytes, tag: str, lines: bytes, content_type: bytes) -> Response:
    """200 with ``document``, or 304 if the client has it. ``tag``: its entity tag, quotes included."""
    lines += f"ETag: {tag}\r\n".encode("ascii")
    given = headers.get("If-None-Match", "")
    if given.strip() == "*" or tag in {part.strip().removeprefix("W/") for part in given.split(",")}:
        return Response(304, lines)
    return Response(200, b"Content-Type: %b\r\n%b" % (content_type, lines), document)
