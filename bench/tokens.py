"""Distinct RS256-2048 tokens of one issuer, and the key set that verifies them."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Literal, get_args

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

AUDIENCE = "bench"
Fault = Literal["bad signature", "expired", "unknown issuer"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_KID = "bench-1"


class Issuer:
    """An issuer with a new key for every run."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwks(self) -> bytes:
        """The public key as an RFC 7517 document."""
        numbers = self._key.public_key().public_numbers()
        member = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": _KID}
        return json.dumps({"keys": [member | {"n": _number(numbers.n), "e": _number(numbers.e)}]}).encode()

    def tokens(self, count: int, fault: Fault | None = None) -> Iterator[str]:
        """``count`` tokens of different users, valid for an hour, with the usual claims of an identity provider.

        With ``fault`` each token has that fault and must be rejected.
        """
        now = int(time.time()) - (7200 if fault == "expired" else 0)
        header = _segment({"alg": "RS256", "kid": _KID, "typ": "JWT"})
        for number in range(count):
            claims = {
                "iss": "https://unknown.example.com" if fault == "unknown issuer" else self.url,
                "aud": AUDIENCE,
                "sub": f"user-{number:06}",
                "email": f"user-{number:06}@example.com",
                "preferred_username": f"user-{number:06}",
                "groups": ["engineering", "data"],
                "jti": f"bench-{number:08}",
                "iat": now,
                "exp": now + 3600,
            }
            signed = f"{header}.{_segment(claims)}"
            signature = self._key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
            if fault == "bad signature":
                signature = bytes((signature[0] ^ 1,)) + signature[1:]
            yield f"{signed}.{_encode(signature)}"


def _segment(value: dict[str, object]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return _encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
