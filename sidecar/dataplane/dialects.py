"""The check requests of nginx, Envoy, Traefik and Caddy, and the responses that they can pass on.

Each dialect reads only the headers of its own proxy, by their exact names, and only from trusted peers. If a trusted
proxy does not name the original request, the check is about the credential alone, unless a rule could reject an
authenticated caller: then the check is rejected as incomplete. The query of a check at ``/auth`` and ``/forward_auth``
is a condition on the caller (:mod:`sidecar.access.conditions`).
"""

import re
from dataclasses import dataclass
from typing import Protocol

from multidict import CIMultiDictProxy

from sidecar.access.conditions import read_conditions
from sidecar.errors import Cause, Failed, Reason, Refused
from sidecar.identity.request import Condition, RequestContext, is_preflight, read_credential
from sidecar.web.request import RequestHead

_NONE: list[str] = []
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_USUAL_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# headers that name another method for the server to use; a server may read any mark in them as "-"
_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_OVERRIDE_LENGTHS = frozenset(map(len, _OVERRIDES))
# their third letter: without it, X-Original-Method would be compared in each check of nginx
_OVERRIDE_LETTERS = b"hmHM"
_MARK = re.compile(rb"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class _Names:
    """The headers that name the original request, and the endpoint that reads them."""

    target: str
    method: str
    endpoint: str


_NGINX = _Names("X-Original-URI", "X-Original-Method", "/auth")
_FORWARD_AUTH = _Names("X-Forwarded-Uri", "X-Forwarded-Method", "/forward_auth")


class Dialect(Protocol):
    """The check requests of one kind of proxy.

    ``carries_redirects``: the proxy passes a redirect in response to a check on to the browser.
    """

    carries_redirects: bool

    def context(self, asked: RequestHead, rest: str, *, trusted: bool, must_know_target: bool) -> RequestContext:
        """The original request. ``rest`` is the raw target after the path of the endpoint. Raises Refused(400)."""

    def named_targets(self, asked: RequestHead, rest: str) -> list[str]:
        """Every target that the check names as the original one, also if the peer is not trusted."""

    def map_status(self, failure: Failed) -> tuple[int, bytes]:
        """The status for ``failure`` that this proxy passes on, and further header lines."""


class _AnyStatus:
    """Proxies that pass on every status of a refusal."""

    carries_redirects = True

    def map_status(self, failure: Failed) -> tuple[int, bytes]:
        """As it is."""
        return failure.status, b""


class Nginx:
    """``auth_request``: ``X-Original-URI`` and ``X-Original-Method`` name the original request.

    nginx passes on 2xx, 401 and 403, and makes 500 of all others: other refusals become 403 with ``X-Auth-Status``, and
    ``X-Auth-Reason`` for the body that nginx creates. An outage stays 503, which the shipped configuration restores.

    ingress-nginx always names the original request in ``X-Original-URL``, but sets ``X-Original-URI`` only with its
    annotation ``auth-method``, and without it passes on what the caller wrote there: the two must agree.
    """

    carries_redirects = False

    def context(self, asked: RequestHead, rest: str, *, trusted: bool, must_know_target: bool) -> RequestContext:
        """The original request, from a trusted nginx."""
        headers = asked.headers
        view = _from_headers(asked, rest, _NGINX, trusted, must_know_target)
        if view.target is not None and "X-Original-URL" in headers:
            urls = headers.getall("X-Original-URL")
            if len(urls) > 1:
                raise _duplicate_header()
            _, absolute, behind = urls[0].partition("://")
            if absolute and f"/{behind.partition('/')[2]}" != view.target:
                message = "The original request is named in two ways"
                raise Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message=message)
        return view

    def named_targets(self, asked: RequestHead, rest: str) -> list[str]:
        """The values of ``X-Original-URI``."""
        return asked.headers.getall(_NGINX.target, _NONE)

    def map_status(self, failure: Failed) -> tuple[int, bytes]:
        """401, 403 and 503 as they are; everything else as 403. nginx does not see the body: the reason is a header."""
        status = failure.status if failure.status in (401, 403, 503) else 403
        return status, f"X-Auth-Status: {failure.status}\r\nX-Auth-Reason: {failure.reason.value}\r\n".encode("ascii")


