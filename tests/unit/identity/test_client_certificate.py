"""What a proxy's word about the client's certificate is worth, and who is a proxy."""

import base64
import hashlib
import ssl
from urllib.parse import quote

import pytest
from multidict import CIMultiDict

from sidecar.identity.client_certificate import HEADER, certificate_thumbprint
from sidecar.identity.request import NO_CREDENTIAL, RequestContext
from tests.support.certificates import certificate

PEM = certificate()[0].decode()
DER = ssl.PEM_cert_to_DER_cert(PEM)
HEX = hashlib.sha256(DER).hexdigest()
EXPECTED = base64.urlsafe_b64encode(hashlib.sha256(DER).digest()).rstrip(b"=").decode()
ENVOY = f'By=spiffe://mesh/sidecar;Hash={HEX};Subject="CN=a \\"b\\", O=x;Hash={"0" * 64}";URI='


def view(*lines: str, trusted: bool = True) -> RequestContext:
    headers: CIMultiDict[str] = CIMultiDict([(HEADER, line) for line in lines])
    return RequestContext("GET", "/", headers, NO_CREDENTIAL, trusted)


@pytest.mark.parametrize(
    ("dialect", "value"),
    [("envoy", ENVOY), ("envoy", f"Hash={HEX}"), ("nginx", quote(PEM)), ("nginx", quote(PEM, safe=""))],
    ids=map(str, range(4)),
)
def test_a_trusted_proxys_word(dialect: str, value: str) -> None:
    """The thumbprint is that of the DER form, base64url without padding."""
    assert certificate_thumbprint(view(value), dialect) == EXPECTED
    assert certificate_thumbprint(view(value, trusted=False), dialect) is None
    assert certificate_thumbprint(view(value), "none") is None
    assert certificate_thumbprint(view(value, value), dialect) is None


@pytest.mark.parametrize(
    ("dialect", "value"),
    [
        ("envoy", ""),
        ("envoy", f"Hash={HEX},Hash={HEX}"),
        ("envoy", f"Hash={HEX};Hash={HEX}"),
        ("envoy", f"By=a,By=b;Hash={HEX}"),
        ("envoy", f"Hash={HEX[:-1]}"),
        ("envoy", f"Hash={HEX.upper()}"),
        ("envoy", f'Subject="CN=x;Hash={HEX}"'),
        ("envoy", f'Subject="CN=x;Hash={HEX}'),
        ("envoy", quote(PEM)),
        ("nginx", ENVOY),
        ("nginx", quote(PEM + PEM)),
        ("nginx", quote("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")),
        ("nginx", "%zz"),
        ("nginx", "x" * 40_000),
    ],
    ids=map(str, range(14)),
)
def test_headers_without_exactly_one_certificate(dialect: str, value: str) -> None:
    assert certificate_thumbprint(view(value), dialect) is None
