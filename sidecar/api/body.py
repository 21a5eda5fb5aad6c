"""What callers send in bodies and queries, bounded and strict: whatever could be read in two ways is refused."""

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
"""Seconds that a body has before there is a verdict on its caller."""


class BodyReader:
    """Reads whole bodies of at most ``most`` bytes that arrive within ``timeout`` seconds.

    A body that is waited for before there is a verdict on its caller (``is_decided`` False) has less time, and a place
    in ``undecided``.
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
            raise bad_request("The body is not one JSON value without repeated members") from error

    async def read_form(self, request: web.BaseRequest, *, is_decided: bool = True) -> dict[str, str]:
        """The fields of a form (RFC 6749 appendix B), none of them twice.

        Raises Refused (400, 408, 413), and Unavailable when too many bodies are waited for before a verdict.
        """
        _check_type(request, "application/x-www-form-urlencoded")
        try:
            text = (await self._read(request, is_decided=is_decided)).decode("ascii")
        except UnicodeDecodeError as error:
            raise bad_request("The body is not a form") from error
        return _parse_fields(text, "The body is not a form of fields that come once")

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
    """The parameters of the query, all of them ``known``, none of them twice. Raises Refused(REQUEST_INVALID)."""
    fields = _parse_fields(request.raw_path.partition("?")[2], "The query is not a list of parameters that come once")
    if not fields.keys() <= set(known):
        raise bad_request(f"The query may have: {', '.join(known)}" if known else "No query is expected here")
    return fields


def bad_request(message: str) -> Refused:
    """A 400 with ``message``, which repeats nothing that was sent."""
    return Refused(Reason.REQUEST_INVALID, message=message)


def _check_type(request: web.BaseRequest, wanted: str) -> None:
    """Other types could be sent across sites by a plain HTML form, or be read in another way than they were meant."""
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
