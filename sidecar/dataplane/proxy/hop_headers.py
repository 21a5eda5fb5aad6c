"""Which header lines cross the proxy, in either direction, byte for byte (RFC 9110 section 7.6.1)."""

from collections.abc import Callable, Collection, Iterable
from enum import Enum
from typing import TypeVar

from sidecar.dataplane.identity_headers import normal_name
from sidecar.identity.cookies import OwnCookies
from sidecar.identity.token_sources import without_tokens
from sidecar.web.trace_context import read_trace_context

RawHeaders = Iterable[tuple[bytes, bytes]]
_V = TypeVar("_V")

# In normal form, as all sets of names here: "Transfer_Encoding" and "Transfer!Encoding" do not pass either.
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "proxy-authorization", "proxy-authenticate", "proxy-authentication-info",
    }
)  # fmt: skip
# Made anew from what the parser understood, never copied.
_FRAMING = frozenset({"content-length", "expect", "http2-settings"})
_REPLACED = frozenset({"forwarded", "x-forwarded-for", "x-request-id"})
# They make frameworks answer another method (Express, Rails, Jersey) or another path (IIS, Symfony, gunicorn) than the
# one that the rules have judged.
_OVERRIDES = frozenset(
    {
        "x-http-method-override", "x-http-method", "x-method-override",
        "x-original-url", "x-rewrite-url", "script-name", "x-script-name", "path-info",
    }
)  # fmt: skip
_NEVER_SENT = _HOP_BY_HOP | _FRAMING | _REPLACED | _OVERRIDES
_PLAIN_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
# Ours is sent instead, so that answer, log and service agree.
_NOT_SENT_BACK = _HOP_BY_HOP | {"content-length", "x-request-id"}
# All of them but TAB; a well-formed line holds two, its end.
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
_MAX_CACHED = 1024
_MAX_CACHED_LENGTH = 64


class HeaderPolicy(Enum):
    KEEP = 0
    DROP = 1
    FORWARDED = 2  # X-Forwarded-* and the like: kept from trusted peers only
    IMPERSONATION = 3
    TRACE = 4  # kept when it is sound
    PROTOCOLS = 5  # kept without the tokens among them
    COOKIE = 6  # kept without the sidecar's own


_SPECIAL = {
    "host": HeaderPolicy.KEEP,
    "authorization": HeaderPolicy.KEEP,
    "cookie": HeaderPolicy.KEEP,
    "x-real-ip": HeaderPolicy.FORWARDED,
    "x-impersonate-user": HeaderPolicy.IMPERSONATION,
    "traceparent": HeaderPolicy.TRACE,
    "tracestate": HeaderPolicy.TRACE,
}


class RequestHeaders:
    """Selects the header lines of the caller for the upstream.

    ``keep_trace``: ``traceparent`` and ``tracestate`` too; otherwise the sidecar adds its own. ``credential_headers``:
    headers besides ``Authorization`` in which the authentication chain reads credentials.
    """

    def __init__(
        self,
        *,
        is_identity: Callable[[str], bool],
        keep_authorization: bool,
        keep_trace: bool = True,
        credential_headers: Iterable[str] = (),
        token_headers: Collection[str] = (),
        token_protocols: bool = False,
        cookies: OwnCookies | None = None,
    ) -> None:
        """``token_headers`` are names, in normal form, of which no other spelling passes.

        ``token_protocols``: subprotocols that are tokens are removed. ``cookies`` are removed from ``Cookie``.
        """
        self._cookies = cookies
        self._credentials = frozenset(normal_name(name) for name in ("Authorization", *credential_headers))
        self._token_headers = frozenset(token_headers)
        self._token_protocols = token_protocols
        self._is_identity = is_identity
        self._keep_authorization = keep_authorization
        self._keep_trace = keep_trace
        self._fates: dict[bytes, HeaderPolicy] = {}

    def select(self, headers: RawHeaders, *, trusted: bool, may_impersonate: bool) -> list[bytes]:
        """The lines to send on, each with its line end, in order. ``trusted``: the peer may speak for others."""
        fates = self._fates
        lines: list[bytes] = []
        named: frozenset[str] = frozenset()
        trace: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            fate = fates.get(name) or self._classify(name)
            if fate is HeaderPolicy.KEEP:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif fate is HeaderPolicy.DROP:
                if name.lower() == b"connection" and value not in _PLAIN_CONNECTION:
                    named |= _connection_names(value)
            elif fate is HeaderPolicy.TRACE:
                trace.append((name.lower(), value))
            elif fate is HeaderPolicy.PROTOCOLS or fate is HeaderPolicy.COOKIE:
                lines += self._partial_lines(fate, name, value)
            elif trusted if fate is HeaderPolicy.FORWARDED else may_impersonate:
                lines.append(b"%b: %b\r\n" % (name, value))
        if trace and self._keep_trace:
            lines += _trace_lines(trace)
        return _without(lines, named) if named else lines

    def _partial_lines(self, fate: HeaderPolicy, name: bytes, value: bytes) -> list[bytes]:
        """A line without what is the sidecar's alone; none if nothing is left of it."""
        text = value.decode("latin-1")
        if fate is HeaderPolicy.PROTOCOLS:
            rest = without_tokens(text)
        else:
            rest = "" if self._cookies is None else self._cookies.rest(text)
        return [b"%b: %b\r\n" % (name, rest.encode("latin-1"))] if rest else []

    def without_credentials(self, lines: Iterable[bytes]) -> list[bytes]:
        """``lines`` without those that carry a credential, in any spelling of their names."""
        return [
            line for line in lines if normal_name(line.partition(b":")[0].decode("latin-1")) not in self._credentials
        ]

    def _classify(self, name: bytes) -> HeaderPolicy:
        fate = self._policy(name)
        _cache(self._fates, name, fate)
        return fate

    def _policy(self, name: bytes) -> HeaderPolicy:
        normal = normal_name(name.decode("latin-1"))
        if normal in _NEVER_SENT or self._is_identity(normal):
            return HeaderPolicy.DROP
        if normal == "sec-websocket-protocol" and self._token_protocols:
            is_alias = name.decode("latin-1").lower() != normal
            return HeaderPolicy.DROP if is_alias else HeaderPolicy.PROTOCOLS
        if normal in self._token_headers:
            return HeaderPolicy.KEEP if name.decode("latin-1").lower() == normal else HeaderPolicy.DROP
        fate = HeaderPolicy.FORWARDED if normal.startswith("x-forwarded-") else _SPECIAL.get(normal)
        if fate is None:
            return HeaderPolicy.KEEP
        # an upstream that reads an alias of these must not get two values
        is_alias = name.decode("latin-1").lower() != normal
        if is_alias or (normal == "authorization" and not self._keep_authorization):
            return HeaderPolicy.DROP
        return HeaderPolicy.COOKIE if normal == "cookie" and self._cookies is not None else fate


