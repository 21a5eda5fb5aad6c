"""Key files as tools, editors and people leave them: read if the key is in them, else an error that says what is."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.key_files import KeyFileError, encode_private_key, generate, read_private_key, read_public_key
from tests.support.certificates import certificate

KEY = generate("ES256")
PRIVATE = encode_private_key(KEY)
PUBLIC = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
OPENSSH = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
)
OPENSSH_PUBLIC = KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
CERTIFICATE = certificate()[0]
BAG = b"Bag Attributes\n    friendlyName: sidecar\n    localKeyID: 01 02\nKey Attributes: <No Attributes>\n"


@pytest.mark.parametrize(
    "around",
    [
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: BAG + pem,
        lambda pem: pem + b"\n\n# rotated in May\n",
        lambda pem: CERTIFICATE + pem,
        lambda pem: pem + CERTIFICATE,
        lambda pem: pem.rstrip(b"\n"),
        lambda pem: b"\n  \n" + pem,
    ],
    ids=["crlf", "bom", "attributes", "text below", "certificate above", "certificate below", "no newline", "blanks"],
)
def test_key_is_found_whatever_stands_around_it(tmp_path: Path, around: object) -> None:
    assert callable(around)
    (tmp_path / "private").write_bytes(around(PRIVATE))
    (tmp_path / "public").write_bytes(around(PUBLIC))
    private = read_private_key(tmp_path / "private")
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key() == KEY.public_key() == read_public_key(tmp_path / "public")


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (OPENSSH, "ssh-keygen -p -m PKCS8"),
        (PUBLIC, "name the private key"),
        (CERTIFICATE, "holds a certificate only"),
        (b'{"kty": "EC"}', "it is JSON"),
        (base64.b64encode(PRIVATE), "base64 -d"),
        (base64.encodebytes(PRIVATE), "base64 -d"),
        (b"", "it is empty"),
    ],
)
def test_file_without_a_private_key_says_what_it_is(tmp_path: Path, content: bytes, mend: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(KeyFileError, match=mend) as caught:
        read_private_key(tmp_path / "key")
    assert str(tmp_path / "key") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (OPENSSH_PUBLIC, "ssh-keygen"),
        (PRIVATE, "openssl pkey -pubout"),
        (CERTIFICATE, "openssl x509 -noout -pubkey"),
        (base64.b64encode(PUBLIC), "base64 -d"),
    ],
)
def test_file_without_a_public_key_says_what_it_is(tmp_path: Path, content: bytes, mend: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(KeyFileError, match=mend):
        read_public_key(tmp_path / "key")