class ForwardAuth(_AnyStatus):
    """Traefik's ForwardAuth and Caddy's forward_auth: ``X-Forwarded-Method`` and ``X-Forwarded-Uri``."""

    def context(self, asked: RequestHead, rest: str, *, trusted: bool, must_know_target: bool) -> RequestContext:
        """The original request, from a trusted Traefik or Caddy."""
        return _from_headers(asked, rest, _FORWARD_AUTH, trusted, must_know_target)

    def named_targets(self, asked: RequestHead, rest: str) -> list[str]:
        """The values of ``X-Forwarded-Uri``."""
        return asked.headers.getall(_FORWARD_AUTH.target, _NONE)


class Envoy(_AnyStatus):
    """``ext_authz`` over HTTP: the check request itself has the original method, and the path behind the prefix."""

    def context(self, asked: RequestHead, rest: str, *, trusted: bool, must_know_target: bool) -> RequestContext:
        """The original request, from a trusted Envoy."""
        target = self.named_targets(asked, rest)[0]
        return _context(asked, asked.method, target if trusted else None, (), trusted=trusted)

    def named_targets(self, asked: RequestHead, rest: str) -> list[str]:
        """The path after the prefix."""
        return [rest if rest.startswith("/") else f"/{rest}"]


def _from_headers(asked: RequestHead, query: str, names: _Names, trusted: bool, must_know: bool) -> RequestContext:
    conditions = read_conditions(query) if query else ()
    headers = asked.headers
    if not trusted:
        return _context(asked, "", None, conditions, trusted=False)
    methods, targets = headers.getall(names.method, _NONE), headers.getall(names.target, _NONE)
    if len(methods) > 1 or len(targets) > 1:
        raise _duplicate_header()
    method, target = methods[0] if methods else None, targets[0] if targets else None
    if (method is None) != (target is None) or (target is None and must_know):
        detail = _what_is_missing(headers, names)
        message = "The original request is not named"
        raise Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, detail, message=message)
    if method is not None and method not in _USUAL_METHODS and not _METHOD.fullmatch(method):
        # rules do not match "delete" as DELETE, but an upstream may
        raise _bad_method("The original method is not valid")
    return _context(asked, method or "", target, conditions, trusted=True)


def _what_is_missing(headers: CIMultiDictProxy[str], names: _Names) -> str:
    """The headers that the check lacks, and the endpoint that reads those which came instead."""
    missing = [name for name in (names.target, names.method) if name not in headers]
    text = f"{' and '.join(missing)} did not come"
    for others in (_NGINX, _FORWARD_AUTH):
        if others is not names and others.target in headers:
            return f"{text}; {others.target}, which did, is read at {others.endpoint}"
    if names is _NGINX and names.target in missing and "X-Original-URL" in headers:
        return f"{text}; X-Original-URL alone is not read"
    return text


def _duplicate_header() -> Refused:
    return Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message="The original request is named twice")


def _bad_method(message: str) -> Refused:
    return Refused(Reason.REQUEST_INVALID, Cause.METHOD_AMBIGUOUS, message=message)


def _context(
    asked: RequestHead, method: str, target: str | None, conditions: tuple[Condition, ...], *, trusted: bool
) -> RequestContext:
    headers = asked.headers
    others = () if target is None else _other_methods(asked)
    # a browser sends no preflight that names another method
    preflight = method == "OPTIONS" and not others and is_preflight(method, headers)
    view = RequestContext(method, target, headers, read_credential(headers), trusted, preflight, others, conditions)
    # the original method decides whether a page of another origin may send the request with a cookie
    view.takes_cookie = trusted and target is not None
    return view


def _other_methods(asked: RequestHead) -> tuple[str, ...]:
    """The methods that headers of the original request name for the server to use instead.

    Raises Refused(400) for a value that is not a method: a server may read one in it.
    """
    found: list[str] = []
    for name, value in asked.raw_headers:
        if (
            len(name) in _OVERRIDE_LENGTHS
            and name[2] in _OVERRIDE_LETTERS
            and _MARK.sub(b"-", name.lower()) in _OVERRIDES
        ):
            method = value.decode("latin-1").strip().upper()
            if not _METHOD.fullmatch(method):
                raise _bad_method(f"The method in {name.decode('latin-1')} is not valid")
            found.append(method)
    return tuple(found)
