"""aiohttp's request read with suspicion: what may not be judged is refused before anybody looks at it."""

import itertools
import os
import re
from functools import lru_cache
from typing import Protocol

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.hdrs import EXPECT, HOST, TRANSFER_ENCODING
from multidict import CIMultiDictProxy

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.request import RequestContext, is_preflight, read_credential
from sidecar.web.server import Connection

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")
_ORIGINAL = web.RequestKey("original", dict[str, str])
MAX_LOGGED_PATH = 256
"""Characters of a path in a log line."""
_sequence = itertools.count(int.from_bytes(os.urandom(4), "big"))
_process = os.urandom(6).hex()


class RequestHead(Protocol):
    """What a request and the parser's message of it have in common."""

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
        """The same, as they were received."""


def check_framing(asked: RequestHead, target: str) -> bool:
    """Refuse what a proxy must not pass on (RFC 9110, RFC 9112): odd versions, CONNECT, forms of target, Host, TE.

    ``target`` is the raw request target. Returns whether the caller may be waiting for ``100 Continue``: such a
    request is not answered on a shortcut.

    Raises Refused with 400, 405, 417, 501 or 505. The parser has refused conflicting framing already.
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


@lru_cache(maxsize=128)  # a listener has few names, and all requests name one
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
    """The connection a request came on."""
    return request.protocol  # type: ignore[return-value] # HttpServer makes no other; a cast costs a call each time


def own_context(request: web.BaseRequest) -> RequestContext:
    """The picture of a request that is itself what is asked for (forward mode, the API)."""
    connection = connection_of(request)
    return context_from_request(request, request.raw_path, connection)


def context_from_request(asked: RequestHead, target: str, connection: Connection) -> RequestContext:
    """The same of what was asked for ``target`` on ``connection``."""
    method, headers = asked.method, asked.headers
    preflight = method == "OPTIONS" and is_preflight(method, headers)
    context = RequestContext(method, target, headers, read_credential(headers), connection.trusted, preflight)
    if connection.certificate:
        context.handshake_certificate = connection.certificate
    return context


def note_original(
    request: web.BaseRequest, *, method: str, target: str | None, actor: str = "", provider: str = ""
) -> None:
    """Have the log lines about a check say which request it asks about, and who its caller is if that is known.

    ``target`` None: it is not known. Its query is left out, as it may hold credentials.
    """
    path = "" if target is None else target.partition("?")[0][:MAX_LOGGED_PATH]
    caller = {"actor": actor, "provider": provider} if actor else {}
    request[_ORIGINAL] = {"originalMethod": method[:16], "originalPath": path, **caller}


def original_of(request: web.BaseRequest) -> dict[str, str]:
    """The fields that :func:`note_original` left for log lines; none for other requests."""
    noted: dict[str, str] = request.get(_ORIGINAL, {})
    return noted


def request_id(request: web.BaseRequest) -> str:
    """The id that answer, log and upstream share: a trusted proxy's own, else a new one."""
    return identifier_of(request, connection_of(request))


def identifier_of(asked: RequestHead, connection: Connection) -> str:
    """The same of what is being asked on ``connection``."""
    if not connection.request_id:
        connection.request_id = id_for(asked, trusted=connection.trusted)
    return connection.request_id


def id_for(asked: RequestHead, *, trusted: bool) -> str:
    """The id of a request that has none yet; ``trusted``: its peer may have given it one."""
    given = asked.headers.get("X-Request-Id") if trusted else None
    return new_request_id() if given is None or not _REQUEST_ID.fullmatch(given) else given


def new_request_id() -> str:
    """A fresh id, unique among all replicas."""
    return f"{_process}{next(_sequence) & 0xFFFFFFFFFF:010x}"
