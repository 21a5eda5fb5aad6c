"""Which header lines cross the proxy, in either direction, byte for byte (RFC 9110 section 7.6.1)."""

from collections.abc import Callable, Iterable
from enum import Enum

from sidecar.dataplane.identity_headers import normal_name

RawHeaders = Iterable[tuple[bytes, bytes]]

# Named as a careless service might read them, so that "Transfer_Encoding" does not pass either.
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "proxy-authorization", "proxy-authenticate", "proxy-authentication-info",
    }
)  # fmt: skip
# Made anew from what the parser understood, never copied.
_FRAMING = frozenset({"content-length", "expect", "http2-settings"})
_REPLACED = frozenset({"forwarded", "x-forwarded-for", "x-real-ip", "x-request-id"})
_PLAIN_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_MAX_REMEMBERED = 4096


class _Fate(Enum):
    KEEP = 0
    DROP = 1
    FORWARDED = 2  # X-Forwarded-*: kept from trusted peers only
    IMPERSONATION = 3


class RequestHeaders:
    """Selects the caller's header lines for the service behind."""

    def __init__(self, *, is_identity: Callable[[str], bool], keep_authorization: bool) -> None:
        self._is_identity = is_identity
        self._keep_authorization = keep_authorization
        self._fates: dict[bytes, _Fate] = {}

    def select(self, headers: RawHeaders, *, trusted: bool, may_impersonate: bool) -> list[bytes]:
        """The lines to send on, each with its line end, in order. ``trusted``: the peer may speak for others."""
        fates = self._fates
        lines: list[bytes] = []
        named: frozenset[str] = frozenset()
        for name, value in headers:
            fate = fates.get(name) or self._learn(name)
            if fate is _Fate.KEEP:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif fate is _Fate.DROP:
                if name.lower() == b"connection" and value not in _PLAIN_CONNECTION:
                    named |= _connection_names(value)
            elif trusted if fate is _Fate.FORWARDED else may_impersonate:
                lines.append(b"%b: %b\r\n" % (name, value))
        return _without(lines, named) if named else lines

    def _learn(self, name: bytes) -> _Fate:
        fate = self._fate(name)
        if len(self._fates) >= _MAX_REMEMBERED:
            self._fates.clear()
        self._fates[name] = fate
        return fate

    def _fate(self, name: bytes) -> _Fate:
        normal = normal_name(name.decode("latin-1"))
        if normal in _HOP_BY_HOP or normal in _FRAMING or normal in _REPLACED or self._is_identity(normal):
            return _Fate.DROP
        if normal in ("host", "authorization", "cookie"):
            exact = name.decode("latin-1").lower() == normal
            return _Fate.KEEP if exact and (normal != "authorization" or self._keep_authorization) else _Fate.DROP
        if normal == "x-impersonate-user":
            return _Fate.IMPERSONATION
        if normal.startswith("x-forwarded-"):
            return _Fate.FORWARDED
        return _Fate.KEEP


def response_lines(headers: RawHeaders) -> list[bytes]:
    """The lines of the service's answer to send on. Framing headers are left out: they are made anew.

    Raises ValueError when a line could be read as more than one by somebody behind us.
    """
    lines: list[bytes] = []
    named: frozenset[str] = frozenset()
    for name, value in headers:
        lower = name.decode("latin-1").lower()
        if lower == "connection":
            named |= _connection_names(value)
        elif lower not in _HOP_BY_HOP and lower != "content-length":
            lines.append(b"%b: %b\r\n" % (name, value))
    block = b"".join(lines)
    if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or b"\0" in block:
        raise ValueError("a header of the answer has control characters")
    return _without(lines, named) if named else lines


def _connection_names(value: bytes) -> frozenset[str]:
    names = {token.strip().lower() for token in value.decode("latin-1").split(",")}
    # Removing Host would leave the service without an authority; it is not the caller's to choose.
    return frozenset(names - {"", "close", "keep-alive", "upgrade", "host"})


def _without(lines: list[bytes], named: frozenset[str]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].decode("latin-1").lower() not in named]
