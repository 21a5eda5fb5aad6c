"""How nginx, Envoy, Traefik and Caddy ask, and which answers they can carry.

Each dialect reads only its own proxy's headers, by their exact names, and only from trusted peers. Where a trusted
proxy says nothing about the original request, the question is answered as a plain "is this credential good", unless a
rule could refuse an authenticated caller: then the question is incomplete and refused.
"""

import re
from typing import Protocol

from multidict import CIMultiDictProxy

from sidecar.errors import Cause, Failed, Reason, Refused
from sidecar.identity.request import RequestView, is_preflight, read_credential
from sidecar.web.view import Asked

_NONE: list[str] = []
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_USUAL_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Dialect(Protocol):
    """One proxy's way of asking."""

    def view(self, asked: Asked, rest: str, *, trusted: bool, must_know_target: bool) -> RequestView:
        """What is asked. ``rest`` is the raw request target behind the endpoint's path. Raises Refused(400)."""

    def carry(self, failure: Failed) -> tuple[int, bytes]:
        """The status that this proxy can carry for ``failure``, and further header lines."""


class _AnyStatus:
    """Proxies that pass every status of a refusal on."""

    def carry(self, failure: Failed) -> tuple[int, bytes]:
        """As it is."""
        return failure.status, b""


class Nginx:
    """``auth_request``: the original request stands in ``X-Original-URI`` and ``X-Original-Method``.

    nginx carries 2xx, 401 and 403, and turns all else into 500: other refusals become 403 with ``X-Auth-Status``,
    and ``X-Auth-Reason`` for the body that nginx makes.
    A broken dependency stays 503, which the shipped configuration turns back.

    ingress-nginx always names the original request in ``X-Original-URL``, but sets ``X-Original-URI`` only with its
    annotation ``auth-method``, and without it passes on what the caller wrote there: the two must agree.
    """

    def view(self, asked: Asked, rest: str, *, trusted: bool, must_know_target: bool) -> RequestView:
        """The original request, from a trusted nginx."""
        headers = asked.headers
        view = _from_headers(headers, "X-Original-Method", "X-Original-URI", trusted, must_know_target)
        if view.target is not None and "X-Original-URL" in headers:
            urls = headers.getall("X-Original-URL")
            if len(urls) > 1:
                raise _named_twice()
            _, absolute, behind = urls[0].partition("://")
            if absolute and f"/{behind.partition('/')[2]}" != view.target:
                message = "The original request is named in two ways"
                raise Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message=message)
        return view

    def carry(self, failure: Failed) -> tuple[int, bytes]:
        """401, 403 and 503 as they are; everything else as 403. nginx does not see the body: the reason is a header."""
        status = failure.status if failure.status in (401, 403, 503) else 403
        return status, f"X-Auth-Status: {failure.status}\r\nX-Auth-Reason: {failure.reason.value}\r\n".encode("ascii")


class ForwardAuth(_AnyStatus):
    """Traefik's ForwardAuth and Caddy's forward_auth: ``X-Forwarded-Method`` and ``X-Forwarded-Uri``."""

    def view(self, asked: Asked, rest: str, *, trusted: bool, must_know_target: bool) -> RequestView:
        """The original request, from a trusted Traefik or Caddy."""
        headers = asked.headers
        return _from_headers(headers, "X-Forwarded-Method", "X-Forwarded-Uri", trusted, must_know_target)


class Envoy(_AnyStatus):
    """``ext_authz`` over HTTP: the check request itself has the original method, and the path behind the prefix."""

    def view(self, asked: Asked, rest: str, *, trusted: bool, must_know_target: bool) -> RequestView:
        """The original request, from a trusted Envoy."""
        target = rest if rest.startswith("/") else f"/{rest}"
        return _view(asked.headers, asked.method, target if trusted else None, trusted=trusted)


def _from_headers(
    headers: CIMultiDictProxy[str], method_name: str, target_name: str, trusted: bool, must_know: bool
) -> RequestView:
    if not trusted:
        return _view(headers, "", None, trusted=False)
    methods, targets = headers.getall(method_name, _NONE), headers.getall(target_name, _NONE)
    if len(methods) > 1 or len(targets) > 1:
        raise _named_twice()
    method, target = methods[0] if methods else None, targets[0] if targets else None
    if (method is None) != (target is None) or (target is None and must_know):
        raise Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message="The original request is not named")
    if method is not None and method not in _USUAL_METHODS and not _METHOD.fullmatch(method):
        # "delete" is no DELETE to a rule, but may be one to the service behind.
        raise Refused(Reason.REQUEST_INVALID, Cause.METHOD_AMBIGUOUS, message="The original method is not valid")
    return _view(headers, method or "", target, trusted=True)


def _named_twice() -> Refused:
    return Refused(Reason.REQUEST_INVALID, Cause.PATH_AMBIGUOUS, message="The original request is named twice")


def _view(headers: CIMultiDictProxy[str], method: str, target: str | None, *, trusted: bool) -> RequestView:
    preflight = method == "OPTIONS" and is_preflight(method, headers)
    return RequestView(method, target, headers, read_credential(headers), trusted, preflight)
