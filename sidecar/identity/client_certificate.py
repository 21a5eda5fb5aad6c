"""The client certificate that the TLS proxy in front verified, as forwarded by that proxy (RFC 8705).

The header counts only from a trusted proxy, and the proxy must overwrite a value sent by the client.
"""

import base64
import re
import ssl
from collections.abc import Callable, Mapping
from hashlib import sha256
from urllib.parse import unquote

from sidecar.identity.request import RequestContext

HEADER = "X-Forwarded-Client-Cert"
_MAX_VALUE = 32 * 1024
_ELEMENT = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;]*)(;|$)')
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*")


def certificate_thumbprint(view: RequestContext, dialect: str) -> str | None:
    """``x5t#S256`` of the caller's certificate; None unless there is exactly one.

    ``dialect``: ``envoy`` (Envoy's format of the header), ``nginx`` (``$ssl_client_escaped_cert`` in it), ``tls`` (the
    handshake alone) or ``none``. For a trusted proxy, only the header counts; for any other peer, only the handshake.
    """
    if dialect == "none":
        return None
    if dialect == "tls" or not view.trusted:
        return view.handshake_certificate or None
    lines = view.headers.getall(HEADER, [])
    if len(lines) != 1 or not 0 < len(lines[0]) <= _MAX_VALUE:
        return None
    digest = _DIALECTS[dialect](lines[0])
    return None if digest is None else thumbprint(digest)


def thumbprint(digest: bytes) -> str:
    """``x5t#S256`` of the certificate with this SHA-256 digest."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _envoy(value: str) -> bytes | None:
    """``By=...;Hash=<hex>;Subject="..."``: the hash is the SHA-256 of the DER certificate.

    Several elements (a comma) mean that the value of an earlier, untrusted hop was kept.
    """
    position, digests = 0, []
    while position < len(value):
        match = _ELEMENT.match(value, position)
        if match is None:
            return None
        if match[1].lower() == "hash":
            digests.append(match[2])
        position = match.end()
    if len(digests) != 1 or not re.fullmatch(r"[0-9a-f]{64}", digests[0]):
        return None
    return bytes.fromhex(digests[0])


def _nginx(value: str) -> bytes | None:
    pem = unquote(value, errors="replace")
    if not _PEM.fullmatch(pem):
        return None
    try:
        return sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).digest()
    except ValueError:
        return None


_DIALECTS: Mapping[str, Callable[[str], bytes | None]] = {"envoy": _envoy, "nginx": _nginx}
