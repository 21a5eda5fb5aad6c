"""Message heads: of requests for the upstream, and of responses for the client."""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import HttpVersion11
from aiohttp.hdrs import DATE
from aiohttp.http_parser import RawResponseMessage

from sidecar.authn.base import Accepted
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.dataplane.proxy.hop_headers import RequestHeaders, ResponseHeaders
from sidecar.errors import Cause, Reason, UpstreamFailed
from sidecar.identity.cookies import OwnCookies
from sidecar.web.request import RequestHead, identifier_of
from sidecar.web.response import connection_line, date_line, status_line
from sidecar.web.server import Connection

BODILESS = frozenset({204, 304})
# the parser cannot count beyond 20 digits
MAX_LENGTH_DIGITS = 18
LAST_CHUNK = b"0\r\n\r\n"


class RequestHeads:
    """Creates heads for the upstream. ``authority`` is for requests without ``Host``.

    ``base_path`` is put before each target, which is forwarded byte for byte as it was checked. ``public_url`` is for
    ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` if no trusted proxy sets them; empty: as the request arrived.
    """

    def __init__(
        self,
        headers: RequestHeaders,
        identity_headers: IdentityHeaders,
        *,
        authority: bytes,
        public_url: str,
        base_path: str = "",
    ) -> None:
        self._headers = headers
        self._identity_headers = identity_headers
        self._authority = authority
        self._base_path = base_path
        parts = urlsplit(public_url)
        self._scheme = parts.scheme.encode("ascii")
        self._host = parts.netloc.rpartition("@")[2]

    def make(
        self,
        asked: RequestHead,
        target: str,
        client: Connection,
        accepted: Accepted | None,
        framing: bytes,
        *,
        withholds_credentials: bool = False,
        keeps_basic: bool = False,
    ) -> bytes:
        """The head of what ``client`` asked for ``target``. ``framing`` are the last header lines.

        ``withholds_credentials``: leave out the headers in which the sidecar reads credentials. ``keeps_basic``: but
        not the ``Basic`` credential of an OAuth client.
        """
        may_impersonate = self._identity_headers.may_pass_impersonation("x-impersonate-user", accepted)
        lines = [f"{asked.method} {self._base_path}{target} HTTP/1.1\r\n".encode("ascii")]
        selected = self._headers.select(asked.raw_headers, trusted=client.trusted, may_impersonate=may_impersonate)
        lines += self._headers.without_credentials(selected) if withholds_credentials else selected
        if keeps_basic:
            lines += _basic_line(asked)
        if "Host" not in asked.headers:
            lines.append(b"Host: %b\r\n" % self._authority)
        lines += self._forwarding_lines(asked, client)
        lines += (self._identity_headers.forward_block(accepted), framing, b"\r\n")
        return b"".join(lines)

    def _forwarding_lines(self, asked: RequestHead, client: Connection) -> list[bytes]:
        headers = asked.headers
        peer = client.peer
        host = self._host or headers.get("Host", "")
        scheme = self._scheme or (b"https" if client.is_tls else b"http")
        identifier = identifier_of(asked, client).encode("ascii")
        if not client.trusted:
            text = f"X-Forwarded-For: {peer}\r\nX-Forwarded-Host: {host}\r\nX-Forwarded-Proto: "
            return [text.encode("ascii"), scheme, b"\r\nX-Request-Id: ", identifier, b"\r\n"]
        chain = ", ".join([*headers.getall("X-Forwarded-For", []), peer])
        lines = [b"X-Forwarded-For: ", chain.encode("latin-1", "replace"), b"\r\nX-Request-Id: ", identifier]
        if "X-Forwarded-Host" not in headers:
            lines.append(f"\r\nX-Forwarded-Host: {host}".encode("ascii"))
        if "X-Forwarded-Proto" not in headers:
            lines += [b"\r\nX-Forwarded-Proto: ", scheme]
        lines.append(b"\r\n")
        return lines


