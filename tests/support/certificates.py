"""A certificate for this host."""

import datetime
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificate(
    name: str = "test", issuer: tuple[bytes, bytes] | None = None, hosts: Sequence[str] = ()
) -> tuple[bytes, bytes]:
    """PEM of a certificate for 127.0.0.1 and ``hosts``, whose subject is ``name``, and of its key: self-signed, or by
    ``issuer``.

    It names no key identifiers, as the CAs of many clusters do not.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = by = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signing: Any = key
    if issuer is not None:
        by = x509.load_pem_x509_certificate(issuer[0]).subject
        signing = serialization.load_pem_private_key(issuer[1], None)
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2120))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), *map(x509.DNSName, hosts)]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private
