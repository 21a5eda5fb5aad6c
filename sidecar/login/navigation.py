"""Which requests without a session are a person's navigation, and which are calls of programs."""

from enum import Enum

from sidecar.identity.request import HeaderView

_NONE: list[str] = []
_FRAMES = frozenset({"iframe", "frame", "embed", "object", "fencedframe"})


class ResponseKind(Enum):
    """How a request without a session is answered: lead it to the login, show a page, or refuse in JSON."""

    REDIRECT = "redirect"
    PAGE = "page"
    JSON = "json"


def response_kind(method: str, headers: HeaderView) -> ResponseKind:
    """Only the navigation of a whole window begins a login. What may be a program is treated as one."""
    accept = ",".join(headers.getall("Accept", _NONE)).lower()
    if _is_call(headers, accept):
        return ResponseKind.JSON
    modes, places = headers.getall("Sec-Fetch-Mode", _NONE), headers.getall("Sec-Fetch-Dest", _NONE)
    if modes:
        if modes != ["navigate"]:
            return ResponseKind.JSON
        if places != ["document"]:
            return ResponseKind.PAGE if places and places[0] in _FRAMES else ResponseKind.JSON
    elif not _prefers_html(accept):
        return ResponseKind.JSON
    # a redirect would lose the body
    return ResponseKind.REDIRECT if method in ("GET", "HEAD") else ResponseKind.PAGE


def _is_call(headers: HeaderView, accept: str) -> bool:
    if headers.getall("Authorization", _NONE) or headers.getall("Upgrade", _NONE):
        return True
    if any(line.lower() == "xmlhttprequest" for line in headers.getall("X-Requested-With", _NONE)):
        return True
    if "text/event-stream" in accept:
        return True
    purposes = (*headers.getall("Sec-Purpose", _NONE), *headers.getall("Purpose", _NONE))
    return any("prefetch" in line.lower() for line in purposes)


def _prefers_html(accept: str) -> bool:
    types = [part.partition(";")[0].strip() for part in accept.split(",")]
    if "text/html" not in types:
        return False
    return "*/*" not in types or types.index("text/html") < types.index("*/*")
