"""Tokens that are bound to a client certificate (RFC 8705), in a real process behind a trusted proxy's header."""

import base64
import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.certificates import certificate
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import running_sidecar

PEM, OTHER_PEM = certificate()[0].decode(), certificate()[0].decode()


def thumbprint(pem: str) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture(name="idp", scope="module")
def _idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as idp:
        yield idp


def userinfo(url: str, token: str, *certificates: str) -> Reply:
    headers = [("Authorization", f"Bearer {token}")]
    headers += [("X-Forwarded-Client-Cert", quote(pem)) for pem in certificates]
    return request(f"{url}/oauth2/userinfo", headers=headers)


@pytest.mark.parametrize(
    ("server", "passes"),
    [
        ({"clientCertificates": "nginx"}, True),
        ({"clientCertificates": "nginx", "trustedProxies": []}, False),
        ({}, False),
    ],
)
def test_a_bound_token_needs_its_certificate_every_time(
    idp: IdentityProvider, tmp_path: Path, server: dict[str, object], passes: bool
) -> None:
    """Also when the token is remembered; without a trusted proxy or the setting it never passes."""
    bound = idp.mint(sub="sam", cnf={"x5t#S256": thumbprint(PEM)})
    provider = {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE], "jwtPrincipalClaims": ["sub"]}
    configuration = {"server": server, "authenticationConfiguration": {"providers": [provider]}}
    with running_sidecar(tmp_path, configuration) as sidecar:
        for _ in range(2):
            assert userinfo(sidecar.url, bound, PEM).status == (200 if passes else 401)
            for wrong in ((), (OTHER_PEM,), (PEM, PEM)):
                reply = userinfo(sidecar.url, bound, *wrong)
                assert (reply.status, reply.json()["reason"]) == (401, "token_invalid")
        for confirmation in ({"jkt": "x"}, {"x5t#S256": thumbprint(PEM), "jkt": "x"}, {"x5t#S256": 7}, {}, "x"):
            assert userinfo(sidecar.url, idp.mint(sub="sam", cnf=confirmation), PEM).status == 401
        assert userinfo(sidecar.url, idp.mint(sub="sam"), PEM).status == 200
