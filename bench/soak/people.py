"""Tokens of every kind, and the expected verdict on each at any time."""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

AUDIENCE = "soak"
ADMIN = "root"
_MARGIN = 0.01  # seconds: exp is compared on the same clock, but not in the same instant
_numbers = count(1)


@dataclass(slots=True, eq=False)
class Person:
    """A token and its state. Times are seconds since the epoch; ``ending``: when its revocation was sent."""

    name: str
    token: str
    kind: str = "good"
    expires_at: float = float("inf")
    ending: float = float("inf")
    ended: float = float("inf")

    def deserves(self, started: float, finished: float) -> frozenset[int]:
        """Expected statuses of a request at that time, without faults."""
        if self.kind != "good":
            return frozenset({401})
        may_pass = started < self.ended and started < self.expires_at + _MARGIN
        may_fail = finished > self.ending or finished > self.expires_at - _MARGIN
        return frozenset({200} if may_pass else ()) | frozenset({401} if may_fail else ())

    def may_stream(self, now: float, patience: float) -> bool:
        """Whether a stream with this token may still be open, ``patience`` seconds after its end at most."""
        return now < min(self.ended, self.expires_at) + patience


class Issuer:
    """Signs tokens as one provider does; ``keys`` are published, the first signs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys = [_new_key()]
        self._stranger = _new_key()

    def jwks(self) -> bytes:
        """The public keys as an RFC 7517 document."""
        keys = [{**key.as_dict(private=False), "use": "sig", "alg": "RS256"} for key in self.keys]
        return json.dumps({"keys": keys}).encode()

    def publish_next(self) -> None:
        """Publish a key that does not sign yet."""
        self.keys.insert(1, _new_key())

    def sign_with_next(self) -> None:
        """Sign with the newest published key; the old one stays published."""
        self.keys[0], self.keys[1] = self.keys[1], self.keys[0]

    def person(self, name: str = "", *, lifetime: float = 3600.0, **claims: Any) -> Person:
        """A caller with a valid token."""
        name = name or f"user-{next(_numbers)}"
        expires_at = int(time.time() + lifetime)
        token = self._sign(self._claims(name, exp=expires_at, **claims), self.keys[0])
        return Person(name, token, expires_at=float(expires_at))

    def impostor(self) -> Person:
        """A caller with an invalid token; the kinds alternate."""
        number = next(_numbers)
        kind = _BAD[number % len(_BAD)]
        name = f"impostor-{number}"
        return Person(name, getattr(self, f"_{kind}")(name), kind)

    def _claims(self, name: str, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {
            "iss": self.url, "aud": AUDIENCE, "sub": name, "preferred_username": name, "groups": ["crowd"],
            "jti": f"soak-{next(_numbers)}", "iat": now - 60, "exp": now + 3600,
        }  # fmt: skip
        return {claim: value for claim, value in {**usual, **changes}.items() if value is not None}

    @staticmethod
    def _sign(claims: Mapping[str, Any], key: RSAKey) -> str:
        header = {"alg": "RS256", "kid": key.kid, "typ": "JWT"}
        return jwt.encode(header, dict(claims), key, algorithms=["RS256"])

    def _expired(self, name: str) -> str:
        return self._sign(self._claims(name, exp=int(time.time()) - 5), self.keys[0])

    def _early(self, name: str) -> str:
        return self._sign(self._claims(name, nbf=int(time.time()) + 900), self.keys[0])

    def _endless(self, name: str) -> str:
        return self._sign(self._claims(name, exp=None), self.keys[0])

    def _audience(self, name: str) -> str:
        return self._sign(self._claims(name, aud="another"), self.keys[0])

    def _issuer(self, name: str) -> str:
        return self._sign(self._claims(name, iss=f"{self.url}/elsewhere"), self.keys[0])

    def _signature(self, name: str) -> str:
        head, _, signature = self._sign(self._claims(name), self.keys[0]).rpartition(".")
        return f"{head}.{signature[:-8]}{'A' * 8 if signature[-8:] != 'A' * 8 else 'B' * 8}"

    def _altered(self, name: str) -> str:
        head, _, signature = self._sign(self._claims(name), self.keys[0]).split(".")
        return f"{head}.{_encode(self._claims(ADMIN))}.{signature}"

    def _unknown_kid(self, name: str) -> str:
        """Signed with a key that the issuer never had."""
        return self._sign(self._claims(name), self._stranger)

    def _foreign_key(self, name: str) -> str:
        """Has the key id of the issuer, but another signature."""
        header = {"alg": "RS256", "kid": self.keys[0].kid}
        return jwt.encode(header, self._claims(name), self._stranger, algorithms=["RS256"])

    def _unsigned(self, name: str) -> str:
        return f"{_encode({'alg': 'none'})}.{_encode(self._claims(name))}."

    def _shared_secret(self, name: str) -> str:
        """Signed with the public key as HMAC secret."""
        secret = OctKey.import_key(base64.urlsafe_b64encode(self.keys[0].as_der(private=False)).decode())
        header = {"alg": "HS256", "kid": self.keys[0].kid}
        return jwt.encode(header, self._claims(name), secret, algorithms=["HS256"])

    def _garbage(self, name: str) -> str:
        return f"eyJ{name}.{name}.{name}"


_BAD = (
    "expired", "early", "endless", "audience", "issuer", "signature", "altered", "unknown_kid", "foreign_key",
    "unsigned", "shared_secret", "garbage",
)  # fmt: skip


def _new_key() -> RSAKey:
    return RSAKey.generate_key(2048, auto_kid=True)


def _encode(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
