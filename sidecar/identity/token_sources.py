"""Where a credential may stand besides ``Authorization``: headers of proxies in front, WebSocket subprotocols, and the
session cookie.

Of all places exactly one may hold a credential. ``Authorization`` alone goes before a header that a proxy adds to every
request: with it the caller has chosen. Both go before the session cookie, which a browser adds to every request.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.cookies import OwnCookies
from sidecar.identity.request import SEVERAL_CREDENTIALS, Credential, HeaderView, RequestContext, Scheme

SUBPROTOCOLS = "Sec-WebSocket-Protocol"
_PLAIN_PREFIX = "bearer."
_ENCODED_PREFIX = "base64url.bearer.authorization.k8s.io."
_NONE: list[str] = []
_VISIBLE = re.compile(r"[!-~]+")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """A header that holds a token. ``providers``: those whose tokens are accepted there; empty: all."""

    name: str
    providers: frozenset[str] = frozenset()
    ambient: bool = False


class TokenSources:
    """Reads the one credential of a request from all places. ``subprotocol``: WebSocket subprotocols too."""

    def __init__(
        self, headers: Iterable[TokenHeader] = (), *, subprotocol: bool = False, cookies: OwnCookies | None = None
    ) -> None:
        self._headers = tuple(headers)
        self._subprotocol = subprotocol
        self._cookies = cookies

    def read_into(self, view: RequestContext) -> None:
        """Have ``view`` carry the one credential of its request, or that there are several.

        Raises Refused(400) for a subprotocol that names a token and stands alone, or cannot be read.
        """
        found: list[Credential] = []
        ambient: list[Credential] = []
        for header in self._headers:
            for line in view.headers.getall(header.name, _NONE):
                value = line.strip(" \t")
                if value:
                    token = value[7:].strip(" ") if value[:7].lower() == "bearer " else value
                    credential = Credential(Scheme.BEARER, token, "Bearer", header.providers)
                    (ambient if header.ambient else found).append(credential)
        if self._subprotocol:
            found += _from_subprotocols(view.headers)
        if view.credential.scheme is Scheme.NOTHING:
            found += ambient
        else:
            found.append(view.credential)
        if len(found) > 1:
            view.credential = SEVERAL_CREDENTIALS
        elif found:
            view.credential = found[0]
        elif self._cookies is not None and view.takes_cookie:
            values = self._cookies.values(view.headers)
            if values:
                view.credential = Credential(Scheme.COOKIE, values[0] if len(values) == 1 else "", "Cookie")


def is_token_protocol(protocol: str) -> bool:
    """Whether a subprotocol is a token, in whichever letters: it goes no further."""
    return protocol.lower().startswith((_PLAIN_PREFIX, _ENCODED_PREFIX))


def without_tokens(line: str) -> str:
    """A value of ``Sec-WebSocket-Protocol`` without the subprotocols that are tokens; may be empty."""
    return ", ".join(name for name in _names(line) if not is_token_protocol(name))


def _names(line: str) -> list[str]:
    return [name for name in (part.strip(" \t") for part in line.split(",")) if name]


def _from_subprotocols(headers: HeaderView) -> list[Credential]:
    lines = headers.getall(SUBPROTOCOLS, _NONE)
    if not lines or not any(line.strip().lower() == "websocket" for line in headers.getall("Upgrade", _NONE)):
        return []
    names = [name for line in lines for name in _names(line)]
    tokens = [name for name in names if is_token_protocol(name)]
    if tokens and len(tokens) == len(names):
        message = "A token in Sec-WebSocket-Protocol must be offered beside another subprotocol"
        raise Refused(Reason.REQUEST_INVALID, Cause.HEADER, "subprotocol", message=message)
    return [Credential(Scheme.BEARER, _token(name), "Bearer") for name in tokens]


def _token(name: str) -> str:
    if not name.lower().startswith(_ENCODED_PREFIX):
        return name[len(_PLAIN_PREFIX) :]
    encoded = name[len(_ENCODED_PREFIX) :]
    try:
        if not _BASE64URL.fullmatch(encoded):
            raise ValueError
        token = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
        if not _VISIBLE.fullmatch(token):
            raise ValueError
        return token
    except (ValueError, binascii.Error):
        message = "A token in Sec-WebSocket-Protocol must be base64url without padding"
        raise Refused(Reason.REQUEST_INVALID, Cause.HEADER, "subprotocol", message=message) from None
