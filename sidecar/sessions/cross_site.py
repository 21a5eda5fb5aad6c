"""Requests that a page of another origin makes with the session cookie are rejected (cross-site request forgery)."""

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.request import HeaderView, RequestContext

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME = frozenset({"same-origin", "none"})
_NONE: list[str] = []


class CrossSiteGuard:
    """``origins`` are those whose pages may act with the cookie, that of ``publicUrl`` among them."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def refusal(self, view: RequestContext) -> Refused | None:
        """Why the cookie must not count for this request; None: it may.

        A method that changes nothing passes, a WebSocket handshake needs an accepted ``Origin``. Other methods need
        ``Sec-Fetch-Site: same-origin`` or ``none``, or an accepted ``Origin``: a request without both is rejected,
        because clients other than browsers can send ``Authorization``.
        """
        headers = view.headers
        if _is_websocket(headers):
            return None if self._has_origin(headers) else _refused("websocket")
        others = view.other_methods
        if view.method in _SAFE and (not others or all(method in _SAFE for method in others)):
            return None
        return self.unsafe_refusal(headers)

    def unsafe_refusal(self, headers: HeaderView) -> Refused | None:
        """The same for a request that changes something, whatever its method."""
        sites = headers.getall("Sec-Fetch-Site", _NONE)
        if len(sites) == 1 and sites[0] in _SAME:
            return None
        return None if self._has_origin(headers) else _refused("fetch site" if sites else "origin")

    def _has_origin(self, headers: HeaderView) -> bool:
        given = headers.getall("Origin", _NONE)
        return len(given) == 1 and given[0] in self._origins


def _is_websocket(headers: HeaderView) -> bool:
    """Whether this is a handshake. Proxies may not pass ``Upgrade`` on with a check."""
    if not ("Upgrade" in headers or "Sec-WebSocket-Key" in headers or "Sec-WebSocket-Version" in headers):
        return "websocket" in headers.getall("Sec-Fetch-Mode", _NONE)
    return (
        any(line.strip().lower() == "websocket" for line in headers.getall("Upgrade", _NONE))
        or bool(headers.getall("Sec-WebSocket-Key", _NONE) or headers.getall("Sec-WebSocket-Version", _NONE))
        or "websocket" in headers.getall("Sec-Fetch-Mode", _NONE)
    )


def _refused(check: str) -> Refused:
    return Refused(Reason.CROSS_SITE, Cause.ORIGIN, check)
