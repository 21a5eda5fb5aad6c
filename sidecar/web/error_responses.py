"""Failures become answers and log lines here, and nowhere else: status, JSON body, challenge, Retry-After."""

import logging
from collections.abc import Callable, Sequence

import orjson
from aiohttp import web

from sidecar.access.decide import Deny
from sidecar.errors import Failed, MethodNotAllowed, Unavailable
from sidecar.logs import LineLimit
from sidecar.web.cors import RefusalCors
from sidecar.web.request import new_request_id, request_id
from sidecar.web.response import Response

_log = logging.getLogger("sidecar.refusals")
_JSON_LINES = b"Content-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n"
_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MAX_LOGGED_PATH = 512
# Where what is refused is a request for the upstream, or the question of a proxy about one.
_UPSTREAM_ROUTES = frozenset({"forward", "check"})

StatusMapper = Callable[[Failed], tuple[int, bytes]]


class ErrorResponses:
    """Answers for what may not pass (RFC 6750 section 3, RFC 9110 section 15), each with one log line, within bounds.

    ``schemes`` are those that callers may answer 401 with besides ``Bearer``. At most ``lines_per_second`` log lines
    are written; ``left_out`` is called for each that is not.
    """

    def __init__(
        self,
        realm: str,
        schemes: Sequence[str] = (),
        *,
        lines_per_second: float = 100,
        left_out: Callable[[], None] = lambda: None,
        cors: RefusalCors | None = None,
        login: str = "",
    ) -> None:
        """``cors``: which pages may read refusals of upstream paths. ``login``: the path at which a browser logs in."""
        self._cors = cors
        self._login = login
        self._lines = LineLimit(_log, lines_per_second, left_out)
        quoted = "".join(c for c in realm if " " <= c <= "~" and c not in '"\\')
        self._challenge = f'Bearer realm="{quoted}"'
        self._others = "".join(f'WWW-Authenticate: {scheme} realm="{quoted}"\r\n' for scheme in schemes).encode("ascii")

    def refuse(
        self,
        request: web.BaseRequest,
        refused: Failed | Deny,
        *,
        route: str,
        carry: StatusMapper | None = None,
        oauth_error: str = "",
    ) -> Response:
        """Log the refusal and make its answer; of a verdict the line also says who came to it.

        ``carry`` says what the asking proxy can carry. ``oauth_error`` is the ``error`` of RFC 6749 section 5.2, where
        the call is one of OAuth's.
        """
        verdict = refused if isinstance(refused, Deny) else Deny(refused)
        failure = verdict.failure
        status, extra = carry(failure) if carry else (failure.status, b"")
        if self._cors is not None and route in _UPSTREAM_ROUTES:
            extra += self._cors.lines(request.headers)
        self.log(request, verdict, route=route, status=status)
        others = b"" if _is_of_a_script(request) else self._others
        close = failure.ends_connection
        identifier = request_id(request)
        return self._answer(failure, identifier, status, extra, close=close, oauth_error=oauth_error, others=others)

    def log(self, request: web.BaseRequest, verdict: Deny, *, route: str, status: int) -> None:
        """Write the log line of a refusal that is answered with ``status``."""
        failure = verdict.failure
        if self._lines.allows():
            _log.info(
                "refused",  # the text of earlier versions, which filters match
                extra={
                    "event": "request_rejected",
                    "requestId": request_id(request),
                    "reason": failure.reason.value,
                    "cause": failure.cause.value,
                    "detail": failure.detail,
                    "status": status,
                    "provider": verdict.provider,
                    "authenticator": verdict.authenticator,
                    "route": route,
                    "method": request.method[:16],
                    "path": request.raw_path.partition("?")[0][:_MAX_LOGGED_PATH],
                },
            )

    def refuse_unparsed(self, failure: Failed) -> Response:
        """The same for a request that the HTTP parser refused: the log line has nothing of what it carried."""
        identifier = new_request_id()
        if self._lines.allows():
            _log.info(
                "request rejected by the HTTP parser",
                extra={
                    "event": "malformed_request_rejected",
                    "requestId": identifier,
                    "reason": failure.reason.value,
                    "detail": failure.detail,
                    "status": failure.status,
                },
            )
        answer = self._answer(failure, identifier, failure.status, b"", close=True)
        answer.add_request_id(identifier)
        return answer

    def challenge(self, failure: Failed) -> str:
        """The ``WWW-Authenticate`` value; without an error where nothing was presented (RFC 6750 section 3.1)."""
        if not failure.bearer_error:
            return self._challenge
        return f'{self._challenge}, error="{failure.bearer_error}", error_description="{failure.message}"'

    def _answer(
        self,
        failure: Failed,
        identifier: str,
        status: int,
        extra: bytes,
        *,
        close: bool = False,
        oauth_error: str = "",
        others: bytes = b"",
    ) -> Response:
        lines = [_JSON_LINES, extra]
        if status == 401 or failure.bearer_error:
            lines.append(b"WWW-Authenticate: " + self.challenge(failure).encode("ascii") + b"\r\n")
        if status == 401:
            lines.append(others)
        if isinstance(failure, Unavailable):
            lines.append(b"Retry-After: %d\r\n" % failure.retry_after)
        if failure.status == 405:
            allowed = (isinstance(failure, MethodNotAllowed) and failure.allowed) or _ALL_METHODS
            lines.append(b"Allow: " + ", ".join(allowed).encode("ascii") + b"\r\n")
        document = {
            "code": status,
            "message": failure.message,
            "reason": failure.reason.value,
            "requestId": identifier,
        }
        if oauth_error:
            document["error"] = oauth_error
        if self._login and failure.status == 401:
            document["login"] = self._login
        return Response(status, b"".join(lines), orjson.dumps(document), close=close)


def _is_of_a_script(request: web.BaseRequest) -> bool:
    """Whether a page in a browser asks: a further challenge would have the browser ask its user for a password."""
    return request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"


def no_content() -> Response:
    """Done, and nothing to say (204)."""
    return Response(204, b"Cache-Control: no-store\r\n")


def json_answer(status: int, document: object, headers_block: bytes = b"") -> Response:
    """A JSON answer of ours that nobody may keep."""
    return Response(status, _JSON_LINES + headers_block, orjson.dumps(document))
