"""Authenticated encryption of what the sidecar gives away and reads again: login state and the content of sessions."""

import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar.secrets.value import Secret

MIN_SECRET_BYTES = 32
_SALT_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Opened:
    """What was sealed, and the number of the secret that sealed it."""

    content: bytes
    secret: int


class Sealer:
    """AES-256-GCM under the first of ``secrets``; all of them open. ``purpose`` separates what must not be confused.

    Each text has a key of its own, derived with a random salt, so that no number of texts exhausts a secret.
    """

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self._roots = tuple(sha256(b"auth-sidecar login\0" + secret.reveal().encode()).digest() for secret in secrets)

    def seal(self, purpose: str, content: bytes, bound_to: str = "") -> str:
        """``content`` as base64url text. It opens for the same ``purpose`` and ``bound_to`` only."""
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self.derive(0, purpose, salt)).encrypt(nonce, content, bound_to.encode())
        return encode_base64url(salt + nonce + sealed)

    def open(self, purpose: str, text: str, bound_to: str = "") -> Opened | None:
        """What ``text`` contains; None, without saying why, for whatever none of the secrets sealed so."""
        data = decode_base64url(text)
        if data is None or len(data) < _SALT_BYTES + _NONCE_BYTES + _TAG_BYTES:
            return None
        salt, nonce = data[:_SALT_BYTES], data[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        for number in range(len(self._roots)):
            try:
                key = AESGCM(self.derive(number, purpose, salt))
                return Opened(key.decrypt(nonce, data[_SALT_BYTES + _NONCE_BYTES :], bound_to.encode()), number)
            except InvalidTag:
                continue
        return None

    def derive(self, secret: int, purpose: str, data: bytes) -> bytes:
        """32 bytes that only this secret gives for ``purpose`` and ``data``."""
        return hmac.digest(self._roots[secret], purpose.encode() + b"\0" + data, "sha256")


def encode_base64url(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes | None:
    """The bytes of the text of :func:`encode_base64url`; None for any other text.

    Other spellings of the same bytes are such texts.
    """
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (ValueError, Error):
        return None
    return data if encode_base64url(data) == text else None