def _basic_line(asked: RequestHead) -> list[bytes]:
    """The one ``Authorization`` of ``asked`` if its scheme is ``Basic``."""
    given = [value for name, value in asked.raw_headers if name.lower() == b"authorization"]
    return [b"Authorization: %b\r\n" % given[0]] if len(given) == 1 and given[0][:6].lower() == b"basic " else []


_NO_STORE = b"Cache-Control: no-store\r\n"
_PAGES = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(slots=True)  # not frozen: made for every answer
class ResponseHead:
    """The head of a response, and the framing of its body. ``keep_alive``: another request may follow."""

    data: bytes
    has_body: bool
    chunked: bool
    keep_alive: bool


class ResponseHeads:
    """Creates heads for clients. ``cookies`` are those of the sidecar, which no upstream sets.

    ``protects_pages``: HTML in response to a request with the session cookie is not to be stored.
    """

    def __init__(self, cookies: OwnCookies | None = None, *, protects_pages: bool = False) -> None:
        self._headers = ResponseHeaders(cookies)
        self._pages_of = cookies if protects_pages else None

    def make(
        self, message: RawResponseMessage, asked: RequestHead, client: Connection, *, may_stay: bool
    ) -> ResponseHead:
        """The head of ``message`` as it answers what ``client`` asked. ``may_stay``: the connection may go on.

        Raises UpstreamFailed for what must not be forwarded.
        """
        length = message.headers.get("Content-Length")
        if length is not None and len(length) > MAX_LENGTH_DIGITS:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "answer length")
        lines = [self.unframed(message, asked, client)]
        has_body = asked.method != "HEAD" and message.code not in BODILESS
        chunked = has_body and length is None and asked.version == HttpVersion11
        framed = chunked or not has_body or length is not None
        keep_alive = may_stay and framed and not client.is_last
        if chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif length is not None and message.code != 204:
            lines.append(b"Content-Length: %b\r\n" % length.encode("ascii"))
        lines.append(connection_line(asked.version, keep_alive))
        if message.code == 426 and "Upgrade" in message.headers:
            lines.append(b"Connection: Upgrade\r\n")  # RFC 9110 section 7.8: it goes with the header Upgrade
        lines.append(b"\r\n")
        return ResponseHead(b"".join(lines), has_body, chunked, keep_alive)

    def unframed(self, message: RawResponseMessage, asked: RequestHead, client: Connection) -> bytes:
        """Status line and header lines, without framing. Raises UpstreamFailed for what must not be forwarded."""
        line = _own_status_line(message.code, message.reason) if message.reason else status_line(message.code)
        try:
            block = self._headers.select(message.raw_headers, keep_upgrade=message.code == 426)
        except ValueError as error:
            raise UpstreamFailed(Reason.UPSTREAM_UNREACHABLE, Cause.HEADER, "answer headers") from error
        # RFC 9110 section 6.6.1: a recipient with a clock adds Date when it forwards a response without one
        date = b"" if DATE in message.headers else date_line.date()
        if self._pages_of is not None and _is_page(message) and self._pages_of.values(asked.headers):
            date += _NO_STORE  # beside the upstream's own: the strictest counts
        return b"%b%b%bX-Request-Id: %b\r\n" % (line, block, date, identifier_of(asked, client).encode("ascii"))


def _is_page(message: RawResponseMessage) -> bool:
    """Whether a browser shows the response as a page."""
    kind = message.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in _PAGES


@lru_cache(maxsize=128)
def _own_status_line(code: int, reason: str) -> bytes:
    text = "".join(c for c in reason if c == "\t" or " " <= c <= "~")
    return f"HTTP/1.1 {code:03d} {text}\r\n".encode("ascii")


def framed_body(body: bytes, *, chunked: bool) -> bytes:
    """A whole body, framed."""
    return framed_piece(body, chunked=chunked) + (LAST_CHUNK if chunked else b"")


def framed_piece(piece: bytes, *, chunked: bool) -> bytes:
    """A piece of a body, framed; the last chunk is not a piece."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked and piece else piece
