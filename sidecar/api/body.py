"""Request bodies and queries: limited in size and parsed strictly; ambiguous input is rejected."""

import asyncio
from collections.abc import Collection
from contextlib import nullcontext
from urllib.parse import parse_qsl

from aiohttp import HttpVersion11, web

from sidecar.budget import Budget
from sidecar.errors import Cause, Reason, Refused
from sidecar.tokens.jwt.compact import strict_json

MAX_BYTES = 1024 * 1024
_MAX_FIELDS = 16
_UNDECIDED_BODY_TIMEOUT = 10.0
"""Time limit in seconds for a body that is read before the caller is authenticated."""


class BodyReader:
    """Reads whole bodies of at most ``max_bytes`` bytes within ``timeout`` seconds.

    A body that is read before the caller is authenticated (``is_decided`` False) has a shorter time limit, and its
    number is limited by ``undecided``.
    """

    def __init__(self, timeout: float, undecided: Budget, max_bytes: int = MAX_BYTES) -> None:
        self._timeout = timeout
        self._undecided = undecided
        self._max_bytes = max_bytes

    async def read_json(self, request: web.BaseRequest) -> object:
        """One JSON value. Raises Refused (400, 408, 413)."""
        _check_type(request, "application/json")
        try:
            return strict_json(await self._read(request))
        except ValueError as error:
            raise bad_request("The body must be one JSON value without repeated members") from error

    async def read_form(self, request: web.BaseRequest, *, is_decided: bool = True) -> dict[str, str]:
        """The fields of a form (RFC 6749 appendix B), without repeated fields.

        Raises Refused (400, 408, 413), and Unavailable if too many bodies of unauthenticated callers are being read.
        """
        _check_type(request, "application/x-www-form-urlencoded")
        try:
            text = (await self._read(request, is_decided=is_decided)).decode("ascii")
        except UnicodeDecodeError as error:
            raise bad_request("The body must be a form in ASCII") from error
        return _parse_fields(text, "The body must be a form without repeated fields")

    async def read_text(self, request: web.BaseRequest, media_type: str) -> str:
        """ASCII text of this media type, from a caller who is not authenticated yet. Raises as :meth:`read_form`."""
        _check_type(request, media_type)
        try:
            return (await self._read(request, is_decided=False)).decode("ascii")
        except UnicodeDecodeError as error:
            raise bad_request("The body must be ASCII") from error

    async def _read(self, request: web.BaseRequest, *, is_decided: bool = True) -> bytes:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise bad_request("The body must not be compressed")
        if request.content_length is not None and request.content_length > self._max_bytes:
            raise Refused(Reason.TOO_LARGE)
        if "Expect" in request.headers and request.version == HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        received = bytearray()
        within = self._timeout if is_decided else min(self._timeout, _UNDECIDED_BODY_TIMEOUT)
        place = nullcontext() if is_decided or request.content.is_eof() else self._undecided.place()
        try:
            with place:
                async with asyncio.timeout(within):
                    while chunk := await request.content.readany():
                        received += chunk
                        if len(received) > self._max_bytes:
                            raise Refused(Reason.TOO_LARGE)
        except TimeoutError as error:
            raise Refused(
                Reason.REQUEST_INVALID, Cause.DEADLINE, status=408, message="The request body stalled"
            ) from error
        except web.RequestPayloadError as error:
            raise bad_request("The request body is not valid") from error
        return bytes(received)


def parse_query(request: web.BaseRequest, known: Collection[str]) -> dict[str, str]:
    """The query parameters: only ``known`` ones, without repetition. Raises Refused(REQUEST_INVALID)."""
    fields = _parse_fields(request.raw_path.partition("?")[2], "The query must not be malformed or repeat a parameter")
    if not fields.keys() <= set(known):
        raise bad_request(f"Allowed query parameters: {', '.join(known)}" if known else "No query is allowed here")
    return fields


def bad_request(message: str) -> Refused:
    """A 400 with ``message``, which must not repeat input."""
    return Refused(Reason.REQUEST_INVALID, message=message)


def _check_type(request: web.BaseRequest, wanted: str) -> None:
    """Require a media type: HTML forms can send others across sites, and their content could be misinterpreted."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != wanted:
        raise bad_request(f"The Content-Type must be {wanted}")


def _parse_fields(text: str, message: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise bad_request(message) from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise bad_request(message)
    return fields
