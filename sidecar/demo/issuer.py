"""An issuer of the demo: its key, its users, its tokens."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

AUDIENCE = "demo"
TOKEN_LIFETIME = 12 * 3600
"""Lifetime of a demo token in seconds."""


class DemoIssuer:
    """Signs RS256 or ES256 tokens with a key that exists as long as the demo.

    ``users`` maps a user name to additional claims.
    """

    def __init__(self, url: str, algorithm: str, users: Mapping[str, Mapping[str, Any]]) -> None:
        self.url = url
        self.algorithm = algorithm
        self._users = users
        self._kid = f"{url.rpartition('/')[2]}-1"
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if algorithm == "RS256":
            self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())

    def has_user(self, username: str) -> bool:
        """Whether this issuer has a user with that name."""
        return username in self._users

    @property
    def users(self) -> list[str]:
        """The names of its users."""
        return list(self._users)

    def mint(
        self, username: str, now: float, lifetime: int = TOKEN_LIFETIME, *, issuer: str | None = None, **more: str
    ) -> str:
        """A token for a user, issued at ``now``; ``issuer`` replaces the ``iss`` claim, for a forged token.

        ``more`` replaces further claims.
        """
        claims = {
            "iss": issuer or self.url,
            "aud": AUDIENCE,
            "sub": username,
            "preferred_username": username,
            "jti": f"{username}-{now:.6f}",
            "iat": int(now),
            "exp": int(now) + lifetime,
            **self._users[username],
            **more,
        }
        header = {"alg": self.algorithm, "kid": self._kid, "typ": "JWT"}
        signed = f"{_segment(header)}.{_segment(claims)}"
        return f"{signed}.{_encode(self._sign(signed.encode()))}"

    def discovery(self) -> dict[str, Any]:
        """The OpenID Connect discovery document."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "end_session_endpoint": f"{self.url}/logout",
            "grant_types_supported": ["password", "authorization_code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
            "id_token_signing_alg_values_supported": [self.algorithm],
            "subject_types_supported": ["public"],
            "response_types_supported": ["code"],
        }

    def jwks(self) -> dict[str, Any]:
        """The public key as an RFC 7517 key set."""
        key = {"use": "sig", "alg": self.algorithm, "kid": self._kid}
        if isinstance(self._key, rsa.RSAPrivateKey):
            numbers = self._key.public_key().public_numbers()
            return {"keys": [{**key, "kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}]}
        point = self._key.public_key().public_numbers()
        return {"keys": [{**key, "kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32)}]}

    def _sign(self, data: bytes) -> bytes:
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(data, padding.PKCS1v15(), SHA256())
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _segment(value: Mapping[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _number(value: int, length: int = 0) -> str:
    return _encode(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
