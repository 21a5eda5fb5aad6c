"""Makes tokens, sound and otherwise: every part of one can be replaced by anything at all."""

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sidecar.keys.keyset import VerificationKey

Key = RSAKey | ECKey | OKPKey
NOW = 1_800_000_000.0
ISSUER = "https://idp.example.com/realms/corp"

RSA = RSAKey.generate_key(2048)
OTHER_RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-256")
ED = OKPKey.generate_key("Ed25519")


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that are good at NOW; ``changes`` replace some, a value of ``...`` drops one."""
    good = {"iss": ISSUER, "sub": "sam", "aud": "meta", "iat": int(NOW) - 60, "exp": int(NOW) + 600, **changes}
    return {name: value for name, value in good.items() if value is not ...}


def header(**changes: Any) -> dict[str, Any]:
    """A good RS256 header; ``changes`` as for :func:`claims`."""
    good = {"alg": "RS256", "kid": "k1", "typ": "JWT", **changes}
    return {name: value for name, value in good.items() if value is not ...}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_signature(signing_input: bytes, algorithm: str, key: Key) -> bytes:
    return jws.JWSRegistry.algorithms[algorithm].sign(signing_input, key)


def hs256(signing_input: str, secret: bytes) -> str:
    """The signature part that HMAC-SHA256 makes."""
    return b64(hmac.digest(secret, signing_input.encode(), "sha256"))


def encode_part(part: Mapping[str, Any] | str | bytes) -> bytes:
    """JSON of an object; text and bytes as they are."""
    if isinstance(part, bytes):
        return part
    return part.encode() if isinstance(part, str) else json.dumps(part).encode()


def token(
    claims_: Mapping[str, Any] | str | bytes | None = None,
    header_: Mapping[str, Any] | str | bytes | None = None,
    *,
    key: Key = RSA,
    algorithm: str = "RS256",
) -> str:
    """A token whose header and claims are given as object, text or bytes, with a true signature of ``key``."""
    parts = (
        encode_part(header() if header_ is None else header_),
        encode_part(claims() if claims_ is None else claims_),
    )
    signing_input = ".".join(map(b64, parts))
    return f"{signing_input}.{b64(raw_signature(signing_input.encode(), algorithm, key))}"


def public(key: Key, *algorithms: str, kid: str | None = "k1") -> VerificationKey:
    """The public half, as key sets give it."""
    return VerificationKey(kid, frozenset(algorithms), type(key).import_key(key.as_dict(private=False)))
