"""Request heads: framing checks, the context for the decision, the request id."""

import itertools
import os
import re
from functools import lru_cache
from typing import Protocol

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.hdrs import EXPECT, HOST, TRANSFER_ENCODING
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDictProxy

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.request import RequestContext, is_preflight, read_credential
from sidecar.web.server import Connection

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")
MAX_LOGGED_PATH = 256
"""Characters of a path in a log line."""
_sequence = itertools.count(int.from_bytes(os.urandom(4), "big"))
_process = os.urandom(6).hex()


class RequestHead(Protocol):
    """The head of a request: aiohttp's request, or the message of its parser."""

    @property
    def method(self) -> str:
        """Method, as sent."""

    @property
    def version(self) -> HttpVersion:
        """HTTP version."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Header lines."""

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Header lines as received."""


def target_of(asked: RequestHead) -> str:
    """The raw request target."""
    return asked.path if isinstance(asked, RawRequestMessage) else asked.raw_path  # type: ignore[attr-defined]


def check_framing(asked: RequestHead, target: str) -> bool:
    """Check what a proxy must reject (RFC 9110, RFC 9112): version, method, form of the target, Host, codings.

    ``target`` is the raw request target. Returns whether the client may be waiting for ``100 Continue``: the answer
    then ends the connection. Raises Refused with 400, 405, 417, 501 or 505. The parser rejects conflicting framing.
    """
    version = asked.version
    if version is not HttpVersion11 and version not in (HttpVersion10, HttpVersion11):
        message = "The HTTP version is not supported"
        raise Refused(Reason.REQUEST_INVALID, status=505, message=message, ends_connection=True)
    if asked.method in ("CONNECT", "TRACE"):
        raise Refused(Reason.METHOD_NOT_ALLOWED, ends_connection=True)
    if not target.startswith("/"):
        raise Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message="The request target is not valid")
    headers = asked.headers
    host = headers.get(HOST)
    if host is None:
        if version == HttpVersion11:
            raise Refused(Reason.REQUEST_INVALID, message="The request has no Host")
    elif not _is_host(host):
        raise Refused(Reason.REQUEST_INVALID, message="The Host is not valid")
    coding = headers.get(TRANSFER_ENCODING)
    if coding is not None:
        _check_coding(coding, version)
    expectation = headers.get(EXPECT)
    if expectation is None:
        return False
    if expectation.lower() != "100-continue":
        message = "The expectation cannot be met"
        raise Refused(Reason.REQUEST_INVALID, status=417, message=message, ends_connection=True)
    return True


@lru_cache(maxsize=128)  # a listener has few names, and each request contains one
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def _check_coding(coding: str, version: HttpVersion) -> None:
    if version == HttpVersion10:
        message = "HTTP/1.0 has no transfer codings"  # RFC 9112 section 6.1
        raise Refused(Reason.REQUEST_INVALID, message=message, ends_connection=True)
    if coding.lower() != "chunked":
        message = "The transfer coding is not supported"
        raise Refused(Reason.REQUEST_INVALID, status=501, message=message, ends_connection=True)


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection of a request."""
    return request.protocol  # type: ignore[return-value] # HttpServer creates no other; a cast costs a call each time


def own_context(request: web.BaseRequest) -> RequestContext:
    """The context of a request that is the original request (forward mode, the API)."""
    connection = connection_of(request)
    return context_from_request(request, request.raw_path, connection)


def context_from_request(asked: RequestHead, target: str, connection: Connection) -> RequestContext:
    """The context of the original request ``asked`` for ``target``."""
    method, headers = asked.method, asked.headers
    preflight = method == "OPTIONS" and is_preflight(method, headers)
    context = RequestContext(method, target, headers, read_credential(headers), connection.trusted, preflight)
    if connection.certificate:
        context.handshake_certificate = connection.certificate
    if connection.span is not None:
        context.observer = connection.span
    return context


def original_of(connection: Connection) -> dict[str, str]:
    """The fields of log lines about a check: the request that it is about, and its caller if that is known.

    The query is left out, as it may hold credentials. None for other requests.
    """
    original = connection.original
    if original is None:
        return {}
    path = "" if original.target is None else original.target.partition("?")[0][:MAX_LOGGED_PATH]
    fields = {"originalMethod": original.method[:16], "originalPath": path}
    if connection.caller is not None:
        caller = connection.caller
        fields |= {"actor": caller.id, "provider": caller.provider, "client": caller.client, "acting": caller.acting}
    return fields


def request_id(request: web.BaseRequest) -> str:
    """The id for answer, log and upstream: that of a trusted proxy, else a new one."""
    return identifier_of(request, connection_of(request))


def identifier_of(asked: RequestHead, connection: Connection) -> str:
    """The id of the current request of ``connection``."""
    identifier = connection.request_id
    if not identifier:
        given = asked.headers.get("X-Request-Id") if connection.trusted else None
        identifier = new_request_id() if given is None or not _REQUEST_ID.fullmatch(given) else given
        connection.request_id = identifier
    return identifier


def new_request_id() -> str:
    """A new id, unique among all replicas."""
    return f"{_process}{next(_sequence) & 0xFFFFFFFFFF:010x}"
