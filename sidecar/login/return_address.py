"""Where a browser may be led after a login or logout (RFC 9700 section 4.11).

The address is judged by one strict pattern and rebuilt from its parts. What a browser could read in another way than
this module (backslashes, white space, control characters, dot segments, other schemes) is not accepted.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

MAX_LENGTH = 2048
HOME = "/"
_VISIBLE = re.compile(r"[!-\[\]-~]+")  # visible ASCII without the backslash
_ABSOLUTE = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/.*)?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Controls and backslashes, however often they are encoded.
_ENCODED = re.compile(r"%(?:25)*(?:[01][0-9A-Fa-f]|7[Ff]|5[Cc])")
_SLASH = re.compile(r"%(?:25)*2[Ff]")
_DOT = re.compile(r"%(?:25)*2[Ee]")


class ReturnAddresses:
    """``origins`` are accepted in absolute addresses; ``own`` is that of ``publicUrl``. ``prefix`` is the sidecar's.

    Below the prefix only ``pages`` are accepted: paths of pages that do nothing when they are opened.
    """

    def __init__(
        self, origins: frozenset[str], own: str, prefix: str, pages: Callable[[str], bool] = lambda _path: False
    ) -> None:
        self._pages = pages
        self._origins = origins | {own}
        self._own = own
        self._prefix = prefix

    def checked(self, address: str | None) -> str:
        """``address``, rebuilt, if a browser may be led there; else ``/``. A path for our own origin."""
        if not address or len(address) > MAX_LENGTH or not _VISIBLE.fullmatch(address) or _ENCODED.search(address):
            return HOME
        parted = ("", address) if address.startswith("/") else self._absolute(address)
        if parted is None:
            return HOME
        origin, rest = parted
        path, query, fragment = _parts(rest)
        is_own_endpoint = not origin and (path == self._prefix or path.startswith(f"{self._prefix}/"))
        if (
            (is_own_endpoint and not self._pages(path))
            or not _is_plain_path(path)
            or _BAD_ESCAPE.search(query)
            or _BAD_ESCAPE.search(fragment)
        ):
            return HOME
        return origin + path + (f"?{query}" if query else "") + (f"#{fragment}" if fragment else "")

    def _absolute(self, address: str) -> tuple[str, str] | None:
        """The origin (empty: our own) and the rest of an absolute address; None: of an origin that is not accepted."""
        match = _ABSOLUTE.fullmatch(address)
        if match is None:
            return None
        scheme, host, port, path = match.groups()
        own_port = ":80" if scheme == "http" else ":443"
        origin = f"{scheme}://{host}{port if port and port != own_port else ''}"
        if origin not in self._origins:
            return None
        return "" if origin == self._own else origin, path or "/"


def _parts(text: str) -> tuple[str, str, str]:
    before, _, fragment = text.partition("#")
    path, _, query = before.partition("?")
    return path, query, fragment


def _is_plain_path(path: str) -> bool:
    """Whether ``path`` begins with exactly one slash, in every reading, and has no dot segments."""
    if _BAD_ESCAPE.search(path) or not path.startswith("/"):
        return False
    read = _DOT.sub(".", _SLASH.sub("/", path))
    if read.startswith("//") or ":" in read.partition("/")[0]:
        return False
    segments = [segment.partition(";")[0] for segment in read.split("/")]
    return "." not in segments and ".." not in segments


def web_origin(url: str) -> str:
    """The origin of an http or https URL, as browsers write it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