class ResponseHeaders:
    """Selects the service's header lines for the caller. ``cookies``: ours, which the upstream must not set."""

    def __init__(self, cookies: OwnCookies | None = None) -> None:
        self._cookies = cookies
        self._kept: dict[bytes, bool] = {}

    def select(self, headers: RawHeaders, *, keep_upgrade: bool = False) -> bytes:
        """The lines to send on, as one block. Framing headers are left out: they are made anew.

        ``keep_upgrade``: ``Upgrade`` too, in an answer that says which protocols are asked for (426).

        Raises ValueError for what a client could read differently: control characters in a value, a
        transfer coding beside ``chunked``.
        """
        kept = self._kept
        lines: list[bytes] = []
        named: frozenset[str] = frozenset()
        for name, value in headers:
            keep = kept.get(name)
            if keep is None:
                keep = self._classify(name)
            if keep:
                if self._cookies is None or not self._sets_ours(name, value):
                    lines.append(b"%b: %b\r\n" % (name, value))
                continue
            lower = name.lower()
            if lower == b"upgrade" and keep_upgrade:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif lower == b"connection":
                if value not in _PLAIN_CONNECTION:
                    named |= _connection_names(value)
            elif lower == b"transfer-encoding" and value.lower() != b"chunked":
                raise ValueError("an unknown transfer coding")
        block = b"".join(lines)
        if len(block) - len(block.translate(None, _CONTROLS)) != 2 * len(lines):
            raise ValueError("a header of the answer has control characters")
        return b"".join(_without(lines, named)) if named else block

    def _sets_ours(self, name: bytes, value: bytes) -> bool:
        """Whether the upstream would give the browser a session of the sidecar."""
        return (
            self._cookies is not None
            and name.lower() == b"set-cookie"
            and self._cookies.names_ours(value.decode("latin-1"))
        )

    def _classify(self, name: bytes) -> bool:
        keep = normal_name(name.decode("latin-1")) not in _NOT_SENT_BACK
        _cache(self._kept, name, keep)
        return keep


def _trace_lines(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    parents = [value for name, value in headers if name == b"traceparent"]
    context = read_trace_context(parents, [value for name, value in headers if name == b"tracestate"])
    return [] if context is None else context.lines()


def _cache(known: dict[bytes, _V], name: bytes, value: _V) -> None:
    """Keep what was learned of a name, within bounds: names are the caller's to choose."""
    if len(name) > _MAX_CACHED_LENGTH:
        return
    if len(known) >= _MAX_CACHED:
        known.clear()
    known[name] = value


def _connection_names(value: bytes) -> frozenset[str]:
    names = {token.strip().lower() for token in value.decode("latin-1").split(",")}
    # Removing Host would leave the service without an authority; it is not the caller's to choose.
    return frozenset(names - {"", "close", "keep-alive", "upgrade", "host"})


def _without(lines: list[bytes], named: frozenset[str]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in named]
