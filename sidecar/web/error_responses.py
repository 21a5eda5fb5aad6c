"""Error responses, and their log lines: status, JSON body, challenge, Retry-After."""

import logging
from collections.abc import Callable, Iterable, Sequence

import orjson

from sidecar.access.decide import Deny
from sidecar.access.rules import Resource
from sidecar.errors import Failed, MethodNotAllowed, RateLimited, StepUpRequired, Unavailable
from sidecar.logs import LineLimit
from sidecar.web.cors import RefusalCors
from sidecar.web.request import MAX_LOGGED_PATH, RequestHead, identifier_of, new_request_id, original_of, target_of
from sidecar.web.response import Response
from sidecar.web.server import Connection

_log = logging.getLogger("sidecar.refusals")
_JSON_LINES = b"Content-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n"
_ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# routes of requests for the upstream, and of checks of such requests
_UPSTREAM_ROUTES = frozenset({"forward", "check"})

StatusMapper = Callable[[Failed], tuple[int, bytes]]


def _ignore(_path: str, _reason: str) -> None:
    pass


class ErrorResponses:
    """Responses to what may not pass (RFC 6750 section 3, RFC 9110 section 15), with one log line each, within a limit.

    ``schemes`` are offered in 401 responses besides ``Bearer``. At most ``lines_per_second`` log lines are written;
    ``left_out`` is called for each one that is not.
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
        challenged: Callable[[str, str], None] = _ignore,
    ) -> None:
        """``cors``: the origins whose pages may read refusals of upstream paths.

        ``login``: the path at which a browser logs in. ``challenged`` is called with path and reason for each challenge
        about a protected resource.
        """
        self._challenged = challenged
        self._cors = cors
        self._login = login
        self._lines = LineLimit(_log, lines_per_second, left_out)
        quoted = "".join(c for c in realm if " " <= c <= "~" and c not in '"\\')
        self._realm = f'realm="{quoted}"'
        self._others = "".join(f'WWW-Authenticate: {scheme} realm="{quoted}"\r\n' for scheme in schemes).encode("ascii")

    def refuse(
        self,
        asked: RequestHead,
        connection: Connection,
        refused: Failed | Deny,
        *,
        route: str,
        carry: StatusMapper | None = None,
        oauth_error: str = "",
        scheme: str = "",
    ) -> Response:
        """Log the refusal of ``asked`` and create its response.

        ``carry`` maps the status to one that the proxy passes on. ``oauth_error`` is the ``error`` of RFC 6749 section
        5.2, for OAuth endpoints. ``scheme`` is the only one that a 401 offers; empty: Bearer and the others.
        """
        verdict = refused if isinstance(refused, Deny) else Deny(refused)
        failure = verdict.failure
        status, extra = carry(failure) if carry else (failure.status, b"")
        if self._cors is not None and route in _UPSTREAM_ROUTES:
            extra += self._cors.lines(asked.headers)
        self.log(asked, connection, verdict, route=route, status=status)
        others = b"" if scheme or _is_from_script(asked) else self._others
        close = failure.ends_connection
        identifier = identifier_of(asked, connection)
        return self._answer(
            failure,
            identifier,
            status,
            extra,
            close=close,
            oauth_error=oauth_error,
            others=others,
            scheme=scheme,
            resource=verdict.resource,
            scopes=verdict.scopes,
        )

    def log(self, asked: RequestHead, connection: Connection, verdict: Deny, *, route: str, status: int) -> None:
        """Write the log line of a refusal that is answered with ``status``."""
        failure = verdict.failure
        if self._lines.allows():
            _log.info(
                "refused",  # the text of earlier versions, which filters match
                extra={
                    "event": "request_rejected",
                    "requestId": identifier_of(asked, connection),
                    "reason": failure.reason.value,
                    "cause": failure.cause.value,
                    "detail": failure.detail,
                    "status": status,
                    "provider": verdict.provider,
                    "authenticator": verdict.authenticator,
                    "actor": verdict.actor,
                    "client": verdict.client,
                    "acting": verdict.acting,
                    "rule": verdict.rule,
                    "route": route,
                    "method": asked.method[:16],
                    "path": target_of(asked).partition("?")[0][:MAX_LOGGED_PATH],
                    **original_of(connection),
                },
            )

    def refuse_unparsed(self, failure: Failed) -> Response:
        """The same for a request that the HTTP parser rejected: the log line contains no part of it."""
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

    def challenge(self, failure: Failed, resource: Resource | None = None, scopes: Iterable[str] = ()) -> str:
        """The ``WWW-Authenticate`` value; without an error if there was no credential (RFC 6750 section 3.1).

        The metadata of ``resource`` (RFC 9728 section 5.1) and ``scopes`` come before all free text: clients search the
        value for the first occurrence of a parameter.
        """
        parts = [] if resource is None else [f'resource_metadata="{resource.metadata_url}"']
        if scopes:
            parts.append(f'scope="{" ".join(sorted(scopes))}"')
        parts.append(self._realm)
        if failure.bearer_error:
            parts.append(f'error="{failure.bearer_error}", error_description="{failure.message}"')
        return f"Bearer {', '.join(parts)}{_asked_authentication(failure)}"

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
        scheme: str = "",
        resource: Resource | None = None,
        scopes: Iterable[str] = (),
    ) -> Response:
        lines = [_JSON_LINES, extra]
        if status == 401 or failure.bearer_error:
            challenge = f"{scheme} {self._realm}" if scheme else self.challenge(failure, resource, scopes)
            lines.append(b"WWW-Authenticate: " + challenge.encode("ascii") + b"\r\n")
            if resource is not None:
                self._challenged(resource.path, failure.reason.value)
        if status == 401:
            lines.append(others)
        if isinstance(failure, Unavailable | RateLimited):
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


def _asked_authentication(failure: Failed) -> str:
    """RFC 9470 section 3: what a new login has to bring."""
    if not isinstance(failure, StepUpRequired):
        return ""
    acr = f', acr_values="{" ".join(failure.acr_values)}"' if failure.acr_values else ""
    return acr + (f", max_age={int(failure.max_age)}" if failure.max_age is not None else "")


def _is_from_script(asked: RequestHead) -> bool:
    """Whether a script of a page sent it: another challenge would make the browser open a password dialog."""
    return asked.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"


def no_content() -> Response:
    """A response without content (204)."""
    return Response(204, b"Cache-Control: no-store\r\n")


def json_answer(status: int, document: object, headers_block: bytes = b"") -> Response:
    """A JSON response that must not be cached."""
    return Response(status, _JSON_LINES + headers_block, orjson.dumps(document))
