"""Key files: DER or PEM with RSA, EC (P-256, P-384, P-521) or Ed25519 keys."""

import contextlib
import os
import re
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.errors import SidecarError
from sidecar.keys.keyset import EC_CURVES, ED25519_ALGORITHMS, RSA_PKCS1, PublicKey, is_sound_ed25519
from sidecar.keys.weak_rsa import rsa_weakness

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

KEY_TYPES = ("RS256", "ES256", "Ed25519")
_MAX_BYTES = 64 * 1024
_PEM = b"-----BEGIN"
# What is often in such a file instead, and what to do. The first that matches is said.
_HINTS = (
    (rb"-----BEGIN OPENSSH PRIVATE KEY|^(ssh|ecdsa)-", "it is a key of OpenSSH; convert it: ssh-keygen -p -m PKCS8"),
    (rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY", "it holds a private key; write its public half: openssl pkey -pubout"),
    (rb"-----BEGIN [A-Z0-9 ]*PUBLIC KEY", "it holds a public key only; name the private key"),
    (rb"-----BEGIN CERTIFICATE", "it holds a certificate only; for its public key: openssl x509 -noout -pubkey"),
    (rb"^\s*\{", "it is JSON; key files are DER or PEM"),
    (rb"\A(LS0tLS1CRUdJT|MII|MFk|MHY|MIG)[A-Za-z0-9+/\s]+=*\s*\Z", "it is base64; decode it: base64 -d"),
    (rb"\A\Z", "it is empty"),
)
_ES_BY_CURVE = {curve.name: algorithm for curve, algorithm in EC_CURVES.values()}


class KeyFileError(SidecarError):
    """A key file cannot be used; the text says why and what to do, and contains nothing of the file."""


def read_private_key(path: Path) -> PrivateKey:
    """The private key in ``path``: PKCS#8 (or its older forms), not encrypted. Raises KeyFileError."""
    content = _read(path)
    try:
        if _PEM in content:
            key = serialization.load_pem_private_key(_without_text(content, b"PRIVATE KEY"), password=None)
        else:
            key = serialization.load_der_private_key(content, password=None)
    except TypeError as error:
        raise KeyFileError(f"{path} is encrypted; decrypt it: openssl pkcs8 -topk8 -nocrypt") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} contains no PKCS#8 private key in DER or PEM{_hint(content)}") from error
    if not isinstance(key, PrivateKey):
        raise KeyFileError(f"{path} contains a key that cannot sign; use RSA, EC or Ed25519")
    check_key(key.public_key(), path)
    return key


def read_public_key(path: Path) -> PublicKey:
    """The public key in ``path``: SubjectPublicKeyInfo. Raises KeyFileError."""
    return parse_public_key(_read(path), path)


def parse_public_key(content: bytes, path: Path) -> PublicKey:
    """The public key in ``content``, which ``path`` holds: SubjectPublicKeyInfo. Raises KeyFileError."""
    try:
        if _PEM in content:
            key = serialization.load_pem_public_key(_without_text(content, b"PUBLIC KEY"))
        else:
            key = serialization.load_der_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} contains no X.509 public key in DER or PEM{_hint(content)}") from error
    if not isinstance(key, PublicKey):
        raise KeyFileError(f"{path} contains a key that cannot verify; use RSA, EC or Ed25519")
    check_key(key, path)
    return key


def _without_text(content: bytes, label: bytes) -> bytes:
    """The first PEM block whose label ends with ``label``, without text and other blocks around; else ``content``.

    Tools write attributes and the key in words above it, and a certificate beside it.
    """
    found = re.search(rb"-----BEGIN ([A-Z0-9 ]*" + label + rb")-----.*?-----END \1-----", content, re.DOTALL)
    return found[0] if found else content


def _hint(content: bytes) -> str:
    """What ``content`` seems to be, and what to do; empty if it is not known."""
    text = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((f"; {hint}" for pattern, hint in _HINTS if re.search(pattern, text)), "")


def algorithm_of(public: PublicKey) -> str:
    """The signing algorithm for a key: RS256, the curve's algorithm, or Ed25519."""
    if isinstance(public, rsa.RSAPublicKey):
        return "RS256"
    return _ES_BY_CURVE[public.curve.name] if isinstance(public, ec.EllipticCurvePublicKey) else "Ed25519"


def algorithms_of(public: PublicKey) -> frozenset[str]:
    """The algorithms that ``public`` verifies. A server may sign with any of the RS ones (its own setting)."""
    algorithm = algorithm_of(public)
    return next((names for names in (RSA_PKCS1, ED25519_ALGORITHMS) if algorithm in names), frozenset({algorithm}))


def generate(algorithm: str) -> PrivateKey:
    """A new private key for one of KEY_TYPES."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def encode_private_key(key: PrivateKey) -> bytes:
    """PKCS#8 in PEM, as read by :func:`read_private_key`."""
    return _encode(key)["private_key.pem"]


def write_pair(folder: Path, key: PrivateKey) -> dict[str, Path]:
    """Write ``key`` and its public half below ``folder`` as DER and PEM; private files are readable by the owner only.

    Returns the paths by ``private_key.pem`` and so on. If one of the files exists, nothing is written. Raises
    KeyFileError.
    """
    contents = _encode(key)
    paths = {name: folder / name for name in contents}
    written: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, path in paths.items():
            mode = 0o600 if name.startswith("private") else 0o644
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(contents[name])
    except OSError as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        what = f"{error.filename or folder} cannot be written: {error.strerror}"
        raise KeyFileError(f"{what}; nothing was written, choose another folder with --dir") from error
    return paths


def _encode(key: PrivateKey) -> dict[str, bytes]:
    encodings = {"pem": serialization.Encoding.PEM, "der": serialization.Encoding.DER}
    plain = serialization.NoEncryption()
    files = {
        f"private_key.{suffix}": key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        for suffix, encoding in encodings.items()
    }
    for suffix, encoding in encodings.items():
        public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        files[f"public_key.{suffix}"] = public
    return files


def refuse_pipe(path: Path) -> None:
    """Raises KeyFileError for a pipe, whose reader would wait for a writer and block the event loop.

    Raises OSError if ``path`` cannot be accessed.
    """
    if path.is_fifo():
        raise KeyFileError(f"{path} is a pipe; use a regular file")


def _read(path: Path) -> bytes:
    try:
        refuse_pipe(path)
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise KeyFileError(f"{path} is too large for a key file")
    return content


def check_key(key: PublicKey, place: object) -> None:
    """Check that ``key``, which ``place`` holds, is strong enough and of a supported kind. Raises KeyFileError."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _ES_BY_CURVE:
        raise KeyFileError(f"{place} is on curve {key.curve.name}; use P-256, P-384 or P-521")
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if weakness := rsa_weakness(numbers.n, numbers.e):
            raise KeyFileError(f"{place} is too weak: the key {weakness}")
    if isinstance(key, ed25519.Ed25519PublicKey) and not is_sound_ed25519(key.public_bytes_raw()):
        raise KeyFileError(f"{place} is too weak: the key is not a valid Ed25519 point; generate a new key")
